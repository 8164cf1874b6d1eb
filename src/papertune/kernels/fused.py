# mypy: ignore-errors
# ruff: noqa: N803, RUF005
"""The ops of ``reference`` as Triton kernels (whose language only looks like Python, hence untyped): one launch an op, each input read
once and each output written once where that is possible.

op                   bytes moved a token (2-byte numbers)            program (with a mask, a dropped copy is written in passing)
dequantize (join)    0.516 read + 2 written a weight                 4,096 weights of a row
renew                4 + 2 a LoRA weight                             64 rows of B or columns of A
rms_norm             2H + 2H (+ 2H for a copy of its input)          one token, the row in registers
rms_norm_backward    6H + 4H                                         one token
rope                 2d + 2d a head                                  one token, all heads
spread               2d + 2d a head of the queries                   one token, all heads of keys or of values
put_gradients        2d a head of the queries + 2d a head, thrice    one token, all heads
swiglu (backward)    4F + 2F (6F + 6F)                               one token × 2,048 columns
put, dropout         2H + 2H                                         one token × 1,024 columns
lora_backward        2R + 2K + 2K                                    64 tokens × 128 columns, R columns of v at once
gather               2N + 2K + 4R                                    128 columns of W's inputs or outputs, all tokens
cross_entropy        4V (read twice, from cache) + 2V                one position

Numbers of tokens are not specialised: each kernel is compiled once and not again for the first number that no 16 divides.

Arithmetic is in float32 and rounded to the output's type exactly where ``reference`` rounds. Multiply and add are not fused in
``dequantize`` (``enable_fp_fusion=False``): bitsandbytes rounds between them.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime import JITFunction

from papertune.kernels.launching import launch
from papertune.kernels.nf4 import BLOCK, NF4
from papertune.kernels.reference import IGNORED, Mask

_WARPS = 2  # a program of ``dequantize``
_COLUMNS = 1024  # columns a program, where a row is cut


@triton.jit
def _of_lane(table, n, LANES: tl.constexpr):
    """What lane n mod LANES of this thread's warp (of its half of the warp, where LANES is 16) holds of ``table``: one instruction, no mask."""
    if LANES == 32:
        value = tl.inline_asm_elementwise("shfl.sync.idx.b32 $0, $1, $2, 0x001f, -1;", "=r,r,r", [table, n], tl.float32, is_pure=True, pack=1)
    else:
        value = tl.inline_asm_elementwise("shfl.sync.idx.b32 $0, $1, $2, 0x101f, -1;", "=r,r,r", [table, n], tl.float32, is_pure=True, pack=1)
    return value


