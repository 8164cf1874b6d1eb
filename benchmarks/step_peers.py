"""The peers of ``bench_step.py``: the usual stack (transformers, PEFT, bitsandbytes), the same with Liger or compiled, and Unsloth."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from typing import Any

from gpu_card import ALPHA, CONFIG, RAGGED, RANK, Card, Recorder, random_matrix


def usual_model(
    layers: int, *, window: int = 0, dtype: Any = None, matrix: Any = random_matrix, four_bit: bool = True, upcast: bool = True
) -> Any:
    """The usual stack's model with a LoRA adapter, its base in NF4 (or, not ``four_bit``, as ``matrix`` gives it); ``upcast``: embedding, head and
    norms in float32, as PEFT prepares them."""
    import bitsandbytes
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import MistralConfig, MistralForCausalLM

    from papertune.config import SEVEN_PROJECTIONS

    dtype = dtype or torch.bfloat16
    config = MistralConfig(**{**CONFIG, "num_hidden_layers": layers, "sliding_window": window or None})
    config._attn_implementation = "sdpa"
    torch.set_default_dtype(dtype)
    with torch.device("cuda"):
        model = MistralForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        for name, module in list(model.named_modules()):
            if not isinstance(module, torch.nn.Linear | torch.nn.Embedding):
                continue
            weight = matrix(name, *module.weight.shape)
            parent, _, last = name.rpartition(".")
            if four_bit and last in SEVEN_PROJECTIONS:
                format_: dict[str, Any] = {"quant_type": "nf4", "compress_statistics": True}
                wide, high = module.in_features, module.out_features
                small = bitsandbytes.nn.Linear4bit(wide, high, bias=False, compute_dtype=dtype, device="meta", **format_)
                small.weight = bitsandbytes.nn.Params4bit(weight, requires_grad=False, **format_).to("cuda")
                setattr(model.get_submodule(parent), last, small)
            else:
                module.weight.copy_(weight)
    if four_bit:
        model.is_loaded_in_4bit = True
        recompute = {"use_reentrant": False}
        if upcast:
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=True, gradient_checkpointing_kwargs=recompute)
        else:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=recompute)
            model.enable_input_require_grads()
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM", target_modules=list(SEVEN_PROJECTIONS))
    model = get_peft_model(model, lora)
    model.train()
    gc.collect()
    torch.cuda.empty_cache()
    return model


def hf(options: argparse.Namespace) -> None:
    _measure("hf", options, usual_model(options.layers)).longest()


def liger(options: argparse.Namespace) -> None:
    from liger_kernel.transformers import apply_liger_kernel_to_mistral

    apply_liger_kernel_to_mistral()
    _measure("liger", options, usual_model(options.layers)).longest()


def compiled(options: argparse.Namespace) -> None:
    model = usual_model(options.layers, upcast=False)
    for layer in model.base_model.model.model.layers:
        layer.compile(dynamic=True)
    _measure("compiled", options, model).longest()


def unsloth(options: argparse.Namespace) -> None:
    _measure("unsloth", options, _unsloth_model(options), whole=True, packed=True)


def unsloth_longest(options: argparse.Namespace) -> None:
    """Its longest sequence, in a process of its own: where the most fits, since nothing is left of other shapes."""
    _Peer("unsloth", options, _unsloth_model(options)).longest()


def _unsloth_model(options: argparse.Namespace) -> Any:
    import os

    os.environ["UNSLOTH_DISABLE_STATISTICS"] = "1"
    import torch
    from unsloth import FastLanguageModel

    from papertune.config import SEVEN_PROJECTIONS

    model, _ = FastLanguageModel.from_pretrained(
        str(options.checkpoint), max_seq_length=65536, dtype=torch.bfloat16, load_in_4bit=True, local_files_only=True
    )
    model = FastLanguageModel.get_peft_model(
        model, r=RANK, lora_alpha=ALPHA, lora_dropout=0, bias="none", target_modules=list(SEVEN_PROJECTIONS),
        use_gradient_checkpointing="unsloth", random_state=0,
    )  # fmt: skip
    model.train()
    return model


PARTS = {"hf": hf, "liger": liger, "compiled": compiled, "unsloth": unsloth, "unsloth-longest": unsloth_longest}


class _Peer:
    """A model of transformers' kind with 8-bit AdamW."""

    def __init__(self, part: str, options: argparse.Namespace, model: Any) -> None:
        from bitsandbytes.optim import AdamW8bit

        self.record, self.card, self._model = Recorder(part, options.out), Card(options.layers), model
        self._begin = options.tokens
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = AdamW8bit(self._trained, lr=2e-4)

    def stepping(self, batches: list[dict[str, Any]]) -> Callable[[], None]:
        import torch

        def step() -> None:
            for batch in batches:
                with torch.autocast("cuda", torch.bfloat16):
                    loss = self._model(**batch).loss / len(batches)
                loss.backward()
            torch.nn.utils.clip_grad_norm_(self._trained, 1.0)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)

        return step

    def longest(self) -> None:
        self.card.longest(self.record, "one sequence", lambda n: self.stepping([_tokens(1, n)]), self._begin)


def _tokens(*size: int) -> dict[str, Any]:
    import torch

    ids = torch.randint(3, 32000, size, device="cuda")
    return {"input_ids": ids, "labels": ids}


def _measure(part: str, options: argparse.Namespace, model: Any, *, whole: bool = False, packed: bool = False) -> _Peer:
    """The model, after rows for the shapes of a step; ``packed``: also with the sequences end to end as one, as Unsloth takes them."""
    import torch

    peer, tokens = _Peer(part, options, model), _tokens
    record, card, stepping = peer.record, peer.card, peer.stepping

    def end_to_end(lengths: list[int]) -> dict[str, Any]:
        batch = tokens(1, sum(lengths))
        labels = batch["labels"].clone()
        labels[0, [sum(lengths[:i]) for i in range(len(lengths))]] = -100
        places = torch.cat([torch.arange(n, device="cuda") for n in lengths])[None]
        return {**batch, "labels": labels, "position_ids": places, "packed_seq_lengths": torch.tensor(lengths, dtype=torch.int32, device="cuda")}

    default, single = stepping([tokens(1, 512) for _ in range(4)]), stepping([tokens(4, 512)])
    ragged = stepping([tokens(1, n) for n in RAGGED])
    card.measure(record, "slice", "1x4x512", "micro-batches of 1", default, 2048, steps=5)
    card.measure(record, "slice", "ragged", "micro-batches of 1", ragged, sum(RAGGED), steps=5)
    card.measure(record, "slice", "1x4x512", "one micro-batch of 4", single, 2048, steps=5)
    if packed:
        card.measure(record, "slice", "1x4x512", "packed", stepping([end_to_end([512] * 4)]), 2048, steps=5)
        card.measure(record, "slice", "ragged", "packed", stepping([end_to_end(RAGGED)]), sum(RAGGED), steps=5)
    if whole:
        card.measure(record, "whole", "1x4x512", "micro-batches of 1", default, 2048, steps=5)
        card.measure(record, "whole", "1x4x512", "one micro-batch of 4", single, 2048, steps=5)
    return peer
