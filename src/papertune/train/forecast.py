"""What training will need and how long it will take, told before it starts. Nothing is written.

``plan`` computes it for any card (``arithmetic``), ``dry_run`` measures slices of the model on this machine (``estimate``), ``benchmark`` the
machine and the whole model on it.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from papertune.base import Base, may_be_opened, open_base, open_shape
from papertune.cards import STAND_IN, Card, card_called, cards_near
from papertune.config import PlanConfig, TrainConfig
from papertune.device import GIB, gib, gpus
from papertune.errors import BadModel, BadValue
from papertune.events import Notice, OnEvent, Report, Started, Unit
from papertune.family import family_of
from papertune.tokenizer import Tokenizer, open_tokenizer
from papertune.train import inputs
from papertune.train.batches import Sequences, read_sequences
from papertune.train.checkpoint import LoopState

if TYPE_CHECKING:
    from papertune.train.loop import Schedule
    from papertune.train.model import Device

MISTRAL: dict[str, Any] = {
    "architectures": ["MistralForCausalLM"], "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 4096,
    "tie_word_embeddings": False, "vocab_size": 32000,
}  # fmt: skip
SECONDS, STEPS, WARM_UP = 60.0, 40, 2  # a benchmark trains until one of the first two is reached, after a few steps that do not count


def plan(config: PlanConfig, on_event: OnEvent) -> Report:
    """Raises BadValue for a card that is not known, and what reading model configuration and data raises. Neither need be there."""
    base = _named(config.model, on_event)
    inputs.check_targets(config, base.family)
    card = _card(config.gpu, on_event)
    batch = config.batch_size * config.grad_accum
    sequences, average = 0, config.max_seq_len
    if config.train_file.exists():
        data = read_sequences(config.train_file, _tokenizer(base), config.max_seq_len)
        if len(data):
            sequences, average = len(data), round(data.tokens / len(data))
    from papertune.train.arithmetic import outlook
    from papertune.train.fast.shape import shape_of, unsupported

    obstacle = "asked otherwise" if config.engine == "reference" else unsupported(base)
    shape = shape_of(base)
    fullest, usual = (
        outlook(card, shape, obstacle, config.lora_rank, config.target_modules, [length] * batch, config.batch_size)
        for length in (config.max_seq_len, average)
    )
    report = Report("train", next_command="papertune train")
    report.states["estimated"] += 1
    report.summary += [("Card", f"{card.name}, {card.memory} GiB; every figure here is an estimate by arithmetic"), ("Engine", usual.engine)]
    if usual.plan:
        report.summary.append(("Plan", usual.plan))
    fits = "" if fullest.fits else ": not enough"
    report.summary += [
        ("GPU memory", f"{gib(fullest.gpu)} at its highest, of {gib(fullest.available)} beside driver and desktop{fits}"),
        ("Memory", gib(fullest.host)),
        ("Disk", gib(fullest.disk)),
        ("Tokens a second", f"{usual.tokens_per_second:,.0f}"),
    ]
    if sequences:
        total = config.epochs * sequences if config.max_steps is None else min(config.epochs * sequences, config.max_steps * batch)
        report.summary += [
            ("Sequences", f"{sequences:,} of {average:,} tokens on average"),
            ("Steps", f"{-(-total // batch):,} of {batch} sequences"),
            ("Time", f"{hours(total * average / usual.tokens_per_second)}, without validation"),
        ]
    else:
        on_event(Notice(f"{config.train_file} has no examples yet: no time is told, and sequences of full length are assumed."))
    if not fullest.fits:
        on_event(Notice(inputs.ADVICE, "warning"))
    return report


def _named(model: str, on_event: OnEvent) -> Base:
    """The model's configuration, from its folder or the hub's cache; without weights. A hub model not here is taken as Mistral 7B."""
    folder = Path(model).expanduser()
    if model == "tiny" or not may_be_opened(model):
        return open_base(model)
    if not folder.is_dir() and "/" in model:
        cached = _cached(model)
        if cached is None:
            on_event(Notice(f"{model} is not on this machine: its shape is taken as that of Mistral-7B-v0.1."))
            return Base(model, folder, MISTRAL, family_of(MISTRAL, model), ())
        folder = cached
    return open_shape(folder, model)


def _cached(model: str) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(model, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _tokenizer(base: Base) -> Tokenizer:
    """The model's own, or Mistral's where the model is not here."""
    try:
        return open_tokenizer(base.folder)
    except BadModel:
        return open_tokenizer(open_base("tiny").folder)


def _card(name: str, on_event: OnEvent) -> Card:
    if name:
        card = card_called(name)
        if card is None:
            raise BadValue(f"--gpu {name} is not a known card.", f"Choose one of: {', '.join(cards_near(name))}.")
        return card
    for gpu in gpus():
        found = card_called(gpu.name)
        if found is not None:
            return replace(found, memory=round(gpu.memory / GIB))  # some cards are sold with more or less memory under one name
        on_event(Notice(f"{gpu.name} is not a card with known figures."))
    on_event(Notice(f"No card was named or found: the plan is for an {STAND_IN.name}. Name another with --gpu."))
    return STAND_IN


def _prepared(config: TrainConfig, on_event: OnEvent) -> tuple[Base, Sequences, Sequences, Schedule, Device, str, str]:
    """What training would begin with: base, data, held-out data, schedule, device, and which engine and why. Raises as training does."""
    base = inputs.open_checked(config)
    train_data, held_out = inputs.read_data(config, open_tokenizer(base.folder), on_event)
    device, name, why = inputs.choose(config, base, on_event)
    return base, train_data, held_out, inputs.schedule(config, len(train_data), base, LoopState()), device, name, why


def dry_run(config: TrainConfig, on_event: OnEvent) -> Report:
    """Raises as training does, and OutOfMemory when not even a slice fits."""
    base, train_data, held_out, schedule, device, engine, why = _prepared(config, on_event)
    import torch

    from papertune.train.estimate import estimate
    from papertune.train.loop import out_of_memory

    needed = estimate(engine, base, device, inputs.lora(config), train_data, held_out, schedule, config.sample_tokens, on_event)
    report = Report("train", next_command="papertune train")
    report.states["estimated"] += 1
    report.summary += [
        ("Device", device.title),
        ("Engine", f"{engine}, {why}"),
        *_amount(train_data, schedule),
        ("Time", f"{hours(needed.seconds)}, {hours(needed.validation_seconds)} of it validation and samples"),
        ("Tokens a second", f"{needed.tokens_per_second:,.0f}"),
    ]
    if needed.plan:
        report.summary.append(("Plan", needed.plan))
    if device.kind == "cuda":
        free, total = torch.cuda.mem_get_info()
        free += torch.cuda.memory_reserved()
        report.summary.append(("GPU memory", f"{gib(needed.gpu)} of {gib(free)} free ({gib(total)} in all)"))
        if needed.gpu > free:
            on_event(Notice(str(out_of_memory(f"a step needs {gib(needed.gpu)}, {gib(free)} are free")), "warning"))
    report.summary.append(("Memory", gib(needed.host)))
    report.summary.append(("Disk", gib(needed.disk)))
    return report


def benchmark(config: TrainConfig, on_event: OnEvent) -> Report:
    """The machine's ceilings, then real steps of the whole model on the user's data. Raises as training does."""
    base, train_data, held_out, schedule, device, name, why = _prepared(config, on_event)
    import torch

    from papertune.train.ceilings import measure_ceilings, operations
    from papertune.train.engines import open_engine, optimizer_of, set_new_adapter
    from papertune.train.estimate import seconds_a_sample, take_step, typical_steps, validations
    from papertune.train.fast.plan import words
    from papertune.train.fast.shape import shape_of

    ceilings = measure_ceilings(device)
    if device.kind == "cuda":
        torch.cuda.empty_cache()
    on_event(Notice(f"Measuring {device.title}, with the {name} engine, {why}."))
    began = time.monotonic()
    engine = open_engine(name, base, device, inputs.lora(config), on_event=on_event)
    set_new_adapter(engine, schedule.seed)
    optimizer = optimizer_of(engine, device)
    loaded = time.monotonic() - began
    if device.kind == "cuda":
        torch.cuda.reset_peak_memory_stats()
    on_event(Started("Training steps", STEPS + WARM_UP, "steps"))
    speeds: list[float] = []
    began = time.monotonic()
    for i, step in enumerate(typical_steps(train_data, schedule, STEPS + WARM_UP)):
        if i > WARM_UP and time.monotonic() - began > SECONDS:
            break
        started = time.monotonic()
        take_step(engine, optimizer, step, schedule)
        speed = sum(len(item.ids) for item in step) / (time.monotonic() - started)
        if i >= WARM_UP:
            speeds.append(speed)
        on_event(Unit(i + 1, "", {"tokens/s": f"{speed:,.0f}"}))
    speed = statistics.median(speeds)
    held = typical_steps(held_out, replace(schedule, total=schedule.batch), 1)[0]
    engine.measure(held)
    started = time.monotonic()
    float(engine.measure(held))
    reading = sum(len(item.ids) for item in held) / (time.monotonic() - started)
    shape = shape_of(base)
    bound = ceilings.rate / operations(shape)
    tokens = train_data.tokens / len(train_data) * schedule.total
    validation = validations(held_out, schedule, reading, seconds_a_sample(engine, held_out, config.sample_tokens))
    report = Report("train", next_command="papertune train")
    report.states["measured"] += 1
    report.summary += [
        ("Device", device.title),
        ("Matrix products", f"{ceilings.rate / 1e12:,.2f} TFLOP/s"),
        ("Memory", f"{ceilings.memory / 1e9:,.0f} GB/s"),
    ]
    if ceilings.host:
        report.summary.append(("Link to the host", f"{ceilings.host / 1e9:,.1f} GB/s"))
    report.summary += [("Engine", f"{name}, {why}, loaded in {loaded:.0f} s")]
    plan = getattr(engine, "plan", None)
    if plan is not None:
        report.summary.append(("Plan", words(plan, shape.layers)))
    report.summary += [
        ("Tokens a second", f"{speed:,.0f} (median of {len(speeds)} steps)"),
        ("Share of the roofline", f"{speed / bound:.0%} of {bound:,.0f} tokens a second, which matrix products alone allow"),
        ("Peak memory", gib(engine.peak_memory())),
        *_amount(train_data, schedule),
        ("Time", f"{hours(tokens / speed + validation)}, {hours(validation)} of it validation and samples"),
    ]
    return report


def _amount(data: Sequences, schedule: Schedule) -> list[tuple[str, str]]:
    return [
        ("Sequences", f"{len(data):,} of {data.tokens / len(data):,.0f} tokens on average"),
        ("Steps", f"{schedule.steps(LoopState()):,} of {schedule.batch} sequences"),
    ]


def hours(seconds: float) -> str:
    """Seconds in the words of a long run."""
    if seconds < 60:
        return f"{seconds:.1f} seconds"
    return f"{seconds / 3600:,.1f} hours" if seconds >= 3600 else f"{seconds / 60:,.1f} minutes"