@triton.jit
def _dequantize(
    codes, scales, steps, offsets, book, levels, a, b, places, out, across, rows, stride, R, RANK, BELOW,
    WARPS: tl.constexpr, WIDTH: tl.constexpr, SHUFFLE: tl.constexpr, JOIN: tl.constexpr,
):  # fmt: skip
    # A warp has 2,048 weights of a row: each lane makes the scale of one block and then takes 8 words of 32 bits, one after another. A word
    # has 8 weights, which a lane writes as 16 bytes. Instructions bound this kernel on a small card, 5 a weight: levels and scales are looked
    # up in the registers of the warp's lanes, which takes one instruction without an address (19 a weight from memory, 9 from shared memory);
    # without SHUFFLE they are read from memory.
    row, t = tl.program_id(0), tl.arange(0, 32 * WARPS)
    if row < rows:
        if JOIN:  # asked for early, since one load hangs on the other
            b_row, b_column = tl.load(places + row * 2), tl.load(places + row * 2 + 1)
        lane = t & 31
        first = (tl.program_id(1) * WARPS + (t >> 5)) * 32
        block = row * across + first + lane
        mine = first + lane < across
        index = tl.load(scales + block, mask=mine, other=0).to(tl.int32)
        nest = block >> 8
        scale = tl.load(book + index) * tl.load(steps + nest, mask=mine, other=0.0) + tl.load(offsets + nest, mask=mine, other=0.0)
        level = tl.load(levels + (t & 15))
        j = tl.arange(0, 8)[None, :]
        shift = (j >> 1) * 8 + 4 - (j & 1) * 4  # bytes in order, the upper half of each first
        w = first * 8 + lane
        source = codes + row.to(tl.int64) * across * 8 + w
        place = (out + row.to(tl.int64) * stride + w * 8)[:, None] + j
        left = across * 8 - w
        words = ()
        for i in tl.static_range(8):  # all on their way before the first is worked on
            words = words + (tl.load(source + i * 32, mask=left > i * 32, other=0),)
        if JOIN:
            r = tl.arange(0, WIDTH)
            once = (r < R) & (tl.program_id(1) == 0)
            here = once & (b_row >= 0) & (r >= b_column) & (r < b_column + RANK)
            beside = tl.load(b + b_row * RANK + r - b_column, mask=here, other=0.0)
        for i in tl.static_range(8):
            code, own = words[i][:, None] >> shift, i * 4 + (lane >> 3)
            if SHUFFLE:
                value = _of_lane(level[:, None], code, 16) * _of_lane(scale, own, 32)[:, None]
            else:
                value = tl.load(levels + (code & 15)) * tl.gather(scale, (t & -32) + own, 0)[:, None]
            tl.store(place + i * 256, value.to(out.dtype.element_ty), mask=(left > i * 32)[:, None])
        if JOIN:
            tl.store(out + row.to(tl.int64) * stride + across * 64 + r, beside.to(out.dtype.element_ty), mask=once)
    else:
        c, i = tl.program_id(1) * (2048 * WARPS) + tl.arange(0, 2048 * WARPS), row - rows
        real = c < across * 64
        under = tl.load(a + i * across * 64 + c, mask=real & (i < BELOW), other=0.0)
        tl.store(out + row.to(tl.int64) * stride + c, under.to(out.dtype.element_ty), mask=real)


@triton.jit
def _in_b(places, n, r, N, RANK):
    # Where in B the columns r beside the rows n of W come from, and whether they come from B at all.
    own = tl.load(places + 2 * n, mask=n < N, other=-1)[:, None]
    column = r[None, :] - tl.load(places + 2 * n + 1, mask=n < N, other=0)[:, None]
    return own * RANK + column, (own >= 0) & (column >= 0) & (column < RANK)


