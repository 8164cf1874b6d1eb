"""The frozen base with trainable LoRA weights, as transformers and PEFT build it: in NF4 by bitsandbytes on a GPU, rounded to NF4 on a CPU."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import numpy as np
    import torch

SMALL = 10_000_000
"""Parameters below which products on a CPU are so short that threads wait for one another longer than they work."""

LoraShapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Device:
    """``kind`` is "cuda" or "cpu"; ``dtype`` is the type matrices are multiplied in; ``title`` is for people."""

    kind: str
    dtype: torch.dtype
    title: str

    @property
    def place(self) -> torch.device:
        """Of several GPUs the one that this process uses."""
        import torch

        return torch.device("cuda", torch.cuda.current_device()) if self.kind == "cuda" else torch.device(self.kind)

    def memory(self) -> int:
        """Bytes on the GPU in all; 0 for a CPU."""
        import torch

        return int(torch.cuda.get_device_properties(self.place).total_memory) if self.kind == "cuda" else 0


def choose_device() -> Device:
    """The CUDA GPU that this process uses (the first one, if ``team`` chose no other), else the CPU.

    bfloat16 where the card computes in it, float16 on older cards, float32 on a CPU."""
    import torch

    if not torch.cuda.is_available():
        return Device("cpu", torch.float32, "the CPU")
    name = torch.cuda.get_device_name()
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Device("cuda", torch.bfloat16, f"{name}, bfloat16")
    return Device("cuda", torch.float16, f"{name}, float16")


def make_deterministic() -> None:
    """Lets a resumed run repeat the losses of an uninterrupted one: attention's backward pass otherwise adds up in any order."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS at its first use
    torch.use_deterministic_algorithms(True)  # with warn_only, flash attention would stay as it is
    torch.backends.cuda.enable_cudnn_sdp(False)  # the one attention that stays unordered; the flash kernels obey
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined,unused-ignore]


def load_model(
    folder: Path, device: Device, *, rank: int, alpha: float, dropout: float, targets: tuple[str, ...], layers: int | None = None
) -> Any:
    """A PEFT model on ``device``: linear layers in NF4 with double quantisation, the rest as stored, LoRA weights in float32.

    On a GPU the weights go there straight from the file, quantised on arrival, and layers are checkpointed: only their inputs are kept
    for the backward pass. PEFT's prepare_model_for_kbit_training is not used: its float32 copies of embedding and norms cost 1 GB.
    On a CPU the linear layers hold the numbers that NF4 stands for, in float32: the same model at 8 times the memory and without
    dequantising at every step. bitsandbytes' own layers are not used there: on processors with AVX-512 they round the scales once more
    when a model is first asked without gradients, and misread rows that are no whole blocks (0.50.2).
    ``layers`` loads only the first so many layers.
    """
    import peft
    import torch
    import transformers

    hf, lora = cast(Any, transformers), cast(Any, peft)  # typed in part only
    hf.utils.logging.disable_progress_bar()  # a step prints nothing
    shape = hf.AutoConfig.from_pretrained(folder, local_files_only=True)
    if layers is not None:
        shape.num_hidden_layers = layers
        hf.utils.logging.set_verbosity_error()  # weights of the other layers are left out on purpose
    on_gpu = device.kind == "cuda"
    quantized = hf.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=device.dtype
    )
    settings = lora.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets), task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*is_gradient_checkpointing.*")  # PEFT asks by transformers' old name
        base = hf.AutoModelForCausalLM.from_pretrained(
            folder,
            config=shape,
            dtype=device.dtype,
            device_map={"": device.place},
            quantization_config=quantized if on_gpu else None,
            attn_implementation="sdpa",
            local_files_only=True,
        )
        if not on_gpu:
            _round_to_nf4(base.model)
        small = base.num_parameters() < SMALL
        model = lora.get_peft_model(base, settings)
        if on_gpu:
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if not on_gpu and small:
        torch.set_num_threads(1)
    model.train()
    return model


def _round_to_nf4(layers: torch.nn.Module) -> None:
    """Replaces the weights of every linear layer by what their NF4 form stands for."""
    import torch

    from papertune.kernels import nf4, ops

    with torch.no_grad():
        for module in layers.modules():
            if isinstance(module, torch.nn.Linear):
                ops.dequantize(nf4.quantize(module.weight), module.weight)


def lora_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """The trainable parameters under the names PEFT gives them in a saved adapter, in a fixed order."""
    return {name.replace(".default.", "."): p for name, p in sorted(model.named_parameters()) if p.requires_grad}


def initial_adapter(shapes: LoraShapes, seed: int) -> dict[str, np.ndarray]:
    """LoRA weights to begin with: A uniform within ±1/√inputs (what PEFT's Kaiming rule comes to), B zero. The same on every device."""
    import numpy as np

    random = np.random.Generator(np.random.PCG64([seed, 0x4C6F5241]))
    tensors = {}
    for name, shape in sorted(shapes.items()):
        if ".lora_A." in name:
            tensors[name] = ((random.random(shape, dtype=np.float32) * 2 - 1) / np.float32(shape[1] ** 0.5)).astype(np.float32)
        else:
            tensors[name] = np.zeros(shape, dtype=np.float32)
    return tensors
