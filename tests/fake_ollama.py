"""A small Ollama server for tests: /api/version, tags, show, generate, blobs, create, delete, over real HTTP on a free port.

Checked against Ollama's docs/api.md, docs/openapi.yaml, docs/api/errors.mdx, api/types.go, server/create.go and server/routes.go (2026):
newline-delimited JSON when streaming; errors as ``{"error": "…"}`` with a status or, once a stream runs, as a line of it; a GGUF is sent as a
blob under ``sha256:…`` (201, or 200 where it was there) and ``create`` names it in ``files`` by a relative path; ``from`` names a model that
exists; ``adapters`` are refused; parameters are taken as they come, and one of the wrong type fails every later request to the model. What
it writes is up to the test: ``answers`` is called with the request's JSON and gives pieces of text.

    with FakeOllama() as ollama:
        ollama.models["scientific-mistral:latest"] = {}
        ollama.answers = lambda request: ["The ", "end."]
        ollama.faults.append(Drop(after=1))     # for the next generate request: the connection breaks after one piece
        …                                       # talk to ollama.url
        assert ollama.requests[-1].body["prompt"] == …

Another path is one more entry in ``ollama.routes``: (method, prefix) → function(ollama, handler, rest of the path).
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from typing import Any, Self

Body = dict[str, Any]


@dataclass(frozen=True)
class Drop:
    """The connection breaks after so many pieces."""

    after: int = 0


@dataclass(frozen=True)
class Slow:
    """So many seconds pass before each piece."""

    seconds: float


@dataclass(frozen=True)
class Stall:
    """After so many pieces nothing comes any more, with the connection open."""

    after: int = 0


@dataclass(frozen=True)
class Refuse:
    """The request is answered with this status and error."""

    status: int = 500
    error: str = "llama runner process has terminated"


@dataclass(frozen=True)
class Break:
    """After so many pieces the stream carries an error."""

    after: int = 0
    error: str = "an error was encountered while running the model"


Fault = Drop | Slow | Stall | Refuse | Break | None


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    body: Body


@dataclass
class FakeOllama:
    """``models`` by full name; ``blobs`` by digest; ``faults`` are used up one a generate request, None for a good one.

    ``pause`` is how many seconds pass before each quarter of a MiB of an upload is read.
    """

    answers: Callable[[Body], Iterable[str]] = lambda _request: ["Once ", "upon ", "a ", "time."]
    models: dict[str, Body] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    version: str = "0.15.2"
    pause: float = 0.0
    context_length: int = 32768
    done_reason: Callable[[Body], str] = lambda _request: "stop"

    def __post_init__(self) -> None:
        self.routes: dict[tuple[str, str], Callable[[FakeOllama, Handler, str], None]] = dict(_ROUTES)
        self.lock = threading.Lock()
        self.closing = threading.Event()

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_for(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """What to put into OLLAMA_HOST."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def sent(self, path: str) -> list[Body]:
        """The bodies of the requests to this path, in order."""
        return [request.body for request in self.requests if request.path == path]


