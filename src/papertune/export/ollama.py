"""Making a model in Ollama over its HTTP API, as ``ollama create`` does: the GGUF as a blob under its SHA-256, then one create request.

Everything a Modelfile would say goes in the request as JSON, so no value can become an instruction. An existing model of the same name stays
as it is until Ollama has the new one whole: the manifest is the last thing it writes. Reference: Ollama's docs/api.md, api/types.go (what type an
option has), server/create.go and server/routes.go (statuses and errors).
"""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from papertune.errors import OllamaUnavailable
from papertune.ollama import address

_FILE = "model.gguf"  # its ending says what the blob is; the real name may hold what Ollama refuses in a path
Progress = Callable[[int], None]
_PIECE = 1 << 20
_FIRST = (0, 5, 5)  # the first version whose /api/create takes files; earlier ones want a Modelfile and a path on the server
_LISTS = ("stop",)  # parameters that are lists; a plain string is taken at create, and then every request to the model fails
_ANSWER = 600.0  # seconds without a line: Ollama hashes and parses a 5 GB file between two lines


class Ollama:
    """The server at ``host``, or where OLLAMA_HOST says. ``manual`` is the command to type instead when it cannot be reached. Raises BadValue."""

    def __init__(self, host: str, manual: str) -> None:
        self._manual = manual
        self._url = address(host)
        parts = urlsplit(self._url)
        self._https, self._host, self._port, self._path = parts.scheme == "https", parts.hostname or "", parts.port, parts.path

    def version(self) -> str:
        """Raises OllamaUnavailable when nothing answers, or what answers is not Ollama or too old to take a GGUF."""
        answer = self._json("GET", "/api/version")
        version = answer.get("version")
        if not isinstance(version, str):
            raise self._unavailable(f"What answers at {self._url} is not Ollama.")
        numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:3])
        if (0, 0, 0) < numbers < _FIRST:  # 0.0.0 is a build without a number
            oldest = ".".join(map(str, _FIRST))
            raise self._unavailable(f"Ollama at {self._url} is version {version}; models can be made over its API from {oldest} on.")
        return version

    def upload(self, path: Path, sha256: str, progress: Progress) -> None:
        """Sends the file as a blob unless Ollama has it. ``progress`` is told the bytes sent so far."""
        digest = f"{self._path}/api/blobs/sha256:{sha256}"
        with self._connection() as connection:
            connection.request("HEAD", digest)
            known = connection.getresponse()
            known.read()
        if known.status == 200:
            return progress(path.stat().st_size)
        with self._connection() as connection, path.open("rb") as file:
            size = path.stat().st_size
            connection.putrequest("POST", digest)
            connection.putheader("Content-Length", str(size))
            connection.putheader("Content-Type", "application/octet-stream")
            connection.endheaders()
            sent = 0
            try:
                while piece := file.read(_PIECE):
                    connection.send(piece)
                    sent += len(piece)
                    progress(sent)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it stopped reading; its answer says why
            answer = connection.getresponse()
            text = answer.read().decode("utf-8", "replace")
        if answer.status not in (200, 201):
            raise self._unavailable(f"Ollama did not take {path.name}: {_reason(text, answer.status)}.")
        return None

    def create(self, name: str, sha256: str, *, template: str, parameters: Mapping[str, Any], licence: str) -> Iterator[str]:
        """Makes the model from the blob; yields what Ollama says it is doing. Raises OllamaUnavailable unless it ends in success."""
        typed = {key: [value] if key in _LISTS else value for key, value in parameters.items()}
        body = {"model": name, "files": {_FILE: f"sha256:{sha256}"}, "template": template, "parameters": typed}
        if licence:
            body["license"] = licence
        with self._connection() as connection:
            connection.request("POST", f"{self._path}/api/create", json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise self._unavailable(f"Ollama did not make {name}: {_reason(answer.read().decode('utf-8', 'replace'), answer.status)}.")
            last = ""
            for line in answer:
                said = _object(line)
                if "error" in said:
                    raise self._unavailable(f"Ollama did not make {name}: {str(said['error']).rstrip('.')}.")
                last = str(said.get("status", ""))
                yield last
        if last != "success":
            raise self._unavailable(f"Ollama stopped before {name} was made.")

    def _json(self, method: str, path: str) -> dict[str, Any]:
        with self._connection(10) as connection:
            connection.request(method, self._path + path)
            return _object(connection.getresponse().read())

    @contextmanager
    def _connection(self, timeout: float | None = None) -> Iterator[http.client.HTTPConnection]:
        kind = http.client.HTTPSConnection if self._https else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=timeout or _ANSWER)
        try:
            yield connection
        except ConnectionRefusedError as error:
            raise self._unavailable(f"Ollama is not running at {self._url}.") from error
        except TimeoutError as error:
            raise self._unavailable(f"Ollama at {self._url} did not answer.") from error
        except socket.gaierror as error:
            raise self._unavailable(f"There is no machine called {self._host}.") from error
        except (OSError, http.client.HTTPException) as error:
            raise self._unavailable(f"The connection to Ollama at {self._url} broke: {error or type(error).__name__}.") from error
        finally:
            connection.close()

    def _unavailable(self, what: str) -> OllamaUnavailable:
        return OllamaUnavailable(what, f"The GGUF is finished. Start Ollama and run: {self._manual}")


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _reason(text: str, status: int) -> str:
    said = _object(text.encode()).get("error") or text.strip() or f"status {status}"
    return str(said).rstrip(".")
