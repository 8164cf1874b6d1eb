"""Tasks that misbehave the way native parsers do. Run by ``supervise.Workers`` in the crash tests."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time


def misbehave(how: str) -> str:
    match how:
        case "raise":
            raise ValueError("no such object")
        case "segfault":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(1000)
        case "ignore-sigterm":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
            while True:
                pass
        case "eat-memory":
            hoard = []
            while True:
                hoard.append(bytearray(16 << 20))
                time.sleep(0.005)
        case "memory-error":
            raise MemoryError
        case "exit-silently":
            os._exit(0)
        case "close-stdout":
            sys.stdout.close()
        case "end-my-parent":  # of forked workers, the process that forked them
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(1000)
        case "tell-imports":
            return " ".join(name for name in ("colorsys", "wave") if name in sys.modules)
        case "chatter":
            print("native noise", flush=True)
    return f"{how}: done by {os.getpid()}"
