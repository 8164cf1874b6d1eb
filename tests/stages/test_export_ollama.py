"""``--create``: the model is made over Ollama's HTTP API, and whatever goes wrong there is one clear line with the command to type."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from papertune.base import open_base
from papertune.config import ExportConfig
from papertune.errors import OllamaUnavailable
from papertune.export.stage import run
from papertune.files import sha256_of
from tests.adapters import random_adapter
from tests.fake_ollama import FakeOllama, Handler

GGUF = Path("scientific-mistral.gguf")
MANUAL = "ollama create scientific-mistral -f Modelfile"


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_adapter(open_base("tiny"), tmp_path_factory.mktemp("adapter") / "final")


@pytest.fixture
def export(lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ExportConfig]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    return lambda host: ExportConfig(lora_path=lora, create=True, host=host, verify=False)


def test_the_model_is_made_with_the_modelfiles_settings(export: Callable[[str], ExportConfig]) -> None:
    with FakeOllama() as ollama:
        report = run(export(ollama.url))
        made = ollama.models["scientific-mistral:latest"]
        assert made["files"] == {"scientific-mistral.gguf": f"sha256:{sha256_of(GGUF)}"}
        assert ollama.blobs[f"sha256:{sha256_of(GGUF)}"] == GGUF.read_bytes()
        assert made["template"] == "{{ .Prompt }}"
        assert (made["parameters"]["num_ctx"], made["parameters"]["stop"]) == (4096, "</s>")
    assert report.next_command == "ollama run scientific-mistral"
    assert Path("Modelfile").exists()


def test_ollama_host_says_where(export: Callable[[str], ExportConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeOllama() as ollama:
        monkeypatch.setenv("OLLAMA_HOST", ollama.url.removeprefix("http://"))
        run(export(""))
        assert ollama.models


def test_a_blob_that_is_there_is_not_sent_again(export: Callable[[str], ExportConfig]) -> None:
    with FakeOllama() as ollama:
        run(export(ollama.url))
        run(export(ollama.url))
        assert [request.method for request in ollama.requests if "/api/blobs/" in request.path] == ["HEAD", "POST", "HEAD"]


def test_no_server_leaves_the_gguf_and_the_command(export: Callable[[str], ExportConfig]) -> None:
    with pytest.raises(OllamaUnavailable, match="not running") as caught:
        run(export("127.0.0.1:9"))
    assert MANUAL in caught.value.remedy
    assert GGUF.exists()
    assert Path("Modelfile").exists()


@pytest.mark.parametrize("host", ["http://[bad", "host:notaport"])
def test_an_address_that_is_none_is_told(export: Callable[[str], ExportConfig], host: str) -> None:
    with pytest.raises(OllamaUnavailable, match="is no address"):
        run(export(host))


def _not_ollama(_ollama: FakeOllama, handler: Handler, _rest: str) -> None:
    handler.answer({"hello": "world"})


def _mismatch(_ollama: FakeOllama, handler: Handler, _rest: str) -> None:
    handler.answer({"error": "digest mismatch, expected sha256:0, got sha256:1"}, 400)


def _full(_ollama: FakeOllama, handler: Handler, _rest: str) -> None:
    handler.answer({"error": "write blob: no space left on device"}, 500)


def _breaks(_ollama: FakeOllama, handler: Handler, _rest: str) -> None:
    handler.hang_up()


def _fails_late(_ollama: FakeOllama, handler: Handler, _rest: str) -> None:
    handler.stream([{"status": "parsing GGUF"}, {"error": "invalid file magic"}])


def _stops_early(_ollama: FakeOllama, handler: Handler, _rest: str) -> None:
    handler.stream([{"status": "parsing GGUF"}])


def _old(_ollama: FakeOllama, handler: Handler, _rest: str) -> None:
    handler.answer({"error": "neither 'from' or 'files' was specified"}, 400)


@pytest.mark.parametrize(
    ("route", "answer", "said"),
    [
        (("GET", "/api/version"), _not_ollama, "is not Ollama"),
        (("POST", "/api/blobs/"), _mismatch, "digest mismatch"),
        (("POST", "/api/blobs/"), _full, "no space left on device"),
        (("POST", "/api/blobs/"), _breaks, "broke"),
        (("POST", "/api/create"), _fails_late, "invalid file magic"),
        (("POST", "/api/create"), _stops_early, "stopped before"),
        (("POST", "/api/create"), _old, "neither 'from' or 'files'"),
    ],
)
def test_what_ollama_says_is_passed_on_and_the_old_model_stays(
    export: Callable[[str], ExportConfig], route: tuple[str, str], answer: Callable[[FakeOllama, Handler, str], None], said: str
) -> None:
    with FakeOllama() as ollama:
        ollama.models["scientific-mistral:latest"] = {"old": True}
        ollama.routes[route] = answer
        with pytest.raises(OllamaUnavailable, match=said) as caught:
            run(export(ollama.url))
        assert ollama.models["scientific-mistral:latest"] == {"old": True}
    assert MANUAL in caught.value.remedy
    assert GGUF.exists()


def test_a_slow_server_is_waited_for(export: Callable[[str], ExportConfig]) -> None:
    def slow(ollama: FakeOllama, handler: Handler, rest: str) -> None:
        time.sleep(1)
        take(ollama, handler, rest)

    with FakeOllama() as ollama:
        take = ollama.routes["POST", "/api/blobs/"]
        ollama.routes["POST", "/api/blobs/"] = slow
        run(export(ollama.url))
        assert ollama.models
