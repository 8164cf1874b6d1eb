"""Step 3, QLoRA fine-tuning: ``train.jsonl`` and a base model in, a LoRA adapter out.

    output_dir/
        checkpoint-N/    the newest two (``checkpoint``)
        best/            the adapter of the best validation so far
        final/           the adapter when training has ended: the last one, or with --patience the best
        events.jsonl     the start, every step, validation and checkpoint, the last plan (``loop.EventLog``)
        earlier-N/       what a run with other settings or data left: moved here, never overwritten

A run *is* its settings and data (``_run_of``). Called again with the same ones it goes on from the newest whole checkpoint, or does
nothing when ``final`` is already theirs; with other ones it sets the earlier run aside and begins anew. ``--resume`` insists: it goes on
from that checkpoint or refuses.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import papertune
from papertune import adapter
from papertune.base import Base, open_base
from papertune.config import TrainConfig
from papertune.errors import BadAdapter, BadDataset, BadValue, MissingLibrary, PapertuneError, SettingsChanged, TooFewPapers
from papertune.events import Notice, OnEvent, Report, ignore
from papertune.files import make_folder, sha256_of
from papertune.manifest import Lock
from papertune.tokenizer import open_tokenizer
from papertune.train import checkpoint
from papertune.train.batches import Sequences, Stream, read_sequences
from papertune.train.checkpoint import Checkpoint, LoopState
from papertune.train.cooling import Cooling

if TYPE_CHECKING:
    from papertune.train.engines import Lora
    from papertune.train.loop import Engine, Schedule

CODE_VERSION = 1  # raise it when the same settings and data would train another adapter
FINAL, BEST, EVENTS = "final", "best", "events.jsonl"


def run(config: TrainConfig, *, on_event: OnEvent = ignore) -> Report:
    """Trains, or goes on training; see the module. Raises BadDataset, TooFewPapers, BadModel, UnsupportedModel, ModelAccess, BadCheckpoint,
    SettingsChanged, TrainingDiverged, OutOfMemory, MissingLibrary, Busy, DiskFull, CannotWrite."""
    data = {"train_data": _hash(config.train_file, "--train-file"), "val_data": _hash(config.val_file, "--val-file")}
    base = open_base(config.model)
    for target in config.target_modules:
        if target not in base.family.projections:
            raise BadValue(f"--target-modules: {target} is no projection of this model.", f"Choose from: {', '.join(base.family.projections)}.")
    if config.dry_run:
        return _dry_run(config, base, on_event)
    run_id = _run_of(config, base, data)
    make_folder(config.output_dir)
    lock = Lock(config.output_dir / ".train.lock")
    try:
        checkpoint.sweep(config.output_dir)
        if config.resume is None and _final_run(config.output_dir) == run_id:
            return _report(config, fresh=True)
        start = _where_to_start(config, run_id, on_event)
        return _train(config, base, run_id, start, on_event)
    finally:
        lock.release()


def _train(config: TrainConfig, base: Base, run_id: dict[str, Any], start: Checkpoint | None, on_event: OnEvent) -> Report:
    train_data, held_out = _read_data(config, base, on_event)
    torch = _torch()
    from papertune.train import loop
    from papertune.train.engines import choose_engine, open_engine, plan_of
    from papertune.train.model import choose_device, initial_adapter
    from papertune.train.optimizer import Optimizer

    device = choose_device()
    name, why = choose_engine(config.engine, base, device)
    on_event(Notice(f"Training on {device.title}, with the {name} engine, {why}."))
    engine = open_engine(name, base, device, _lora(config))
    optimizer = Optimizer(engine.parameters, half=device.dtype == torch.float16)
    state = LoopState()
    if start is None:
        engine.load_adapter(initial_adapter({name: tuple(p.shape) for name, p in engine.parameters.items()}, config.seed))
    else:
        state = start.state
        engine.load_adapter(start.adapter())
        optimizer.load_state(start.optimizer_tensors(), start.optimizer)
    schedule = _schedule(config, len(train_data), base)
    log = loop.EventLog(config.output_dir / EVENTS, -1 if start is None else state.step)
    log.write("start", state.step, engine=name, device=device.title, gpu_memory=device.memory(), sequences=len(train_data))

    def write_adapter(folder: Path) -> None:
        _write_adapter(folder, engine, config, base, run_id, state)

    def save() -> None:
        began = time.monotonic()
        place = checkpoint.write_checkpoint(config.output_dir, state, run_id, write_adapter, *optimizer.state())
        log.write("checkpoint", state.step, folder=place.name, seconds=round(time.monotonic() - began, 3))

    def save_best() -> None:
        with checkpoint.folder_in_place_of(config.output_dir / BEST) as beside:
            write_adapter(beside)

    calls = loop.Calls(save, save_best, Cooling(config.cooldown, config.max_gpu_temp, on_event).rest, on_event)
    try:
        loop.train(engine, optimizer, Stream(train_data, config.seed), held_out, schedule, state, log, calls)
        if config.patience is not None and state.stale:
            best = adapter.open_adapter(config.output_dir / BEST)
            on_event(Notice(f"The validation {state.stale} before the last was the best: its adapter is the final one."))
            engine.load_adapter(best.tensors())
            state.last_bits = best.provenance["bits_per_byte"]["after"]
        with checkpoint.folder_in_place_of(config.output_dir / FINAL) as beside:
            write_adapter(beside)
    finally:
        if plan := plan_of(engine):
            log.write("plan", state.step, **plan)
        log.close()
    return _report(config, state=state)


def _dry_run(config: TrainConfig, base: Base, on_event: OnEvent) -> Report:
    """What training would need; nothing is written."""
    train_data, _ = _read_data(config, base, on_event)
    torch = _torch()
    from papertune.device import gib
    from papertune.train.engines import choose_engine
    from papertune.train.estimate import estimate
    from papertune.train.loop import out_of_memory
    from papertune.train.model import choose_device

    device, schedule = choose_device(), _schedule(config, len(train_data), base)
    engine, why = choose_engine(config.engine, base, device)
    needed = estimate(engine, base, device, _lora(config), train_data, schedule)
    report = Report("train", next_command="papertune train")
    report.states["estimated"] += 1
    hours = needed.seconds / 3600
    report.summary += [
        ("Device", device.title),
        ("Engine", f"{engine}, {why}"),
        ("Sequences", f"{len(train_data):,} of {train_data.tokens / len(train_data):,.0f} tokens on average"),
        ("Steps", f"{schedule.steps(LoopState()):,} of {schedule.batch} sequences"),
        ("Time", f"{hours:,.1f} hours" if hours >= 1 else f"{hours * 60:,.1f} minutes"),
        ("Tokens a second", f"{needed.tokens_per_second:,.0f}"),
    ]
    if device.kind == "cuda":
        free, total = torch.cuda.mem_get_info()
        free += torch.cuda.memory_reserved()
        report.summary.append(("GPU memory", f"{gib(needed.gpu)} of {gib(free)} free ({gib(total)} in all)"))
        if needed.gpu > free:
            on_event(Notice(str(out_of_memory(f"a step needs {gib(needed.gpu)}, {gib(free)} are free")), "warning"))
    report.summary.append(("Memory", gib(needed.host)))
    report.summary.append(("Disk", gib(needed.disk)))
    return report


def _torch() -> Any:
    """torch, once it is sure that all of training's libraries import. Raises MissingLibrary."""
    if os.name != "nt":  # where it is not supported; elsewhere it keeps a nearly full card from running out by fragments
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    try:
        import bitsandbytes  # noqa: F401
        import peft  # noqa: F401
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingLibrary(f"{error.name or error} is needed for training and does not import.", "Run: papertune doctor") from error
    return torch


