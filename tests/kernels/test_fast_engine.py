"""The fast engine against transformers and PEFT, in float32 on the CPU: the same loss and the same LoRA gradients, under every plan."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from papertune.base import Base, open_folder
from papertune.config import SEVEN_PROJECTIONS
from papertune.errors import BadModel
from papertune.tokenizer import SENTENCEPIECE
from papertune.train.batches import TokenSequence
from papertune.train.fast.budget import Budget, Link, Pinned, choose, cut
from papertune.train.fast.engine import FastEngine, Frozen, load_frozen
from papertune.train.fast.flat import sizes
from papertune.train.fast.host import Host, NoHostMemory, Parked
from papertune.train.fast.layer import Layer
from papertune.train.fast.memory import Sizes, Work
from papertune.train.fast.plan import Plan
from papertune.train.fast.shape import Shape, shape_of, unsupported
from papertune.train.model import Device, initial_adapter, load_model
from papertune.train.optimizer import Optimizer
from papertune.train.reference import ReferenceEngine

CPU = Device("cpu", torch.float32, "CPU")
SCALE = 1 / 131  # of the loss

MODELS: dict[str, dict[str, Any]] = {
    "grouped keys": {},
    "a key a head": {"num_key_value_heads": 4},
    "one key for all": {"num_key_value_heads": 1},
    "sliding window": {"sliding_window": 12},
    "tied head": {"tie_word_embeddings": True},
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "rope_theta": 500000.0},
    "wide heads": {"head_dim": 32},
}
PLANS = {
    "recompute": Plan(),
    "keep": Plan(keep=3),
    "offload": Plan(keep=1, offload=1),
    "weights twice": Plan(hold_weights=False),
    "attention": Plan(keep=1, attention=1),
    "attention, in parts": Plan(attention=2, mlp_rows=16),
    "weights stay": Plan(keep=1, dequantised=2),
    "weights streamed": Plan(keep=1, offload=1, stream_every=1),
    "weights streamed, run again": Plan(dequantised=1, stream_every=1),
    "one layer's weights streamed": Plan(keep=1, offload=2, stream_every=2),
    "in parts": Plan(mlp_rows=16, loss_rows=7),
    "long": Plan(park_inputs=True, head_groups=2, mlp_rows=50, host_embedding=True),
}


def make_model(folder: Path, **changed: Any) -> Base:
    """Random weights, three layers; nothing in it is a multiple of its neighbour."""
    config = {
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_act": "silu", "hidden_size": 64, "intermediate_size": 192,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 301, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "sliding_window": None, "tie_word_embeddings": False, "max_position_embeddings": 512, "torch_dtype": "bfloat16",
        "bos_token_id": 1, "eos_token_id": 2, **changed,
    }  # fmt: skip
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / SENTENCEPIECE).write_bytes(b"")
    base_shape = {"model.embed_tokens": (301, 64), "model.norm": (64,), "lm_head": (301, 64)}
    random = torch.Generator().manual_seed(1)
    if config["tie_word_embeddings"]:
        del base_shape["lm_head"]
    save_file({}, folder / "model.safetensors")
    base = open_folder(folder, "random")
    for i in range(3):
        at = f"model.layers.{i}"
        base_shape |= {f"{at}.{base.family.linear(name)}": size for name, size in sizes(shape_of(base)).items()}
        base_shape |= {f"{at}.input_layernorm": (64,), f"{at}.post_attention_layernorm": (64,)}
    tensors = {
        f"{name}.weight": (torch.randn(size, generator=random) * (0.3 if len(size) == 2 else 0.1) + (len(size) == 1)).bfloat16()
        for name, size in base_shape.items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return open_folder(folder, "random")


_frozen: dict[tuple[Path, Device], Frozen] = {}  # read once a model


def batch() -> list[TokenSequence]:
    random = np.random.default_rng(2)
    return [TokenSequence(random.integers(3, 301, n).astype(np.int32), start, n) for n, start in ((40, 1), (17, 5), (64, 1), (9, 8))]


def adapter_for(engine: Any, seed: int = 3) -> dict[str, np.ndarray]:
    """LoRA weights of which none is zero."""
    random = np.random.default_rng(seed)
    initial = initial_adapter({name: tuple(p.shape) for name, p in engine.parameters.items()}, seed)
    return {name: value + random.standard_normal(value.shape).astype(np.float32) * 0.05 for name, value in initial.items()}


def fast_engine(base: Base, plan: Plan | None = None, *, device: Device = CPU, rank: int = 8, dropout: float = 0.0, **other: Any) -> FastEngine:
    other = {"targets": SEVEN_PROJECTIONS, **other}
    key = (base.folder, device)
    if key not in _frozen:
        _frozen[key] = load_frozen(base, device)
    engine = FastEngine(base, _frozen[key], device, rank=rank, alpha=16, dropout=dropout, plan=plan or Plan(), **other)
    engine.load_adapter(adapter_for(engine))
    return engine


def reference_engine(base: Base, *, rank: int = 8, targets: tuple[str, ...] = SEVEN_PROJECTIONS) -> ReferenceEngine:
    engine = ReferenceEngine(load_model(base.folder, CPU, rank=rank, alpha=16, dropout=0.0, targets=targets), CPU)
    engine.load_adapter(adapter_for(engine))
    return engine


def assert_same_gradients(ours: Any, theirs: Any, tolerance: float = 1e-4) -> None:
    """Each LoRA matrix's gradient, relative to its size. The distance is about 2e-6."""
    assert list(ours.parameters) == list(theirs.parameters)
    for name, parameter in theirs.parameters.items():
        mine = ours.parameters[name].grad
        assert mine.shape == parameter.grad.shape
        assert float((mine - parameter.grad).norm()) <= tolerance * float(parameter.grad.norm()), name


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def exact(model: Base) -> ReferenceEngine:
    """After one micro-batch."""
    engine = reference_engine(model)
    engine.accumulate(batch(), SCALE, 0)
    return engine


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_those_of_transformers_and_peft(name: str, tmp_path: Path) -> None:
    base = make_model(tmp_path / "model", **MODELS[name])
    ours, theirs = fast_engine(base), reference_engine(base)
    loss, wanted = ours.accumulate(batch(), SCALE, 0), theirs.accumulate(batch(), SCALE, 0)
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=0)
    assert_same_gradients(ours, theirs)
    torch.testing.assert_close(ours.measure(batch()), theirs.measure(batch()), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", PLANS)
def test_every_plan_gives_the_same_gradients(name: str, model: Base, exact: ReferenceEngine) -> None:
    engine = fast_engine(model, PLANS[name])
    engine.accumulate(batch(), SCALE, 0)
    assert_same_gradients(engine, exact)


def test_sequences_one_by_one_give_the_gradients_of_all_packed(model: Base, exact: ReferenceEngine) -> None:
    engine = fast_engine(model)
    losses = [engine.accumulate([item], SCALE, 0) for item in batch()]
    torch.testing.assert_close(sum(losses), exact.measure(batch()), rtol=1e-5, atol=0)
    assert_same_gradients(engine, exact)


@pytest.mark.parametrize(("targets", "rank"), [(("q_proj", "v_proj"), 4), (("down_proj",), 3), (("k_proj", "o_proj", "up_proj"), 5)])
def test_some_projections_at_odd_ranks(targets: tuple[str, ...], rank: int, model: Base) -> None:
    ours, theirs = fast_engine(model, targets=targets, rank=rank), reference_engine(model, targets=targets, rank=rank)
    ours.accumulate(batch(), SCALE, 0)
    theirs.accumulate(batch(), SCALE, 0)
    assert_same_gradients(ours, theirs)


@pytest.mark.parametrize("name", PLANS)
def test_with_dropout_the_gradient_is_the_slope_of_the_loss(name: str, model: Base) -> None:
    """In float64, along a random direction: (loss(w + e·d) − loss(w − e·d)) / 2e = gradient · d."""
    engine = fast_engine(model, PLANS[name], device=Device("cpu", torch.float64, "CPU"), dropout=0.3)
    engine.accumulate(batch(), SCALE, seed=5)
    flat, step = engine.lora.parameter, 2**-15
    gradient = engine.lora.gradient.double()
    noise = torch.randn(flat.shape, generator=torch.Generator().manual_seed(0))
    direction = (gradient.float() / gradient.float().square().mean().sqrt() + noise).sign()  # random, but not at right angles to the gradient
    around = []
    for side in (step, -step):
        with torch.no_grad():
            flat.add_(direction * side)
        for parameter in engine.parameters.values():
            parameter.grad = None
        around.append(float(engine.accumulate(batch(), SCALE, seed=5)))
        with torch.no_grad():
            flat.sub_(direction * side)
    slope = (around[0] - around[1]) / (2 * step) * SCALE
    assert slope == pytest.approx(float(gradient @ direction.double()), rel=1e-3)


def test_dropout_is_a_function_of_the_seed_and_absent_from_measuring(model: Base) -> None:
    engine = fast_engine(model, dropout=0.3)
    losses = [float(engine.accumulate(batch(), SCALE, seed)) for seed in (7, 7, 8)]
    assert losses[0] == losses[1] != losses[2]
    assert float(engine.measure(batch())) == pytest.approx(float(fast_engine(model).measure(batch())), rel=1e-6)


def test_ten_steps_follow_the_reference(model: Base) -> None:
    engines = (fast_engine(model, Plan(keep=1)), reference_engine(model))
    traces = []
    for engine in engines:
        optimizer = Optimizer(engine.parameters, half=False)
        trace = []
        for _ in range(10):
            trace.append(float(engine.accumulate(batch(), SCALE, 0)) * SCALE)
            optimizer.clip()
            optimizer.step(5e-3)
        traces.append(trace)
    assert traces[0][-1] < traces[0][0] - 0.5
    assert traces[0] == pytest.approx(traces[1], rel=2e-3)
    last = engines[0].adapter()
    engines[1].load_adapter(last)
    assert float(engines[0].measure(batch())) == pytest.approx(float(engines[1].measure(batch())), rel=1e-5)


def test_all_weights_step_at_once_with_the_same_bits_and_the_same_checkpoints(model: Base) -> None:
    """Rank 128 makes every matrix large enough for state in 8 bits."""
    results, states = [], []
    for flat in (False, True):
        engine = fast_engine(model, rank=128)
        optimizer = Optimizer(engine.parameters, half=False, flat=engine.flat if flat else None)
        for _ in range(3):
            engine.accumulate(batch(), SCALE, 0)
            assert optimizer.clip() > 0
            optimizer.step(5e-3)
        results.append(engine.adapter())
        states.append(optimizer.state())
    (each, rest), (whole, rest_of_whole) = states
    assert {tensor.dtype for name, tensor in each.items() if "state" in name} == {torch.uint8}
    assert rest == rest_of_whole
    assert each.keys() == whole.keys()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in each.items())
    assert all((value == results[1][name]).all() for name, value in results[0].items())
    for state in states:  # either goes on from the other's checkpoint
        engine = fast_engine(model, rank=128)
        optimizer = Optimizer(engine.parameters, half=False, flat=engine.flat)
        optimizer.load_state({name: tensor.clone() for name, tensor in state[0].items()}, state[1])
        again, _ = optimizer.state()
        assert all(torch.equal(tensor, again[name]) for name, tensor in each.items())


