"""Sequences laid end to end as one micro-batch: no padding, and no attention from one to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from papertune.kernels.reference import mix
from papertune.train.batches import TokenSequence
from papertune.train.fast.shape import Shape


@dataclass(frozen=True, slots=True)
class Packed:
    """T tokens of some documents, on the engine's device.

    ids: (T) int64; starts: (documents + 1) int32, where each begins, and T; longest: tokens of the longest; cos, sin: (T, head / 2) float32,
    the rotary angle of each token's place in its document; keys: (T) int32 for dropout; rows: (N) int64, positions that predict;
    targets: (N) int64, what they should predict.
    """

    ids: Tensor
    starts: Tensor
    longest: int
    cos: Tensor
    sin: Tensor
    keys: Tensor
    rows: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.ids)


def pack(batch: Sequence[TokenSequence], shape: Shape, device: torch.device, seed: int, places_in_step: Sequence[int] = ()) -> Packed:
    """``seed`` decides the dropout: a token's key is a function of seed, its sequence's place in the step, and its place in the sequence.

    ``places_in_step`` are those of the sequences: 0, 1, … if not given.
    """
    lengths = [len(item.ids) for item in batch]
    starts = np.concatenate(([0], np.cumsum(lengths)))
    places = np.concatenate([np.arange(n) for n in lengths])
    owner = np.repeat(places_in_step or range(len(batch)), lengths)
    rows = np.concatenate([np.arange(item.start - 1, n - 1) + start for item, n, start in zip(batch, lengths, starts, strict=False)])
    targets = np.concatenate([item.ids[item.start :] for item in batch])
    ids = np.concatenate([item.ids for item in batch])
    # One transfer for all: from pinned memory it need not wait for what the device is doing.
    parts = [torch.from_numpy(part.astype(np.int64)) for part in (ids, places, owner, rows, targets, starts)]
    host = torch.cat(parts)
    moved = (host.pin_memory() if device.type == "cuda" else host).to(device, non_blocking=True)
    ids_, places_, owner_, rows_, targets_, starts_ = torch.split(moved, [len(part) for part in parts])
    frequencies = shape.theta ** -(torch.arange(0, shape.head, 2, device=device, dtype=torch.float32) / shape.head)
    angles = places_[:, None].float() * frequencies
    return Packed(ids_, starts_.int(), max(lengths), angles.cos(), angles.sin(), _keys(owner_, places_, seed), rows_, targets_)


def _keys(owner: Tensor, place: Tensor, seed: int) -> Tensor:
    """One 32-bit number a token, of the low and the high half of ``seed`` (63 bits), the sequence and the place."""
    low, high = seed & 0xFFFFFFFF, seed >> 32
    hashed = mix((mix((owner + low) & 0xFFFFFFFF) + place + high) & 0xFFFFFFFF)
    return (hashed - ((hashed >> 31) << 32)).int()