def _lora(config: TrainConfig) -> Lora:
    from papertune.train.engines import Lora

    return Lora(config.lora_rank, config.lora_alpha, config.lora_dropout, config.target_modules)


def _read_data(config: TrainConfig, base: Base, on_event: OnEvent) -> tuple[Sequences, Sequences]:
    """Training and held-out sequences. Raises BadDataset or TooFewPapers when there is nothing to train on or to measure with."""
    tokenizer = open_tokenizer(base.folder)
    train_data = read_sequences(config.train_file, tokenizer, config.max_seq_len)
    held_out = read_sequences(config.val_file, tokenizer, config.max_seq_len)
    if not len(train_data):
        raise BadDataset(f"{config.train_file} holds no examples.", "Run prepare_dataset.py on more text.")
    if not len(held_out):
        raise TooFewPapers(
            f"{config.val_file} holds no examples, so nothing can tell whether training helps.", "Prepare a dataset of at least two papers."
        )
    if train_data.split:
        on_event(
            Notice(
                f"{train_data.split} of {train_data.examples} examples are longer than --max-seq-len {config.max_seq_len}: "
                f"they were split, which makes {len(train_data)} sequences."
            )
        )
    both = train_data.papers & held_out.papers
    if both:
        on_event(Notice(f"{len(both)} papers stand in training and in validation: the validation loss will look too good.", "warning"))
    return train_data, held_out


def _schedule(config: TrainConfig, sequences: int, base: Base) -> Schedule:
    from papertune.train.loop import Schedule

    total = config.epochs * sequences
    if config.max_steps is not None:
        total = min(total, config.max_steps * config.batch_size * config.grad_accum)
    return Schedule(
        total=total,
        batch_size=config.batch_size,
        grad_accum=config.grad_accum,
        lr=config.lr,
        seed=config.seed,
        worst=2 * math.log(base.config["vocab_size"]),  # twice what guessing blindly costs
        save_steps=config.save_steps,
        save_minutes=config.save_minutes,
        eval_steps=config.eval_steps,
        patience=config.patience,
    )


def _run_of(config: TrainConfig, base: Base, data: Mapping[str, str]) -> dict[str, Any]:
    """What decides the adapter: two runs with equal ones train the same. The cut into micro-batches is not among it (see ``loop``)."""
    return {
        "model": base.fingerprint(),
        **data,
        "epochs": config.epochs,
        "lr": config.lr,
        "batch": config.batch_size * config.grad_accum,
        "max_seq_len": config.max_seq_len,
        "lora_rank": config.lora_rank,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "target_modules": sorted(config.target_modules),
        "max_steps": config.max_steps,
        "seed": config.seed,
        "patience": config.patience and [config.patience, config.eval_steps],
        "code": CODE_VERSION,
    }


