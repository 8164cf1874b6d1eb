"""Is a text a copy of the training papers? The step behind ``papertune check``: nothing is written, the report says it all."""

from __future__ import annotations

from pathlib import Path

from papertune.base import open_base
from papertune.config import CheckConfig
from papertune.errors import BadValue, FolderUnreadable
from papertune.events import Notice, OnEvent, Report, Started, Unit, ignore
from papertune.files import read_plain
from papertune.tokenizer import open_tokenizer

_SHOWN = 3  # copies below the threshold that are shown, longest first


def run(config: CheckConfig, *, on_event: OnEvent = ignore) -> Report:
    """Raises BadValue, FolderUnreadable, BadDataset, FolderMissing, BadModel, ModelAccess or MissingLibrary."""
    from papertune.training_text import LEAST_TOKENS, TrainingText  # numpy, for which --help need not wait

    if not config.file:
        raise BadValue("No file to check is named.", "Run: papertune check FILE")
    tokenizer = open_tokenizer(_tokenizer_folder(config.tokenizer))
    texts = [(path, _read(path)) for path in config.file]
    on_event(Started("Indexing the training text", None, "words"))
    against = TrainingText(config.against, config.text_dir)
    on_event(Notice(f"Compared with {against.collection.words:,} words of {config.against}."))
    on_event(Started("Checking", len(texts), "files"))
    report = Report("check")
    for done, (path, text) in enumerate(texts, 1):
        comparison = against.compare(text, lambda words: len(tokenizer.encode(words)))
        report.states["copies" if comparison.long else "no copies"] += 1
        copied = f"{len(comparison.long)} copies of {LEAST_TOKENS} tokens or more, {comparison.share:.1%} of the text"
        report.summary.append((str(path), f"{copied}; longest {comparison.longest} tokens"))
        short = sorted((f for f in comparison.found if f.tokens < LEAST_TOKENS), key=lambda f: -f.tokens)[:_SHOWN]
        for found in [*comparison.long, *short]:
            line = text.count("\n", 0, found.copy.start) + 1
            others = f" and {found.copy.others} more" if found.copy.others else ""
            report.summary.append((f"  line {line}, {found.tokens} tokens", f"{found.place}{others}: “{' '.join(found.text.split())}”"))
        on_event(Unit(done, str(path)))
    return report


def _tokenizer_folder(name: str) -> Path:
    folder = Path(name).expanduser()
    return folder if folder.is_dir() else open_base(name).folder


def _read(path: Path) -> str:
    try:
        return read_plain(path)
    except OSError as error:
        raise FolderUnreadable(f"{path} cannot be read: {error.strerror}.", "Check the path and its permissions.") from error
    except ValueError as error:
        raise BadValue(str(error), "Extract its text first, or save it as plain text, and check that.") from error
