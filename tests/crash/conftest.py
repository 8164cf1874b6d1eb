from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash.train_server import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests: it pays for importing torch once."""
    server = Server(tmp_path_factory.mktemp("cache"))
    yield server
    server.close()
