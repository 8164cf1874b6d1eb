"""Step 3, QLoRA fine-tuning: ``train.jsonl`` and a base model in, a LoRA adapter out.

    output_dir/
        checkpoint-N/    the newest two (``checkpoint``)
        best/            the adapter of the best validation so far
        final/           the adapter when training has ended: the last one, or with --patience the best; --lora-strength of it
        events.jsonl     the start, every step, validation and checkpoint, the last plan (``log.EventLog``)
        tensorboard/     the same as curves, with --tensorboard
        earlier-N/       what a run with other settings or data left: moved here, never overwritten

A run *is* its settings and data (``_run_of``). Called again with the same ones it goes on from the newest whole checkpoint, or does
nothing when ``final`` is already theirs; with other ones it sets the earlier run aside, and brings back from there what it left itself, or
begins anew. ``--resume`` insists: it goes on from that checkpoint or refuses. ``--lora-strength`` trains nothing: called again with another
one, only ``final`` is made anew.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import papertune
from papertune import adapter
from papertune.base import Base
from papertune.config import PlanConfig, TrainConfig
from papertune.errors import BadAdapter, BadCheckpoint, Interrupted, OutOfMemory, PapertuneError, SettingsChanged, from_os_error
from papertune.events import Notice, OnEvent, Report, ignore
from papertune.files import make_folder
from papertune.launch import Launch
from papertune.manifest import Lock
from papertune.tokenizer import open_tokenizer
from papertune.train import checkpoint, forecast, inputs
from papertune.train.batches import Stream
from papertune.train.board import Board
from papertune.train.checkpoint import FINAL, Checkpoint, LoopState
from papertune.train.cooling import Cooling
from papertune.train.log import EventLog
from papertune.train.sample import continuation
from papertune.train.team import Team, joined

if TYPE_CHECKING:
    import numpy as np


CODE_VERSION = 2  # raise it when the same settings and data would train another adapter
BEST, EVENTS, BOARD = "best", "events.jsonl", "tensorboard"


def run(config: TrainConfig, *, on_event: OnEvent = ignore) -> Report:
    """Trains, or goes on training; see the module. Raises BadDataset, TooFewPapers, BadModel, UnsupportedModel, ModelAccess, BadCheckpoint,
    SettingsChanged, TrainingDiverged, OutOfMemory, MissingLibrary, Busy, DiskFull, CannotWrite, ProcessLost.

    In one of several processes that torchrun started (``team``) it does this process's part of the work, and the first one writes.
    """
    if isinstance(config, PlanConfig):
        return forecast.plan(config, on_event)
    inputs.set_up_allocator()
    with joined() as team:
        if config.dry_run or config.benchmark:
            measure = forecast.dry_run if config.dry_run else forecast.benchmark
            return team.from_first(lambda: measure(config, on_event))
        return _run(config, team, on_event)


def _run(config: TrainConfig, team: Team, on_event: OnEvent) -> Report:
    with team.together():
        data = {"train_data": inputs.hash_of(config.train_file, "--train-file"), "val_data": inputs.hash_of(config.val_file, "--val-file")}
    base = team.from_first(lambda: inputs.open_checked(config))
    run_id = _run_of(config, base, data)
    lock: Lock | None = None

    def begin() -> tuple[bool, Checkpoint | None]:
        """Whether there is nothing to do, and where to begin."""
        nonlocal lock
        make_folder(config.output_dir)
        lock = Lock(config.output_dir / ".train.lock")
        checkpoint.sweep(config.output_dir)
        if config.resume in (None, "auto"):
            _bring_back(config.output_dir, run_id, on_event)
        if config.resume is None and _final_strength(config.output_dir, run_id) == config.lora_strength:
            return True, None
        return False, _where_to_start(config, run_id, on_event)

    try:
        fresh, start = team.from_first(begin)
        if fresh:
            return _report(config, fresh=True)
        return _train(config, base, run_id, start, team, on_event)
    except Interrupted as error:
        if config.resume in (None, "auto"):
            raise
        raise Interrupted(error.what, "Run again with --resume auto to go on from here.") from error
    finally:
        if lock is not None:
            lock.release()


def _train(config: TrainConfig, base: Base, run_id: dict[str, Any], start: Checkpoint | None, team: Team, on_event: OnEvent) -> Report:
    tokenizer = open_tokenizer(base.folder)
    with team.together():
        train_data, held_out = inputs.read_data(config, tokenizer, on_event)
        device, name, why = inputs.choose(config, base, on_event)
    from papertune.train import loop
    from papertune.train.engines import open_engine, optimizer_of, plan_of, set_new_adapter
    from papertune.train.keeping import Keeper

    with team.together():
        on_event(Notice(f"Training on {device.title}{_others(team, config)}, with the {name} engine, {why}."))
        engine = open_engine(name, base, device, inputs.lora(config), on_event=on_event)
        optimizer = optimizer_of(engine, device)
        state = LoopState()
        if start is None:
            set_new_adapter(engine, config.seed)
        else:
            state = start.state
            engine.load_adapter(start.adapter())
            optimizer.load_state(start.optimizer_tensors(), start.optimizer)
    schedule = inputs.schedule(config, len(train_data), base, state)
    cooling = Cooling(config.cooldown, config.max_gpu_temp, on_event)
    stream = Stream(train_data, config.seed)
    if not team.first:
        silent = loop.Calls(_nothing, _nothing, _nothing, cooling.rest, _nothing, on_event)
        loop.train(engine, optimizer, stream, held_out, schedule, state, silent, team)
        return Report("train")

    def write_adapter(folder: Path, tensors: Mapping[str, np.ndarray], at: LoopState, strength: float = 1.0) -> None:
        _write_adapter(folder, tensors, config, base, run_id, at, strength)

    def sample() -> None:
        if config.sample_tokens:
            try:
                with loop.telling_out_of_memory("a sample"):
                    prompt, text = continuation(engine, tokenizer, held_out.items[0], config.sample_tokens)
            except OutOfMemory:
                on_event(Notice(f"After step {state.step} there is no sample: memory was not enough for it.", "warning"))
                return
            log.write("sample", state.step, prompt=prompt, text=text)
            on_event(Notice(f"After step {state.step} the model goes on from “…{_line(prompt)[-60:]}” with “{_line(text)}”"))

    board = Board(config.output_dir / BOARD) if config.tensorboard else None
    log = EventLog(config.output_dir / EVENTS, -1 if start is None else state.step, board)
    log.write("start", state.step, engine=name, device=device.title, gpu_memory=device.memory(), sequences=len(train_data))
    keeper = Keeper(config.output_dir, config.output_dir / BEST, engine, optimizer, state, run_id, write_adapter, log.write)

    def rest(still: Callable[[], None]) -> None:
        keeper.check()
        cooling.rest(still)

    calls = loop.Calls(keeper.save, keeper.save_best, sample, rest, log.write, on_event)
    try:
        try:
            loop.train(engine, optimizer, stream, held_out, schedule, state, calls, team)
        finally:
            keeper.close()
        if config.patience is not None and state.stale and (best := _best(config, run_id, on_event)):
            on_event(Notice(f"The validation {state.stale} before the last was the best: its adapter is the final one."))
            engine.load_adapter(best.tensors())
            state.last_bits = best.provenance["bits_per_byte"]["after"]
        if config.lora_strength < 1:
            engine.load_adapter(adapter.weakened(engine.adapter(), config.lora_strength))
            state.last_bits = loop.measure(engine, held_out, schedule.batch_size, calls, Team(Launch())).bits_per_byte  # the others have left
        with checkpoint.folder_in_place_of(config.output_dir / FINAL) as beside:
            write_adapter(beside, engine.adapter(), state, config.lora_strength)
    finally:
        if plan := plan_of(engine):
            log.write("plan", state.step, **plan)
        log.close()
    return _report(config, state=state)


def _best(config: TrainConfig, run_id: Mapping[str, Any], on_event: OnEvent) -> adapter.Adapter | None:
    """The adapter of this run's best validation. None, with a warning, when it is not there, as after --resume of a checkpoint moved elsewhere."""
    best = _adapter_of(config.output_dir / BEST, run_id, any_batch=True)
    if best is None:
        on_event(Notice(f"The best adapter of this run is not in {config.output_dir / BEST}: the last one is the final one.", "warning"))
    return best


