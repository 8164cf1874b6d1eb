"""Who does what among the processes of one training."""

from __future__ import annotations

import pickle

from hypothesis import given
from hypothesis import strategies as st

from papertune.errors import DiskFull, Interrupted
from papertune.launch import Launch, launch
from papertune.train.team import Team


@given(st.lists(st.integers(1, 600), max_size=40), st.integers(1, 8))
def test_every_piece_of_work_is_done_once_and_shares_are_even(costs: list[int], size: int) -> None:
    shares = [Team(Launch(rank, size)).share(costs) for rank in range(size)]
    assert sorted(i for share in shares for i in share) == list(range(len(costs)))
    assert all(share == sorted(share) for share in shares)
    loads = [sum(costs[i] for i in share) for share in shares]
    assert max(loads) - min(loads) <= max(costs, default=0)


def test_torchrun_says_who_is_who() -> None:
    said = {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert launch(said) == Launch(rank=3, size=4, local=1, here=2)
    assert not launch(said).first
    assert launch({"RANK": "3", "WORLD_SIZE": "4"}) == Launch(), "another launcher's variables mean nothing"


def test_errors_pass_from_one_process_to_another() -> None:
    for error in (DiskFull("The disk is full.", "Free some space."), Interrupted()):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), copy.what, copy.remedy, str(copy)) == (type(error), error.what, error.remedy, str(error))
