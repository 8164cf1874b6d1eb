"""``papertune doctor``: what is here, what is missing, and how to mend it."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from papertune import doctor
from tests import fake_gpu
from tests.fake_ollama import FakeOllama


def examined(patch: pytest.MonkeyPatch, *names: str) -> str:
    patch.setattr(doctor, "_LIBRARIES", [(name, "a purpose", f"pip install {name}", True) for name in names])
    said: list[str] = []
    doctor.examine(show=said.append)
    return "\n".join(said)


def test_a_library_that_is_missing_is_named_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    said = examined(monkeypatch, "lxml", "no_such_library")
    assert "ok       lxml: " in said
    assert "MISSING  no_such_library: not usable for a purpose: " in said
    assert said.splitlines()[-1].endswith("the fix stands behind each arrow.")
    assert "  →  pip install no_such_library" in said


@pytest.fixture
def ollama(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOllama]:
    with FakeOllama() as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        yield server


def test_ollama_is_asked_without_a_proxy(ollama: FakeOllama, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert f"ok       Ollama: version {ollama.version} answers at {ollama.url}" in examined(monkeypatch)


def test_what_answers_and_is_not_ollama_is_none(ollama: FakeOllama, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = (b"[1, 2]", b"no JSON", b'{"hello": "world"}', b"null")
    for answer in answers:
        ollama.routes["GET", "/api/version"] = lambda _ollama, handler, _rest, answer=answer: handler._send(200, answer, "text/plain")
        assert f"absent   Ollama: none answers at {ollama.url}  →  " in examined(monkeypatch)


def test_a_port_that_speaks_no_http_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 mail.example.org ESMTP\r\n")

        thread = threading.Thread(target=speak)
        thread.start()
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{server.getsockname()[1]}")
        assert "absent   Ollama: none answers at " in examined(monkeypatch)
        thread.join()


@pytest.mark.parametrize("given", ["http://localhost:abc", "127.0.0.1:99999", "[::1", "my host"])
def test_an_address_that_is_none_is_a_finding(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("OLLAMA_HOST", given)
    assert f"absent   Ollama: OLLAMA_HOST {given} is no address of a server: " in examined(monkeypatch)


def test_the_base_model_is_looked_for_where_it_is_downloaded_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "models--mistralai--Mistral-7B-v0.1" / "snapshots" / "1" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "none"))
    assert "absent   base model: not downloaded yet" in examined(monkeypatch)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert "ok       base model: Mistral-7B-v0.1 is here" in examined(monkeypatch)


def test_the_disk_that_is_needed_is_what_the_steps_write_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "disk_free", lambda _path: 15 * 10**9)
    assert "free here  →  about 20 GB with Mistral-7B: base model 14.5, checkpoints 1.1, GGUF 4.4" in examined(monkeypatch)
    monkeypatch.setattr(doctor, "disk_free", lambda _path: 25 * 10**9)
    assert "ok       disk: " in examined(monkeypatch)


@pytest.mark.skipif(os.name == "nt", reason="the program that stands in for the driver's is a shell script")
def test_a_gpu_that_this_torch_cannot_use_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    if torch.version.cuda is not None:
        pytest.skip("this torch is built for GPUs")
    fake_gpu.put_on_path(tmp_path, monkeypatch)
    said = examined(monkeypatch, "torch")
    assert f"ok       GPU: {fake_gpu.NAME}, 8.0 GiB, 7.2 GiB free, driver 580.65.06" in said
    assert "C compiler: " in said or sys.platform != "linux"
    assert f"MISSING  torch: {torch.__version__}, without CUDA (a purpose)  →  install its CUDA build" in said