def _others(team: Team, config: TrainConfig) -> str:
    """What to say of the other processes."""
    if team.size == 1:
        return ""
    idle = team.size - config.batch_size * config.grad_accum
    return f" and {team.size - 1} more" + (f" ({idle} of them idle: a step has fewer sequences than there are processes)" if idle > 0 else "")


def _line(text: str) -> str:
    return " ".join(text.split())


def _nothing(*_: Any, **__: Any) -> None:
    """What processes other than the first do to write and show."""


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

    torn = []

    def skip(error: PapertuneError) -> None:
        torn.append(error)
        on_event(Notice(f"{error.what} It is skipped.", "warning"))

    if config.resume is not None and config.resume != "auto":
        start: Checkpoint | None = checkpoint.read_checkpoint(Path(config.resume))
    else:
        start = checkpoint.newest_checkpoint(output, skip)
    if config.resume is not None and start is None and torn:
        raise BadCheckpoint(f"No checkpoint in {output} is whole.", "Leave --resume away to train anew; what is there is kept.")
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
        ours = output.resolve() in (_home_of(start).resolve(), start.folder.resolve().parent)
        last = ours and not checkpoint.checkpoints_after(output, start.state.step, start.folder) and _final_strength(output, run_id) is not None
        aside = None if last else _set_aside(output, start.state.step if ours else -1, start.folder)  # that final is this checkpoint's
        if not ours and config.patience is not None:
            _take_best_along(start, output)
        later = f"; what came after it is kept in {aside}" if aside else ""
        on_event(Notice(f"Going on from {start.folder}, step {start.state.step}{later}."))
    return start


