"""``kill -9`` and a full disk at any moment of an export: never a half file under the final name, and the next run gives the same bytes."""

from __future__ import annotations

import errno
import io
import os
import random
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from papertune.base import open_base
from papertune.config import ExportConfig
from papertune.errors import DiskFull
from papertune.export.gguf import read_head
from papertune.export.stage import run
from papertune.files import sha256_of
from tests.adapters import random_adapter

GGUF = Path("scientific-mistral.gguf")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork and no SIGKILL")


def _clear(config: ExportConfig) -> None:
    for path in [GGUF, *Path().glob("*.part*"), config.merged_dir]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExportConfig:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("papertune.export.stream.SLAB", 32 * 100)  # hundreds of writes, so that moments differ
    lora = random_adapter(open_base("tiny"), tmp_path / "lora")
    return ExportConfig(lora_path=lora, merged_dir=tmp_path / "merged", verify=False)


def _killed(config: ExportConfig, after: float) -> bool:
    """Runs the export in a forked child that is killed ``after`` seconds; whether it died before it was done."""
    child = os.fork()
    if child == 0:
        threading.Thread(target=lambda: (time.sleep(after), os.kill(os.getpid(), signal.SIGKILL)), daemon=True).start()
        run(config)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def _check_kills(config: ExportConfig, times: int) -> None:
    run(config)  # compiles
    _clear(config)
    begin = time.perf_counter()
    run(config)
    seconds, whole = time.perf_counter() - begin, sha256_of(GGUF)
    merged = sha256_of(config.merged_dir / "model.safetensors")
    moments = random.Random(0)
    died = tried = 0
    while died < times:
        tried += 1
        assert tried < 4 * times, "too few of the runs were killed before their end"
        if tried % 4 == 1:  # from the beginning; else go on from where the last one died
            _clear(config)
        died += _killed(config, moments.uniform(0, seconds))
        if GGUF.exists():
            assert read_head(GGUF).tensors
            assert sha256_of(GGUF) == whole
    run(config)
    assert sha256_of(GGUF) == whole
    assert sha256_of(config.merged_dir / "model.safetensors") == merged
    assert not list(Path().glob("*.part*"))


def test_killed_at_any_moment_the_next_run_gives_the_same_file(config: ExportConfig) -> None:
    _check_kills(config, 12)


@pytest.mark.slow
def test_killed_a_hundred_times(config: ExportConfig) -> None:
    _check_kills(config, 100)


class _FullDisk(io.FileIO):
    """Takes so many bytes, then fails as a full disk does: a short write first, an error next."""

    room = 0

    def write(self, data: Any) -> int:
        view = memoryview(data)
        if not self.room and len(view):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = super().write(view[: self.room])
        type(self).room -= written
        return written


def test_a_disk_that_fills_up_stops_clearly_and_the_run_goes_on_later(config: ExportConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    run(config)
    whole, size = sha256_of(GGUF), GGUF.stat().st_size
    GGUF.unlink()
    left = {"lora", "merged", "Modelfile", f"{GGUF}.json", *(f"{GGUF}.part{end}" for end in ("", ".json", ".json.lock"))}
    for room in (0, size // 3, size // 5, size // 5):  # each run goes on from what the one before could write
        with monkeypatch.context() as patched:
            patched.setattr("papertune.export.part.open", lambda path, mode, **_: _FullDisk(path, mode), raising=False)
            _FullDisk.room = room
            with pytest.raises(DiskFull, match=r"scientific-mistral\.gguf\.part"):
                run(config)
        assert {path.name for path in Path().iterdir()} <= left
    run(config)
    assert sha256_of(GGUF) == whole
