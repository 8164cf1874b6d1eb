"""The meaning of each op in plain torch, on any device and in any floating type; ``ops`` says which of them has a faster twin.

Notation: T tokens, H hidden width, F inner width, V vocabulary, n heads of width d. Matrices are row-major; a row may be wider than the
part of it that is read or written (stride). Sums and roots are taken in float32, or in float64 if the inputs are.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from papertune.kernels.nf4 import BLOCK, NEST, NF4

IGNORED = -100  # a target that carries no loss
_MASK = 0xFFFFFFFF


class Mask(NamedTuple):
    """Of a dropout: number j of token t is dropped or not by (keys[t], salt, j) alone, so that the backward pass makes the same mask again and
    keeps none, and a token's mask does not change with the tokens it is packed with. keys: (T) int32; ``share`` of the numbers is dropped."""

    keys: Tensor
    salt: int
    share: float


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def dequantize(weight: NF4, out: Tensor) -> None:
    """out: (rows, columns), any stride between rows; see ``nf4`` for the formula."""
    nest = torch.arange(weight.scales.numel(), device=out.device) // NEST
    scales = weight.book[weight.scales.int()] * weight.steps[nest] + weight.offsets[nest]
    pairs = torch.stack((weight.levels.repeat_interleave(16), weight.levels.repeat(16)), dim=1)  # of the two halves of each byte
    values = pairs[weight.codes.int()].view(-1, BLOCK) * scales[:, None]
    out.copy_(values.to(out.dtype).view(weight.rows, weight.columns))


def join(weight: NF4, a: Tensor, b: Tensor, places: Tensor, out: Tensor) -> None:
    """out = [[W, B], [A, ·]]; see ``dequantize`` and ``renew``."""
    dequantize(weight, out[: weight.rows, : weight.columns])
    renew(a, b, places, out)


def renew(a: Tensor, b: Tensor, places: Tensor, out: Tensor) -> None:
    """B and A in out = [[W, B], [A, ·]], where row i of B is b[places[i, 0]] from column places[i, 1] on, and zeros fill up B and A."""
    (rows, _), columns = places.shape, a.shape[1]
    beside, below = out[:rows, columns:], out[rows:, :columns]
    beside.zero_()
    has = (places[:, 0] >= 0).nonzero()[:, 0]
    own = places[has, 1, None] + torch.arange(b.shape[1], device=out.device)
    beside[has[:, None], own] = b[places[has, 0]].to(out.dtype)
    below.zero_()
    below[: len(a)] = a[: len(below)]


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor, mask: Mask | None, copy: Tensor | None) -> tuple[Tensor, Tensor]:
    """out = weight · x · r with r = 1 / √(mean(x²) + eps); x and out: (T, H). Returns r (T) and ``dropout`` of out. ``copy`` becomes x."""
    if copy is not None:
        copy.copy_(x)
    wide = _wide(x)
    r = torch.rsqrt(wide.square().mean(-1) + eps)
    out.copy_(wide * r[:, None] * _wide(weight))
    return r, dropout(out, mask)


def rms_norm_backward(dy: Tensor, x: Tensor, weight: Tensor, r: Tensor, total: Tensor, mask: Mask | None) -> None:
    """total += dx, the gradient of ``rms_norm`` in x: with n = x · r and g = dy · weight, dx = r · (g − n · mean(g · n)).

    ``dy`` has served then and becomes ``dropout`` of the output of ``rms_norm`` again.
    """
    n, g = _wide(x) * r[:, None], _wide(dy) * _wide(weight)
    dx = r[:, None] * (g - n * (g * n).mean(-1, keepdim=True))
    total.copy_(_wide(total) + dx)
    dy.copy_(dropout((n * _wide(weight)).to(dy.dtype), mask))


def rope(x: Tensor, cos: Tensor, sin: Tensor, heads: int) -> None:
    """Rotates the first ``heads`` heads of each row of x (T, ≥ heads · d) in place: (a, b) → (a cos − b sin, b cos + a sin).

    a and b are the two halves of a head; cos, sin: (T, d / 2) float32. Su et al. 2021, arXiv 2104.09864, in the order of halves that
    transformers uses.
    """
    half = cos.shape[1]
    view = x[:, : heads * 2 * half].view(-1, heads, 2, half)
    a, b = _wide(view[:, :, 0]), _wide(view[:, :, 1])
    c, s = cos[:, None], sin[:, None]
    first, second = a * c - b * s, b * c + a * s
    view[:, :, 0], view[:, :, 1] = first, second


