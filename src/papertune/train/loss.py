"""Cross-entropy of the next token without ever holding the logits of all positions.

For a position with hidden state h (width H) and target t the loss is log Σ_v exp(h·W_v) − h·W_t, and its gradient in h is
Σ_v p_v W_v − W_t with p the softmax. The head W (vocabulary × H) is frozen, so loss and gradient come from one pass over the positions,
a chunk at a time: the largest buffer is chunk × vocabulary in float32 (32 MB at 256 × 32,000) instead of 512 × 32,000 several times over.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 256  # positions


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, chunk: int) -> Tensor:
        """hidden: (N, H), head: (V, H), targets: (N,) → sum of the N losses, float32 scalar."""
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if hidden.requires_grad else None
        for first in range(0, len(targets), chunk):
            part, wanted = hidden[first : first + chunk].to(head.dtype), targets[first : first + chunk]
            logits = (part @ head.T).float()
            logits -= logits.amax(dim=1, keepdim=True)
            total -= logits.gather(1, wanted[:, None]).sum()
            weights = logits.exp_()
            sums = weights.sum(dim=1, keepdim=True)
            total += sums.log().sum()
            if gradient is not None:
                mean = (weights.div_(sums).to(head.dtype) @ head).float()
                gradient[first : first + chunk] = (mean - head[wanted].float()).to(hidden.dtype)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0].to(gradient.dtype), None, None, None


def cross_entropy_sum(hidden: Tensor, head: Tensor, targets: Tensor, chunk: int = CHUNK) -> Tensor:
    """Sum over N positions of the next-token loss in nats; differentiable in ``hidden`` (N, H) only. ``head`` is (V, H), ``targets`` (N,)."""
    total: Tensor = _ChunkedCrossEntropy.apply(hidden, head, targets, chunk)  # type: ignore[no-untyped-call]
    return total
