"""Step 1: PDF and EPUB files to clean text, one ``NAME.txt`` and one ``NAME.blocks.json`` a file.

Every file is read in a process that may die. A file that defeats one backend goes to the next, in the same run; one that was being read
when papertune itself ended is found in ``.resume.json`` by the next run (``ledger``). Texts and states depend on the files and the settings
alone: not on the number of workers, nor on how often the run was stopped.
"""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from papertune.config import ExtractConfig
from papertune.errors import BadValue, NoInputFiles, NothingExtracted, from_os_error
from papertune.events import Notice, OnEvent, Report, Started, ignore
from papertune.extract.chain import LOG, Reading
from papertune.extract.discover import discover
from papertune.extract.engines import INSTALL_OCR, Engines, choose_engines
from papertune.extract.ledger import Job, Ledger, settings_of
from papertune.extract.states import STATES, first_few
from papertune.extract.stock import take_stock
from papertune.files import make_folder
from papertune.manifest import Item, Manifest


def run(config: ExtractConfig, *, on_event: OnEvent = ignore) -> Report:
    """Raises BadValue, FolderMissing, FolderUnreadable, NoInputFiles, NothingExtracted, MissingLibrary, MissingWeights, Busy, DiskFull, CannotWrite
    or WorkersCannotStart. What is wrong with single files is no error: the report counts it."""
    for state in config.retry or ():
        if state not in STATES:
            raise BadValue(f"--retry: {state!r} is not a known state.", f"The states are: {', '.join(STATES)}.")
    files = discover(config.input_dir, lambda text: on_event(Notice(text, "warning")))
    if not files:
        folders = ", ".join(map(str, config.input_dir))
        raise NoInputFiles(f"There is no PDF or EPUB file in {folders}.", "Name the folders that hold your papers: --input-dir FOLDER ….")
    engines = choose_engines(config, on_event)
    make_folder(config.output_dir)
    header = {"step": "extract", "engines": engines.pdf, "min_length": config.min_length, "inputs": [str(path) for path in config.input_dir]}
    with Manifest(config.output_dir / ".resume.json", header, resume=config.resume) as manifest, _logging(config.output_dir / LOG) as log:
        log.info("the run begins: %d files, engines %s", len(files), " > ".join(engines.pdf))
        ledger = Ledger(manifest, config.output_dir, settings_of(config, engines))
        stock = take_stock(files, ledger, engines, lambda item: _again(item, config, engines), log)
        _tell_of_an_end(stock.jobs, ledger, log, on_event)
        on_event(Started("Extracting text", len(files), "files", stock.tally.total))
        reading = Reading(config, engines.options, ledger, log, on_event, stock.tally)
        reading.read_all(stock.jobs)
        log.info("the run ends: %s", reading.tally)
        items = [ledger.item(file) for file in files]
        kept, doubtful = ledger.kept(items), sum("docling" in item.get("doubts", ()) for item in items)
    if reading.tally.counts["no_text"] and config.ocr == "auto" and not engines.scan:
        on_event(Notice(f"{reading.tally.counts['no_text']} files are scans without a text layer. To read those: {INSTALL_OCR}"))
    if engines.no_docling and doubtful:
        on_event(Notice(f"{doubtful} files have pages that the fast engine is unsure of and Docling did not read. {engines.no_docling}"))
    if not reading.tally.texts:
        raise NothingExtracted(f"No text came out of the {len(files)} files: {reading.tally}.", f"The reasons stand in {config.output_dir / LOG}.")
    return _report(config, reading, kept, fresh=not stock.jobs)


def _tell_of_an_end(jobs: list[Job], ledger: Ledger, log: logging.Logger, on_event: OnEvent) -> None:
    """Which files were being read when papertune last ended without a word."""
    begun = [(job, item) for job in jobs if (item := ledger.item(job.file)).get("state") == "started"]
    for job, item in begun:
        log.info("%s: papertune ended while %s read it; next is %s", job.file.path, item["engine"], job.chain[0] if job.chain else "nothing")
    if begun:
        names = first_few([job.file.name for job, _ in begun])
        on_event(Notice(f"The last run ended while it read {names}. These come first now, one at a time.", "warning"))


def _again(item: Item, config: ExtractConfig, engines: Engines) -> bool:
    """Whether to read a file once more whose end is known: it was asked for, there is more time or memory than it failed with, or text
    recognition or Docling, which it was not given."""
    match item["state"]:
        case state if config.retry and state in config.retry:
            return True
        case "limit_time":
            return bool(config.timeout > item["limits"][0])
        case "limit_memory":
            return bool(config.memory_limit > item["limits"][1])
        case "no_text":
            return bool(engines.scan) and not any(failure[0] in engines.scan for failure in item.get("failures", []))
        case "ok" | "partial" | "too_short" if not any(failure[0] in engines.second for failure in item.get("failures", [])):
            return not engines.options.looks.isdisjoint(item.get("doubts", ()))
        case _:
            return False


def _report(config: ExtractConfig, reading: Reading, kept: list[str], *, fresh: bool) -> Report:
    seconds = time.monotonic() - reading.begin
    report = Report("extract", written=reading.written, fresh=fresh)
    report.states.update({str(state): count for state, count in reading.tally.counts.items()})
    report.summary = reading.tally.table()
    if report.summary:
        report.summary.append(("reasons", str(config.output_dir / LOG)))
    if kept:
        why = "texts of files that are not among these or give none now; step 2 uses them, delete those you do not want"
        report.summary.append(("kept", f"{first_few(kept)}: {why}"))
    if reading.pages:
        report.summary.append(("pages", f"{reading.pages} in {seconds:.1f} s, {reading.pages / seconds:.1f} a second"))
    report.next_command = "papertune prepare"
    if config.output_dir != ExtractConfig().output_dir:
        report.next_command += f" --input-dir {shlex.quote(str(config.output_dir))}"
    return report


class _Handler(logging.FileHandler):
    """Stops the run when the log cannot be written, where ``logging`` would print a traceback and go on."""

    def __init__(self, path: Path) -> None:
        try:
            super().__init__(path, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise from_os_error(error, path) from error

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002 - logging's name
        error = sys.exception()
        if isinstance(error, OSError):
            raise from_os_error(error, self.baseFilename) from error
        raise


    def close(self) -> None:
        with suppress(OSError):  # what did not fit then does not fit now, and was told
            super().close()


@contextmanager
def _logging(path: Path) -> Iterator[logging.Logger]:
    """A logger of this run alone, which adds to the file; the workers add to it what they print."""
    handler = _Handler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.Logger("papertune.extract", logging.INFO)
    log.addHandler(handler)
    try:
        yield log
    finally:
        handler.close()
