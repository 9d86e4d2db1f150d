"""Folders that transformers writes: the same logits as transformers, and errors instead of random weights."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from model_folders import CLASS, TOKENS, save_llama, transformers_logits
from safetensors.torch import load_file, save_file

import interp


def test_gpt2(gpt2_folder: Path) -> None:
    model = interp.load(gpt2_folder)
    assert type(model).__name__ == CLASS
    assert not model.training
    theirs = transformers_logits(gpt2_folder, TOKENS)
    torch.testing.assert_close(model(TOKENS), theirs, atol=1e-5, rtol=0)
    assert theirs.std() > 0.1
    assert model.to_tokens("one two").tolist() == [[1, 4, 5]]


def test_llama_with_grouped_queries(llama_folder: Path) -> None:
    model = interp.load(str(llama_folder))
    assert type(model).__name__ == CLASS
    assert model.cfg.n_key_value_heads == 2
    assert model.tokenizer is None
    theirs = transformers_logits(llama_folder, TOKENS)
    torch.testing.assert_close(model(TOKENS), theirs, atol=1e-5, rtol=0)
    assert theirs.std() > 0.1


def test_flags_process_the_weights(gpt2_folder: Path) -> None:
    model = interp.load(gpt2_folder, fold_ln=True, center_unembed=True)
    theirs = transformers_logits(gpt2_folder, TOKENS)
    torch.testing.assert_close(model(TOKENS).log_softmax(-1), theirs.log_softmax(-1), atol=1e-5, rtol=0)
    assert (model(TOKENS) - theirs).abs().max() > 1e-3


def test_what_the_conversion_ignores_is_bridged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save_llama(tmp_path, attention_bias=True, mlp_bias=True)
    with caplog.at_level(logging.WARNING, "interp.models"):
        model = interp.load(folder)
    assert type(model).__name__ == "TransformerBridge"
    torch.testing.assert_close(model(TOKENS), transformers_logits(folder, TOKENS), atol=1e-5, rtol=0)
    assert ("it is a TransformerBridge" in caplog.text) == (CLASS == "HookedTransformer")


def test_dtype(llama_folder: Path) -> None:
    model = interp.load(llama_folder, dtype=torch.float64)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    theirs = transformers_logits(llama_folder, TOKENS)
    torch.testing.assert_close(model(TOKENS).float(), theirs, atol=1e-5, rtol=0)


@pytest.mark.skipif(CLASS != "HookedTransformer", reason="a bridge runs transformers' own weights")
@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_nobodys_views(tmp_path: Path, tied: bool) -> None:
    """Converted without a copy of the whole model; a change of one weight changes no other."""
    folder = save_llama(tmp_path, tie_word_embeddings=tied)
    model = interp.load(folder, dtype="bfloat16")
    storages = [parameter.untyped_storage() for parameter in model.parameters()]
    assert len({storage.data_ptr() for storage in storages}) == len(storages)
    for parameter, storage in zip(model.parameters(), storages):
        assert parameter.is_contiguous()
        assert storage.nbytes() == parameter.nbytes


def test_a_missing_weight(tmp_path: Path) -> None:
    folder = save_llama(tmp_path)
    state = load_file(folder / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"config.json asks for 'model.layers.1.mlp.up_proj.weight', which the file lacks"
    ):
        interp.load(folder)


def test_a_wrong_size(tmp_path: Path) -> None:
    folder = save_llama(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 41}))
    with pytest.raises(ValueError, match=r"transformers cannot read the model in|which the file misfits"):
        interp.load(folder)


def test_a_truncated_file(tmp_path: Path) -> None:
    folder = save_llama(tmp_path)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"model.safetensors \(\d+ bytes\) is truncated or damaged"):
        interp.load(folder)


def test_no_weights(tmp_path: Path) -> None:
    folder = save_llama(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"transformers cannot read the model in"):
        interp.load(folder)


def test_a_text_ends_as_the_folder_says(llama_folder: Path, tmp_path: Path) -> None:
    """Tokens that end a turn stand in generation_config.json alone, as Llama 3's and Gemma's do."""
    folder = shutil.copytree(llama_folder, tmp_path / "chat")
    went_on = interp.steering.generate(interp.load(folder), TOKENS[:1], max_new_tokens=6, stop=())
    end = int(went_on[0, TOKENS.shape[1] + 1])  # the second new token
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [29, end]}))
    model = interp.load(folder)
    ended = interp.steering.generate(model, TOKENS[:1], max_new_tokens=6)
    new = went_on[0, TOKENS.shape[1] :].tolist()
    assert ended[0, TOKENS.shape[1] :].tolist() == new[: new.index(end) + 1]
    assert ended.shape[1] < went_on.shape[1]
    assert torch.equal(interp.steering.generate(model, TOKENS[:1], max_new_tokens=6, stop=()), went_on)
