"""Everything papertune can tell a user has gone wrong, as one tree.

    PapertuneError
    ├── UsageError           2   a flag, environment variable or papertune.toml value is wrong
    ├── InputError           3   what was given to read is missing, empty or unusable
    ├── DependencyError      4   a library, program, login or download is missing
    ├── ResourceError        5   the machine has too little disk, memory or GPU
    ├── StateError           6   what an earlier run left does not fit, or another run is writing it
    ├── RemoteError          7   another service (Ollama, a model hub) refused or failed
    └── Interrupted        130   Ctrl-C: the unit in progress was finished first

An error has a stable id, an exit code, one line that says what is wrong and where, and a remedy. ``docs/errors.md`` has a heading for
each id; a test holds the two together. Exit code 1 is kept for faults of papertune itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import ClassVar


class ExitCode(IntEnum):
    OK = 0
    FAULT = 1
    USAGE = 2
    INPUT = 3
    DEPENDENCY = 4
    RESOURCE = 5
    STATE = 6
    REMOTE = 7
    INTERRUPTED = 130


class PapertuneError(Exception):
    """Base of all errors meant for the user; never raised itself.

    ``what`` names the thing that is wrong and the file it is in; ``remedy`` says what to do about it.
    Both are full sentences; line breaks in them (a file may be named so) are shown escaped.
    """

    id: ClassVar[str]
    exit_code: ClassVar[ExitCode]

    def __init__(self, what: str, remedy: str) -> None:
        self.what = _one_line(what)
        self.remedy = _one_line(remedy)
        super().__init__(f"{self.what} {self.remedy}")

    def __reduce__(self) -> tuple[type[PapertuneError], tuple[str, str]]:
        """So that it passes from one process to another."""
        return type(self), (self.what, self.remedy)


class UsageError(PapertuneError):
    exit_code = ExitCode.USAGE


class BadValue(UsageError):
    id = "bad-value"


class UnknownSetting(UsageError):
    id = "unknown-setting"


class InputError(PapertuneError):
    exit_code = ExitCode.INPUT


class FolderMissing(InputError):
    id = "folder-missing"


class FolderUnreadable(InputError):
    id = "folder-unreadable"


class NoInputFiles(InputError):
    id = "no-input-files"


class NothingExtracted(InputError):
    id = "nothing-extracted"


class TooFewPapers(InputError):
    id = "too-few-papers"


class BadDataset(InputError):
    id = "bad-dataset"


class BadAdapter(InputError):
    id = "bad-adapter"


class BadModel(InputError):
    id = "bad-model"


class BadGguf(InputError):
    id = "bad-gguf"


class BadExport(InputError):
    id = "bad-export"


class UnsupportedModel(InputError):
    id = "unsupported-model"


class DependencyError(PapertuneError):
    exit_code = ExitCode.DEPENDENCY


class MissingLibrary(DependencyError):
    id = "missing-library"


class MissingWeights(DependencyError):
    id = "missing-weights"


class ModelAccess(DependencyError):
    id = "model-access"


class ResourceError(PapertuneError):
    exit_code = ExitCode.RESOURCE


class DiskFull(ResourceError):
    id = "disk-full"


class CannotWrite(ResourceError):
    id = "cannot-write"


class OutOfMemory(ResourceError):
    id = "out-of-memory"


class WorkersCannotStart(ResourceError):
    id = "workers-cannot-start"


class StateError(PapertuneError):
    exit_code = ExitCode.STATE


class Busy(StateError):
    id = "busy"


class BadCheckpoint(StateError):
    id = "bad-checkpoint"


class SettingsChanged(StateError):
    id = "settings-changed"


class TrainingDiverged(StateError):
    id = "training-diverged"


class ProcessLost(StateError):
    id = "process-lost"


class RemoteError(PapertuneError):
    exit_code = ExitCode.REMOTE


class OllamaUnavailable(RemoteError):
    id = "ollama-unavailable"


class Interrupted(PapertuneError):
    id = "interrupted"
    exit_code = ExitCode.INTERRUPTED

    def __init__(self, what: str = "Stopped by Ctrl-C.", remedy: str = "Run the same command again to go on.") -> None:
        super().__init__(what, remedy)


def all_errors() -> Iterator[type[PapertuneError]]:
    """Every error a user can meet: the classes of the tree that carry an id."""
    pending: list[type[PapertuneError]] = [PapertuneError]
    while pending:
        error = pending.pop()
        pending.extend(error.__subclasses__())
        if "id" in vars(error):
            yield error


def from_os_error(error: OSError, path: Path | str) -> PapertuneError:
    """The papertune error for an ``OSError`` met while writing ``path``."""
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"The disk is full: {path} could not be written.", "Free some space and run the same command again; finished work is kept.")
    return CannotWrite(f"{path} could not be written: {error.strerror or error}.", "Check the folder's permissions or choose another output folder.")


def _one_line(text: str) -> str:
    return " ".join(text.replace("\r", "\\r").replace("\n", "\\n").split(" "))
