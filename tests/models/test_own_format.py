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
from interp import models
from interp.models import _own_as_bridge, _own_as_native
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
        ({"positional_embedding_type": "rotary", "rotary_dim": 2}, "rotary_dim is 2"),
    ],
)
def test_what_cannot_be_bridged_is_refused(own: Path, fields: dict[str, Any], says: str) -> None:
    config, state = network.hooked_config(SIZES, "own") | fields, load_file(own / "model.safetensors")
    with pytest.raises(ValueError, match=f"{says}.*install transformer-lens 3.9"):
        _bridged(own, config, state)


NATIVE = {
    "attention only": {"attn_only": True, "d_mlp": None, "act_fn": None},
    "no norm": {"normalization_type": None, "act_fn": "relu"},
    "folded norms": {"normalization_type": "LNPre", "attn_scale": 2.5},
    "another vocabulary": {"d_vocab_out": 5},
    "both directions": {"attention_dir": "bidirectional", "act_fn": "gelu"},
    "unscaled, capped": {
        **{"use_attn_scale": False, "attn_scores_soft_cap": 2.0, "output_logits_soft_cap": 3.0},
    },
    "a bias of the logits": {},
}


@needs_hooked
@pytest.mark.parametrize("name", NATIVE)
def test_what_transformers_has_no_class_for_equals_the_hooked_one(name: str, tmp_path: Path) -> None:
    """In float64; also with folded weights, and saved again."""
    fields = network.hooked_config(SIZES, "own") | NATIVE[name] | {"dtype": "float64"}
    fields |= {"normalization_type": "LN"} if name == "a bias of the logits" else {}
    state = {key: value.double() for key, value in native_state(fields).items()}
    folder = write(tmp_path / "first", fields, state)
    hooked, bridged = interp.load(folder), _bridged(folder, fields, state, torch.float64)
    assert bridged.cfg.architecture == "TransformerLensNative"
    wanted = hooked(TOKENS)
    torch.testing.assert_close(bridged(TOKENS), wanted, atol=1e-12, rtol=0)
    assert wanted.std() > 0.1
    again = interp.load(models.save(bridged, tmp_path / "second"))
    torch.testing.assert_close(again(TOKENS), wanted, atol=1e-12, rtol=0)
    if fields["normalization_type"] == "LN":
        flags = {"fold_ln": True, "center_unembed": "output_logits_soft_cap" not in fields}
        folded = [interp.load(folder, **flags), _bridged(folder, fields, state, torch.float64, **flags)]
        torch.testing.assert_close(folded[1](TOKENS), folded[0](TOKENS), atol=1e-6, rtol=0)  # float32 there


def test_centred_logits_under_a_cap_are_refused(own: Path) -> None:
    change(own, output_logits_soft_cap=3.0)
    with pytest.raises(ValueError, match=r"caps its logits, so center_unembed would make it another"):
        interp.load(own, center_unembed=True)


def native_state(fields: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Random numbers everywhere, the bias of the unembedding too."""
    settled = _own_as_bridge._settled(Path("x"), fields)
    state = random_state(_own_as_native.shapes(settled))
    return state | {"unembed.b_U": torch.linspace(-1, 1, len(state["unembed.b_U"]))}


def test_an_own_model_without_norms_or_mlps(tmp_path: Path) -> None:
    """On either release: every verb's anatomy, an exact sweep by the weights, and the model saved again."""
    fields = network.hooked_config(SIZES, "own") | {"normalization_type": None} | NATIVE["attention only"]
    folder = write(tmp_path / "first", fields, native_state(fields))
    model = interp.load(folder)
    assert type(model).__name__ == CLASS
    facts = models.anatomy(model)
    assert (facts.attn_only, facts.d_mlp, facts.causal) == (True, 0, True)
    task = interp.Task.from_tokens(clean=TOKENS[:1], corrupt=TOKENS[1:], answer=[5], wrong=[6])
    for site in ("z", "pattern", "resid_pre"):
        values = [
            interp.patch(model, task, site, engine=engine, progress=False)["value"]
            for engine in ("fast", "reference")
        ]
        assert float(abs(values[0] - values[1]).max()) < 1e-5
        assert float(abs(values[0]).max()) > 1e-2
    again = interp.load(models.save(model, tmp_path / "second"))
    assert torch.equal(again(TOKENS), model(TOKENS))


def test_the_shapes_agree_with_those_of_the_network() -> None:
    wanted = network.hooked_state(network.initial(SIZES, 0))
    fields = _own_as_bridge._settled(Path("x"), network.hooked_config(SIZES, "own"))
    shapes = {name: value.shape for name, value in wanted.items()}
    assert _own_as_bridge._shapes(fields, _own_as_bridge.GPT2) == shapes


def _bridged(
    folder: Path,
    fields: dict[str, Any],
    state: dict[str, torch.Tensor],
    dtype: torch.dtype = torch.float32,
    **flags: bool,
) -> Any:
    named = {"model_name": "x"} | fields
    where = {"device": torch.device("cpu"), "dtype": dtype}
    return _own_as_bridge.build(folder, named, state, None, flags=flags, **where).eval()