def test_gradients_start_at_zero_after_the_optimiser_dropped_them(model: Base, exact: ReferenceEngine) -> None:
    engine = fast_engine(model)
    engine.accumulate(batch()[:2], SCALE, 0)
    for parameter in engine.parameters.values():
        parameter.grad = None
    engine.accumulate(batch(), SCALE, 0)
    assert_same_gradients(engine, exact)


def test_the_likeliest_token_is_that_of_the_reference(model: Base) -> None:
    ours, theirs = fast_engine(model, dropout=0.3), reference_engine(model)
    theirs.load_adapter(ours.adapter())
    for item in batch():
        assert ours.next_token(item.ids) == theirs.next_token(item.ids)


def test_a_process_without_work_has_a_gradient_of_zeros(model: Base) -> None:
    for engine in (fast_engine(model), reference_engine(model)):
        engine.accumulate(batch(), SCALE, 0)
        for parameter in engine.parameters.values():
            parameter.grad = None
        assert all(not gradient.any() for gradient in engine.gradients())
        assert all(parameter.grad is not None for parameter in engine.parameters.values())


class _TwoPlans:
    """A budget whose first plan turns out too large."""

    def plan(self, work: Work) -> Plan:  # noqa: ARG002
        return Plan(keep=3)

    def leaner(self, failed: Plan, work: Work) -> Plan:  # noqa: ARG002
        return Plan()

    def without_host(self, work: Work) -> Plan:  # noqa: ARG002
        return Plan(keep=1)

    def hold(self, layers: int) -> None:
        pass


