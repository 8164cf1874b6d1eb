"""Settings: one frozen dataclass a step; a field is a flag, and its note is the help text.

A value comes from, in rising order: the default here, ``papertune.toml`` in the current folder (a table a step, keys as the flags),
the environment (``PAPERTUNE_TRAIN_MAX_SEQ_LEN``), the command line. Steps take a finished config and read none of these themselves.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Any, ClassVar, Self, Union, get_args, get_origin, get_type_hints

from papertune.errors import BadValue, UnknownSetting

PDF_ENGINES = ("auto", "fast", "docling", "pypdf", "pdfplumber")
QUANTS = ("Q4_K_M", "Q4_K_S", "Q5_K_M", "Q5_K_S", "Q6_K", "Q8_0", "Q4_0", "Q5_0", "F16", "BF16")
TRAIN_ENGINES = ("auto", "fast", "reference")
MIX = ("section=0.3", "next=0.1", "outline=1")
SEVEN_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def setting(
    default: Any,
    note: str,
    *,
    flag: str = "",
    choices: tuple[str, ...] = (),
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    separator: str = ",",
) -> Any:
    """A field of a config. ``least`` and ``most`` are allowed values, ``above`` is the largest value not allowed.

    ``flag`` is needed only where it is not the field's name with dashes, as for ``--no-resume``. ``separator`` parts the items of a list of text.
    """
    rules = {"choices": choices, "least": least, "most": most, "above": above, "separator": separator}
    return field(default=default, metadata={"note": note, "flag": flag, **rules})


def flag_of(spec: Field[Any]) -> str:
    return str(spec.metadata["flag"]) or "--" + spec.name.replace("_", "-")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of the steps' settings: checks ranges and choices however a config was made. Raises BadValue."""

    step: ClassVar[str]

    def __post_init__(self) -> None:
        for spec in fields(self):
            _check(getattr(self, spec.name), spec)

    @classmethod
    def resolve(
        cls,
        flags: Mapping[str, Any],
        *,
        defaults: Mapping[str, Any] = MappingProxyType({}),
        environ: Mapping[str, str] = os.environ,
        toml: Path = Path("papertune.toml"),
    ) -> Self:
        """The config for these flags (field name → value, only those that were typed). Raises BadValue or UnknownSetting.

        ``defaults`` take the place of the dataclass's own.
        """
        return cls(**{**defaults, **_from_toml(cls, toml), **_from_environment(cls, environ), **flags})


