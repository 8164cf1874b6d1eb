"""What a family of base models needs, as data: LoRA targets, tensor names in safetensors and GGUF, and how a prompt is written.

Only models whose every tensor is named here are supported; anything else (experts, biases, other activations) is refused before any work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from papertune.config import SEVEN_PROJECTIONS
from papertune.errors import BadModel, UnsupportedModel

# Hugging Face name → GGUF name, without ".weight". The order within a layer is that of a forward pass.
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


@dataclass(frozen=True, slots=True)
class Family:
    """One family of base models.

    ``architectures`` are the names in a ``config.json``. ``layer_tensors`` and ``whole_tensors`` map Hugging Face names to GGUF names, both
    without prefix and ``.weight``. ``permuted`` are the projections whose rows GGUF stores in another order: Hugging Face rotates the two
    halves of a head, llama.cpp neighbouring pairs. ``title`` and ``heading`` are the lines that open a paper and a section, with ``{}`` for
    the words, ``gap`` the line that says that text is missing: the models are base models, and the light Markdown of the training text is
    their only prompt format.
    """

    name: str
    architectures: tuple[str, ...]
    gguf_architecture: str
    projections: tuple[str, ...] = SEVEN_PROJECTIONS
    layer_tensors: tuple[tuple[str, str], ...] = tuple(_LAYER.items())
    whole_tensors: tuple[tuple[str, str], ...] = tuple(_WHOLE.items())
    permuted: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj")
    title: str = "# {}"
    heading: str = "## {}"
    gap: str = "…"

    def tensors(self, layers: int) -> Iterator[tuple[str, str]]:
        """(Hugging Face name, GGUF name) of every tensor of a model with so many layers; a tied model has no ``lm_head.weight``."""
        for ours, theirs in self.whole_tensors:
            yield f"{ours}.weight", f"{theirs}.weight"
        for i in range(layers):
            for ours, theirs in self.layer_tensors:
                yield f"model.layers.{i}.{ours}.weight", f"blk.{i}.{theirs}.weight"

    def opening(self, title: str, headings: tuple[str, ...] = (), *, inside: bool = False) -> str:
        """What stands before a section's text, "" for nothing: title, section, subsection …, each with a blank line after it. ``inside``: the
        text does not begin where the section does."""
        lines = [self.title.format(title)] if title else []
        lines += ["#" * depth + self.heading.format(heading) for depth, heading in enumerate(headings)]
        if inside:
            lines.append(self.gap)
        return "".join(line + "\n\n" for line in lines)

    def linear(self, projection: str) -> str:
        """Where a projection stands within a layer: ``q_proj`` → ``self_attn.q_proj``. Raises KeyError for an unknown one."""
        for ours, _ in self.layer_tensors:
            if ours.rpartition(".")[2] == projection:
                return ours
        raise KeyError(projection)


MISTRAL = Family("mistral", ("MistralForCausalLM",), "llama")  # llama.cpp runs Mistral as "llama": the same graph
LLAMA = Family("llama", ("LlamaForCausalLM",), "llama")
FAMILIES = (MISTRAL, LLAMA)

_SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size")


def family_of(model_config: Mapping[str, Any], where: str) -> Family:
    """The family of the model with this ``config.json``, read from ``where``. Raises UnsupportedModel or BadModel."""
    architectures = model_config.get("architectures") or []
    family = next((f for f in FAMILIES if set(f.architectures) & set(architectures)), None)
    if family is None:
        found = ", ".join(map(str, architectures)) or str(model_config.get("model_type", "an unnamed architecture"))
        known = ", ".join(name for f in FAMILIES for name in f.architectures)
        raise UnsupportedModel(f"{where} is {found}, which papertune does not know.", f"Choose a base model of one of: {known}.")
    odd = [key for key in ("attention_bias", "mlp_bias", "quantization_config") if model_config.get(key)]
    if model_config.get("hidden_act", "silu") != "silu":
        odd.append("hidden_act")
    scaling = model_config.get("rope_scaling") or model_config.get("rope_parameters") or {}
    if scaling.get("rope_type", scaling.get("type", "default")) != "default":
        odd.append("rope_scaling" if model_config.get("rope_scaling") else "rope_parameters")
    if odd:
        settings = ", ".join(f"{key} = {model_config[key]}" for key in odd)
        raise UnsupportedModel(f"{where} is a {family.name} variant that papertune does not know ({settings}).", "Choose the plain bf16 base model.")
    missing = [key for key in _SIZES if not isinstance(model_config.get(key), int)]
    if missing:
        raise BadModel(f"{where} does not say {', '.join(missing)} in its config.json.", "Fetch the model again.")
    return family


def rope_theta(model_config: Mapping[str, Any]) -> float:
    """The base of the rotary embedding. Transformers 5 writes it into ``rope_parameters``, earlier ones at the top."""
    nested = model_config.get("rope_parameters") or {}
    return float(nested.get("rope_theta", model_config.get("rope_theta") or 10000.0))


def head_size(model_config: Mapping[str, Any]) -> int:
    """Width of one attention head."""
    return int(model_config.get("head_dim") or model_config["hidden_size"] // model_config["num_attention_heads"])


def key_value_heads(model_config: Mapping[str, Any]) -> int:
    """Heads of the keys and values; fewer than the queries' where several share one."""
    return int(model_config.get("num_key_value_heads") or model_config["num_attention_heads"])
