"""How long training will take, from tokens, floating-point operations and what such cards were measured to reach.

LoRA training of a model with N parameters takes 4 N operations a token (forward, and backward for the activations; the frozen weights need no
gradient), 6 N when activations are computed again to save memory. The range's ends are the two engines measured on a slice of an H200 as
wide as an RTX 3070: the fast one at its best (no recomputation, 80 % of the peak) and the reference one (recomputation, 33 % of it).

Once training has taken some steps on this machine, the speed it wrote into ``events.jsonl`` is worth more than any formula.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from papertune.adapter import CONFIG
from papertune.cards import STAND_IN, card_called

PARAMETERS = 7.24e9  # Mistral-7B
_FAST = 0.80 / 4
_REFERENCE = 0.33 / 6

# Bytes on disk that the next steps take with the defaults: the download, two checkpoints and a third being written, best and final, the Q4_K_M file.
_LORA = 41.9e6  # weights of rank 16 on all seven projections
DISK = {"base model": 14.5e9, "checkpoints": _LORA * (3 * (4 + 2) + 2 * 4), "GGUF": 4.4e9}

_TOY = "tiny"
_FEWEST = 20  # steps that make a measurement
_LATEST = 200  # steps that are looked at


@dataclass(frozen=True, slots=True)
class Estimate:
    """Hours an epoch on ``gpu``, from the fast engine to the reference engine. ``found`` says the card is in this machine."""

    gpu: str
    found: bool
    hours: tuple[float, float]

    def words(self, epochs: int) -> str:
        low, high = self.hours
        where = self.gpu if self.found else f"an {self.gpu}"
        times = f"{_range(low, high)} an epoch"
        more = f", {_range(low * epochs, high * epochs)} for {epochs} epochs" if epochs > 1 else ""
        return f"{times}{more} on {where} with Mistral-7B (an estimate, not a measurement)"


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second that training reached in ``folder``: the median of its last ``steps`` steps. ``model`` is "" when not known."""

    folder: Path
    steps: int
    tokens_per_second: float
    model: str

    def words(self, tokens: int, epochs: int) -> str:
        hours = tokens / self.tokens_per_second / 3600
        more = f", {_range(hours * epochs, hours * epochs)} for {epochs} epochs" if epochs > 1 else ""
        where = f"median of {self.steps} steps in {self.folder}" + (f", {self.model}" if self.model else "")
        return f"{_range(hours, hours)} an epoch{more} (measured: {self.tokens_per_second:,.0f} tokens/s, {where})"


def estimate(tokens: int, gpu: str) -> Estimate:
    """For one pass over so many tokens on the card of this name (``""``: none); an unknown card is taken as an RTX 3070."""
    known = card_called(gpu)
    card = known or STAND_IN
    fast, reference = (tokens * PARAMETERS / (share * card.tflops * 1e12) / 3600 for share in (_FAST, _REFERENCE))
    return Estimate(card.name, known is not None, (fast, reference))


def disk_in_words() -> str:
    return f"about {sum(DISK.values()) / 1e9:.0f} GB with Mistral-7B: " + ", ".join(f"{name} {size / 1e9:.1f}" for name, size in DISK.items())


def measured(folder: Path) -> Speed | None:
    """What ``events.jsonl`` in the output folder of training says; None until 20 steps have run there, or when they were the toy's, which say
    nothing of a real model. A line that cannot be read is skipped."""
    try:
        lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    speeds = [speed for line in lines if (speed := _speed(line))][-_LATEST:]
    model = _model(folder)
    if len(speeds) < _FEWEST or model == _TOY:
        return None
    return Speed(folder, len(speeds), statistics.median(speeds), model)


def work(examples: int, tokens: int, batch: int) -> str:
    """One epoch in words: tokens, optimiser steps of ``batch`` examples, floating-point operations without and with recomputation."""
    low, high = (factor * PARAMETERS * tokens / 1e15 for factor in (4, 6))
    return f"{tokens:,} tokens, {-(-examples // batch):,} optimiser steps, {_round(low)} to {_round(high)} PFLOP an epoch with Mistral-7B"


def _round(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _speed(line: str) -> float:
    try:
        event = json.loads(line)
        return float(event["tokens_per_second"]) if event["event"] == "step" else 0.0
    except (ValueError, KeyError, TypeError):
        return 0.0


def _model(folder: Path) -> str:
    """The base model named by an adapter in the folder, "" when there is none yet."""
    for config in [folder / "final" / CONFIG, *sorted(folder.glob(f"*/{CONFIG}"))]:
        try:
            return str(json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return ""


def _range(low: float, high: float) -> str:
    shortest, longest = _time(low), _time(high)
    return f"about {longest}" if shortest == longest else f"{shortest} to {longest}"


def _time(hours: float) -> str:
    if hours < 1:
        return f"{max(1, round(hours * 60))} min"
    return f"{hours:.1f} h" if hours < 10 else f"{hours:.0f} h"
