"""``report.html``: the whole run on one page, read from the files that the steps left.

The page is a function of those files: made again from the same ones it has the same bytes and is not written anew.
"""

from __future__ import annotations

from papertune.config import ReportConfig
from papertune.errors import CannotWrite
from papertune.events import OnEvent, Report, ignore
from papertune.files import make_folder, write_text
from papertune.report.facts import Absent, Facts
from papertune.report.page import page
from papertune.report.reading import read_facts


def run(config: ReportConfig, *, on_event: OnEvent = ignore) -> Report:
    """Writes the page. Steps that have left nothing are no error: the page says what is missing. Raises CannotWrite or DiskFull."""
    if config.output.is_dir():
        raise CannotWrite(f"{config.output} is a folder.", "Name a file with --output.")
    facts = read_facts(config, on_event)
    text = page(facts)
    report = Report("report", written=[config.output])
    make_folder(config.output.parent)
    if config.output.is_file() and config.output.read_bytes() == text.encode():
        report.fresh = True
    else:
        write_text(config.output, text)
    report.states["fresh" if report.fresh else "ok"] = 1
    report.summary += [("Not there yet", f"{absent.why} Run: {absent.command}") for absent in _absent(facts)]
    return report


def _absent(facts: Facts) -> list[Absent]:
    return [step for step in (facts.corpus, facts.dataset, facts.training, *facts.ggufs, facts.evaluation) if isinstance(step, Absent)]
