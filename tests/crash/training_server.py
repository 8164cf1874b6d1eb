"""Trains on request in forked processes, so that twenty kills pay for importing torch once. A script for test_train_crash.py, on POSIX.

Reads one JSON object of settings a line. For each it forks a process that trains, prints ``started PID`` and, when that has ended,
``ended STATUS`` (negative: the signal that killed it).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def serve() -> None:
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    import torch
    import transformers.models.mistral.modeling_mistral  # noqa: F401

    from papertune.train import loop, reference  # noqa: F401 - loaded before the first fork
    from papertune.train.model import choose_device
    from papertune.train.stage import run
    from tests.training import settings

    torch.set_num_threads(1)  # and no threads exist yet that a fork would lose
    choose_device()
    for line in sys.stdin:
        wanted = json.loads(line)
        child = os.fork()
        if child == 0:
            run(settings(Path(wanted.pop("data")), Path(wanted.pop("output")), **wanted))
            os._exit(0)
        print("started", child, flush=True)
        _, status = os.waitpid(child, 0)
        print("ended", os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
