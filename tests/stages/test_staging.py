"""Copies of what a checkpoint is written from."""

from __future__ import annotations

import torch

from papertune.train.keeping import Staging, _host_memory


def test_where_no_memory_can_be_pinned_it_is_not() -> None:
    """As on a machine without a GPU, or when a system has pinned all that it allows."""
    block = _host_memory(1000, pinned=True)
    assert block.shape == (1000,)
    assert block.is_pinned() == torch.cuda.is_available()


def test_copies_are_what_the_tensors_were_views_of_one_buffer_among_them() -> None:
    staging, flat = Staging(), torch.arange(24.0)
    tensors = {"a": flat[:6].view(2, 3), "b": flat[6:], "odd": torch.arange(3, dtype=torch.uint8), "t": flat.view(4, 6).T}
    wanted = {name: tensor.clone() for name, tensor in tensors.items()}
    copies = staging.copy(tensors)
    flat.zero_()
    assert all(torch.equal(copies[name], tensor) for name, tensor in wanted.items())
    assert all(not tensor.any() for name, tensor in staging.copy(tensors).items() if name != "odd"), "the next copy is of what is there then"
