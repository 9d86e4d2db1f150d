"""Folders that are not one plain file of weights: the model itself, or a sentence."""

from __future__ import annotations

import contextlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from model_folders import TOKENS, WORDS, save_llama, transformers_logits
from safetensors.torch import load_file, save_file

import interp
from interp.models._folder import write_tokenizer


def change(folder: Path, **fields: Any) -> Path:
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "remove"}))
    return folder


def is_the_model(folder: Path) -> None:
    wanted = transformers_logits(folder, TOKENS)
    torch.testing.assert_close(interp.load(folder)(TOKENS), wanted, atol=1e-4, rtol=1e-3)
    assert wanted.std() > 0.1


def test_weights_in_several_files(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    whole = save_llama(tmp_path / "whole")
    AutoModelForCausalLM.from_pretrained(whole).save_pretrained(tmp_path / "parts", max_shard_size="8KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    is_the_model(tmp_path / "parts")
    torch.testing.assert_close(interp.load(tmp_path / "parts")(TOKENS), interp.load(whole)(TOKENS))


def test_one_of_several_files_is_missing(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(save_llama(tmp_path / "whole"))
    model.save_pretrained(tmp_path / "parts", max_shard_size="8KB")
    sorted((tmp_path / "parts").glob("*.safetensors"))[1].unlink()
    with pytest.raises(ValueError, match=r"transformers cannot read the model in .*parts"):
        interp.load(tmp_path / "parts")


def test_a_config_without_architectures(tmp_path: Path) -> None:
    is_the_model(change(save_llama(tmp_path / "llama"), architectures="remove"))


def test_a_vocabulary_larger_than_the_tokenizers(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "padded")  # 30 rows
    write_tokenizer(WORDS, folder, 12)
    is_the_model(folder)
    model = interp.load(folder)
    assert (model.cfg.d_vocab, len(model.tokenizer)) == (30, len(WORDS))
    task = interp.Task.from_tokens(clean=TOKENS[:1], corrupt=TOKENS[1:], answer=[5], wrong=[29])
    exact = interp.patch(model, task, "resid_pre", by="layer", progress=False)
    assert float(abs(exact["value"]).max()) > 0


@pytest.mark.parametrize("with_config", [True, False])
def test_an_adapter(with_config: bool, tmp_path: Path) -> None:
    """Without peft, transformers reads the base model and says nothing of the adapter."""
    folder = save_llama(tmp_path / "tuned")
    if not with_config:
        (folder / "config.json").unlink()
    fields = {"peft_type": "LORA", "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M", "r": 4}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"an adapter .* of HuggingFaceTB/SmolLM2-135M. Merge it"):
        interp.load(folder)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "fp8"])
def test_quantised_weights(method: str, tmp_path: Path) -> None:
    settings = {"quant_method": method, "bits": 4, "load_in_4bit": True}
    folder = change(save_llama(tmp_path / "small"), quantization_config=settings)
    with pytest.raises(ValueError, match=rf"holds quantised weights \({method}\).*dequantize"):
        interp.load(folder)


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "old")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"in pytorch_model.bin, a pickle, which can run any code"):
        interp.load(folder)


def test_code_of_the_folders_own_is_not_run(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "code")
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    change(folder, model_type="own", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"})
    with pytest.raises(ValueError, match=r"transformers cannot read the model in"):
        interp.load(folder)
    assert not (tmp_path / "ran").exists()


def test_a_tokenizers_own_code_is_not_run(tmp_path: Path) -> None:
    """The model can be read without it; a tokenizer of its own is not one of transformers'."""
    folder = save_llama(tmp_path / "code")
    write_tokenizer(WORDS, folder, 12)
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    path = folder / "tokenizer_config.json"
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.OwnFast"]}}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    with contextlib.suppress(ValueError):
        interp.load(folder)
    assert not (tmp_path / "ran").exists()


class Runs:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_what_a_pickle_would_run_is_not_run(name: str, tmp_path: Path) -> None:
    """Under its own name, and under that of a file of safetensors."""
    folder = save_llama(tmp_path / "old")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Runs(tmp_path / "ran")))
    with pytest.raises(
        ValueError, match=r"a pickle, which can run any code|cannot read|truncated or damaged"
    ):
        interp.load(folder)
    assert not (tmp_path / "ran").exists()
    pickle.loads((folder / name).read_bytes())  # it would have
    assert (tmp_path / "ran").exists()


def test_more_weights_than_the_model_has(tmp_path: Path) -> None:
    """A head or an extra layer that the config does not speak of would be left out without a word."""
    for name in ("model.layers.2.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.bias"):
        folder = save_llama(tmp_path / name)
        state = load_file(folder / "model.safetensors")
        state[name] = torch.ones(32)
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=rf"config.json has no place for '{name}'"):
            interp.load(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "is not JSON"),
        ('{"model_type": "gpt2", "n_layer": NaN}', "n_layer is nan; it must be a whole number"),
        ('{"model_type": "gpt2", "n_layer": 1000000000}', "n_layer is 1000000000; .*at most 10,000"),
        ('{"model_type": [1]}', r"model_type is \[1\]"),
        ('{"model_type": "llama", "hidden_size": 1000000000000}', "hidden_size is"),
    ],
)
def test_a_hostile_config_is_refused_before_a_model_is_made(text: str, said: str, tmp_path: Path) -> None:
    """One of a billion layers would take all memory."""
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        interp.load(tmp_path)
