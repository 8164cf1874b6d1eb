"""Training on a CPU with the tiny model: it learns, it can be stopped and go on exactly, and it never loses an earlier run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from papertune import tiny
from papertune.adapter import open_adapter
from papertune.base import cache_folder
from papertune.errors import (
    BadCheckpoint,
    BadDataset,
    BadModel,
    BadValue,
    Busy,
    CannotWrite,
    DiskFull,
    Interrupted,
    OutOfMemory,
    PapertuneError,
    SettingsChanged,
    TooFewPapers,
    TrainingDiverged,
)
from papertune.events import Event, Notice, Report, Started, Unit
from papertune.manifest import Lock
from papertune.train import checkpoint, forecast
from papertune.train.stage import run
from tests import fake_gpu
from tests.small_disk import PAGE, resize, small_disk
from tests.training import adapter_hash, losses, settings, write_dataset

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small matrices, busy machines
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAPERTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event], Report]:
    """An uninterrupted run: its folder, what it said, its report."""
    output = tmp_path_factory.mktemp("whole")
    said: list[Event] = []
    report = run(settings(data, output), on_event=said.append)
    return output, said, report


@pytest.fixture
def copy(whole: tuple[Path, list[Event], Report], tmp_path: Path) -> Path:
    """A copy of the uninterrupted run, to be harmed."""
    return Path(shutil.copytree(whole[0], tmp_path / "lora_output"))


def stop_after(step: int) -> Any:
    def on_event(event: Event) -> None:
        if isinstance(event, Unit) and event.figures and event.done == step:
            raise Interrupted

    return on_event


def notices(said: list[Event]) -> str:
    return "\n".join(event.text for event in said if isinstance(event, Notice))


def test_it_learns_and_leaves_an_adapter_and_two_checkpoints(whole: tuple[Path, list[Event], Report]) -> None:
    output, said, report = whole
    assert {path.name for path in output.iterdir()} == {"final", "best", "checkpoint-8", "checkpoint-12", "events.jsonl", ".train.lock"}
    assert all(path.suffix in (".json", ".safetensors") for folder in output.glob("*-*") for path in folder.iterdir())
    bits = open_adapter(output / "final").provenance["bits_per_byte"]
    assert bits["after"] < bits["before"] - 0.02
    assert report.states == {"ok": 1}
    assert report.written == [output / "final"]
    assert f"{bits['before']:.3f} before, {bits['after']:.3f} after" in dict(report.summary).values()
    assert [event.done for event in said if isinstance(event, Unit)] == list(range(1, 13))
    works = [(event.title, event.total) for event in said if isinstance(event, Started)]
    assert works == [("Reading the examples", None), ("Reading the model", None), ("Training", 12)]
    assert "reference engine" in notices(said)


def test_every_step_and_validation_is_in_the_log(whole: tuple[Path, list[Event], Report]) -> None:
    lines = [json.loads(line) for line in (whole[0] / "events.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "validation"] == [0, 6, 12]
    assert [line["step"] for line in lines if line["event"] == "checkpoint"] == [4, 8, 12]
    start = lines[0]
    assert (start["event"], start["engine"], start["device"], start["gpu_memory"]) == ("start", "reference", "the CPU", 0)
    step = next(line for line in lines if line["event"] == "step")
    assert {"loss", "lr", "gradient_norm", "tokens_per_second", "peak_memory"} <= set(step)
    assert len(losses(whole[0])) == 12


def test_a_cpu_needs_neither_triton_nor_bitsandbytes(data: Path, whole: tuple[Path, list[Event], Report], tmp_path: Path) -> None:
    """As on Windows without a GPU: the run is the same without the two."""
    words = ["--train-file", str(data / "train.jsonl"), "--val-file", str(data / "val.jsonl"), "--output-dir", str(tmp_path), "--model", "tiny"]
    words += ["--max-seq-len", "64", "--save-steps", "4", "--eval-steps", "6", "--sample-tokens", "0"]
    code = f"import sys; sys.modules.update(triton=None, bitsandbytes=None); from papertune.cli import main; main(['train', *{words}])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert adapter_hash(tmp_path / "final") == adapter_hash(whole[0] / "final")


@pytest.mark.skipif(os.name == "nt" or torch.cuda.is_available(), reason="a shell script stands in for a driver whose card torch does not see")
def test_a_gpu_that_torch_does_not_see_is_told(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpu.put_on_path(tmp_path, monkeypatch)
    said: list[Event] = []
    run(settings(data, tmp_path / "out", max_steps=1, sample_tokens=0), on_event=said.append)
    (warning,) = (event.text for event in said if isinstance(event, Notice) and event.level == "warning")
    assert warning.startswith(f"{fake_gpu.NAME} is not used: torch {torch.__version__} does not see it. To train on it, install")


def test_less_of_what_was_learnt_is_a_weaker_adapter_and_no_more_training(copy: Path, data: Path) -> None:
    full = open_adapter(copy / "final")
    tensors = full.tensors()
    run(settings(data, copy, lora_strength=0.25))
    weak = open_adapter(copy / "final")
    for name, tensor in weak.tensors().items():
        assert np.array_equal(tensor, tensors[name] * np.float32(0.25 if ".lora_B." in name else 1))
    bits, all_of_it = weak.provenance["bits_per_byte"], full.provenance["bits_per_byte"]
    assert bits["before"] == all_of_it["before"]
    assert bits["before"] > bits["after"] > all_of_it["after"]
    assert (weak.provenance["strength"], full.provenance["strength"]) == (0.25, 1.0)
    assert len(losses(copy)) == 12
    assert run(settings(data, copy, lora_strength=0.25)).fresh
    run(settings(data, copy))
    assert adapter_hash(copy / "final") == adapter_hash(copy / "checkpoint-12") == adapter_hash(copy / "best")
    assert open_adapter(copy / "final").provenance == full.provenance
    assert not list(copy.glob("earlier-*"))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks by transformers' old name
def test_peft_loads_the_adapter_and_computes_the_same_loss(whole: tuple[Path, list[Event], Report], data: Path) -> None:
    import peft
    import transformers

    from papertune.base import open_base
    from papertune.tokenizer import open_tokenizer
    from papertune.train.batches import read_sequences
    from papertune.train.model import choose_device, load_model
    from papertune.train.reference import ReferenceEngine
    from tests.qlora import rounded

    base = open_base("tiny")
    adapter = open_adapter(whole[0] / "final")
    items = read_sequences(data / "val.jsonl", open_tokenizer(base.folder), 64).items[:2]
    ours = load_model(base.folder, choose_device(), rank=16, alpha=32, dropout=0.05, targets=adapter.target_modules)
    engine = ReferenceEngine(ours, choose_device())
    engine.load_adapter(adapter.tensors())
    four_bits = transformers.AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32)
    for module in four_bits.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = rounded(module.weight)
    model = peft.PeftModel.from_pretrained(four_bits, whole[0] / "final").eval()
    with torch.no_grad():
        for item in items:
            ids = torch.from_numpy(item.ids).long()[None]
            labels = ids.clone()
            labels[0, : item.start] = -100
            wanted = float(model(input_ids=ids, labels=labels).loss) * item.targets
            assert float(engine.measure([item])) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("step", [5, 12])
def test_a_run_stopped_anywhere_goes_on_exactly(step: int, data: Path, whole: tuple[Path, list[Event], Report], tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(settings(data, tmp_path), on_event=stop_after(step))
    assert (tmp_path / f"checkpoint-{step}").is_dir()
    said: list[Event] = []
    run(settings(data, tmp_path), on_event=said.append)
    assert f"checkpoint-{step}, step {step}" in notices(said)
    assert adapter_hash(tmp_path / "final") == adapter_hash(whole[0] / "final")
    assert losses(tmp_path) == losses(whole[0])


def test_matrices_large_enough_for_state_in_eight_bits_go_on_exactly_too(data: Path, tmp_path: Path) -> None:
    wide = {"lora_rank": 128, "max_steps": 4}  # bitsandbytes keeps state in 8 bits from 4,096 weights on
    run(settings(data, tmp_path / "whole", **wide))
    with pytest.raises(Interrupted):
        run(settings(data, tmp_path / "stopped", **wide), on_event=stop_after(2))
    run(settings(data, tmp_path / "stopped", **wide))
    assert adapter_hash(tmp_path / "stopped" / "final") == adapter_hash(tmp_path / "whole" / "final")


def test_a_finished_run_is_not_trained_again(whole: tuple[Path, list[Event], Report], data: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole[0].rglob("*.safetensors")}
    report = run(settings(data, whole[0], batch_size=2, grad_accum=2, save_steps=99, eval_steps=99))  # none of these changes the result
    assert report.fresh
    assert report.states == {"fresh": 1}
    assert {path: path.stat().st_mtime_ns for path in whole[0].rglob("*.safetensors")} == before


def test_other_settings_begin_anew_and_keep_the_earlier_run(copy: Path, data: Path) -> None:
    before = adapter_hash(copy / "final")
    said: list[Event] = []
    run(settings(data, copy, lr=1e-3, max_steps=2), on_event=said.append)
    assert "differs in lr, max_steps" in notices(said)
    assert adapter_hash(copy / "earlier-1" / "final") == before
    assert {path.name for path in (copy / "earlier-1").iterdir()} == {"final", "best", "checkpoint-8", "checkpoint-12", "events.jsonl"}
    assert len(losses(copy)) == 2
    run(settings(data, copy, lr=1e-3, max_steps=1))
    assert (copy / "earlier-2" / "final").is_dir()


def test_a_run_that_another_took_the_place_of_is_brought_back(data: Path, whole: tuple[Path, list[Event], Report], tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(settings(data, tmp_path), on_event=stop_after(7))
    run(settings(data, tmp_path, lr=1e-3, max_steps=2))
    said: list[Event] = []
    run(settings(data, tmp_path), on_event=said.append)
    assert "is back in" in notices(said)
    assert "step 7" in notices(said)
    assert adapter_hash(tmp_path / "final") == adapter_hash(whole[0] / "final")
    assert losses(tmp_path) == losses(whole[0])
    assert not (tmp_path / "earlier-1").exists()
    assert run(settings(data, tmp_path, lr=1e-3, max_steps=2)).fresh
    assert run(settings(data, tmp_path)).fresh


def test_a_run_is_brought_back_also_past_one_that_had_only_begun(
    data: Path, whole: tuple[Path, list[Event], Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted):
        run(settings(data, tmp_path, tensorboard=True), on_event=stop_after(7))

    class Killed(BaseException):
        pass

    def killed(_: Event) -> None:
        if (tmp_path / "tensorboard").exists():
            raise Killed

    with pytest.raises(Killed):
        run(settings(data, tmp_path, lr=1e-3, tensorboard=True), on_event=lambda event: killed(event) if isinstance(event, Unit) else None)
    for folder in tmp_path.glob("checkpoint-*"):
        shutil.rmtree(folder)
    real, moved = os.replace, []

    def replace(source: Path, target: Path) -> None:
        real(source, target)
        moved.append(Path(source).name)
        if Path(source).name == "checkpoint-7":
            raise Killed

    monkeypatch.setattr(checkpoint.os, "replace", replace)
    with pytest.raises(Killed):
        run(settings(data, tmp_path, tensorboard=True))
    monkeypatch.undo()
    said: list[Event] = []
    run(settings(data, tmp_path, tensorboard=True), on_event=said.append)
    assert "step 7" in notices(said)
    assert adapter_hash(tmp_path / "final") == adapter_hash(whole[0] / "final")
    assert losses(tmp_path) == losses(whole[0])
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("how", ["link", "renamed"])
def test_a_checkpoint_that_is_a_link_or_has_another_name_is_gone_on_from(
    how: str, copy: Path, data: Path, whole: tuple[Path, list[Event], Report], tmp_path: Path
) -> None:
    place = copy / ("checkpoint-8" if how == "link" else "checkpoint-99")
    (copy / "checkpoint-8").rename(tmp_path / "kept" if how == "link" else place)
    if how == "link":
        place.symlink_to(tmp_path / "kept")
    run(settings(data, copy, resume=str(place)))
    assert adapter_hash(copy / "final") == adapter_hash(whole[0] / "final")


@pytest.mark.parametrize("name", [".", "../checkpoint-8/../checkpoint-8"])
def test_the_folder_one_is_in_is_a_checkpoint_like_another(
    name: str, copy: Path, data: Path, whole: tuple[Path, list[Event], Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy / "checkpoint-8")
    run(settings(data, copy, resume=name))
    assert adapter_hash(copy / "final") == adapter_hash(whole[0] / "final")
    assert losses(copy) == losses(whole[0])


def test_a_disk_that_fills_up_with_the_best_adapter_is_told(data: Path, tmp_path: Path) -> None:
    run(settings(data, tmp_path / "first", patience=9, max_steps=2, eval_steps=1))
    with small_disk(tmp_path / "disk") as disk:
        resize(disk, 16 * PAGE)
        start = tmp_path / "first" / "checkpoint-2"
        with pytest.raises(DiskFull, match="best"):
            run(settings(data, disk / "out", patience=9, max_steps=2, eval_steps=1, resume=str(start)))


@pytest.mark.parametrize("how", ["torn", "empty", "fewer layers", "other shapes"])
def test_a_base_model_that_is_not_whole_is_refused(how: str, data: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny.make_tiny(cache_folder()), tmp_path / "model"))
    weights, shape = model / "model.safetensors", json.loads((model / "config.json").read_text())
    match how:
        case "torn":
            os.truncate(weights, weights.stat().st_size // 2)
        case "empty":
            os.truncate(weights, 0)
        case "fewer layers":
            (model / "config.json").write_text(json.dumps({**shape, "num_hidden_layers": 9}))
        case "other shapes":
            (model / "config.json").write_text(json.dumps({**shape, "vocab_size": 64000}))
    with pytest.raises(BadModel, match={"fewer layers": "no layer 2 of the 9", "other shapes": "shapes"}.get(how, "damaged")):
        run(settings(data, tmp_path / "out", model=str(model), engine="reference"))


def test_a_log_that_cannot_be_written_stops_with_the_step_saved(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network folder that fails: a file that may become no longer, by the system's own limit."""
    from papertune.train.keeping import Keeper

    resource = pytest.importorskip("resource")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def shorten(event: Event) -> None:
        if isinstance(event, Unit) and event.figures and event.done == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "events.jsonl").stat().st_size, limit[1]))

    real = Keeper.save

    def save(self: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)  # which a process has for all its files
        real(self)

    monkeypatch.setattr(Keeper, "save", save)
    try:
        with pytest.raises(CannotWrite, match=r"events\.jsonl"):
            run(settings(data, tmp_path, save_steps=99), on_event=shorten)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (tmp_path / "checkpoint-4").is_dir()


