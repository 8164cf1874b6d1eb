"""A model in Ollama, over its HTTP interface: text is streamed, and a connection that breaks is taken up where it broke.

Prompts go out raw, without a chat template: what is written with is a base model. Ollama answers with one JSON object a line; the last has
``done``. See docs/api.md and docs/api/errors.mdx of Ollama.
"""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any
from urllib.parse import urlsplit

from papertune.errors import BadValue, OllamaUnavailable
from papertune.sampling import Sampling

_PORT = 11434
_TRIES = 5  # attempts in a row that may bring not one word
_PAUSE = 0.5  # seconds before the second attempt; twice as long before each further one
_QUICK = 10.0  # seconds for a question that needs no model


def address(host: str = "") -> str:
    """The server's URL: ``host``, or OLLAMA_HOST, or this machine; each may lack the scheme, the port or both. Read as Ollama reads it.

    Raises BadValue.
    """
    given = host or os.environ.get("OLLAMA_HOST", "").strip(" \"'") or "127.0.0.1"
    try:
        parts = urlsplit(given if "://" in given else f"//{given}", scheme="http")
        port = parts.port or (_PORT if "://" not in given else 443 if parts.scheme == "https" else 80)
        name = parts.hostname or "127.0.0.1"
        name.encode("idna")  # as the name server is asked
        if any(char.isspace() for char in name):
            raise ValueError("a space in a name")
    except ValueError as error:
        what = f"{'--host' if host else 'OLLAMA_HOST'} {given} is no address of a server: {error}."
        raise BadValue(what, "Write HOST or HOST:PORT, such as 127.0.0.1:11434.") from error
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)  # addresses to listen on, not to talk to
    return f"{parts.scheme}://{f'[{reachable}]' if ':' in reachable else reachable}:{port}{parts.path.rstrip('/')}"


def digest(url: str, name: str) -> str:
    """What the server calls the weights and settings of the model called ``name``; "" when it does not say, or none answers."""
    connection, path = _connect(url, _QUICK)
    try:
        connection.request("GET", f"{path}/api/tags")
        models = json.loads(connection.getresponse().read())["models"]
        full = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
        return next((str(model["digest"]) for model in models if full in (model["name"], model.get("model"))), "")
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError):
        return ""
    finally:
        connection.close()


class Ollama:
    """The model called ``name`` at ``url``, with a window of ``context`` tokens or fewer, if the model has fewer.

    ``timeout`` is how many seconds may pass without a word before the connection counts as lost; loading a model falls into it. ``say`` is told
    of every attempt that failed. Raises OllamaUnavailable when no server answers or it has no such model.
    """

    def __init__(self, url: str, name: str, *, context: int, timeout: float, say: Callable[[str], None]) -> None:
        self.url, self.name, self._timeout, self._say = url, name, timeout, say
        shown = self._ask("/api/show", {"model": name})
        limits = [v for key, v in (shown.get("model_info") or {}).items() if key.endswith(".context_length") and isinstance(v, int)]
        self.context = min([context, *limits])

    def write(self, prompt: str, sampling: Sampling, most: int) -> Generator[str, None, bool]:
        """Text after ``prompt`` piece by piece, at most ``most`` tokens; returns whether the model itself ended the text.

        Raises OllamaUnavailable when attempt after attempt fails.
        """
        written: list[str] = []
        failures = 0
        while True:
            before = len(written)
            try:
                for answer in self._generate(prompt + "".join(written), sampling, most - len(written)):
                    if answer.get("error"):
                        raise http.client.HTTPException(answer["error"])
                    if piece := answer.get("response"):
                        written.append(piece)
                        yield piece
                    if answer.get("done"):
                        return bool(answer.get("done_reason", "stop") == "stop")
                raise http.client.HTTPException("the answer broke off")
            except (OSError, http.client.HTTPException, ValueError) as error:
                failures = 1 if len(written) > before else failures + 1
                reason = str(error) or type(error).__name__
                if failures >= _TRIES:
                    raise OllamaUnavailable(f"Ollama at {self.url} failed {failures} times in a row: {reason}.", _REMEDY) from error
                if len(written) >= most:
                    return False
                self._say(f"Ollama: {reason}; trying again.")
                time.sleep(_PAUSE * 2 ** (failures - 1))

    def count(self, text: str) -> int:
        """About how many tokens ``text`` has, rather too many than too few: Ollama does not tell before it has read them."""
        return len(text.encode()) // 3 + 1

    def _generate(self, prompt: str, sampling: Sampling, most: int) -> Iterator[dict[str, Any]]:
        options = {
            "num_ctx": self.context,
            "num_predict": most,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "repeat_penalty": sampling.repeat_penalty,
            "repeat_last_n": sampling.repeat_last_n,
            "seed": sampling.seed,
        }
        connection, path = _connect(self.url, self._timeout)
        try:
            body = json.dumps({"model": self.name, "prompt": prompt, "raw": True, "stream": True, "options": options})
            connection.request("POST", f"{path}/api/generate", body.encode(), {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status >= 400:
                self._refuse(response)
            while line := response.readline():
                answer = json.loads(line)
                yield answer if isinstance(answer, dict) else {}
        finally:
            connection.close()

    def _ask(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        connection, path = _connect(self.url, _QUICK)
        try:
            connection.request("POST", path + route, json.dumps(body).encode(), {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status >= 400:
                self._refuse(response)
            answer = json.loads(response.read())
        except _Failed as error:
            remedy = f"See its log, or make the model again: ollama create {self.name} -f Modelfile."
            raise OllamaUnavailable(f"Ollama at {self.url} cannot open {self.name}: {str(error).rstrip('.')}.", remedy) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise OllamaUnavailable(f"No Ollama server answers at {self.url}.", _REMEDY) from error
        finally:
            connection.close()
        return answer if isinstance(answer, dict) else {}

    def _refuse(self, response: http.client.HTTPResponse) -> None:
        """Raises OllamaUnavailable for a request that will never succeed, _Failed for one that may."""
        text = response.read().decode(errors="replace")
        try:
            reason = str(json.loads(text)["error"])
        except (ValueError, KeyError, TypeError):
            reason = text.strip() or response.reason
        if response.status == 404:
            what = f"Ollama at {self.url} has no model {self.name}."
            raise OllamaUnavailable(what, f"Run: ollama create {self.name} -f Modelfile; or name another with --model.")
        if response.status < 500 and response.status != 429:
            raise OllamaUnavailable(f"Ollama at {self.url} refused: {reason}.", "Check --model and --context.")
        raise _Failed(reason)


class _Failed(http.client.HTTPException):
    """The server answers, but with an error."""


def _connect(url: str, timeout: float) -> tuple[http.client.HTTPConnection, str]:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.hostname or "", parts.port, timeout=timeout), parts.path


_REMEDY = "Start it with: ollama serve; or write without it: --gguf FILE."