class Handler(BaseHTTPRequestHandler):
    ollama: FakeOllama
    protocol_version = "HTTP/1.1"

    def dispatch(self) -> None:
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
        self.raw = raw = self._chunks() if chunked else self._whole(int(self.headers.get("Content-Length") or 0))
        try:
            self.body: Body = json.loads(raw) if raw[:1] == b"{" else {}
        except ValueError:
            return self.answer({"error": "invalid character in body"}, 400)
        with self.ollama.lock:
            self.ollama.requests.append(Request(self.command, self.path, self.body))
        if self.path == "/" and self.command in ("GET", "HEAD"):
            return self._send(200, b"Ollama is running", "text/plain; charset=utf-8")
        for (method, prefix), route in self.ollama.routes.items():
            if method == self.command and self.path.startswith(prefix):
                return route(self.ollama, self, self.path[len(prefix) :])
        return self._send(404, b"404 page not found", "text/plain")

    do_GET = do_POST = do_HEAD = do_DELETE = dispatch  # noqa: N815 - the names http.server calls

    def answer(self, body: Body, status: int = 200) -> None:
        """One JSON object."""
        self._send(status, json.dumps(body).encode(), "application/json; charset=utf-8")

    def stream(self, lines: Iterable[Body]) -> None:
        """Newline-delimited JSON in chunks, each sent as it comes; with ``"stream": false`` only the last one, with all text in it.

        An error before anything else is an answer of its own, with its ``status`` or 500.
        """
        if self.body.get("stream") is False:
            parts = list(lines)
            last = dict(parts[-1])
            if "response" in last:
                last["response"] = "".join(part.get("response", "") for part in parts)
            return self.answer(last, last.pop("status", 500) if "error" in last else 200)
        lines = iter(lines)
        first = next(lines, None)
        if first is not None and "error" in first:
            return self.answer({"error": first["error"]}, first.get("status", 500))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in chain([first] if first is not None else [], lines):
            data = json.dumps(line).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")
        return None

    def hang_up(self) -> None:
        """Breaks the connection without ending the answer."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        """Tests print nothing."""

    def _send(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _whole(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (piece := self.rfile.read(min(size - len(data), 1 << 18))):
            data += piece
            time.sleep(self.ollama.pause)
        return data

    def _chunks(self) -> bytes:
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data


def full_name(name: str) -> str:
    return name if ":" in name else f"{name}:latest"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())


def _version(ollama: FakeOllama, handler: Handler, _rest: str) -> None:
    handler.answer({"version": ollama.version})


def _tags(ollama: FakeOllama, handler: Handler, _rest: str) -> None:
    digests = {name: hashlib.sha256(json.dumps(model, sort_keys=True).encode()).hexdigest() for name, model in ollama.models.items()}
    models = [{"name": name, "model": name, "modified_at": _now(), "size": 1, "digest": digest} for name, digest in digests.items()]
    handler.answer({"models": models})


def _show(ollama: FakeOllama, handler: Handler, _rest: str) -> None:
    name = handler.body.get("model", "")
    if full_name(name) not in ollama.models:
        return handler.answer({"error": f"model '{name}' not found"}, 404)
    info = {"general.architecture": "llama", "llama.context_length": ollama.context_length}
    parameters = ollama.models[full_name(name)].get("parameters", {})
    text = "\n".join(f"{key:<30} {value}" for key, value in parameters.items())
    return handler.answer({"parameters": text, "template": "{{ .Prompt }}", "details": {"format": "gguf", "family": "llama"}, "model_info": info})


def _generate(ollama: FakeOllama, handler: Handler, _rest: str) -> None:
    request = handler.body
    name = request.get("model", "")
    with ollama.lock:
        fault = ollama.faults.pop(0) if ollama.faults else None
    if isinstance(fault, Refuse):
        return handler.answer({"error": fault.error}, fault.status)
    if full_name(name) not in ollama.models:
        return handler.answer({"error": f"model '{name}' not found"}, 404)
    for key, value in {**ollama.models[full_name(name)].get("parameters", {}), **request.get("options", {})}.items():
        if not isinstance(value, _OPTIONS.get(key, object)):
            return handler.answer({"error": f'option "{key}" must be of type {_GO[_OPTIONS[key]]}'}, 400)
    head = {"model": name, "created_at": _now()}
    if not request.get("prompt"):
        return handler.answer({**head, "response": "", "done": True, "done_reason": "load"})
    limit = request.get("options", {}).get("num_predict", -1)

    def lines() -> Iterable[Body]:
        count = 0
        for count, piece in enumerate(ollama.answers(request), 1):
            if isinstance(fault, Slow):
                time.sleep(fault.seconds)
            if isinstance(fault, Drop | Stall | Break) and count > fault.after:
                break
            if 0 <= limit < count:
                count = limit
                break
            yield {**head, "response": piece, "done": False}
        if isinstance(fault, Drop):
            raise _HangUp
        if isinstance(fault, Stall):
            ollama.closing.wait()
            raise _HangUp
        if isinstance(fault, Break):
            yield {"error": fault.error}
            return
        reason = "length" if 0 <= limit <= count else ollama.done_reason(request)
        figures = {"total_duration": 10**9, "load_duration": 10**7, "prompt_eval_count": len(request["prompt"].split()), "eval_count": count}
        yield {**head, "response": "", "done": True, "done_reason": reason, **figures, "prompt_eval_duration": 10**8, "eval_duration": 10**9}

    try:
        handler.stream(lines())
    except _HangUp:
        handler.hang_up()
    except OSError:  # the client left
        handler.close_connection = True
    return None


_WHOLE, _REAL = int, (int, float)
_OPTIONS: dict[str, Any] = {
    **dict.fromkeys(("num_ctx", "num_predict", "seed", "top_k", "repeat_last_n"), _WHOLE),
    **dict.fromkeys(("temperature", "top_p", "min_p", "repeat_penalty"), _REAL),
    "stop": list,
}
_GO: dict[Any, str] = {_WHOLE: "integer", _REAL: "float32", list: "array"}


class _HangUp(Exception):
    pass


def _has_blob(ollama: FakeOllama, handler: Handler, digest: str) -> None:
    handler._send(200 if digest in ollama.blobs else 404, b"", "text/plain")


def _take_blob(ollama: FakeOllama, handler: Handler, digest: str) -> None:
    if digest != "sha256:" + hashlib.sha256(handler.raw).hexdigest():
        found = "sha256:" + hashlib.sha256(handler.raw).hexdigest()
        return handler.answer({"error": f"digest mismatch, expected {digest}, got {found}"}, 400)
    known = digest in ollama.blobs
    ollama.blobs[digest] = handler.raw
    return handler._send(200 if known else 201, b"", "text/plain")


def _create(ollama: FakeOllama, handler: Handler, _rest: str) -> None:
    request = handler.body
    name, files, base = request.get("model") or "", request.get("files"), request.get("from")
    if request.get("adapters"):
        return handler.answer({"error": "LoRA adapters are no longer supported"}, 400)
    for path in files or {}:
        if path.startswith("/") or any(c in path for c in "\\:") or not set(path.split("/")).isdisjoint({"", ".", ".."}):
            return handler.answer({"error": f"file path must be relative: {path}"}, 400)
    if not name or any(c.isspace() for c in name):
        return handler.answer({"error": "invalid model name"}, 400)
    for digest in (files or {}).values():
        if digest not in ollama.blobs:
            return handler.answer({"error": f"blob not found (digest {digest})"}, 400)

    def lines() -> Iterable[Body]:
        if base and full_name(base) not in ollama.models:
            yield {"error": f"pull model manifest: file does not exist: {base}"}
            return
        if not base and not files:
            yield {"error": "neither 'from' or 'files' was specified", "status": 400}
            return
        if files and any(ollama.blobs[digest][:4] != b"GGUF" for digest in files.values()):
            yield {"error": "supplied file was not in GGUF format", "status": 400}
            return
        yield {"status": "parsing GGUF"}
        for digest in (files or {}).values():
            yield {"status": f"using existing layer {digest}"}
        yield {"status": "writing manifest"}
        ollama.models[full_name(name)] = {**ollama.models.get(full_name(base or ""), {}), **request}
        yield {"status": "success"}

    return handler.stream(lines())


def _delete(ollama: FakeOllama, handler: Handler, _rest: str) -> None:
    name = handler.body.get("model", "")
    if ollama.models.pop(full_name(name), None) is None:
        return handler.answer({"error": f"model '{name}' not found"}, 404)
    return handler._send(200, b"", "text/plain")


_ROUTES: dict[tuple[str, str], Callable[[FakeOllama, Handler, str], None]] = {
    ("GET", "/api/version"): _version,
    ("GET", "/api/tags"): _tags,
    ("POST", "/api/show"): _show,
    ("POST", "/api/generate"): _generate,
    ("HEAD", "/api/blobs/"): _has_blob,
    ("POST", "/api/blobs/"): _take_blob,
    ("POST", "/api/create"): _create,
    ("DELETE", "/api/delete"): _delete,
}


def _handler_for(ollama: FakeOllama) -> type[Handler]:
    return type("Bound", (Handler,), {"ollama": ollama})