def test_resume_refuses_other_settings_and_names_them(copy: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsChanged, match=r"lora_rank was 16, is 8") as caught:
        run(settings(data, copy, lora_rank=8, resume="auto"))
    assert "lr was" not in str(caught.value)
    with pytest.raises(SettingsChanged, match="train_data was"):
        run(settings(write_dataset(tmp_path / "other", seed=1), copy, resume=str(copy / "checkpoint-8")))
    assert (copy / "final").is_dir()


def test_resume_from_an_earlier_checkpoint_repeats_the_rest(copy: Path, data: Path, whole: tuple[Path, list[Event], Report]) -> None:
    run(settings(data, copy, resume=str(copy / "checkpoint-8")))
    assert adapter_hash(copy / "final") == adapter_hash(whole[0] / "final")
    assert losses(copy) == losses(whole[0])
    assert {path.name for path in (copy / "earlier-1").iterdir()} == {"final", "checkpoint-12"}


def test_resume_honours_another_batch_size(copy: Path, data: Path) -> None:
    said: list[Event] = []
    run(settings(data, copy, resume=str(copy / "checkpoint-8"), grad_accum=8), on_event=said.append)
    assert "effective batch was 4 and is 8" in notices(said)
    assert max(losses(copy)) == 10  # 32 of 48 sequences were seen in 8 steps; two steps of 8 remain