@triton.jit
def _renew(a, b, places, out, N, K, stride, R, BELOW, RANK, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr):
    r, up = tl.arange(0, WIDTH), tl.cdiv(N, ROWS)
    if tl.program_id(0) < up:
        n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        where, there = _in_b(places, n, r, N, RANK)
        beside = tl.load(b + where, mask=there, other=0.0)
        real = (n < N)[:, None] & (r < R)[None, :]
        tl.store(out + n.to(tl.int64)[:, None] * stride + K + r[None, :], beside.to(out.dtype.element_ty), mask=real)
    else:
        k = ((tl.program_id(0) - up) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
        below = tl.load(a + r[:, None] * K + k, mask=(r < BELOW)[:, None] & (k < K), other=0.0)
        place = out + (N + r).to(tl.int64)[:, None] * stride + k
        tl.store(place, below.to(out.dtype.element_ty), mask=(r < R)[:, None] & (k < K))


@triton.jit
def _kept(key, salt, c, least):
    """Whether column c of a token is kept."""
    h = (key.to(tl.uint32) ^ salt.to(tl.uint32)) + c.to(tl.uint32) * 0x9E3779B9
    h = (h ^ (h >> 16)) * 0x7FEB352D
    h = (h ^ (h >> 15)) * 0x846CA68B
    return h.to(tl.int32, bitcast=True) >= least


@triton.jit(do_not_specialize=["salt", "least"])
def _rms_norm(
    x, weight, out, r, fed, keys, copy, x_stride, out_stride, eps, N, salt, least, keep,
    WIDTH: tl.constexpr, DROP: tl.constexpr, COPY: tl.constexpr,
):  # fmt: skip
    t, c = tl.program_id(0).to(tl.int64), tl.arange(0, WIDTH)
    real = c < N
    given = tl.load(x + t * x_stride + c, mask=real, other=0.0)
    if COPY:
        tl.store(copy + t * N + c, given, mask=real)
    value = given.to(tl.float32)
    root = 1.0 / tl.sqrt(tl.sum(value * value, 0) / N + eps)
    tl.store(r + t, root)
    result = (value * root * tl.load(weight + c, mask=real, other=0.0).to(tl.float32)).to(out.dtype.element_ty)
    tl.store(out + t * out_stride + c, result, mask=real)
    if DROP:
        dropped = tl.where(_kept(tl.load(keys + t), salt, c, least), result.to(tl.float32) * keep, 0.0)
        tl.store(fed + t * N + c, dropped.to(out.dtype.element_ty), mask=real)


@triton.jit(do_not_specialize=["salt", "least"])
def _rms_norm_backward(
    dy, x, weight, r, total, keys, dy_stride, total_stride, N, salt, least, keep, WIDTH: tl.constexpr, DROP: tl.constexpr
):  # fmt: skip
    t, c = tl.program_id(0).to(tl.int64), tl.arange(0, WIDTH)
    real = c < N
    root = tl.load(r + t)
    normal = tl.load(x + t * N + c, mask=real, other=0.0).to(tl.float32) * root
    scale = tl.load(weight + c, mask=real, other=0.0).to(tl.float32)
    g = tl.load(dy + t * dy_stride + c, mask=real, other=0.0).to(tl.float32) * scale
    dx = root * (g - normal * (tl.sum(g * normal, 0) / N))
    sum_ = tl.load(total + t * total_stride + c, mask=real, other=0.0).to(tl.float32) + dx
    tl.store(total + t * total_stride + c, sum_.to(total.dtype.element_ty), mask=real)
    out = (normal * scale).to(dy.dtype.element_ty)
    if DROP:
        out = tl.where(_kept(tl.load(keys + t), salt, c, least), out.to(tl.float32) * keep, 0.0).to(dy.dtype.element_ty)
    tl.store(dy + t * dy_stride + c, out, mask=real)


@triton.jit
def _rope(x, cos, sin, stride, HALF, HEADS, WIDTH: tl.constexpr, ALL: tl.constexpr):
    t = tl.program_id(0).to(tl.int64)
    c, head = tl.arange(0, WIDTH)[None, :], tl.arange(0, ALL)[:, None]
    real = (head < HEADS) & (c < HALF)
    co = tl.load(cos + t * HALF + c, mask=c < HALF, other=0.0)
    si = tl.load(sin + t * HALF + c, mask=c < HALF, other=0.0)
    first = x + t * stride + head * (2 * HALF) + c
    a = tl.load(first, mask=real, other=0.0).to(tl.float32)
    b = tl.load(first + HALF, mask=real, other=0.0).to(tl.float32)
    tl.store(first, (a * co - b * si).to(x.dtype.element_ty), mask=real)
    tl.store(first + HALF, (b * co + a * si).to(x.dtype.element_ty), mask=real)


@triton.jit(do_not_specialize=["TOKENS"])
def _spread(k, v, out, k_token, k_head, v_token, v_head, SIZE, HEADS, TOKENS, SHARED: tl.constexpr, WIDTH: tl.constexpr, ALL: tl.constexpr):
    t = tl.program_id(0).to(tl.int64)
    c, head = tl.arange(0, WIDTH)[None, :], tl.arange(0, ALL)[:, None]
    real = (head < HEADS) & (c < SIZE)
    place = out + (tl.program_id(1) * TOKENS + t) * HEADS * SHARED * SIZE + head * SHARED * SIZE + c
    if tl.program_id(1) == 0:
        value = tl.load(k + t * k_token + head * k_head + c, mask=real, other=0.0)
    else:
        value = tl.load(v + t * v_token + head * v_head + c, mask=real, other=0.0)
    for i in tl.static_range(SHARED):
        tl.store(place + i * SIZE, value, mask=real)


@triton.jit
def _put_sum(x, out, co, si, out_head, HALF, HEADS, SHARED: tl.constexpr, WIDTH: tl.constexpr, ALL: tl.constexpr):
    # Sums of SHARED heads of one token, turned back by an angle.
    c, head = tl.arange(0, WIDTH)[None, :], tl.arange(0, ALL)[:, None]
    real = (head < HEADS) & (c < HALF)
    first = x + head * (SHARED * 2 * HALF) + c
    a = tl.load(first, mask=real, other=0.0).to(tl.float32)
    b = tl.load(first + HALF, mask=real, other=0.0).to(tl.float32)
    for i in tl.static_range(1, SHARED):
        a += tl.load(first + i * 2 * HALF, mask=real, other=0.0).to(tl.float32)
        b += tl.load(first + i * 2 * HALF + HALF, mask=real, other=0.0).to(tl.float32)
    place = out + head * out_head + c
    tl.store(place, (a * co + b * si).to(out.dtype.element_ty), mask=real)
    tl.store(place + HALF, (b * co - a * si).to(out.dtype.element_ty), mask=real)


@triton.jit
def _put_gradients(
    dq, dk, dv, q, k, v, cos, sin, q_token, q_head, k_token, k_head, v_token, v_head, HALF, HEADS, KV,
    SHARED: tl.constexpr, WIDTH: tl.constexpr, ALL: tl.constexpr, ALL_KV: tl.constexpr,
):  # fmt: skip
    t, c = tl.program_id(0).to(tl.int64), tl.arange(0, WIDTH)[None, :]
    row = t * HEADS * 2 * HALF
    co = tl.load(cos + t * HALF + c, mask=c < HALF, other=0.0)
    si = tl.load(sin + t * HALF + c, mask=c < HALF, other=0.0)
    _put_sum(dq + row, q + t * q_token, co, si, q_head, HALF, HEADS, 1, WIDTH, ALL)
    _put_sum(dk + row, k + t * k_token, co, si, k_head, HALF, KV, SHARED, WIDTH, ALL_KV)
    _put_sum(dv + row, v + t * v_token, 1.0, 0.0, v_head, HALF, KV, SHARED, WIDTH, ALL_KV)


@triton.jit(do_not_specialize=["salt", "least"])
def _swiglu(gate_up, out, fed, keys, F, stride, out_stride, salt, least, keep, WIDTH: tl.constexpr, DROP: tl.constexpr):
    t, c = tl.program_id(0).to(tl.int64), tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    real = c < F
    gate = tl.load(gate_up + t * stride + c, mask=real, other=0.0).to(tl.float32)
    up = tl.load(gate_up + t * stride + F + c, mask=real, other=0.0).to(tl.float32)
    kind = out.dtype.element_ty
    result = (gate * tl.sigmoid(gate) * up).to(kind)
    tl.store(out + t * out_stride + c, result, mask=real)
    if DROP:
        dropped = tl.where(_kept(tl.load(keys + t), salt, c, least), result.to(tl.float32) * keep, 0.0)
        tl.store(fed + t * F + c, dropped.to(kind), mask=real)


@triton.jit(do_not_specialize=["salt", "least"])
def _swiglu_backward(d, gate_up, keys, F, d_stride, stride, salt, least, keep, WIDTH: tl.constexpr, DROP: tl.constexpr):
    t, c = tl.program_id(0).to(tl.int64), tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    real = c < F
    first = gate_up + t * stride + c
    gate = tl.load(first, mask=real, other=0.0).to(tl.float32)
    up = tl.load(first + F, mask=real, other=0.0).to(tl.float32)
    g = tl.load(d + t * d_stride + c, mask=real, other=0.0).to(tl.float32)
    s = tl.sigmoid(gate)
    tl.store(first, (g * up * s * (1 + gate * (1 - s))).to(gate_up.dtype.element_ty), mask=real)
    tl.store(first + F, (g * gate * s).to(gate_up.dtype.element_ty), mask=real)
    kind = d.dtype.element_ty
    result = (gate * s * up).to(kind)
    if DROP:
        result = tl.where(_kept(tl.load(keys + t), salt, c, least), result.to(tl.float32) * keep, 0.0).to(kind)
    tl.store(d + t * d_stride + c, result, mask=real)


@triton.jit(do_not_specialize=["salt", "least"])
def _put(x, out, fed, keys, N, x_stride, out_stride, salt, least, keep, WIDTH: tl.constexpr, COPY: tl.constexpr, DROP: tl.constexpr):
    t, c = tl.program_id(0).to(tl.int64), tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    real = c < N
    value = tl.load(x + t * x_stride + c, mask=real, other=0.0)
    if COPY:
        tl.store(out + t * out_stride + c, value, mask=real)
    if DROP:
        dropped = tl.where(_kept(tl.load(keys + t), salt, c, least), value.to(tl.float32) * keep, 0.0)
        tl.store(fed + t * N + c, dropped.to(fed.dtype.element_ty), mask=real)


@triton.jit(do_not_specialize=["T", "salt", "least"])
def _lora_backward(
    v, a, dx, keys, T, R, K, v_stride, a_stride, dx_stride, salt, least, keep, ROWS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr
):  # fmt: skip
    t, c = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    i = tl.arange(0, RANK)
    row = t.to(tl.int64)[:, None]
    left = tl.load(v + row * v_stride + i[None, :], mask=(t < T)[:, None] & (i < R)[None, :], other=0.0)
    right = tl.load(a + i[:, None] * a_stride + c[None, :], mask=(i < R)[:, None] & (c < K)[None, :], other=0.0)
    product = tl.dot(left, right, input_precision="ieee") * keep
    key = tl.load(keys + t, mask=t < T, other=0)
    real = (t < T)[:, None] & (c < K)[None, :]
    place = dx + row * dx_stride + c[None, :]
    value = tl.load(place, mask=real, other=0.0).to(tl.float32) + tl.where(_kept(key[:, None], salt, c[None, :], least), product, 0.0)
    tl.store(place, value.to(dx.dtype.element_ty), mask=real)


@triton.jit
def _tall(big, small, big_stride, small_stride, c, WIDE, r, NARROW, T, TOKENS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr):
    # bigᵀ small (COLUMNS, WIDTH), for the columns c of ``big`` and r of ``small``, both of T rows.
    total = tl.zeros((COLUMNS, WIDTH), dtype=tl.float32)
    for first in range(0, T, TOKENS):
        t = first + tl.arange(0, TOKENS)
        row = t.to(tl.int64)[:, None]
        left = tl.load(big + row * big_stride + c[None, :], mask=(t < T)[:, None] & (c < WIDE)[None, :], other=0.0)
        right = tl.load(small + row * small_stride + r[None, :], mask=(t < T)[:, None] & (r < NARROW)[None, :], other=0.0)
        total = tl.dot(tl.trans(left), right, total, input_precision="ieee")
    return total


@triton.jit(do_not_specialize=["T"])
def _gather(
    dy, fed, u, a, b, places, T, N, K, R, BELOW, RANK, dy_stride, fed_stride, u_stride,
    TOKENS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    r, across = tl.arange(0, WIDTH), tl.cdiv(K, COLUMNS)
    if tl.program_id(0) < across:
        k = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
        down = _tall(fed, dy + N, fed_stride, dy_stride, k, K, r, BELOW, T, TOKENS, COLUMNS, WIDTH)
        real = (k < K)[:, None] & (r < BELOW)[None, :]
        place = a + r[None, :] * K + k[:, None]
        tl.store(place, tl.load(place, mask=real, other=0.0) + down, mask=real)
    else:
        n = (tl.program_id(0) - across) * COLUMNS + tl.arange(0, COLUMNS)
        up = _tall(dy, u, dy_stride, u_stride, n, N, r, R, T, TOKENS, COLUMNS, WIDTH)
        where, there = _in_b(places, n, r, N, RANK)
        tl.store(b + where, tl.load(b + where, mask=there, other=0.0) + up, mask=there)


@triton.jit
def _cross_entropy(logits, targets, losses, scale, V, stride, ignored: tl.constexpr, WIDTH: tl.constexpr):
    n = tl.program_id(0).to(tl.int64)
    row, c = logits + n * stride, tl.arange(0, WIDTH)
    target = tl.load(targets + n).to(tl.int32)
    counted = target != ignored
    wanted = tl.load(row + tl.where(counted, target, 0)).to(tl.float32)  # before the sums, whose barriers keep it ahead of the writes below
    highest, total = -float("inf"), 0.0
    for first in range(0, V, WIDTH):
        value = tl.load(row + first + c, mask=first + c < V, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(highest, tl.max(value, 0))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(value - higher), 0)
        highest = higher
    log_sum = highest + tl.log(total)
    tl.store(losses + n, tl.where(counted, log_sum - wanted, 0.0))
    factor = tl.where(counted, scale, 0.0)
    for first in range(0, V, WIDTH):
        value = tl.load(row + first + c, mask=first + c < V, other=-float("inf")).to(tl.float32)
        p = tl.exp(value - log_sum) - tl.where(first + c == target, 1.0, 0.0)
        tl.store(row + first + c, (p * factor).to(logits.dtype.element_ty), mask=first + c < V)


def dequantize(weight: NF4, out: Tensor) -> None:
    _fill(weight, out, None)


def join(weight: NF4, a: Tensor, b: Tensor, places: Tensor, out: Tensor) -> None:
    _fill(weight, out, (a, b, places))


def renew(a: Tensor, b: Tensor, places: Tensor, out: Tensor) -> None:
    rows, columns = len(places), a.shape[1]
    wider = out.shape[1] - columns
    if wider:
        shape = {"ROWS": 64, "COLUMNS": 64, "WIDTH": triton.next_power_of_2(wider), "num_warps": 4}
        grid = (triton.cdiv(rows, 64) + triton.cdiv(columns, 64),)
        launch(_renew, grid, a, b, places, out, rows, columns, out.stride(0), wider, len(a), b.shape[1], **shape)


def _fill(weight: NF4, out: Tensor, lora: tuple[Tensor, Tensor, Tensor] | None) -> None:
    vectors = out.element_size() == 2 and out.stride(0) % 16 == 0 and out.data_ptr() % 16 == 0
    _fill_by(weight, out, lora, shuffle=vectors and has_one_a_lane(out.device, out.dtype))


def _fill_by(weight: NF4, out: Tensor, lora: tuple[Tensor, Tensor, Tensor] | None, *, shuffle: bool) -> None:
    across, wider = weight.columns // BLOCK, out.shape[1] - weight.columns
    sources = (weight.codes.view(torch.int32), weight.scales, weight.steps, weight.offsets, weight.book, weight.levels)
    rank, below = (lora[1].shape[1], len(lora[0])) if lora else (0, 0)
    shape = {"WARPS": _WARPS, "WIDTH": triton.next_power_of_2(max(1, wider)), "SHUFFLE": shuffle, "JOIN": lora is not None}
    launch(
        _dequantize, (len(out), triton.cdiv(across, 32 * _WARPS)),
        *sources, *(lora or (out, out, out)), out, across, weight.rows, out.stride(0), wider, rank, below,
        **shape, num_warps=_WARPS, enable_fp_fusion=False,
    )  # fmt: skip


@cache
def has_one_a_lane(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether Triton gives each lane one of a warp's words, where a lane's weights are one vector of 16 bytes: what it does, but nowhere promises.

    The interpreter has no lanes.
    """
    if not isinstance(_dequantize, JITFunction):
        return False
    rows, columns = 2, 4160
    blocks = rows * columns // BLOCK
    whole = torch.arange(rows * columns // 2, device=device)
    tables = (torch.linspace(-1, 1, 256, device=device), torch.linspace(-1, 1, 16, device=device))
    ones = torch.ones(1, device=device)
    weight = NF4(rows, columns, (whole * 37 % 251).byte(), (whole[:blocks] * 5 % 256).byte(), ones, ones, *tables)
    fast, plain = (torch.zeros(rows, columns, dtype=dtype, device=device) for _ in range(2))
    _fill_by(weight, fast, None, shuffle=True)
    _fill_by(weight, plain, None, shuffle=False)
    return fast.is_meta or torch.equal(fast, plain)


def _numbers(mask: Mask | None) -> tuple[int, int, float]:
    """salt, least and keep: a number is kept if its hash, with a sign, is at least ``least``, and times ``keep`` then."""
    return (0, 0, 1.0) if mask is None else (mask.salt, round(mask.share * 2**32) - 2**31, 1 / (1 - mask.share))


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor, mask: Mask | None, copy: Tensor | None) -> tuple[Tensor, Tensor]:
    tokens, width = x.shape
    r = torch.empty(tokens, dtype=torch.float32, device=x.device)
    fed = out if mask is None else torch.empty(tokens, width, dtype=out.dtype, device=x.device)
    shape = {"WIDTH": triton.next_power_of_2(width), "DROP": mask is not None, "COPY": copy is not None, "num_warps": _warps(width)}
    tensors = (x, weight, out, r, fed, r if mask is None else mask.keys, out if copy is None else copy)
    launch(_rms_norm, (tokens,), *tensors, x.stride(0), out.stride(0), eps, width, *_numbers(mask), **shape)
    return r, fed


def rms_norm_backward(dy: Tensor, x: Tensor, weight: Tensor, r: Tensor, total: Tensor, mask: Mask | None) -> None:
    tokens, width = x.shape
    shape = {"WIDTH": triton.next_power_of_2(width), "DROP": mask is not None, "num_warps": _warps(width)}
    keys = r if mask is None else mask.keys
    launch(_rms_norm_backward, (tokens,), dy, x, weight, r, total, keys, dy.stride(0), total.stride(0), width, *_numbers(mask), **shape)


def rope(x: Tensor, cos: Tensor, sin: Tensor, heads: int) -> None:
    half = cos.shape[1]
    shape = {"WIDTH": triton.next_power_of_2(half), "ALL": triton.next_power_of_2(heads), "num_warps": 4}
    launch(_rope, (x.shape[0],), x, cos, sin, x.stride(0), half, heads, **shape)


def spread(k: Tensor, v: Tensor, shared: int) -> Tensor:
    tokens, heads, size = k.shape
    out = torch.empty(2, tokens, heads * shared, size, dtype=k.dtype, device=k.device)
    shape = {"SHARED": shared, "WIDTH": triton.next_power_of_2(size), "ALL": triton.next_power_of_2(heads), "num_warps": 4}
    launch(_spread, (tokens, 2), k, v, out, k.stride(0), k.stride(1), v.stride(0), v.stride(1), size, heads, tokens, **shape)
    return out


def put_gradients(dq: Tensor, dk: Tensor, dv: Tensor, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> None:
    (tokens, heads, size), some = q.shape, k.shape[1]
    strides = (q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1))
    wide = {"WIDTH": triton.next_power_of_2(size // 2), "ALL": triton.next_power_of_2(heads), "ALL_KV": triton.next_power_of_2(some)}
    sizes = (size // 2, heads, some)
    launch(_put_gradients, (tokens,), dq, dk, dv, q, k, v, cos, sin, *strides, *sizes, SHARED=heads // some, **wide, num_warps=4)


def swiglu(gate_up: Tensor, out: Tensor, mask: Mask | None) -> Tensor:
    tokens, width = out.shape
    fed = out if mask is None else torch.empty(tokens, width, dtype=out.dtype, device=out.device)
    keys, shape = out if mask is None else mask.keys, {"WIDTH": 2 * _COLUMNS, "DROP": mask is not None, "num_warps": 4}
    grid = (tokens, triton.cdiv(width, 2 * _COLUMNS))
    launch(_swiglu, grid, gate_up, out, fed, keys, width, gate_up.stride(0), out.stride(0), *_numbers(mask), **shape)
    return fed


def swiglu_backward(d: Tensor, gate_up: Tensor, mask: Mask | None) -> None:
    tokens, width = d.shape
    keys, shape = d if mask is None else mask.keys, {"WIDTH": 2 * _COLUMNS, "DROP": mask is not None, "num_warps": 4}
    grid = (tokens, triton.cdiv(width, 2 * _COLUMNS))
    launch(_swiglu_backward, grid, d, gate_up, keys, width, d.stride(0), gate_up.stride(0), *_numbers(mask), **shape)


def put(x: Tensor, out: Tensor, mask: Mask | None) -> Tensor:
    tokens, width = x.shape
    fed = out if mask is None else torch.empty(tokens, width, dtype=x.dtype, device=x.device)
    keys, shape = x if mask is None else mask.keys, {"WIDTH": _COLUMNS, "COPY": True, "DROP": mask is not None, "num_warps": 4}
    launch(_put, (tokens, triton.cdiv(width, _COLUMNS)), x, out, fed, keys, width, x.stride(0), out.stride(0), *_numbers(mask), **shape)
    return fed


def dropout(x: Tensor, mask: Mask) -> Tensor:
    tokens, width = x.shape
    fed, shape = torch.empty(tokens, width, dtype=x.dtype, device=x.device), {"WIDTH": _COLUMNS, "COPY": False, "DROP": True, "num_warps": 4}
    launch(_put, (tokens, triton.cdiv(width, _COLUMNS)), x, x, fed, mask.keys, width, x.stride(0), x.stride(0), *_numbers(mask), **shape)
    return fed


def lora_backward(v: Tensor, a: Tensor, dx: Tensor, mask: Mask) -> None:
    (tokens, rank), width = v.shape, a.shape[1]
    shape = {"ROWS": 64, "COLUMNS": 128, "RANK": max(16, triton.next_power_of_2(rank)), "num_warps": 4}
    grid, strides = (triton.cdiv(tokens, 64), triton.cdiv(width, 128)), (v.stride(0), a.stride(0), dx.stride(0))
    launch(_lora_backward, grid, v, a, dx, mask.keys, tokens, rank, width, *strides, *_numbers(mask), **shape)


def gather(dy: Tensor, fed: Tensor, u: Tensor, a: Tensor, b: Tensor, places: Tensor) -> None:
    (tokens, inputs), outputs, columns = fed.shape, len(places), u.shape[1]
    sizes = (tokens, outputs, inputs, columns, len(a), b.shape[1], dy.stride(0), fed.stride(0), u.stride(0))
    shape = {"TOKENS": 64, "COLUMNS": 128, "WIDTH": max(16, triton.next_power_of_2(columns)), "num_warps": 4, "num_stages": 4}
    launch(_gather, (triton.cdiv(inputs, 128) + triton.cdiv(outputs, 128),), dy, fed, u, a, b, places, *sizes, **shape)


def cross_entropy(logits: Tensor, targets: Tensor, scale: float) -> Tensor:
    positions, vocabulary = logits.shape
    losses = torch.empty(positions, dtype=torch.float32, device=logits.device)
    width = min(8192, triton.next_power_of_2(vocabulary))
    launch(_cross_entropy, (positions,), logits, targets, losses, scale, vocabulary, logits.stride(0), ignored=IGNORED, WIDTH=width, num_warps=8)
    return losses


def _warps(width: int) -> int:
    return 8 if width > 4096 else 4