@dataclass(frozen=True, kw_only=True)
class ExtractConfig(Config):
    """Step 1: PDF and EPUB files to clean text."""

    step: ClassVar[str] = "extract"

    input_dir: tuple[Path, ...] = setting((Path("./pdfs"),), "One or more directories to scan (PDF + EPUB)")
    output_dir: Path = setting(Path("./extracted_text"), "Where cleaned .txt files are written")
    min_length: int = setting(200, "Files shorter than this (characters) are skipped", least=0)
    device: str = setting("cuda", "Inference device for Docling layout models", choices=("cuda", "cpu", "auto"))
    resume: bool = setting(True, "Ignore previous progress and start from scratch", flag="--no-resume")
    engine: str = setting("auto", "How PDFs are read; auto: fast, doubtful pages by Docling or OCR if installed", choices=PDF_ENGINES)
    workers: int = setting(0, "Files read at the same time; 0: one a core", least=0)
    timeout: float = setting(120.0, "Seconds a file may take before the next fallback is tried", above=0)
    memory_limit: int = setting(2048, "MiB of memory a file may take before the next fallback is tried", least=256)
    ocr: str = setting("auto", "Scans: auto recognises text where a PDF has none, force everywhere", choices=("auto", "off", "force"))
    docling_models: Path | None = setting(None, "Folder with Docling's weights, if not where docling-tools puts them")
    retry: tuple[str, ...] | None = setting(None, "States of files to read once more, such as limit_time,damaged")


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(Config):
    """Step 2: text files to training and validation examples."""

    step: ClassVar[str] = "prepare"

    input_dir: Path = setting(Path("./extracted_text"), "Text files produced by Step 1")
    output_dir: Path = setting(Path("./dataset"), "Where train.jsonl / val.jsonl land")
    chunk_size: int = setting(2000, "Characters per training chunk (≈ 512 tokens)", least=200)
    overlap: int = setting(200, "Overlap between chunks in characters (keeps cross-paragraph context)", least=0)
    val_ratio: float = setting(0.05, "Share of chunks that goes to validation, whole papers at a time", above=0, most=0.5)
    max_samples: int | None = setting(None, "Cap the number of training samples", least=1)
    max_tokens: int = setting(512, "Tokens per example with everything the model reads (as --max-seq-len of training)", least=64)
    mix: tuple[str, ...] = setting(MIX, "Shares of sections learnt after the paper so far (section) or with their heading (next), and of outlines")
    replay: Path | None = setting(None, "General text to mix in against forgetting: a .txt (documents parted by lines of U+001E) or .jsonl")
    replay_share: float = setting(0.2, "Share of training tokens that is general text, with --replay; above 0.2 little is gained", above=0, most=0.5)
    tokenizer: str = setting("tiny", "Base model whose tokens are counted: a local folder or hub name; tiny has Mistral's tokenizer")
    gpu: str = setting("", 'GPU the training time is estimated for, such as "RTX 3070"; empty: the one found')
    trained: Path = setting(Path("./lora_output"), "Output folder of Step 3: once 20 steps have run there, their speed replaces the estimate")
    workers: int = setting(0, "Papers prepared at the same time; 0: one a core", least=0)
    seed: int = setting(0, "Seed of the split and of the order of the examples", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overlap >= self.chunk_size:
            what = f"--overlap {self.overlap} is not smaller than --chunk-size {self.chunk_size}."
            raise BadValue(what, "Choose a smaller overlap, such as a tenth of the chunk.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """Step 3: QLoRA fine-tuning."""

    step: ClassVar[str] = "train"

    model: str = setting("mistralai/Mistral-7B-v0.1", "Base model: a hub name (first run downloads ≈ 14 GB), a local folder, or tiny")
    train_file: Path = setting(Path("./dataset/train.jsonl"), "Training data")
    val_file: Path = setting(Path("./dataset/val.jsonl"), "Validation data")
    output_dir: Path = setting(Path("./lora_output"), "Checkpoints + final LoRA weights")
    epochs: int = setting(2, "Number of passes over the data", least=1)
    lr: float = setting(2e-4, "Learning rate at its highest", above=0, most=1)
    batch_size: int = setting(1, "Examples per GPU batch (keep at 1 for 8 GB)", least=1)
    grad_accum: int = setting(4, "Effective batch = batch-size × this", least=1)
    max_seq_len: int = setting(512, "Tokens per sequence (try 1024 if no OOM)", least=16)
    lora_rank: int = setting(16, "LoRA rank: higher = more parameters, more memory", least=1, most=1024)
    lora_alpha: float = setting(32.0, "LoRA scaling factor (usually 2 × rank)", above=0)
    lora_dropout: float = setting(0.05, "Share of LoRA inputs dropped during training", least=0, most=0.9)
    lora_strength: float = setting(1.0, "Share of what was learnt that final/ applies; 0.6 forgets far less. Run again to change it", above=0, most=1)
    target_modules: tuple[str, ...] = setting(SEVEN_PROJECTIONS, "Projections that get LoRA weights")
    resume: str | None = setting(None, "Checkpoint path to continue from, or auto for the newest whole one")
    save_steps: int = setting(100, "Optimiser steps between checkpoints; the two newest are kept", least=1)
    save_minutes: float = setting(10.0, "Minutes between checkpoints, whichever comes first", above=0)
    eval_steps: int = setting(100, "Optimiser steps between validations", least=1)
    max_steps: int | None = setting(None, "Stop after this many optimiser steps", least=1)
    seed: int = setting(0, "Seed of the LoRA weights, the dropout and the data order", least=0)
    engine: str = setting("auto", "What runs the model; auto picks the quickest that this machine and model allow", choices=TRAIN_ENGINES)
    patience: int | None = setting(None, "Stop after this many validations without a new best, and keep the best", least=1)
    cooldown: float = setting(0.0, "Seconds to wait after each step, for laptops that get too hot", least=0)
    max_gpu_temp: int | None = setting(None, "Degrees Celsius above which training waits until the GPU is 5 cooler", least=40, most=110)
    sample_tokens: int = setting(40, "Tokens the model writes after each validation, to see what it has learnt; 0: none", least=0)
    tensorboard: bool = setting(False, "Also write the curves as TensorBoard files, into the output folder's tensorboard")
    dry_run: bool = setting(False, "Measure a slice of the model, say what training will need and how long it takes, and stop")
    benchmark: bool = setting(False, "Measure this machine and training on it for up to two minutes, and stop")


@dataclass(frozen=True, kw_only=True)
class PlanConfig(TrainConfig):
    """What Step 3 will need on a GPU that need not be here, by arithmetic: nothing is downloaded, loaded or measured."""

    gpu: str = setting("", 'The card, such as "RTX 3070"; empty: the one found, else an RTX 3070')


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Config):
    """Step 4: adapter to GGUF and Ollama Modelfile."""

    step: ClassVar[str] = "export"

    lora_path: Path = setting(Path("./lora_output/final"), "LoRA adapter weights")
    merged_dir: Path = setting(Path("./merged_model"), "Intermediate merged model (safetensors); written with --keep-merged or when another is named")
    gguf_path: Path = setting(Path("./scientific-mistral.gguf"), "Final GGUF file")
    quant: str = setting("Q4_K_M", "GGUF quantisation (~4.5 GB output)", choices=QUANTS)
    ollama_name: str = setting("scientific-mistral", "Name used in Ollama")
    skip_merge: bool = setting(False, "Skip merging (already done)")
    skip_convert: bool = setting(False, "Skip GGUF conversion (already done)")
    keep_merged: bool = setting(False, "Also write the merged model, as large as the base, into --merged-dir; the GGUF does not need it")
    val_file: Path = setting(Path("./dataset/val.jsonl"), "Validation text, for --imatrix auto and to verify the GGUF")
    imatrix: str = setting("off", "Weigh columns by their use: off, auto (from the validation text), or a file of llama-imatrix")
    verify: bool = setting(True, "Do not compare the GGUF with the model before it gets its name", flag="--no-verify")
    merge_base: str = setting("bf16", "What the adapter is added to: the base's own weights, or as training rounded them", choices=("bf16", "nf4"))
    lora_gguf: Path | None = setting(None, "Also write the adapter alone as GGUF, for llama.cpp's --lora")
    create: bool = setting(False, "Make the model in Ollama over its HTTP API")
    host: str = setting("", "Ollama's address for --create; empty: OLLAMA_HOST, or this machine")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """Did it get better? Bits per byte on held-out papers and on general text, before and after."""

    step: ClassVar[str] = "evaluate"

    lora_path: Path = setting(Path("./lora_output/final"), "LoRA adapter weights; measured with and without them")
    model: str = setting("", "Base model; empty: the one the adapter was trained on")
    gguf: tuple[Path, ...] = setting((), "GGUF files to measure too (export_model.py's, through llama.cpp)")
    only_gguf: bool = setting(False, "Measure the GGUF files alone, without base model and adapter")
    train_file: Path = setting(Path("./dataset/train.jsonl"), "Training data: what held-out papers share with it word for word is told")
    val_file: Path = setting(Path("./dataset/val.jsonl"), "Held-out papers: a .jsonl, a .txt or a folder of .txt")
    general_file: Path | None = setting(None, "General text to see what was forgotten (documents parted by lines of U+001E); built in if not named")
    text_dir: Path = setting(Path("./extracted_text"), "Text files of Step 1, which know the page of every paragraph")
    output_dir: Path = setting(Path("./evaluation"), "Where evaluation.json and evaluation.md land")
    context: int = setting(512, "Tokens the model sees at a time (as --max-seq-len of training)", least=16)
    device: str = setting("auto", "Where base model and adapter run", choices=("auto", "cpu", "cuda"))
    threads: int = setting(0, "Processor cores to use; 0: all", least=0)
    sections: int = setting(8, "Sections of held-out papers that each model writes anew, to see how it ends and repeats itself; 0: none", least=0)
    seed: int = setting(0, "Seed of the intervals and of what is written", least=0)


@dataclass(frozen=True, kw_only=True)
class CheckConfig(Config):
    """Is a text a copy of the training papers? Every copied span with its paper and page."""

    step: ClassVar[str] = "check"

    file: tuple[Path, ...] = setting((), "Text files to check", flag="FILE")
    against: Path = setting(Path("./dataset/train.jsonl"), "A train.jsonl, or a folder of texts from Step 1")
    text_dir: Path = setting(Path("./extracted_text"), "Text files of Step 1, which know the page of every paragraph")
    tokenizer: str = setting("tiny", "Base model whose tokens are counted: a local folder or hub name; tiny has Mistral's tokenizer")


@dataclass(frozen=True, kw_only=True)
class WriteConfig(Config):
    """A long article on a title, section by section, by the model in Ollama or a GGUF file."""

    step: ClassVar[str] = "write"

    title: str = setting("", "What the article is about", flag="TITLE")
    output: Path | None = setting(None, "Markdown file to write; made from the title if not named")
    outline: Path | None = setting(None, "File with the headings of the article, one a line")
    sections: tuple[str, ...] = setting((), "Headings of the article; without these and --outline the model is asked for them", separator="\n")
    words: int = setting(3000, "Words to write, about", least=50)
    model: str = setting("scientific-mistral", "Name in Ollama")
    host: str = setting("", "Ollama's address; empty: OLLAMA_HOST, or this machine")
    gguf: Path | None = setting(None, "GGUF file to write with, without Ollama")
    context: int = setting(4096, "Tokens the model sees at a time", least=256)
    temperature: float = setting(0.8, "How freely words are chosen", least=0, most=2)
    timeout: float = setting(300.0, "Seconds to wait for the next word before the connection counts as lost", above=0, most=86_400)
    against: Path = setting(Path("./dataset/train.jsonl"), "Training data that the article is compared with at the end")
    text_dir: Path = setting(Path("./extracted_text"), "Text files of Step 1, which know the page of every paragraph")
    threads: int = setting(0, "Processor cores for --gguf; 0: all", least=0)
    seed: int = setting(0, "Seed of what is written", least=0)


@dataclass(frozen=True, kw_only=True)
class AnalyzeConfig(Config):
    """Papers read section by section by the model, each to a structured analysis with page references."""

    step: ClassVar[str] = "analyze"

    paper: tuple[Path, ...] = setting((Path("./pdfs"),), "PDF or EPUB files, or folders of them", flag="PAPER")
    output: Path = setting(Path("./analysis"), "Folder for the analyses")
    questions: Path | None = setting(None, "File with questions to answer about each paper, one a line")
    model: str = setting("scientific-mistral", "Name in Ollama")
    host: str = setting("", "Ollama's address; empty: OLLAMA_HOST, or this machine")
    gguf: Path | None = setting(None, "GGUF file to read with, without Ollama")
    context: int = setting(4096, "Tokens the model sees at a time", least=512)
    temperature: float = setting(0.3, "How freely words are chosen", least=0, most=2)
    timeout: float = setting(300.0, "Seconds to wait for the next word before the connection counts as lost", above=0, most=86_400)
    threads: int = setting(0, "Processor cores for --gguf; 0: all", least=0)
    seed: int = setting(0, "Seed of what is written", least=0)


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Config):
    """One page that tells the whole run, from the files that the steps left: report.html."""

    step: ClassVar[str] = "report"

    output: Path = setting(Path("./report.html"), "The page")
    text_dir: Path = setting(Path("./extracted_text"), "What Step 1 left")
    dataset_dir: Path = setting(Path("./dataset"), "What Step 2 left")
    lora_dir: Path = setting(Path("./lora_output"), "What Step 3 left")
    gguf: tuple[Path, ...] = setting((Path("./scientific-mistral.gguf"),), "GGUF files of Step 4")
    evaluation_dir: Path = setting(Path("./evaluation"), "What papertune evaluate left")


CONFIGS: tuple[type[Config], ...] = (
    ExtractConfig,
    PrepareConfig,
    TrainConfig,
    ExportConfig,
    EvaluateConfig,
    CheckConfig,
    WriteConfig,
    AnalyzeConfig,
    ReportConfig,
)


def convert(spec: Field[Any], hint: Any, text: Any, where: str) -> Any:
    """``text`` (a string, or a value from TOML) as the field's type. ``where`` names its origin in the error. Raises BadValue."""
    try:
        return _convert(hint, text, spec.metadata["separator"])
    except (ValueError, TypeError) as error:
        raise BadValue(f"{where}: {text!r} is not {words(hint)}.", f"Give {flag_of(spec)} {words(hint)}.") from error


def hints_of(config: type[Config]) -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(config).items() if name != "step"}


def is_list(hint: Any) -> bool:
    return get_origin(hint) is tuple


def _convert(hint: Any, value: Any, separator: str) -> Any:
    if get_origin(hint) in (UnionType, Union):
        inner = [h for h in get_args(hint) if h is not NoneType]
        return _convert(inner[0], value, separator)
    if is_list(hint):
        item = get_args(hint)[0]
        parts = [value] if isinstance(value, str) else value
        if not all(isinstance(part, str) for part in parts):
            raise TypeError(value)
        if item is str:
            parts = [word.strip() for part in parts for word in part.split(separator)]
        elif isinstance(value, str):
            parts = value.split(os.pathsep)
        return tuple(_convert(item, part, separator) for part in parts)
    if hint is bool and isinstance(value, str) and value.lower() in _WORDS:
        return _WORDS[value.lower()]
    if isinstance(value, bool) != (hint is bool) or (hint is int and isinstance(value, float)):
        raise TypeError(value)
    if hint is Path:
        return Path(os.path.expanduser(value))  # noqa: PTH111 - which leaves a name that only looks like a home
    return hint(value)


_WORDS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def _check(value: Any, spec: Field[Any]) -> None:
    if value is None:
        return
    rule, flag = spec.metadata, flag_of(spec)
    if rule["choices"] and value not in rule["choices"]:
        raise BadValue(f"{flag}: {value!r} is not a known value.", f"Choose one of: {', '.join(rule['choices'])}.")
    if rule["least"] is not None and not value >= rule["least"]:
        raise BadValue(f"{flag} {value} is too small.", f"Choose {rule['least']:g} or more.")
    if rule["above"] is not None and not value > rule["above"]:
        raise BadValue(f"{flag} {value} is too small.", f"Choose more than {rule['above']:g}.")
    if rule["most"] is not None and not value <= rule["most"]:
        raise BadValue(f"{flag} {value} is too large.", f"Choose {rule['most']:g} or less.")
    if isinstance(value, tuple) and not value and spec.default != ():
        raise BadValue(f"{flag} is empty.", "Name at least one.")


def _from_toml(config: type[Config], path: Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadValue(f"{path} cannot be read: {error}.", "Mend the file or move it away.") from error
    known = {c.step for c in CONFIGS}
    for name in tables:
        if name not in known:
            raise UnknownSetting(f"{path}: there is no step [{name}].", f"The steps are: {', '.join(sorted(known))}.")
    table, known_names = tables.get(config.step, {}), _names(config)
    if not isinstance(table, dict):
        raise BadValue(f"{path}: {config.step} is not a table.", f"Write [{config.step}], and its settings on lines of their own below.")
    values = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known_names:
            raise UnknownSetting(f"{path}: [{config.step}] has no setting {key}.", f"See the flags of: papertune {config.step} --help.")
        spec = known_names[name]
        values[spec.name] = _named(config, spec, name, value, f"{path} [{config.step}] {key}")
    return values


def _from_environment(config: type[Config], environ: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for name, spec in _names(config).items():
        variable = f"PAPERTUNE_{config.step}_{name}".upper()
        if variable in environ:
            values[spec.name] = _named(config, spec, name, environ[variable], f"environment variable {variable}")
    return values


def _names(config: type[Config]) -> dict[str, Field[Any]]:
    """The fields by what they may be called in a file: their own name, and that of their flag (``no_resume``)."""
    return {name: spec for spec in fields(config) for name in (spec.name, flag_of(spec).lstrip("-").replace("-", "_").lower())}


def _named(config: type[Config], spec: Field[Any], name: str, value: Any, where: str) -> Any:
    """The value for the field; one given under ``no_…`` says the opposite."""
    converted = convert(spec, hints_of(config)[spec.name], value, where)
    return not converted if name == f"no_{spec.name}" else converted


def words(hint: Any) -> str:
    """A type in words, for help and errors."""
    if get_origin(hint) in (UnionType, Union):
        return words(next(h for h in get_args(hint) if h is not NoneType))
    if is_list(hint):
        return "a list"
    return {int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}.get(hint, "text")