@pytest.mark.parametrize("harm", ["flip", "missing", "state"])
def test_a_torn_checkpoint_is_named_and_skipped_or_refused(harm: str, copy: Path, data: Path, whole: tuple[Path, list[Event], Report]) -> None:
    shutil.rmtree(copy / "final")
    torn = copy / "checkpoint-12" / ("checkpoint.json" if harm == "state" else "optimizer.safetensors")
    content = torn.read_bytes()
    if harm == "missing":
        torn.unlink()
    else:
        torn.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if harm == "flip" else content[: len(content) // 2])
    with pytest.raises(BadCheckpoint, match="checkpoint-12"):
        run(settings(data, copy, resume=str(copy / "checkpoint-12")))
    said: list[Event] = []
    run(settings(data, copy, resume="auto"), on_event=said.append)
    assert "checkpoint-12" in notices(said)
    assert "checkpoint-8, step 8" in notices(said)
    assert adapter_hash(copy / "final") == adapter_hash(whole[0] / "final")


def test_resume_refuses_when_no_checkpoint_is_whole(copy: Path, data: Path) -> None:
    shutil.rmtree(copy / "final")
    for folder in copy.glob("checkpoint-*"):
        (folder / "optimizer.safetensors").unlink()
    with pytest.raises(BadCheckpoint, match=r"No checkpoint in .* is whole"):
        run(settings(data, copy, resume="auto"))


def test_a_bit_that_turned_in_what_a_checkpoint_says_is_found(copy: Path) -> None:
    path = copy / "checkpoint-12" / "checkpoint.json"
    path.write_text(path.read_text().replace('"position": 48', '"position": 49'))
    with pytest.raises(BadCheckpoint, match="not as it was written"):
        checkpoint.read_checkpoint(path.parent)


def test_an_old_checkpoint_that_cannot_be_deleted_stops_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows while another program reads it."""

    deleted = checkpoint.discard

    def discard(folder: Path) -> None:
        if folder.name == "checkpoint-2":
            raise PermissionError(13, "in use", str(folder))
        deleted(folder)

    monkeypatch.setattr(checkpoint, "discard", discard)
    run(settings(data, tmp_path, save_steps=2))
    assert (tmp_path / "checkpoint-2").is_dir()
    assert (tmp_path / "final").is_dir()


def test_a_run_stopped_after_resuming_from_a_named_checkpoint_says_how_to_go_on(copy: Path, data: Path) -> None:
    with pytest.raises(Interrupted, match="--resume auto"):
        run(settings(data, copy, resume=str(copy / "checkpoint-8")), on_event=stop_after(10))
    run(settings(data, copy, resume="auto"))


def test_max_steps_counts_steps_whatever_the_batch(copy: Path, data: Path) -> None:
    run(settings(data, copy, max_steps=10))
    with pytest.raises(Interrupted):
        run(settings(data, copy / "other", max_steps=10), on_event=stop_after(6))
    run(settings(data, copy / "other", max_steps=10, resume="auto", grad_accum=2))
    assert max(losses(copy / "other")) == 10


def test_resume_of_nothing(data: Path, tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"no checkpoint at \S+\. Use another"):
        run(settings(data, tmp_path, resume=str(tmp_path / "checkpoint-4")))
    said: list[Event] = []
    run(settings(data, tmp_path, resume="auto", max_steps=1), on_event=said.append)
    assert "no checkpoint under" in notices(said)
    with pytest.raises(BadCheckpoint, match=r"no checkpoint at \S+\. \S+ has checkpoint-1; the 2 newest are kept\. Use another"):
        run(settings(data, tmp_path, resume=str(tmp_path / "checkpoint-4")))


def test_longer_sequences_than_the_dataset_has_are_told(data: Path, tmp_path: Path) -> None:
    said: list[Event] = []
    run(settings(data, tmp_path, max_seq_len=2048, max_steps=1), on_event=said.append)
    assert "--max-seq-len 2048 changes nothing" in notices(said)
    assert "--max-tokens 2048 --chunk-size 8192" in notices(said)


def test_micro_batches_of_any_shape_train_the_same(data: Path, tmp_path: Path) -> None:
    """Token-weighted: sequences differ in length, so a mean of means would show."""
    shapes = {(1, 4): "a", (4, 1): "b", (3, 1): "c"}
    for (size, accumulated), name in shapes.items():
        run(settings(data, tmp_path / name, batch_size=size, grad_accum=accumulated, lora_dropout=0, max_steps=3))
    a, b, c = (open_adapter(tmp_path / name / "final").tensors() for name in shapes.values())
    difference = {name: np.abs(b[name] - a[name]).max() for name in a}
    assert max(difference.values()) < 2e-5
    assert max(np.abs(c[name] - a[name]).max() for name in a) > 1e-4  # another effective batch is another run


@pytest.mark.parametrize(
    ("train", "val", "error"),
    [("", '{"text": "A."}', BadDataset), ('{"text": "A."}', "", TooFewPapers), (None, "", BadDataset), ("{", '{"text": "A."}', BadDataset)]
    + [(line, '{"text": "A."}', BadDataset) for line in ("[" * 100_000, '{"text": "half \\ud800"}')],
)
def test_an_unusable_dataset_is_said_before_anything_is_written(train: str | None, val: str, error: type[PapertuneError], tmp_path: Path) -> None:
    if train is not None:
        (tmp_path / "train.jsonl").write_text(train)
    (tmp_path / "val.jsonl").write_text(val)
    with pytest.raises(error):
        run(settings(tmp_path, tmp_path / "out"))
    assert not list((tmp_path / "out").glob("checkpoint*"))


def test_an_unknown_projection_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="z_proj"):
        run(settings(data, tmp_path, target_modules=("q_proj", "z_proj")))


def test_fewer_projections_train_only_those(data: Path, tmp_path: Path) -> None:
    run(settings(data, tmp_path, target_modules=("q_proj", "v_proj"), lora_rank=4, max_steps=1))
    modules = open_adapter(tmp_path / "final").pairs()
    assert {name.rpartition(".")[2] for name in modules} == {"q_proj", "v_proj"}
    assert len(modules) == 2 * tiny.LAYERS


def test_two_runs_never_write_one_folder(data: Path, tmp_path: Path) -> None:
    lock = Lock(tmp_path / ".train.lock")
    with pytest.raises(Busy):
        run(settings(data, tmp_path))
    lock.release()


def test_a_paper_on_both_sides_is_warned_of(data: Path, tmp_path: Path) -> None:
    shutil.copy(data / "train.jsonl", tmp_path / "train.jsonl")
    shutil.copy(data / "train.jsonl", tmp_path / "val.jsonl")
    said: list[Event] = []
    run(settings(tmp_path, tmp_path / "out", max_steps=1), on_event=said.append)
    assert any(isinstance(event, Notice) and event.level == "warning" and "6 papers" in event.text for event in said)


def test_patience_stops_when_validation_no_longer_improves_and_keeps_the_best(tmp_path: Path) -> None:
    """Trained on words that are not those of the held-out text, with a high rate, the model soon gets worse at the latter."""
    data = write_dataset(tmp_path / "data", train=60, val=2)
    nonsense = "zq xv " * 30
    (data / "train.jsonl").write_text("".join(json.dumps({"text": nonsense, "paper": str(i)}) + "\n" for i in range(60)))
    said: list[Event] = []
    config = settings(data, tmp_path / "out", patience=2, eval_steps=2, lr=0.02)
    run(config, on_event=said.append)
    lines = [json.loads(line) for line in (tmp_path / "out" / "events.jsonl").read_text().splitlines()]
    bits = [line["bits_per_byte"] for line in lines if line["event"] == "validation"][1:]
    best = bits.index(min(bits))
    assert len(bits) == best + 3 < 15
    assert "adapter is the final one" in notices(said)
    assert open_adapter(tmp_path / "out" / "final").provenance["bits_per_byte"]["after"] == min(bits)
    assert adapter_hash(tmp_path / "out" / "final") == adapter_hash(tmp_path / "out" / "best")
    assert run(config).fresh
    shutil.rmtree(tmp_path / "out" / "final")
    os.truncate(tmp_path / "out" / "best" / "adapter_model.safetensors", 1000)
    said.clear()
    run(config, on_event=said.append)
    assert "the last one is the final one" in notices(said)
    assert (tmp_path / "out" / "final").is_dir()


def test_the_best_adapter_comes_along_from_another_folder_and_is_no_other_runs(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", train=60, val=2)
    (data / "train.jsonl").write_text("".join(json.dumps({"text": "zq xv " * 30, "paper": str(i)}) + "\n" for i in range(60)))
    worse = {"patience": 2, "eval_steps": 2, "lr": 0.02, "save_steps": 1}
    run(settings(data, tmp_path / "whole", **worse))
    last = max(losses(tmp_path / "whole"))
    run(settings(data, tmp_path / "new", **worse, resume=str(tmp_path / "whole" / f"checkpoint-{last - 1}")))
    assert adapter_hash(tmp_path / "new" / "final") == adapter_hash(tmp_path / "whole" / "best")
    run(settings(data, tmp_path / "else", max_steps=2, eval_steps=2))
    shutil.rmtree(tmp_path / "whole" / "best")
    said: list[Event] = []
    shutil.rmtree(tmp_path / "else" / "final")
    run(settings(data, tmp_path / "else", **worse, resume=str(tmp_path / "whole" / f"checkpoint-{last - 1}")), on_event=said.append)
    assert "best adapter of this run is not in" in notices(said)
    assert adapter_hash(tmp_path / "else" / "final") != adapter_hash(tmp_path / "else" / "earlier-1" / "best")


def test_a_dry_run_writes_nothing_and_tells_time_memory_and_disk(data: Path, tmp_path: Path) -> None:
    report = run(settings(data, tmp_path / "out", dry_run=True))
    summary = dict(report.summary)
    assert summary["Steps"] == "12 of 4 sequences"
    assert {"Device", "Sequences", "Time", "Tokens a second", "Memory", "Disk"} <= set(summary)
    assert not (tmp_path / "out").exists()


def test_a_benchmark_tells_ceilings_speed_and_hours_and_writes_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "STEPS", 3)
    said: list[Event] = []
    summary = dict(run(settings(data, tmp_path / "out", benchmark=True), on_event=said.append).summary)
    assert {"Matrix products", "Memory", "Tokens a second", "Share of the roofline", "Peak memory", "Time"} <= set(summary)
    assert "median of 3 steps" in summary["Tokens a second"]
    assert 0 < float(summary["Share of the roofline"].split("%")[0]) <= 100
    assert [event.done for event in said if isinstance(event, Unit)] == [1, 2, 3, 4, 5]
    assert not (tmp_path / "out").exists()


def test_the_model_goes_on_from_a_held_out_passage_after_each_validation(data: Path, tmp_path: Path) -> None:
    said: list[Event] = []
    run(settings(data, tmp_path, max_steps=2, eval_steps=1, sample_tokens=6, tensorboard=True), on_event=said.append)
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    samples = [line for line in lines if line["event"] == "sample"]
    assert [line["step"] for line in samples] == [0, 1, 2]
    assert all(line["prompt"].startswith("# On cells\n\n") and line["text"].strip() for line in samples)
    assert len({line["prompt"] for line in samples}) == 1
    assert notices(said).count("the model goes on from") == 3
    (board,) = (tmp_path / "tensorboard").iterdir()
    assert board.read_bytes().count(b"step/loss") == 2
    assert board.read_bytes().count(b"validation/bits_per_byte") == 3


def test_a_sample_for_which_memory_is_not_enough_is_left_out(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def continuation(*_: object) -> tuple[str, str]:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr("papertune.train.stage.continuation", continuation)
    said: list[Event] = []
    run(settings(data, tmp_path, max_steps=1, sample_tokens=8), on_event=said.append)
    assert "there is no sample" in notices(said)
    assert (tmp_path / "final").is_dir()


def test_the_likeliest_token_is_that_of_transformers(data: Path) -> None:
    from papertune.base import open_base
    from papertune.tokenizer import open_tokenizer
    from papertune.train.batches import read_sequences
    from papertune.train.model import choose_device, load_model
    from papertune.train.reference import ReferenceEngine

    base = open_base("tiny")
    model = load_model(base.folder, choose_device(), rank=4, alpha=8, dropout=0.5, targets=("q_proj",))
    engine = ReferenceEngine(model, choose_device())
    for item in read_sequences(data / "val.jsonl", open_tokenizer(base.folder), 64).items[:2]:
        with torch.no_grad():
            wanted = model.eval()(input_ids=torch.from_numpy(item.ids).long()[None]).logits[0, -1].argmax()
        model.train()
        assert engine.next_token(item.ids) == wanted


def test_checkpoints_come_by_minutes_too(data: Path, tmp_path: Path) -> None:
    run(settings(data, tmp_path, max_steps=4, save_steps=1000, save_minutes=1e-9))
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "checkpoint"] == [1, 2, 3, 4]
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]


def test_a_checkpoint_is_of_its_own_moment_however_long_it_takes_to_write(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: tuple[Path, list[Event], Report]
) -> None:
    real = checkpoint.write_checkpoint

    def slowly(*arguments: Any) -> Path:
        time.sleep(0.4)  # some steps
        return real(*arguments)

    monkeypatch.setattr(checkpoint, "write_checkpoint", slowly)
    run(settings(data, tmp_path))
    for step in (8, 12):
        ours, theirs = (checkpoint.read_checkpoint(folder / f"checkpoint-{step}") for folder in (tmp_path, whole[0]))
        assert adapter_hash(ours.folder) == adapter_hash(theirs.folder)
        assert all(torch.equal(tensor, theirs.optimizer_tensors()[name]) for name, tensor in ours.optimizer_tensors().items())
        assert (ours.state.position, ours.state.best_bits) == (theirs.state.position, theirs.state.best_bits)


def test_a_checkpoint_that_cannot_be_written_stops_the_run(data: Path, tmp_path: Path) -> None:
    (tmp_path / ".checkpoint-4.part").write_text("in the way")
    with pytest.raises(CannotWrite, match=r"checkpoint-4\.part"):
        run(settings(data, tmp_path))
    assert not (tmp_path / "final").exists()


def test_the_engine_is_told_with_the_reason(data: Path, tmp_path: Path) -> None:
    said: list[Event] = []
    run(settings(data, tmp_path, max_steps=1), on_event=said.append)
    assert "reference engine, since there is no CUDA GPU" in notices(said) or torch.cuda.is_available()
    with pytest.raises(BadValue, match="no multiples of 64"):
        run(settings(data, tmp_path / "out", max_steps=1, engine="fast"))


def test_both_engines_train_the_same_and_take_over_from_each_other(data: Path, tmp_path: Path) -> None:
    model = wider_model(tmp_path / "model")
    common: dict[str, Any] = {"model": str(model), "lora_dropout": 0, "max_steps": 6, "save_steps": 3}
    for engine in ("reference", "fast"):
        run(settings(data, tmp_path / engine, engine=engine, **common))
    reference, fast = losses(tmp_path / "reference"), losses(tmp_path / "fast")
    assert list(fast.values()) == pytest.approx(list(reference.values()), rel=1e-4)
    run(settings(data, tmp_path / "reference", engine="fast", resume=str(tmp_path / "reference" / "checkpoint-3"), **common))
    assert list(losses(tmp_path / "reference").values()) == pytest.approx(list(reference.values()), rel=1e-4)


def wider_model(folder: Path) -> Path:
    """A random model with widths that both engines run, and Mistral's tokenizer."""
    import transformers

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    shape = transformers.MistralConfig(vocab_size=32000, sliding_window=None, **sizes)
    torch.manual_seed(0)
    transformers.MistralForCausalLM(shape).save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(tiny.tokenizer_bytes())
    return folder


def failing_at(monkeypatch: pytest.MonkeyPatch, call: int, failure: Any) -> None:
    """Makes the engine's call number ``call`` (from 1, four a step) raise ``failure``; a number multiplies the losses from that call on."""
    from papertune.train.reference import ReferenceEngine

    real, calls = ReferenceEngine.accumulate, 0

    def accumulate(engine: ReferenceEngine, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and isinstance(failure, BaseException):
            raise failure
        loss = real(engine, *arguments)
        return loss if calls < call or isinstance(failure, BaseException) else loss * failure

    monkeypatch.setattr(ReferenceEngine, "accumulate", accumulate)


@pytest.mark.parametrize("factor", [float("nan"), 100.0, 0.0])
def test_a_diverged_loss_stops_with_the_last_good_state_kept(
    factor: float, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: tuple[Path, list[Event], Report]
) -> None:
    failing_at(monkeypatch, 21, factor)
    with pytest.raises(TrainingDiverged, match="step 6"):
        run(settings(data, tmp_path))
    monkeypatch.undo()
    assert (tmp_path / "checkpoint-5").is_dir()
    run(settings(data, tmp_path))  # a passing fault: the run goes on as if it had not been
    assert adapter_hash(tmp_path / "final") == adapter_hash(whole[0] / "final")


@pytest.mark.parametrize(("engine", "of"), [("reference", "card"), ("fast", "card"), ("reference", "machine")])
def test_out_of_memory_in_the_middle_of_a_run_goes_on_with_less_at_a_time(
    engine: str, of: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a card that another program begins to use: from the second step on, more than two sequences are too many."""
    from papertune.train.fast.engine import FastEngine
    from papertune.train.reference import ReferenceEngine

    model = str(wider_model(tmp_path / "model")) if engine == "fast" else "tiny"
    common: dict[str, Any] = {"engine": engine, "model": model, "lora_dropout": 0, "max_steps": 4, "batch_size": 4, "grad_accum": 1, "save_steps": 1}
    run(settings(data, tmp_path / "free", **common))
    place = ReferenceEngine if engine == "reference" else FastEngine
    real, tried = place.accumulate, []

    def accumulate(self: Any, batch: Any, *arguments: Any) -> Any:
        loss = real(self, batch, *arguments)
        tried.append(len(batch))
        if len(tried) > 1 and len(batch) > 2:
            if of == "card":
                raise torch.OutOfMemoryError("as if")
            torch.empty(1 << 60, dtype=torch.uint8)
        return loss

    monkeypatch.setattr(place, "accumulate", accumulate)
    said: list[Event] = []
    run(settings(data, tmp_path / "full", **common), on_event=said.append)
    assert notices(said).count("Memory ran out (step 2") == 1
    assert "effective batch stays" in notices(said)
    assert tried[:2] == [4, 4]
    assert set(tried[2:]) <= {1, 2}
    assert list(losses(tmp_path / "full").values()) == pytest.approx(list(losses(tmp_path / "free").values()), rel=1e-5)
    state = checkpoint.read_checkpoint(tmp_path / "full" / "checkpoint-4").state
    assert engine in state.room
    assert checkpoint.read_checkpoint(tmp_path / "free" / "checkpoint-4").state.room.get(engine) != state.room[engine]


def test_out_of_memory_gives_the_advice_in_order_and_loses_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_at(monkeypatch, 11, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(OutOfMemory) as caught:
        run(settings(data, tmp_path))
    advice = str(caught.value)
    assert advice.index("--max-seq-len 256") < advice.index("--lora-rank 8") < advice.index("--target-modules")
    assert (tmp_path / "checkpoint-2").is_dir()
