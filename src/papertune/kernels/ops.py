"""The one door to the arithmetic of a step: Triton kernels for tensors on a GPU, plain torch for all others. ``reference`` has the formulas.

Ops write into what they are given (``out``, or in place where the name ends in ``_``), so that the caller decides where memory goes.
None of them knows about autograd: the backward passes are ops of their own.
"""

from __future__ import annotations

import sys
from types import ModuleType

import torch
from torch import Tensor

from papertune.device import FOR_TRITON
from papertune.kernels import reference
from papertune.kernels.nf4 import BLOCK, NF4
from papertune.kernels.reference import IGNORED, Mask

__all__ = [
    "IGNORED",
    "Mask",
    "add_product_",
    "attention",
    "attention_backward_",
    "cross_entropy_",
    "dequantize",
    "dropout",
    "gather_",
    "join",
    "lora_backward_",
    "put",
    "renew",
    "rms_norm",
    "rms_norm_backward_",
    "rope_",
    "swiglu",
    "swiglu_backward_",
    "unavailable",
]


def unavailable(device: torch.device) -> str:
    """Why there are no fast kernels for this device, in words; empty when there are."""
    if device.type != "cuda":
        return "there is no CUDA GPU"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return f"{torch.cuda.get_device_name(device)} is older than compute capability 8.0"
    return triton_fails()


def triton_fails() -> str:
    """Why Triton cannot launch a kernel on this GPU, in words; empty when it can. The first time it builds a part of itself, in C."""
    try:
        from triton.runtime import driver  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return "Triton is not installed"
    try:
        driver.active.get_current_target()
    except Exception as error:
        needs = f"it needs {FOR_TRITON}; " if sys.platform == "linux" else ""
        return f"Triton does not work here ({needs}{type(error).__name__}: {str(error).partition(chr(10))[0][:100]})"
    return ""


def _fused(tensor: Tensor) -> ModuleType | None:
    """The kernels for a tensor on a GPU, or on the meta device, for which they are only compiled; None on a CPU, where ``reference`` is used."""
    if not _on_gpu(tensor):
        return None
    from papertune.kernels import fused

    return fused


def dequantize(weight: NF4, out: Tensor) -> None:
    """Writes the weights into out (rows, columns), of any floating type and any stride between rows."""
    fused = _fused(out)
    if fused and weight.columns % BLOCK == 0:
        fused.dequantize(weight, out)
    else:
        reference.dequantize(weight, out)


def join(weight: NF4, a: Tensor, b: Tensor, places: Tensor, out: Tensor) -> None:
    """out (rows + R, columns + R), or without its last R rows, becomes [[W, B], [A, ·]] in its own type; the corner is left alone.

    a: (≤ R, columns) float32, all A's one under another; b: (n, rank) float32, all B's likewise; places: (rows, 2) int32, which row of b
    belongs to each row of W and at which column it begins, (-1, 0) where none does. The rest of A and B is zeros.
    """
    fused = _fused(out)
    if fused and weight.columns % BLOCK == 0:
        fused.join(weight, a, b, places, out)
    else:
        reference.join(weight, a, b, places, out)


def renew(a: Tensor, b: Tensor, places: Tensor, out: Tensor) -> None:
    """The A and B in what ``join`` made of a whole matrix, as they are now."""
    (_fused(out) or reference).renew(a, b, places, out)


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, out: Tensor, mask: Mask | None = None, copy: Tensor | None = None
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """out = RMSNorm(x) · weight, both (T, H). Returns 1 / rms(x), (T) float32, and ``dropout`` of out. ``copy`` (T, H) becomes x."""
    return (_fused(x) or reference).rms_norm(x, weight, eps, out, mask, copy)  # type: ignore[no-any-return]


def rms_norm_backward_(dy: Tensor, x: Tensor, weight: Tensor, r: Tensor, total: Tensor, mask: Mask | None = None) -> None:
    """total += the gradient in x of ``rms_norm``, which returned r; ``dy``, that of its output, becomes ``dropout`` of this output again."""
    (_fused(dy) or reference).rms_norm_backward(dy, x, weight, r, total, mask)


def rope_(x: Tensor, cos: Tensor, sin: Tensor, heads: int) -> None:
    """Rotates the first ``heads`` heads of every row of x by its token's angle: cos, sin (T, d / 2) float32."""
    (_fused(x) or reference).rope(x, cos, sin, heads)


def swiglu(gate_up: Tensor, out: Tensor, mask: Mask | None = None) -> Tensor:
    """gate_up: (T, ≥ 2F) → out: (T, F) = silu(gate) · up. Returns ``dropout`` of out."""
    return (_fused(out) or reference).swiglu(gate_up, out, mask)  # type: ignore[no-any-return]


