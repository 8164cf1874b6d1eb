from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.train_server import Server
from tests.small_disk import small_disk


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests: it pays for importing torch once."""
    server = Server(tmp_path_factory.mktemp("cache"))
    yield server
    server.close()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own (``small_disk``)."""
    with small_disk(tmp_path / "small") as folder:
        yield folder
