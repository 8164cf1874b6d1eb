"""What the page tells, as found on disk. Nothing here is made up for the page: what a step did not write is None, or the step is ``Absent``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Absent:
    """A step that has left nothing, or nothing that can be read; ``why`` is a sentence, ``command`` makes it."""

    why: str
    command: str


@dataclass(frozen=True, slots=True)
class InputFile:
    """A PDF or EPUB. ``words`` is of its text, None without one; ``pages`` is 0 where the format has none."""

    name: str
    sha256: str
    state: str
    reason: str
    engine: str
    size: int
    pages: int
    words: int | None
    title: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """Extraction. ``header_hash`` is what the dataset records of it."""

    folder: Path
    files: Sequence[InputFile]
    settings: Mapping[str, Any]
    header_hash: str

    @property
    def states(self) -> Counter[str]:
        return Counter(file.state for file in self.files)

    @property
    def pages(self) -> int:
        return sum(file.pages for file in self.files if file.words is not None)

    @property
    def words(self) -> int:
        return sum(file.words or 0 for file in self.files)


@dataclass(frozen=True, slots=True)
class DatasetPaper:
    """``state`` is train, val, or why it was left out; a duplicate has ``shared`` of its text (0 to 1) in the paper ``of``."""

    name: str
    source: str
    sha256: str
    state: str
    examples: int
    of: str
    shared: float | None


@dataclass(frozen=True, slots=True)
class Examples:
    """One of the two files: ``sha256`` as recorded, ``sha256_now`` of the file as it is ("" if it is gone). ``lengths[k]`` counts examples with
    ``k × LENGTH_STEP`` tokens or more, but fewer than the next; empty in datasets made before it was recorded."""

    sha256: str
    sha256_now: str
    size: int
    examples: int
    tokens: int
    lengths: Sequence[int]


@dataclass(frozen=True, slots=True)
class Dataset:
    """``dropped`` is (reason, paragraphs, characters). ``extraction`` is the header hash of the extraction it was made from, "" for other texts."""

    folder: Path
    papers: Sequence[DatasetPaper]
    train: Examples
    val: Examples
    dropped: Sequence[tuple[str, int, int]]
    language: str
    settings: Mapping[str, Any]
    extraction: str

    @property
    def states(self) -> Counter[str]:
        return Counter(paper.state for paper in self.papers)


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step: loss in nats a token, memory in bytes."""

    number: int
    loss: float
    rate: float
    tokens_per_second: float
    memory: float


@dataclass(frozen=True, slots=True)
class Validation:
    step: int
    loss: float
    bits_per_byte: float


@dataclass(frozen=True, slots=True)
class Training:
    """``start`` is what training said of machine and data when it last began, ``plan`` what the fast engine did with its layers' activations; both
    are empty where they are not recorded. ``tokens`` and ``seconds`` are of all steps up to the newest checkpoint. ``run``, ``bits``,
    ``strength`` (the share of what was learnt) and ``adapter_sha256`` are those of the finished adapter, empty while there is none."""

    folder: Path
    steps: Sequence[Step]
    validations: Sequence[Validation]
    checkpoints: int
    tokens: int
    seconds: float
    start: Mapping[str, Any]
    plan: Mapping[str, Any]
    run: Mapping[str, Any]
    bits: Mapping[str, float]
    strength: float
    base_model: str
    rank: int
    alpha: float
    adapter_sha256: str
    adapter_size: int


@dataclass(frozen=True, slots=True)
class Figure:
    """A value with its 95 % interval, which a single paper does not have; ``percent`` of the value before, for a change."""

    value: float
    low: float | None
    high: float | None
    percent: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """One model on one kind of text; ``papers`` is bits per byte by paper, in the same order for every model."""

    figure: Figure
    papers: Sequence[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Model:
    """``kind`` is base, tuned or gguf; ``fingerprint`` changes with its weights."""

    name: str
    kind: str
    fingerprint: str
    texts: Mapping[str, Measured]


@dataclass(frozen=True, slots=True)
class Change:
    before: str
    after: str
    texts: Mapping[str, Figure]


@dataclass(frozen=True, slots=True)
class CopiedSpan:
    """Text that stands word for word in a training paper: ``origin`` is the paper and page."""

    text: str
    tokens: int
    origin: str


@dataclass(frozen=True, slots=True)
class Copied:
    """What one text shares with the training papers: ``share`` of its characters in long copies, the longest copy in tokens."""

    name: str
    share: float
    longest: int
    spans: Sequence[CopiedSpan]


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a model wrote. ``copies`` are (start, end, tokens, origin) in characters of ``text``, by place."""

    text: str
    copies: Sequence[tuple[int, int, int, str]] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """A section of a held-out ``paper`` that both models wrote anew: ``prompt`` is title and headings, ``original`` what its author has."""

    prompt: str
    base: Continuation
    tuned: Continuation
    paper: str
    original: str


@dataclass(frozen=True, slots=True)
class Style:
    """How someone writes: mean words a section, share of runs of four words that stood there before, share of pairs of words that are
    different, and how many sections a model ended by itself, of how many (None for authors)."""

    name: str
    kind: str
    words: float
    repeated: float
    distinct: float
    ended: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """``kinds`` are the kinds of text measured, held-out papers first. ``copies`` is None where there was no training text to compare with."""

    file: Path
    kinds: Sequence[str]
    models: Sequence[Model]
    changes: Sequence[Change]
    context: int
    seed: int
    copies: Sequence[Copied] | None
    least_tokens: int
    training_words: int
    samples: Sequence[Sample]
    styles: Sequence[Style]

    def model(self, kind: str) -> Model | None:
        return next((model for model in self.models if model.kind == kind), None)


@dataclass(frozen=True, slots=True)
class TensorGroup:
    """All tensors of one type: how many, their weights and bytes."""

    type: str
    tensors: int
    weights: int
    size: int


@dataclass(frozen=True, slots=True)
class Gguf:
    """``provenance`` has papertune's own keys without ``papertune.``. ``verified`` holds the figures of the check against the model it was made
    from; None where none is recorded."""

    file: Path
    name: str
    quant: str
    architecture: str
    context: int
    size: int
    sha256: str
    groups: Sequence[TensorGroup]
    provenance: Mapping[str, str]
    verified: Mapping[str, float] | None

    @property
    def bits_per_weight(self) -> float:
        return 8 * sum(group.size for group in self.groups) / sum(group.weights for group in self.groups)


@dataclass(frozen=True, slots=True)
class Facts:
    """The whole run. ``newest`` is when the newest result was written, in seconds since 1970; 0 if there is none. Extraction's manifest does not
    count: every run writes its header anew, changed or not."""

    corpus: Corpus | Absent
    dataset: Dataset | Absent
    training: Training | Absent
    evaluation: Evaluation | Absent
    ggufs: Sequence[Gguf | Absent]
    newest: float
