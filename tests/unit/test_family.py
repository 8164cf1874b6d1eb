"""Families: which models are known, and what their tensors are called."""

from __future__ import annotations

import pytest

from papertune.errors import BadModel, UnsupportedModel
from papertune.family import LLAMA, MISTRAL, family_of, head_size, key_value_heads, rope_theta

CONFIG = {
    "architectures": ["MistralForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "vocab_size": 32000,
}


def test_mistral_and_llama_are_told_by_their_architecture() -> None:
    assert family_of(CONFIG, "here") is MISTRAL
    assert family_of({**CONFIG, "architectures": ["LlamaForCausalLM"]}, "here") is LLAMA
    assert family_of({**CONFIG, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, "here") is MISTRAL


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, "GemmaForCausalLM"),
        ({"architectures": None, "model_type": "mixtral"}, "mixtral"),
        ({"attention_bias": True}, "attention_bias = True"),
        ({"hidden_act": "gelu"}, "hidden_act = gelu"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "linear"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, "llama3"),
    ],
)
def test_an_unknown_model_is_refused_by_name(change: dict[str, object], said: str) -> None:
    with pytest.raises(UnsupportedModel, match="some/model") as caught:
        family_of({**CONFIG, **change}, "some/model")
    assert said in caught.value.what


def test_a_config_without_its_sizes_is_a_bad_model() -> None:
    with pytest.raises(BadModel, match="num_hidden_layers"):
        family_of({k: v for k, v in CONFIG.items() if k != "num_hidden_layers"}, "some/model")


def test_every_tensor_of_a_model_is_named() -> None:
    names = dict(MISTRAL.tensors(2))
    assert len(names) == 3 + 2 * 9
    assert names["model.layers.1.self_attn.q_proj.weight"] == "blk.1.attn_q.weight"
    assert names["lm_head.weight"] == "output.weight"
    assert [MISTRAL.linear(p) for p in MISTRAL.projections][::6] == ["self_attn.q_proj", "mlp.down_proj"]
    with pytest.raises(KeyError):
        MISTRAL.linear("experts")


def test_sizes_are_read_as_old_and_new_transformers_write_them() -> None:
    assert rope_theta({"rope_theta": 1e6}) == 1e6
    assert rope_theta({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}) == 5e5
    assert rope_theta({}) == 10000.0
    assert (head_size(CONFIG), key_value_heads(CONFIG)) == (128, 8)
    assert (head_size({**CONFIG, "head_dim": 64}), key_value_heads({**CONFIG, "num_key_value_heads": None})) == (64, 32)
