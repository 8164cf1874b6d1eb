"""A process that trains on request, for tests that kill training or run it in several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Server:
    """The process of ``training_server.py``. ``said`` is what the last trainings wrote to standard error."""

    def __init__(self, cache: Path) -> None:
        self._errors = (cache / "stderr").open("w+")
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "PAPERTUNE_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(Path(__file__).with_name("training_server.py"))]
        self.process = subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors)

    def start(self, **wanted: Any) -> list[int]:
        """Begins to train; returns the ids of the processes."""
        self._errors.truncate(0)
        self._errors.seek(0)
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(wanted, default=str) + "\n")
        self.process.stdin.flush()
        return self._answer("started")

    def end(self) -> list[int]:
        """Waits for the training processes; returns how they ended."""
        return self._answer("ended")

    @property
    def said(self) -> str:
        self._errors.seek(0)
        return self._errors.read()

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self._errors.close()

    def _answer(self, word: str) -> list[int]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(word):
                return [int(number) for number in line.split()[1:]]
        raise AssertionError("the server died")
