"""Which of the processes of one training this is. torchrun starts one for each GPU and tells it so in its environment.

The first process speaks and writes for all: the others show nothing and leave no files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Launch:
    """``rank`` counts the ``size`` processes from 0 over all machines, ``local`` the ``here`` processes of this machine."""

    rank: int = 0
    size: int = 1
    local: int = 0
    here: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0


def launch(environ: Mapping[str, str] = os.environ) -> Launch:
    """As torchrun says; one process on its own where it did not start this one."""
    if "TORCHELASTIC_RUN_ID" not in environ:
        return Launch()
    return Launch(*(int(environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))
