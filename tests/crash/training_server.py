"""Trains on request in forked processes, so that twenty kills pay for importing torch once. A script for test_train_crash.py, on POSIX.

Reads one JSON object of settings a line. For each it forks a process that trains, or as many as ``processes`` says, told so as by torchrun.
Prints ``started PID…`` and, when all have ended, ``ended STATUS…`` (negative: the signal that killed it; else the command's exit code).
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any


def serve() -> None:
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    import torch
    import transformers.models.mistral.modeling_mistral  # noqa: F401

    from papertune.train import keeping, loop, reference  # noqa: F401 - loaded before the first fork
    from papertune.train.model import choose_device

    torch.set_num_threads(1)  # and no threads exist yet that a fork would lose
    choose_device()
    for line in sys.stdin:
        wanted = json.loads(line)
        count = wanted.pop("processes", 1)
        port = _free_port()
        children = [_fork(wanted, rank, count, port) for rank in range(count)]
        print("started", *children, flush=True)
        print("ended", *(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children), flush=True)


def _fork(wanted: dict[str, Any], rank: int, count: int, port: int) -> int:
    from papertune.cli import execute, guarded
    from tests.training import settings

    child = os.fork()
    if child:
        return child
    if count > 1:
        place = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({"TORCHELASTIC_RUN_ID": "test", **{name: str(value) for name, value in place.items()}})
    os.dup2(2, 1)  # standard output speaks to the test
    chosen = {name: value for name, value in wanted.items() if name not in ("data", "output")}
    os._exit(guarded(lambda: execute(settings(Path(wanted["data"]), Path(wanted["output"]), **chosen)) and None))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    serve()