def spread(k: Tensor, v: Tensor, shared: int) -> Tensor:
    """Keys and values (T, m, d), each once for every head of the queries that shares it: (2, T, m · shared, d)."""
    return torch.stack((k, v)).repeat_interleave(shared, dim=2)


def put_gradients(dq: Tensor, dk: Tensor, dv: Tensor, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> None:
    """q = dq, k = dk and v = dv, where dq, dk and dv are (T, n, d), keys' and values' summed over the heads that share them, and dq and dk are
    turned back by what ``rope`` turned queries and keys: its backward pass."""
    c, s = cos[:, None], sin[:, None]
    for gradient, out in ((dq, q), (dk, k)):
        a, b = _gather_heads(_wide(gradient), out).chunk(2, dim=2)
        out.copy_(torch.cat((a * c + b * s, b * c - a * s), dim=2))
    v.copy_(_gather_heads(_wide(dv), v))


def swiglu(gate_up: Tensor, out: Tensor, mask: Mask | None) -> Tensor:
    """gate_up: (T, 2F) → out: (T, F) = silu(gate) · up, silu(g) = g · σ(g). Returns ``dropout`` of it. Shazeer 2020, arXiv 2002.05202."""
    gate, up = (_wide(half) for half in gate_up[:, : 2 * out.shape[1]].chunk(2, dim=1))
    out.copy_(gate * torch.sigmoid(gate) * up)
    return dropout(out, mask)


def swiglu_backward(d: Tensor, gate_up: Tensor, mask: Mask | None) -> None:
    """d: (T, F), the gradient of ``swiglu``'s output; gate_up (T, 2F) becomes its own gradient, and d what ``swiglu`` returned."""
    both = gate_up[:, : 2 * d.shape[1]]
    gate, up = (_wide(half) for half in both.chunk(2, dim=1))
    s, wide = torch.sigmoid(gate), _wide(d)
    gradient = torch.cat((wide * up * s * (1 + gate * (1 - s)), wide * gate * s), dim=1)
    d.copy_(swiglu(both, d, mask))
    both.copy_(gradient)


def put(x: Tensor, out: Tensor, mask: Mask | None) -> Tensor:
    """out = x, both (T, H). Returns ``dropout`` of it."""
    out.copy_(x)
    return dropout(out, mask)


def dropout(x: Tensor, mask: Mask | None) -> Tensor:
    """x (T, H) with some numbers set to 0 and the rest divided by 1 − share; x itself without a mask."""
    if mask is None:
        return x
    column = torch.arange(x.shape[1], device=x.device) * 0x9E3779B9
    h = _scramble(((mask.keys.long() ^ mask.salt)[:, None] + column) & _MASK)
    kept = (h ^ 1 << 31) >= round(mask.share * 2**32)  # compared as numbers with a sign, which a GPU does in one instruction
    return torch.where(kept, _wide(x) * (1 / (1 - mask.share)), 0).to(x.dtype)


def lora_backward(v: Tensor, a: Tensor, dx: Tensor, mask: Mask) -> None:
    """dx (T, K) += ``dropout`` of v a, for v (T, R) and a (R, K)."""
    dx.copy_(_wide(dx) + dropout(_wide(v) @ _wide(a), mask))


def gather(dy: Tensor, fed: Tensor, u: Tensor, a: Tensor, b: Tensor, places: Tensor) -> None:
    """Adds a projection group's gradients to a (≤ R, K) and b (n, rank), both float32, laid out as in ``join``: a += vᵀ fed, where v are the
    columns of dy (T, ≥ N + R) from N on, fed: (T, K); and b[places[i, 0]] += row i of dyᵀ u, u: (T, R), from column places[i, 1] on."""
    outputs = len(places)
    a += _wide(dy[:, outputs : outputs + len(a)]).T @ _wide(fed)
    up = _wide(dy[:, :outputs]).T @ _wide(u)
    has = (places[:, 0] >= 0).nonzero()[:, 0]
    columns = places[has, 1, None] + torch.arange(b.shape[1], device=b.device)
    b[places[has, 0]] += up[has[:, None], columns]


def _scramble(h: Tensor) -> Tensor:
    h = ((h ^ (h >> 16)) * 0x7FEB352D) & _MASK
    return ((h ^ (h >> 15)) * 0x846CA68B) & _MASK


def mix(h: Tensor) -> Tensor:
    """A 32-bit hash, h as int64 in [0, 2³²): the constants and shifts of "lowbias32" (Wellons 2018, nullprogram.com/blog/2018/07/31). Its last
    line serves the lower bits, without which ``dropout`` does."""
    h = _scramble(h)
    return h ^ (h >> 16)


def cross_entropy(logits: Tensor, targets: Tensor, scale: float) -> Tensor:
    """logits: (N, V) become their own gradient of scale × loss; returns the N losses in nats, float32: log Σ exp(logit) − logit of the target.

    A row whose target is IGNORED has loss 0 and gradient 0.
    """
    wide, counted = _wide(logits), targets != IGNORED
    wanted = targets.clamp(min=0)[:, None]
    log_sum = wide.logsumexp(dim=1, keepdim=True)
    losses = torch.where(counted, (log_sum - wide.gather(1, wanted))[:, 0], 0)
    gradient = (wide - log_sum).exp_()
    gradient.scatter_add_(1, wanted, gradient.new_full(wanted.shape, -1))
    logits.copy_(gradient * (counted[:, None] * scale))
    return losses


def attention(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Causal attention within documents. q: (T, n, d); k, v: (T, m, d), n a multiple of m; document i is tokens starts[i] … starts[i + 1] − 1.

    A token sees itself and earlier tokens of its document, at most ``window`` in all (0: all of them). Returns out (T, n, d) and the
    logarithm of each softmax's sum, (n, T) float32.
    """
    out, log_sum = torch.empty_like(q), q.new_empty(q.shape[1], q.shape[0], dtype=_wide(q[:0]).dtype)
    for first, last in _documents(starts):
        scores = _scores(q[first:last], k[first:last], window)
        log_sum[:, first:last] = scores.logsumexp(-1)
        p = (scores - log_sum[:, first:last, None]).exp()
        out[first:last] = torch.einsum("nij,jnd->ind", p, _wide(_spread(v[first:last], q))).to(q.dtype)
    return out, log_sum


def attention_backward(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sum: Tensor, starts: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients in q, k and v, all (T, n, d): a head of k and v has one for each head of q that shares it.

    Per head, with P the softmax: dV = Pᵀ dO, dS = P ∘ (dO Vᵀ − rowsum(dO ∘ O)), dQ = dS K / √d, dK = dSᵀ Q / √d."""
    dq, dk, dv = torch.empty_like(q), torch.empty_like(q), torch.empty_like(q)
    scale = q.shape[2] ** -0.5
    for first, last in _documents(starts):
        part = slice(first, last)
        p = (_scores(q[part], k[part], window) - log_sum[:, part, None]).exp()
        g = _wide(do[part])
        dp = torch.einsum("ind,jnd->nij", g, _wide(_spread(v[part], q)))
        ds = p * (dp - (g * _wide(out[part])).sum(-1).T[:, :, None]) * scale
        dq[part] = torch.einsum("nij,jnd->ind", ds, _wide(_spread(k[part], q))).to(q.dtype)
        dk[part] = torch.einsum("nij,ind->jnd", ds, _wide(q[part])).to(q.dtype)
        dv[part] = torch.einsum("nij,ind->jnd", p, g).to(q.dtype)
    return dq, dk, dv


def _scores(q: Tensor, k: Tensor, window: int) -> Tensor:
    """(n, L, L) scaled scores of one document, −∞ where a token does not look."""
    scores = torch.einsum("ind,jnd->nij", _wide(q), _wide(_spread(k, q))) * q.shape[2] ** -0.5
    place = torch.arange(len(q), device=q.device)
    back = place[:, None] - place
    unseen = (back < 0) | (back >= window) if window else back < 0
    masked: Tensor = scores.masked_fill(unseen, float("-inf"))
    return masked


def _spread(x: Tensor, q: Tensor) -> Tensor:
    """Keys or values once for each head of the queries."""
    return x.repeat_interleave(q.shape[1] // x.shape[1], dim=1)


def _gather_heads(x: Tensor, like: Tensor) -> Tensor:
    """(T, n, d) summed over the heads of queries that share one of ``like`` (T, m, d)."""
    return x.view(*like.shape[:2], -1, like.shape[2]).sum(2)


def _documents(starts: Tensor) -> list[tuple[int, int]]:
    return list(pairwise(starts.tolist()))
