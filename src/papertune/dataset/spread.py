"""Runs a function over batches in several processes, or in this one when the work is too small to be worth their start."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from papertune import errors
from papertune.errors import OutOfMemory, PapertuneError
from papertune.supervise import Outcome, Workers

Batch = TypeVar("Batch")
_MEMORY = 2 << 30  # bytes a process; a batch takes a few tens of MB
_SECONDS = 600.0


def spread(function: Callable[[Batch], Any], batches: Sequence[Batch], workers: int) -> Iterator[tuple[Batch, Any]]:
    """Each batch with what ``function`` made of it, as they end. ``function`` must be importable by name. Raises what it raises."""
    if workers <= 1 or len(batches) <= 1:
        for batch in batches:
            yield batch, function(batch)
        return
    with Workers(function, count=min(workers, len(batches)), timeout=_SECONDS, memory_limit=_MEMORY, recycle=1 << 30) as pool:
        for batch in batches:
            pool.submit(batch)
        for batch, outcome in pool.outcomes():
            if outcome.status != "ok":
                raise _error(outcome)
            yield batch, outcome.value


def _error(outcome: Outcome) -> Exception:
    if outcome.status == "raised":
        kind = getattr(errors, outcome.error, None)
        if isinstance(kind, type) and issubclass(kind, PapertuneError):
            return kind(outcome.detail, "")
        return RuntimeError(f"{outcome.error}: {outcome.detail}")
    return OutOfMemory(f"A worker process was lost: {outcome.detail}.", "Close other programs or run with --workers 1.")
