"""Folders in our own format: damaged files, and the stand-in where HookedTransformer is gone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from model_folders import CLASS, SIZES, TOKENS, needs_hooked, random_state, write
from safetensors.torch import load_file, save_file

import interp
from interp.models import _own_as_bridge
from training import network

LLAMA = {
    "n_layers": 2,
    "d_model": 16,
    "d_head": 4,
    "n_heads": 4,
    "n_ctx": 12,
    "d_mlp": 24,
    "d_vocab": 10,
    "act_fn": "silu",
    "gated_mlp": True,
    "normalization_type": "RMS",
    "positional_embedding_type": "rotary",
    "rotary_dim": 4,
    "rotary_adjacent_pairs": False,
    "final_rms": True,
    "n_key_value_heads": 2,
}


def change(folder: Path, **fields: Any) -> Path:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "remove"}))
    return folder


def change_weights(folder: Path, **tensors: torch.Tensor | None) -> Path:
    path = folder / "model.safetensors"
    state = load_file(path) | {name.replace("__", "."): value for name, value in tensors.items()}
    save_file({name: value for name, value in state.items() if value is not None}, path)
    return folder


def test_a_truncated_file(own: Path) -> None:
    path = own / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model.safetensors \(\d+ bytes\) is truncated or damaged"):
        interp.load(own)


def test_no_weights(own: Path) -> None:
    (own / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has config.json but no model.safetensors"):
        interp.load(own)


def test_missing_tensors(own: Path) -> None:
    change_weights(own, blocks__1__attn__W_O=None, ln_final__w=None)
    with pytest.raises(
        ValueError, match=r"lacks '.*' \(and 1 more\). The file has 36 tensors, config.json asks for 38"
    ):
        interp.load(own)


def test_a_tensor_too_many(own: Path) -> None:
    change_weights(own, blocks__2__ln1__w=torch.ones(16))
    with pytest.raises(ValueError, match=r"has 'blocks.2.ln1.w', for which config.json has no place"):
        interp.load(own)


def test_a_wrong_shape(own: Path) -> None:
    change(own, n_ctx=13)
    with pytest.raises(
        ValueError, match=r"'pos_embed.W_pos' has shape \(12, 16\), config.json asks for \(13, 16\)"
    ):
        interp.load(own)


def test_an_unknown_field(own: Path) -> None:
    change(own, n_layer=2)
    with pytest.raises(
        ValueError, match=r"'n_layer' is not a field of HookedTransformerConfig; did you mean 'n_layers'"
    ):
        interp.load(own)


def test_a_missing_field(own: Path) -> None:
    change(own, d_vocab="remove")
    with pytest.raises(ValueError, match=r"config.json lacks 'd_vocab'"):
        interp.load(own)


def test_an_impossible_value(own: Path) -> None:
    change(own, act_fn="tanhh")
    with pytest.raises(ValueError, match=r"config.json.*tanhh"):
        interp.load(own)


@pytest.mark.parametrize(
    ("text", "says"), [("{", "is not JSON"), ("[]", "holds a list"), ("{}", "no known format")]
)
def test_a_bad_config(own: Path, text: str, says: str) -> None:
    (own / "config.json").write_text(text)
    with pytest.raises(ValueError, match=says):
        interp.load(own)


def test_a_bad_tokenizer(own: Path) -> None:
    (own / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"the tokenizer files in .*own cannot be read"):
        interp.load(own)


def test_the_tokenizer_of_hf_is_used(own: Path) -> None:
    (own / "hf").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (own / name).rename(own / "hf" / name)
    assert interp.load(own).to_tokens("three").tolist() == [[1, 6]]


def test_without_tokenizer(own: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (own / name).unlink()
    model = interp.load(own)
    assert model.tokenizer is None
    assert model(TOKENS).shape == (2, 6, SIZES.d_vocab)


def test_a_seed_in_the_config_does_not_seed_the_process(own: Path) -> None:
    change(own, seed=3)
    before = torch.get_rng_state()
    interp.load(own)
    assert torch.equal(torch.get_rng_state(), before)


def test_buffers_saved_with_the_state_are_ignored(own: Path) -> None:
    plain = interp.load(own)(TOKENS)
    change_weights(own, blocks__0__attn__mask=torch.zeros(12, 12), blocks__0__attn__IGNORE=torch.tensor(0.0))
    assert torch.equal(interp.load(own)(TOKENS), plain)


def llama_state(**fields: Any) -> dict[str, torch.Tensor]:
    settled = _own_as_bridge._settled(Path("x"), LLAMA | fields)
    state = random_state(_own_as_bridge._shapes(settled, _own_as_bridge.LLAMA))
    return state | {
        name: torch.zeros_like(value) for name, value in state.items() if name.endswith("mlp.b_in")
    }


def test_a_llama_of_our_own_format(tmp_path: Path) -> None:
    model = interp.load(write(tmp_path, LLAMA, llama_state()))
    assert type(model).__name__ == CLASS
    assert model(TOKENS).std() > 0.1


@needs_hooked
@pytest.mark.parametrize(
    "fields", [{}, {"n_key_value_heads": None}, {"rotary_base": 100}, {"normalization_type": "RMSPre"}]
)
def test_the_bridged_llama_equals_the_hooked_one(tmp_path: Path, fields: dict[str, Any]) -> None:
    state = llama_state(**fields)
    hooked = interp.load(write(tmp_path, LLAMA | fields, state))
    bridged = _bridged(tmp_path, LLAMA | fields, state)
    torch.testing.assert_close(bridged(TOKENS), hooked(TOKENS), atol=1e-5, rtol=0)
    assert hooked(TOKENS).std() > 0.1


@needs_hooked
@pytest.mark.parametrize("fields", [{}, {"act_fn": "relu"}, {"act_fn": "silu"}, {"eps": 1e-2}])
def test_the_bridged_gpt2_equals_the_hooked_one(own: Path, fields: dict[str, Any]) -> None:
    change(own, **fields)
    hooked, state = interp.load(own), load_file(own / "model.safetensors")
    bridged = _bridged(own, network.hooked_config(SIZES, "own") | fields, state)
    assert type(bridged).__name__ == "TransformerBridge"
    torch.testing.assert_close(bridged(TOKENS), hooked(TOKENS), atol=1e-5, rtol=0)


@needs_hooked
@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"gated_mlp": True}, "gated_mlp is True"),
        ({"parallel_attn_mlp": True}, "parallel_attn_mlp is True"),
        ({"positional_embedding_type": "alibi"}, "positional_embedding_type is 'alibi'"),
        ({"d_vocab_out": 5}, "d_vocab_out is 5"),
        ({"attn_scale": 2.5}, "attn_scale is 2.5"),
    ],
)
def test_what_cannot_be_bridged_is_refused(own: Path, fields: dict[str, Any], says: str) -> None:
    config, state = network.hooked_config(SIZES, "own") | fields, load_file(own / "model.safetensors")
    with pytest.raises(ValueError, match=f"{says}.*install transformer-lens 3.9"):
        _bridged(own, config, state)


@needs_hooked
def test_a_bias_that_cannot_be_bridged_is_refused(own: Path) -> None:
    state = load_file(own / "model.safetensors") | {"unembed.b_U": torch.ones(SIZES.d_vocab)}
    with pytest.raises(ValueError, match=r"'unembed.b_U' is not zero"):
        _bridged(own, network.hooked_config(SIZES, "own"), state)


def test_the_shapes_agree_with_those_of_the_network() -> None:
    wanted = network.hooked_state(network.initial(SIZES, 0))
    fields = _own_as_bridge._settled(Path("x"), network.hooked_config(SIZES, "own"))
    shapes = {name: value.shape for name, value in wanted.items()}
    assert _own_as_bridge._shapes(fields, _own_as_bridge.GPT2) == shapes


def _bridged(folder: Path, fields: dict[str, Any], state: dict[str, torch.Tensor]) -> Any:
    named = {"model_name": "x"} | fields
    where = {"device": torch.device("cpu"), "dtype": torch.float32}
    return _own_as_bridge.build(folder, named, state, None, flags={}, **where).eval()