def swiglu_backward_(d: Tensor, gate_up: Tensor, mask: Mask | None = None) -> None:
    """The first 2F columns of gate_up become their own gradient; ``d`` (T, F), that of ``swiglu``'s output, becomes ``dropout`` of this again."""
    (_fused(d) or reference).swiglu_backward(d, gate_up, mask)


def put(x: Tensor, out: Tensor, mask: Mask | None) -> Tensor:
    """out = x, both (T, H), the rows of ``out`` any distance apart. Returns ``dropout`` of it."""
    return (_fused(x) or reference).put(x, out, mask)  # type: ignore[no-any-return]


def dropout(x: Tensor, mask: Mask | None) -> Tensor:
    """x (T, H) with a share of its numbers dropped, the rest scaled up; x itself without a mask."""
    return x if mask is None else (_fused(x) or reference).dropout(x, mask)


def lora_backward_(v: Tensor, a: Tensor, dx: Tensor, mask: Mask) -> None:
    """dx (T, K) += ``dropout`` of v a, for v (T, R), a (R, K), R a multiple of 16."""
    (_fused(dx) or reference).lora_backward(v, a, dx, mask)


def cross_entropy_(logits: Tensor, targets: Tensor, scale: float) -> Tensor:
    """The losses (N) in nats, float32; logits (N, V) become the gradient of scale × their sum. Rows with target IGNORED count nothing."""
    return (_fused(logits) or reference).cross_entropy(logits, targets, scale)  # type: ignore[no-any-return]


def gather_(dy: Tensor, fed: Tensor, u: Tensor, a: Tensor, b: Tensor, places: Tensor) -> None:
    """Adds to the gradients ``a`` and ``b`` of a group's LoRA weights: see ``reference.gather``. Sums are in float32."""
    (_fused(dy) or reference).gather(dy, fed, u, a, b, places)


def add_product_(out: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """out += a b, rounded once. Times 1, cuBLAS's kernels for Hopper round the product of 16-bit matrices before they add, which makes the error
    of the sum 1.4 times as large; the float32 below 1 takes them another way, which costs 1 to 4 % of the product's time."""
    return out.addmm_(a, b, beta=1 - 2**-24 if out.is_cuda and out.element_size() == 2 else 1)


def attention(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, window: int) -> tuple[Tensor, Tensor]:
    """Causal attention within documents, never across; see ``reference.attention``. ``longest`` is the longest document's tokens.

    On a GPU in 16 bits it is flash attention (Dao 2023, arXiv 2307.08691) as torch carries it: no score is ever written to memory.
    """
    if not _flash(q):
        return reference.attention(q, k, v, starts, window)
    settings = (starts, starts, longest, longest, 0.0, True, False)
    out, log_sum, *_ = torch.ops.aten._flash_attention_forward(q, k, v, *settings, window_size_left=_left(longest, window))
    return out, log_sum


def attention_backward_(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sum: Tensor, starts: Tensor, longest: int, window: int, cos: Tensor, sin: Tensor
) -> None:
    """q, k and v become their own gradients, as they were before ``rope_``; ``do`` is that of ``out``.

    Flash attention would add up keys' and values' gradients of the heads that share them in a pass of its own. It is given as many keys as
    queries instead, and the gradients are added where they are turned back and put in their places.
    """
    shared = q.shape[1] // k.shape[1]
    if not _flash(q):
        dq, dk, dv = reference.attention_backward(do, q, k, v, out, log_sum, starts, window)
        reference.put_gradients(dq, dk, dv, q, k, v, cos, sin)
        return
    from papertune.kernels import fused

    keys, values = fused.spread(k, v, shared) if shared > 1 else (k, v)
    unused = starts.new_empty(0, dtype=torch.uint64)  # dropout's random state
    dq, dk, dv = torch.ops.aten._flash_attention_backward(
        do, q, keys, values, out, log_sum, starts, starts, longest, longest, 0.0, True, unused, unused, window_size_left=_left(longest, window)
    )
    fused.put_gradients(dq, dk, dv, q, k, v, cos, sin)


def _on_gpu(tensor: Tensor) -> bool:
    return tensor.is_cuda or tensor.is_meta


def _flash(q: Tensor) -> bool:
    return _on_gpu(q) and q.dtype in (torch.float16, torch.bfloat16)


def _left(longest: int, window: int) -> int | None:
    """Flash attention counts the tokens before the present one; a window that no document reaches is none."""
    return window - 1 if 0 < window < longest else None
