"""Takes files through their chains of backends, writes what comes out, and keeps the books."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from papertune.config import ExtractConfig
from papertune.device import cores
from papertune.errors import PapertuneError
from papertune.events import Notice, OnEvent, Unit
from papertune.extract.backend import BACKENDS, Options
from papertune.extract.ledger import Job, Ledger, sidecar_path, text_path
from papertune.extract.reading import Answer, Task, read
from papertune.extract.states import FAULTS_OF_BACKEND, INCONCLUSIVE, WRITTEN, Tally, state_of
from papertune.files import put_aside, write_text
from papertune.supervise import Outcome, Workers

LOG = "extract.log"

MODELS = ("docling", "second-look", "ocr")
"""Backends that load models, in workers of their own. Docling has one, with the GPU or every core; text recognition one a core."""

MODELS_TIME = 10
"""How many times the limit such a backend may take: it reads a page while the others read some forty, and may first have to load."""

MODELS_MEMORY = 8192
"""MiB that a process with models, and perhaps CUDA, may take where --memory-limit is lower."""


@dataclass(slots=True)
class Reading:
    """The reading of this run's files. ``tally`` has all input files whose end is known, from earlier runs too; ``written`` and ``pages`` are
    this run's."""

    config: ExtractConfig
    options: Options
    ledger: Ledger
    log: logging.Logger
    on_event: OnEvent
    tally: Tally
    written: list[Path] = field(default_factory=list)
    pages: int = 0
    begin: float = field(default_factory=time.monotonic)

    def read_all(self, jobs: list[Job]) -> None:
        """Files that were being read when papertune ended go first and one at a time: if one of them ends it again, only that one is blamed.
        Large files go before small ones, so that no worker is left alone with one at the end."""
        for job in jobs:
            if not job.chain:
                self._end(job, _verdict(job), 0.0)
        suspects, others = [job for job in jobs if job.ends], [job for job in jobs if job.chain and not job.ends]
        others.sort(key=lambda job: -job.file.size)
        for part, count in ((suspects, 1), (others, self.config.workers or cores())):
            while part:  # every round takes the files whose turn it is with one kind of backend; a file may come back for another kind
                kind = _kind(part[0])
                now, part = [job for job in part if _kind(job) == kind], [job for job in part if _kind(job) != kind]
                part += self._read(now, kind, count)

    def _read(self, jobs: list[Job], kind: str, count: int) -> list[Job]:
        """Reads the jobs in workers for this kind of backend. Returns those that go on to another kind."""
        limits = (self.config.timeout, self.config.memory_limit)
        if kind == "docling" or (kind == "second-look" and "docling" in self.options.looks):
            count = 1
        if kind in MODELS:
            limits = (MODELS_TIME * limits[0], max(limits[1], MODELS_MEMORY))
        by_path = {job.file.path: job for job in jobs}
        common = [] if kind in MODELS else jobs  # models are loaded where they are used: their libraries have threads, and the GPU
        passed_on = []
        workers = Workers(
            read,
            count=count,
            timeout=limits[0],
            memory_limit=limits[1] << 20,
            imports=_modules({job.chain[0] for job in common}),
            later_imports=_modules({engine for job in common for engine in job.chain[1:]}),
            log=self.config.output_dir / LOG,
            on_start=lambda task: self.ledger.started(by_path[task.path]),
        )
        with workers, self._putting_back(workers, by_path):
            for job in jobs:
                workers.submit(self._task(job))
            for task, outcome in workers.outcomes():
                job = by_path[task.path]
                answer: Answer = outcome.value if outcome.status == "ok" else Answer(state_of(outcome), _words(outcome))
                if answer.unsure:
                    self.log.info("%s: %s is not sure of it, %s (%.2f s)", job.file.path, job.chain[0], answer.reason, outcome.seconds)
                    job.look_again()
                    self.ledger.waiting(job)
                    passed_on.append(job)
                    continue
                scanned = answer.state == "no_text" and job.scan
                if not (scanned or answer.state in FAULTS_OF_BACKEND or (job.failures and answer.state in INCONCLUSIVE)):
                    self._end(job, answer, outcome.seconds)
                    continue
                self.log.warning("%s: %s failed, %s: %s (%.2f s)", job.file.path, job.chain[0], answer.state, answer.reason, outcome.seconds)
                job.failures.append((job.chain[0], answer.state, answer.reason))
                job.chain, job.ends = job.scan if scanned else job.chain[1:], 0
                if scanned:
                    job.scan = ()
                if not job.chain:
                    self._end(job, _verdict(job), outcome.seconds)
                    continue
                self.ledger.waiting(job)
                if _kind(job) == kind:  # at once: it may run into two more limits, and should not be alone with them at the end
                    workers.submit(self._task(job), first=True)
                else:
                    passed_on.append(job)
        return passed_on

    @contextmanager
    def _putting_back(self, workers: Workers[Task], by_path: Mapping[Path, Job]) -> Iterator[None]:
        """If the run is stopped here, the files in progress are no suspects: they are simply not done."""
        try:
            yield
        except BaseException:
            with suppress(PapertuneError):  # a full disk is what stopped the run, perhaps
                for task in workers.running():
                    self.ledger.waiting(by_path[task.path])
            raise

    def _task(self, job: Job) -> Task:
        file, engine = job.file, job.chain[0]
        options = self.options if job.second or engine in MODELS else replace(self.options, looks=frozenset())
        return Task(file.path, file.source, job.sha256, file.size, file.mtime, engine, BACKENDS[engine][0], options, self.config.min_length)

    def _end(self, job: Job, answer: Answer, seconds: float) -> None:
        """The outputs first, then the record that promises them, then the news."""
        folder, engine = self.config.output_dir, job.chain[0] if job.chain else ""
        text, sidecar = text_path(folder, job.output), sidecar_path(folder, job.output)
        if self.ledger.edited(job):
            aside = put_aside(text, ending=False)
            self.on_event(Notice(f"{text.name} had been edited and is written anew; what it was is now {aside.name}.", "warning"))
        if answer.state in WRITTEN:
            write_text(sidecar, answer.sidecar)
            write_text(text, answer.text)
            self.written.append(text)
        else:  # what other settings once made of this file would be taken for its text
            text.unlink(missing_ok=True)
            sidecar.unlink(missing_ok=True)
        self.ledger.ended(job, answer, engine, limits=(self.config.timeout, self.config.memory_limit))
        self.log.info(
            "%s: %s by %s, %d pages, %d characters, %.2f s%s",
            job.file.path, answer.state, engine or "none", answer.pages, answer.chars, seconds, f": {answer.reason}" if answer.reason else "",
        )  # fmt: skip
        self.tally.add(answer.state, job.file.source)
        self.pages += answer.pages
        rate = self.pages / max(time.monotonic() - self.begin, 1e-9)
        self.on_event(Unit(self.tally.total, job.file.source, {"pages/s": f"{rate:.1f}"}))


def _kind(job: Job) -> str:
    """Which workers the job's next backend runs in: its own, where it loads models, or the common ones."""
    return job.chain[0] if job.chain[0] in MODELS else "common"


def _modules(engines: Collection[str]) -> list[str]:
    return sorted({BACKENDS[engine][0].partition(":")[0] for engine in engines})


def _verdict(job: Job) -> Answer:
    """When every backend has failed: the first one's state, and what each of them said."""
    return Answer(job.failures[0][1], "; ".join(f"{engine}: {reason}" for engine, _, reason in job.failures))


def _words(outcome: Outcome) -> str:
    return f"{outcome.error}: {outcome.detail}" if outcome.error else outcome.detail
