"""What a person sees while a step runs: a bar with time left on a terminal, plain lines elsewhere; then what was written and what is next."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path

from papertune.events import Event, Notice, OnEvent, Report, Started, Unit

SCRIPTS = {"extract": "extract_text.py", "prepare": "prepare_dataset.py", "train": "finetune.py", "export": "export_model.py"}
_EVERY = 10.0  # seconds between plain lines
_WIDE = 140  # columns of a terminal in which all of training's figures stand in one line beside a long bar
_MANY = 4  # files of a kind in a folder that are named one by one


@contextmanager
def display() -> Iterator[OnEvent]:
    """An event sink that draws on standard error."""
    if not sys.stderr.isatty():
        yield PlainLines(sys.stderr.write)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
    from rich.table import Column
    from rich.text import Text

    console = Console(stderr=True)
    whole = Column(no_wrap=True)  # in a narrow terminal the figures take a second line, and all else stays

    class TimeLeft(TimeRemainingColumn):
        """As the step says, else by how long the last units took."""

        def render(self, task: Task) -> Text:
            left = task.fields["left"]
            if left is None and not task.fields["uneven"]:
                return super().render(task)
            return Text("-:--:--" if left is None else duration(left), style="progress.remaining")

    columns = (
        TextColumn("{task.description}", table_column=whole),
        BarColumn(40 if console.width >= _WIDE else 10, table_column=whole),
        MofNCompleteColumn(table_column=whole),
        TextColumn("{task.fields[figures]}", table_column=Column()),
        TimeLeft(table_column=whole),
    )
    progress = Progress(*columns, console=console)
    progress.start()
    try:
        task = progress.add_task("", total=None, figures="", left=None, uneven=False, visible=False)

        def sink(event: Event) -> None:
            match event:
                case Started(title, total, _, done, uneven):
                    progress.reset(
                        task, description=escape(title), total=total, completed=done, visible=True, figures="", left=None, uneven=uneven
                    )
                case Unit(done, _, figures, left):
                    shown = escape("  ".join(f"{name} {figure}" for name, figure in figures.items()))
                    progress.update(task, completed=done, figures=shown, left=left)
                case Notice(text, level):
                    progress.console.print(escape(text), style="yellow" if level == "warning" else None, highlight=False)

        yield sink
    finally:
        with suppress(OSError):  # the terminal was closed
            progress.stop()


class PlainLines:
    """Events as lines of text: the first and last unit of each piece of work, and one every ten seconds between."""

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._started, self._since, self._told = Started("", None, ""), 0.0, 0.0

    def __call__(self, event: Event) -> None:
        match event:
            case Started(title, total, unit, done):
                self._started, self._since, self._told = event, self._clock(), self._clock()
                of = f": {done} of {total} {unit} done" if done else f": {total} {_plural(unit, total)}" if total is not None else ""
                self._write(f"{title}{of}\n")
            case Unit(done, _, figures, left):
                now = self._clock()
                if now - self._told >= _EVERY or done == self._started.total:
                    self._told = now
                    total = self._started.total
                    parts = [f"{done:,} {self._started.unit}" if total is None else f"{done} of {total} {_plural(self._started.unit, total)}"]
                    parts += [f"{name} {figure}" for name, figure in figures.items()]
                    self._write(f"  {', '.join(parts)}{self._left(done, now, left)}\n")
            case Notice(text, level):
                self._write(f"{'Warning: ' if level == 'warning' else ''}{text}\n")

    def _left(self, done: int, now: float, told: float | None) -> str:
        here = done - self._started.done
        if not self._started.total or here <= 0 or done >= self._started.total or (told is None and self._started.uneven):
            return ""
        seconds = (now - self._since) / here * (self._started.total - done) if told is None else told
        return f", about {duration(seconds)} left"


def _plural(unit: str, count: int | None) -> str:
    return unit.removesuffix("s") if count == 1 else unit


def duration(seconds: float) -> str:
    """Seconds in words: "40 s", "5 min", "2 h 10 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def show_report(report: Report, *, as_script: bool = False) -> None:
    """Prints figures, what was written and what to run next to standard output. ``as_script``: name the scripts, not the verbs."""
    if report.fresh:
        print("Nothing has changed since the last run; nothing to do.")
    lines = [*report.summary, *(("Stands" if report.fresh else "Written", text) for text in _gathered(report.written))]
    if report.next_command:
        lines.append(("Next", _as_script(report.next_command) if as_script else report.next_command))
    lines += report.closing
    for name, figure in lines:
        print(f"{name + ':':<26} {figure}")


def _gathered(paths: Sequence[Path]) -> Iterator[str]:
    """Single files by name; many of one kind in one folder as their number."""
    for (folder, suffix), group in groupby(sorted(paths), key=lambda path: (path.parent, path.suffix)):
        files = list(group)
        yield from map(str, files) if len(files) <= _MANY else [f"{len(files)} {suffix} files in {folder}"]


def _as_script(command: str) -> str:
    """``papertune train …`` as ``python finetune.py …``."""
    words = command.split(" ")
    if words[0] != "papertune" or words[1] not in SCRIPTS:
        return command
    return " ".join(["python", SCRIPTS[words[1]], *words[2:]])