def _where_to_start(config: TrainConfig, run_id: dict[str, Any], on_event: OnEvent) -> Checkpoint | None:
    """The checkpoint to go on from, or None to begin; what does not belong to this run, or would come after, is set aside first."""
    output = config.output_dir

    def torn(error: PapertuneError) -> None:
        on_event(Notice(f"{error.what} It is skipped.", "warning"))

    if config.resume is not None and config.resume != "auto":
        start: Checkpoint | None = checkpoint.read_checkpoint(Path(config.resume))
    else:
        start = checkpoint.newest_checkpoint(output, torn)
    if start is not None and start.run != run_id:
        if config.resume is not None:
            _accept_batch_or_refuse(start, run_id, on_event)
        else:
            changed = ", ".join(key for key in run_id if start.run.get(key) != run_id[key])
            start = None
            aside = _set_aside(output, -1)
            on_event(Notice(f"An earlier run differs in {changed}; it is kept in {aside}, and training begins anew."))
    elif start is None:
        aside = _set_aside(output, -1)
        if aside:
            on_event(Notice(f"What an earlier run left is kept in {aside}, and training begins anew."))
        elif config.resume is not None:
            on_event(Notice(f"There is no checkpoint under {output} yet: training begins."))
    if start is not None:
        ours = start.folder.resolve().parent == output.resolve()
        aside = _set_aside(output, start.state.step if ours else -1)
        later = f"; what came after it is kept in {aside}" if aside else ""
        on_event(Notice(f"Going on from {start.folder}, step {start.state.step}{later}."))
    return start


def _set_aside(output: Path, step: int) -> Path | None:
    """Moves final and the checkpoints after ``step`` away; with step -1 the whole earlier run."""
    names = [name for name in [*checkpoint.checkpoints_after(output, step), FINAL] if (output / name).exists()]
    return checkpoint.set_aside(output, [*names, BEST, EVENTS] if step < 0 and names else names)


def _accept_batch_or_refuse(start: Checkpoint, run_id: Mapping[str, Any], on_event: OnEvent) -> None:
    """A changed batch may go on from the same place in the data; any other change is refused with the difference. Raises SettingsChanged."""
    changed = {key: (start.run.get(key), run_id[key]) for key in run_id if start.run.get(key) != run_id[key]}
    batch = changed.pop("batch", None)
    if changed:
        difference = "; ".join(f"{key} was {_short(old)}, is {_short(new)}" for key, (old, new) in changed.items())
        raise SettingsChanged(
            f"{start.folder} belongs to a run with other settings or data: {difference}.",
            "Give the same ones as then, or leave --resume away to train anew; the earlier run is kept.",
        )
    if batch is not None:
        on_event(Notice(f"The effective batch was {batch[0]} and is {batch[1]} from here on."))


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else json.dumps(value)


def _write_adapter(folder: Path, engine: Engine, config: TrainConfig, base: Base, run_id: dict[str, Any], state: LoopState) -> None:
    adapter.write_adapter(
        folder,
        engine.adapter(),
        base_model=base.name if not Path(base.name).expanduser().is_dir() else str(base.folder.resolve()),
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        target_modules=config.target_modules,
        provenance={
            "papertune": papertune.__version__,
            "step": state.step,
            "run": run_id,
            "bits_per_byte": {"before": state.first_bits, "after": state.last_bits},
        },
    )


def _final_run(output: Path) -> dict[str, Any] | None:
    """The settings and data of the run whose result ``final`` is; None when there is none or it cannot be read whole."""
    try:
        opened = adapter.open_adapter(output / FINAL)
        opened.pairs()
    except BadAdapter:
        return None
    run_id = opened.provenance.get("run")
    return run_id if isinstance(run_id, dict) else None


def _report(config: TrainConfig, *, state: LoopState | None = None, fresh: bool = False) -> Report:
    final = config.output_dir / FINAL
    at = "" if config.output_dir == TrainConfig().output_dir else f" --lora-path {final}"
    report = Report("train", written=[final], next_command=f"papertune export{at}", fresh=fresh)
    bits = adapter.open_adapter(final).provenance["bits_per_byte"]
    report.summary.append(("Held-out bits per byte", f"{bits['before']:.3f} before, {bits['after']:.3f} after"))
    if state is None:
        report.states["fresh"] += 1
    else:
        report.states["ok"] += 1
        report.summary.append(("Steps", f"{state.step:,}"))
        report.summary.append(("Tokens", f"{state.tokens:,} in {state.seconds / 60:.1f} minutes, {state.tokens / max(state.seconds, 1e-9):,.0f}/s"))
    report.summary.append(("Adapter", str(final)))
    return report


def _hash(path: Path, flag: str) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise BadDataset(f"{path} cannot be read: {error.strerror}.", f"Run prepare_dataset.py first, or name the file with {flag}.") from error
