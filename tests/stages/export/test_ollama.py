"""``--create``: the model is made over Ollama's HTTP API, and whatever goes wrong there is one clear line with the command to type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from papertune.config import ExportConfig
from papertune.errors import BadValue, OllamaUnavailable
from papertune.events import Event, Started, Unit
from papertune.export import ollama as export_ollama
from papertune.export.stage import run
from papertune.files import sha256_of
from papertune.ollama import Ollama
from papertune.sampling import Sampling
from tests.fake_ollama import FakeOllama, Handler

GGUF = Path("scientific-mistral.gguf")
MANUAL = "ollama create scientific-mistral -f Modelfile"


@pytest.fixture
def export(lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ExportConfig]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    return lambda host: ExportConfig(lora_path=lora, create=True, host=host, verify=False)


def writing(ollama: Ollama) -> Iterator[str]:
    """What a model writes when it is asked, with the parameters it was made with."""
    yield from ollama.write("Once", Sampling(), 32)


def test_the_model_is_made_with_the_modelfiles_settings(export: Callable[[str], ExportConfig]) -> None:
    with FakeOllama() as ollama:
        report = run(export(ollama.url))
        made = ollama.models["scientific-mistral:latest"]
        assert list(made["files"].values()) == [f"sha256:{sha256_of(GGUF)}"]
        assert ollama.blobs[f"sha256:{sha256_of(GGUF)}"] == GGUF.read_bytes()
        assert made["template"] == "{{ .Prompt }}"
        assert (made["parameters"]["num_ctx"], made["parameters"]["stop"]) == (4096, ["</s>"])
        assert "".join(writing(Ollama(ollama.url, "scientific-mistral", context=64, timeout=5, say=print))) == "Once upon a time."
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
    with pytest.raises(BadValue, match="is no address"):
        run(export(host))
    assert not GGUF.exists()  # told before the work, not after it


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


def _before_files(_ollama: FakeOllama, handler: Handler, _rest: str) -> None:
    handler.answer({"error": "path or Modelfile are required"}, 400)


def _without_blobs(_ollama: FakeOllama, handler: Handler, _rest: str) -> None:
    handler._send(404, b"404 page not found", "text/plain")


def _full_at_the_end(_ollama: FakeOllama, handler: Handler, _rest: str) -> None:
    handler.stream([{"status": "parsing GGUF"}, {"status": "writing manifest"}, {"error": "write manifest: no space left on device"}])


def _not_for_you(_ollama: FakeOllama, handler: Handler, _rest: str) -> None:
    handler._send(403, b"", "text/plain")


@pytest.mark.parametrize(
    ("route", "answer", "said"),
    [
        (("GET", "/api/version"), _not_ollama, "is not Ollama"),
        (("POST", "/api/blobs/"), _mismatch, "digest mismatch"),
        (("POST", "/api/blobs/"), _full, "no space left on device"),
        (("POST", "/api/blobs/"), _breaks, "broke"),
        (("POST", "/api/create"), _fails_late, "invalid file magic"),
        (("POST", "/api/create"), _stops_early, "stopped before"),
        (("POST", "/api/create"), _full_at_the_end, "no space left on device"),
        (("POST", "/api/create"), _before_files, "path or Modelfile are required"),
        (("POST", "/api/blobs/"), _without_blobs, "404 page not found"),
        (("POST", "/api/blobs/"), _not_for_you, "status 403"),
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


@pytest.mark.parametrize("version", ["0.1.48", "0.5.4", "0.5.4-rc1"])
def test_an_old_server_is_told_before_anything_is_sent(export: Callable[[str], ExportConfig], version: str) -> None:
    with FakeOllama(version=version) as ollama:
        with pytest.raises(OllamaUnavailable, match=rf"is version {version}; models can be made over its API from 0\.5\.5 on") as caught:
            run(export(ollama.url))
        assert [request.method for request in ollama.requests] == ["GET"]
    assert MANUAL in caught.value.remedy


@pytest.mark.parametrize("version", ["0.5.5", "0.31.0-rc0", "0.0.0"])
def test_newer_servers_and_builds_without_a_number_are_used(export: Callable[[str], ExportConfig], version: str) -> None:
    with FakeOllama(version=version) as ollama:
        run(export(ollama.url))
        assert ollama.models


def test_a_file_that_changed_on_the_way_is_refused_by_its_digest(export: Callable[[str], ExportConfig]) -> None:
    config = export("")
    run(replace(config, create=False))
    with FakeOllama() as ollama:
        with pytest.raises(OllamaUnavailable, match="digest mismatch, expected sha256:0000"):
            export_ollama.Ollama(ollama.url, manual=MANUAL).upload(GGUF, "0" * 64, lambda _: None)
        assert not ollama.blobs


def test_a_slow_upload_is_waited_for_and_its_progress_told(export: Callable[[str], ExportConfig]) -> None:
    events: list[Event] = []
    with FakeOllama(pause=0.05) as ollama:
        run(export(ollama.url), on_event=events.append)
        assert ollama.models
    size = GGUF.stat().st_size >> 20
    start = next(i for i, event in enumerate(events) if isinstance(event, Started) and event.title == "Sending to Ollama")
    sent = [event.done for event in events[start + 1 : start + 1 + size] if isinstance(event, Unit)]
    assert isinstance(events[start], Started)
    assert events[start] == Started("Sending to Ollama", size, "MiB")
    assert sent == list(range(1, size + 1))


def test_stopping_while_it_is_sent_leaves_the_old_model(export: Callable[[str], ExportConfig]) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Started) and event.title == "Sending to Ollama":
            raise KeyboardInterrupt

    with FakeOllama() as ollama:
        ollama.models["scientific-mistral:latest"] = {"old": True}
        with pytest.raises(KeyboardInterrupt):
            run(export(ollama.url), on_event=stop)
        assert ollama.models["scientific-mistral:latest"] == {"old": True}
    assert GGUF.exists()


def test_a_server_that_says_nothing_is_given_up(export: Callable[[str], ExportConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("papertune.export.ollama._ANSWER", 0.2)
    with FakeOllama() as ollama:
        ollama.routes["POST", "/api/create"] = lambda ollama, *_: (ollama.closing.wait(2), None)[1]
        with pytest.raises(OllamaUnavailable, match="did not answer"):
            run(export(ollama.url))
