"""A headless Chromium for tests, over the DevTools protocol through a pipe: no driver, no port, no network.

Chromium reads JSON messages from file descriptor 3 and writes them to 4, each ended by a zero byte (``--remote-debugging-pipe``).
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
_LAUNCH = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execvp(sys.argv[3], sys.argv[3:])"
_SEEN = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Network.requestWillBeSent")


def find_chromium() -> str | None:
    return next((found for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (found := shutil.which(name))), None)


class Page:
    """An open page. ``seen`` has what it logged, threw and asked for, as (method, parameters) of the protocol."""

    def __init__(self, send: Any, receive: Any, process: subprocess.Popen[bytes]) -> None:
        self._send, self._receive, self._process = send, receive, process
        self._number, self._session, self._waiting = 0, "", b""
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self._finished: set[str] = set()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, url: str, *, width: int, height: int = 900, dark: bool = False, media: str = "screen") -> None:
        """Shows the page at this width in CSS pixels and waits until it is loaded."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self._finished.clear()
        self.call("Page.navigate", url=url)
        while "Page.loadEventFired" not in self._finished:
            self._read()

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page, however long, as PNG."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **({"sessionId": self._session} if self._session else {})}
        self._send.write(json.dumps(message).encode() + b"\0")
        self._send.flush()
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                result: dict[str, Any] = answer["result"]
                return result

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._waiting:
            data = os.read(self._receive.fileno(), 1 << 20)
            assert data, f"Chromium ended: {self._process.poll()}"
            self._waiting += data
        raw, self._waiting = self._waiting.split(b"\0", 1)
        message: dict[str, Any] = json.loads(raw)
        if (method := message.get("method")) in _SEEN:
            self.seen.append((method, message["params"]))
        elif method:
            self._finished.add(method)
        return message


@contextmanager
def chromium(program: str, profile: Path) -> Iterator[Page]:
    """Starts Chromium with an empty profile and ends it."""
    to_read, send = os.pipe()
    receive, to_write = os.pipe()
    inputs, outputs = fcntl.fcntl(to_read, fcntl.F_DUPFD, 10), fcntl.fcntl(to_write, fcntl.F_DUPFD, 10)  # clear of 3 and 4
    command = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    with (
        open(send, "wb") as sending,
        open(receive, "rb") as receiving,
        subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, str(inputs), str(outputs), *command], pass_fds=(inputs, outputs), stderr=subprocess.DEVNULL
        ) as process,
    ):
        for end in (to_read, to_write, inputs, outputs):
            os.close(end)
        try:
            yield Page(sending, receiving, process)
        finally:
            process.kill()