def _set_aside(output: Path, step: int, start: Path | None = None) -> Path | None:
    """Moves final and the checkpoints after ``step`` away, but not ``start``; with step -1 the whole earlier run."""
    ours = [*checkpoint.checkpoints_after(output, step, start), FINAL, *([BEST] if step < 0 else [])]
    names = [name for name in ours if (output / name).exists()]
    return checkpoint.set_aside(output, [*names, EVENTS, BOARD] if step < 0 and names else names)


def _bring_back(output: Path, run_id: Mapping[str, Any], on_event: OnEvent) -> None:
    """What this run has left, if a run with other settings has taken its place since."""

    def here(folder: Path) -> bool:
        found = checkpoint.newest_checkpoint(folder, _nothing)
        return (found is not None and found.run == run_id) or _final_strength(folder, run_id) is not None

    earlier = checkpoint.earlier_ones(output)
    if not earlier or here(output):
        return
    kept = [folder for folder in earlier if here(folder)]
    if kept:
        began = _adapter_of(output / BEST, run_id) is not None  # and was killed while it moved things
        aside = None if began else _set_aside(output, -1)
        in_the_way = [name for name in (EVENTS, BOARD) if (kept[-1] / name).exists()]  # of a run that had come no further
        checkpoint.set_aside(output, in_the_way)
        checkpoint.bring_back(kept[-1], output)
        there = f"; what stood there is kept in {aside}" if aside else ""
        on_event(Notice(f"This run was kept in {kept[-1]} and is back in {output}{there}."))


def _home_of(start: Checkpoint) -> Path:
    """The folder in which the checkpoint lies; of a link to one, that in which the link does."""
    return Path(os.path.abspath(start.folder)).parent  # noqa: PTH100 - resolve would follow the link


def _take_best_along(start: Checkpoint, output: Path) -> None:
    """The best adapter of the run that ``start`` belongs to, beside whose checkpoint it lies."""
    best = _home_of(start) / BEST
    if _adapter_of(best, start.run) is not None:
        with checkpoint.folder_in_place_of(output / BEST) as beside:
            try:
                for path in sorted(best.iterdir()):
                    shutil.copyfile(path, beside / path.name)
            except OSError as error:
                raise from_os_error(error, output / BEST) from error


def _adapter_of(folder: Path, run_id: Mapping[str, Any], *, any_batch: bool = False) -> adapter.Adapter | None:
    """The adapter in this folder, if it can be read whole and is this run's; with ``any_batch`` also from before its batch was changed."""
    try:
        found = adapter.open_adapter(folder)
        found.pairs()
    except BadAdapter:
        return None
    same = {"batch": None} if any_batch else {}
    return found if {**found.provenance.get("run", {}), **same} == {**run_id, **same} else None


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


def _write_adapter(
    folder: Path, tensors: Mapping[str, np.ndarray], config: TrainConfig, base: Base, run_id: dict[str, Any], state: LoopState, strength: float
) -> None:
    adapter.write_adapter(
        folder,
        tensors,
        base_model=base.name if not Path(base.name).expanduser().is_dir() else str(base.folder.resolve()),
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        target_modules=config.target_modules,
        provenance={
            "papertune": papertune.__version__,
            "step": state.step,
            "run": run_id,
            "strength": strength,
            "bits_per_byte": {"before": state.first_bits, "after": state.last_bits},
        },
    )


def _final_strength(output: Path, run_id: Mapping[str, Any]) -> float | None:
    """The strength of ``final``; None when there is none, it cannot be read whole, or it is another run's."""
    final = _adapter_of(output / FINAL, run_id)
    return None if final is None else float(final.provenance.get("strength", 1.0))


def _report(config: TrainConfig, *, state: LoopState | None = None, fresh: bool = False) -> Report:
    final = config.output_dir / FINAL
    at = "" if config.output_dir == TrainConfig().output_dir else f" --lora-path {shlex.quote(str(final))}"
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