def test_dropout_does_not_change_with_how_a_step_is_cut(model: Base) -> None:
    whole, cut = fast_engine(model, dropout=0.3), fast_engine(model, dropout=0.3)
    loss = whole.accumulate(batch(), SCALE, 7)
    losses = [cut.accumulate(batch()[:1], SCALE, 7), cut.accumulate(batch()[1:], SCALE, 7, range(1, len(batch())))]
    torch.testing.assert_close(sum(losses), loss, rtol=1e-5, atol=0)
    assert_same_gradients(cut, whole)


def test_when_memory_runs_out_a_leaner_plan_does_the_same_work(model: Base, exact: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FastEngine(model, load_frozen(model, CPU), CPU, rank=8, alpha=16, dropout=0.0, targets=SEVEN_PROJECTIONS)
    engine.load_adapter(adapter_for(engine))
    for parameter in engine.parameters.values():
        parameter.grad = None
    engine.budget = _TwoPlans()  # type: ignore[assignment]
    whole = Layer.backward
    calls = []

    def backward(self: Layer, *arguments: Any) -> torch.Tensor:
        calls.append(engine.plan)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("as if")
        return whole(self, *arguments)

    monkeypatch.setattr(Layer, "backward", backward)
    engine.accumulate(batch(), SCALE, 0)
    assert calls == [Plan(keep=3)] * 2 + [Plan()] * 3
    assert_same_gradients(engine, exact)


def test_when_the_host_pins_no_more_a_plan_without_it_does_the_work(model: Base, exact: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = fast_engine(model)
    for parameter in engine.parameters.values():
        parameter.grad = None
    engine.fixed, engine.budget = None, _TwoPlans()  # type: ignore[assignment]
    monkeypatch.setattr(engine.budget, "plan", lambda _: Plan(stream_every=1))
    given = iter([True] * 6)

    def keep(self: Host, tensor: torch.Tensor) -> Parked:  # noqa: ARG001
        if not next(given, False):
            raise NoHostMemory("as if")
        return Parked(tensor)

    monkeypatch.setattr(Host, "keep", keep)
    engine.accumulate(batch(), SCALE, 0)
    assert engine.plan == Plan(keep=1)
    assert_same_gradients(engine, exact)
    engine.fixed = Plan()
    engine.accumulate(batch(), SCALE, 0)
    assert engine.budget.pinned == Pinned(), "what had been pinned was given back"


def test_a_plan_fits_what_is_free_and_keeps_as_much_as_that_allows() -> None:
    mistral = Shape(32, 4096, 14336, 32, 8, 128, 32000, 1e-5, 1e4, 0, False)
    size = Sizes(mistral, 2, (48, 16, 32, 16))
    quick, slow = Link(48e12, 24e9), Link(48e12, 1e9)
    for tokens in (256, 820, 2048, 8192):
        for gib in (1, 1.5, 2.5, 5, 10, 100):
            for link in (quick, slow):
                free = int(gib * 2**30)
                work = Work(tokens, tokens, 4)
                plan = choose(size, work, free=free, host_free=1 << 40, link=link)
                fits = size.peak(plan, work) <= free
                assert fits or plan.park_inputs, "only the leanest plan may not fit"
                if plan.offload + plan.keep < 32 and not plan.park_inputs:
                    more = replace(plan, keep=plan.keep + 1, dequantised=0)
                    assert size.peak(more, work) > free * 0.95
                if plan.hold_weights and plan.dequantised < 32:
                    assert size.peak(replace(plan, dequantised=plan.dequantised + 1), work) > free * 0.95
    step = Work(2048, 2044, 4)
    assert choose(size, step, free=100 << 30, host_free=0, link=quick) == Plan(keep=32, dequantised=32)
    assert choose(size, step, free=10 << 30, host_free=0, link=quick) == Plan(keep=32, dequantised=8)
    assert choose(size, step, free=5 << 29, host_free=8 << 30, link=quick) == Plan(keep=2, offload=30, dequantised=3)
    assert choose(size, step, free=5 << 29, host_free=1 << 40, link=slow).offload == 0
    assert choose(size, step, free=5 << 29, host_free=1 << 30, link=quick).offload == 0


def test_weights_are_streamed_where_the_link_is_quick_enough_and_memory_is_there_on_both_sides() -> None:
    mistral = Shape(32, 4096, 14336, 32, 8, 128, 32000, 1e-5, 1e4, 0, False)
    size, step, quick = Sizes(mistral, 2, (48, 16, 32, 16)), Work(2048, 2044, 4), Link(48e12, 50e9)
    much, layer = 1 << 40, size.layer_on_host
    activations = size.on_host(Plan(offload=30), 2048)
    assert choose(size, step, free=5 << 29, host_free=much, link=quick) == Plan(keep=2, offload=30, dequantised=2, stream_every=1)
    assert choose(size, step, free=5 << 28, host_free=much, link=quick).stream_every == 0
    assert choose(size, step, free=5 << 29, host_free=much, link=Link(48e12, 24e9)).stream_every == 2
    assert choose(size, step, free=5 << 29, host_free=much, link=Link(48e12, 8e9)).stream_every == 0
    assert choose(size, step, free=5 << 29, host_free=activations + layer * 12, link=quick).stream_every == 4
    assert choose(size, step, free=5 << 29, host_free=activations + layer * 2, link=quick).stream_every == 0, "more can stay on the card"


def test_micro_batches_of_all_sizes_together_pin_no_more_than_there_is() -> None:
    mistral = Shape(32, 4096, 14336, 32, 8, 128, 32000, 1e-5, 1e4, 0, False)
    size, quick = Sizes(mistral, 2, (48, 16, 32, 16)), Link(48e12, 50e9)
    for gib in (1.5, 2.5, 5):
        for host in (2, 8, 14, 20, 32):
            layers: set[int] = set()
            activations = 0
            for tokens in (256, 2048, 820, 4096, 512, 1500, 2048):
                work, pinned = Work(tokens, tokens, 4), Pinned(len(layers), activations)
                plan = choose(size, work, free=int(gib * 2**30), host_free=host << 30, link=quick, pinned=pinned)
                assert size.peak(plan, work) <= gib * 2**30
                layers.update(plan.streamed(32))
                activations = max(activations, size.on_host(replace(plan, stream_every=0), tokens))
                assert len(layers) * size.layer_on_host + activations <= host << 30


@pytest.mark.parametrize("plan", [Plan(keep=1, dequantised=2), Plan(keep=1, stream_every=1), Plan(dequantised=1, stream_every=1)], ids=str)
def test_weights_that_stay_dequantised_follow_the_optimiser(plan: Plan, model: Base) -> None:
    engine, other = fast_engine(model, plan), fast_engine(model)
    for number in (3, 4):
        for one in (engine, other):
            one.load_adapter(adapter_for(one, number))
            for parameter in one.parameters.values():
                parameter.grad = None
            one.accumulate(batch(), SCALE, 0)
        assert_same_gradients(engine, other)
    for one in (engine, other):
        one.load_adapter(adapter_for(one, 5))
    assert torch.equal(engine.measure(batch()), other.measure(batch()))
    assert engine.economise()
    assert engine.budget.held == 0


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 120))
def test_sequences_are_cut_into_as_few_parts_as_their_order_allows(lengths: list[int], room: int) -> None:
    parts = [lengths[part] for part in cut(lengths, room)]
    assert [length for part in parts for length in part] == lengths
    assert all(sum(part) <= room or len(part) == 1 for part in parts)
    assert all(sum(part) + following[0] > room for part, following in pairwise(parts))


def test_sequences_are_packed_in_order_up_to_what_fits(model: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, items = fast_engine(model), batch()
    assert engine.micro_batches(items, 1) == [items]
    monkeypatch.setattr(Budget, "capacity", lambda _: 60)
    assert engine.micro_batches(items, 1) == [items[:2], items[2:3], items[3:]]


def test_unsupported_models_are_told_apart(tmp_path: Path) -> None:
    assert unsupported(make_model(tmp_path / "plain")) == ""
    assert "widths" in unsupported(make_model(tmp_path / "narrow", intermediate_size=96))
    assert "heads are 12 wide" in unsupported(make_model(tmp_path / "odd", head_dim=12))


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    other = make_model(tmp_path / "other")
    save_file({"model.norm.weight": torch.ones(64)}, other.weight_files[0])
    with pytest.raises(BadModel, match=r"model\.embed_tokens\.weight"):
        load_frozen(other, CPU)
