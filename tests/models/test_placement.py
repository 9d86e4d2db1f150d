"""Models on several devices and in fewer bits: as transformers reads them, or refused.

There is one device here, so that a map of devices names it for every part, and what is quantised is made by
hand or by torch.
"""

from __future__ import annotations

import copy
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import two_sides
from cases import QUIET, task

import interp
from interp import steering
from interp.models import _release, is_bridge, unsupported, weights
from interp.models._placement import Placement, quantised
from interp.models._recipe import recipe
from interp.places import parse
from interp.steering import methods

SHAPE = {
    "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40, "max_position_embeddings": 16, "bos_token_id": 0,
    "eos_token_id": 0, "pad_token_id": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def llama() -> Any:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SHAPE, initializer_range=0.3, attn_implementation="eager")
    ).eval()


@pytest.fixture(scope="module")
def folder(llama: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    llama.save_pretrained(path)
    return path


class Int8(torch.nn.Module):
    """A Linear in eight bits, as any library of quantisation has it."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.abs().amax(1, keepdim=True) / 127
        self.register_buffer("weight", (linear.weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.weight * self.scale).T


def by_hand(llama: Any) -> Any:
    out = copy.deepcopy(llama)
    for layer in out.model.layers:
        layer.mlp.down_proj, layer.self_attn.o_proj = Int8(layer.mlp.down_proj), Int8(layer.self_attn.o_proj)
    return out


def by_torch(llama: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        linears = {f"model.layers.{n}.mlp.down_proj" for n in range(2)}
        return torch.ao.quantization.quantize_dynamic(copy.deepcopy(llama), linears, torch.qint8)


@pytest.mark.parametrize("quantise", [by_hand, by_torch])
def test_quantised_weights_are_run_by_their_modules_alone(llama: Any, quantise: Any) -> None:
    inner = quantise(llama)
    model = _release.bridge("quantised", inner, None, {}).eval()
    prompts = task(n=2)
    expected = inner(prompts.clean).logits
    torch.testing.assert_close(model(prompts.clean), expected, atol=1e-4, rtol=1e-4)
    assert (
        "down_proj" in str(quantised(model))
        or "o_proj" in str(quantised(model))
        or "mlp" in str(quantised(model))
    )
    assert "quantised" in str(unsupported(model))
    with pytest.raises(ValueError, match=r"quantised .* run by the model's own modules"):
        weights(model)
    with pytest.raises(ValueError, match=r"fast engine cannot run this model: its weights are quantised"):
        interp.patch(model, prompts, "z", engine="fast", **QUIET)
    with pytest.raises(ValueError, match=r"circuits cannot be run on .*: its weights are quantised"):
        interp.circuits.score_edges(model, prompts, **QUIET)
    with pytest.warns(UserWarning, match="reference engine"):
        exact = interp.patch(model, prompts, "z", **QUIET)
    assert exact.attrs["engine"] == "reference"
    assert float(abs(exact["value"]).max()) > 1e-3
    if quantise is by_torch:  # its kernels have no way back
        with pytest.raises(
            ValueError, match=r"no gradient passes this model: .* quantised for forwards alone"
        ):
            interp.attribute(model, prompts, "z", **QUIET)
        return
    estimate = interp.attribute(model, prompts, "z", **QUIET)
    assert estimate.attrs["engine"] == "reference"
    assert float(abs(estimate["value"]).max()) > 1e-3


@pytest.mark.parametrize("quantise", [by_hand, by_torch])
def test_no_edit_is_written_into_quantised_weights(llama: Any, quantise: Any) -> None:
    model = _release.bridge("quantised", quantise(llama), None, {}).eval()
    ids = task(n=4).clean
    d = steering.Direction.from_tensor(torch.ones(24), "L1.mlp_out")
    planned = methods.WeightEdits({parse("L1.mlp_out"): torch.ones(40, 24)})
    for edit in (
        lambda: steering.bake(model, steering.ablate(d)),
        lambda: steering.bake(model, steering.edits.scale_units("L1.post", [0], 0.5)),
        lambda: methods.steer2edit(model, d, ids[:2], ids[2:]),
        lambda: methods.redirect(model, 1, ids[:2], torch.ones(24), ids[2:]),
        lambda: methods.link(model, 1, ids[:2], torch.ones(24), ids[2:]),
        lambda: planned.apply(model),
    ):
        with two_sides.no_pass(model), pytest.raises(ValueError, match=r"are quantised .* Load the model"):
            edit()
    head = steering.ablate(steering.Direction.from_tensor(torch.ones(24), "L1.attn_out"))
    if quantise is by_torch:  # there attention is not: what is edited is what counts
        with steering.bake(model, head):
            assert (model.blocks[1].attn.W_O.sum(-1).abs() < 1e-4).all()


def test_floats_are_not_quantised(llama: Any, folder: Path) -> None:
    assert quantised(llama) is None
    assert quantised(llama.bfloat16()) is None
    llama.float()
    assert quantised(interp.load("tiny-ioi")) is None


@pytest.mark.parametrize(
    "device_map",
    [{"": "cpu"}, {"model.embed_tokens": "cpu", "model.layers": "cpu", "model.norm": "cpu", "lm_head": "cpu",
                   "model.rotary_emb": "cpu"}],
)  # fmt: skip
def test_a_map_of_devices_goes_to_transformers(folder: Path, device_map: dict[str, str]) -> None:
    plain, placed = interp.load(folder), interp.load(folder, device_map=device_map)
    assert is_bridge(placed)
    prompts = task(n=2)
    torch.testing.assert_close(placed(prompts.clean), plain(prompts.clean), atol=1e-4, rtol=1e-4)
    assert dict(recipe(placed).flags)["device_map"] == device_map  # workers load it so too
    result = interp.patch(placed, prompts, "z", engine="reference", **QUIET)
    np.testing.assert_allclose(
        result["value"], interp.patch(plain, prompts, "z", **QUIET)["value"], atol=1e-4
    )


def test_what_cannot_be_placed_is_refused(folder: Path, tmp_path: Path) -> None:
    load = partial(interp.load, folder)
    with pytest.raises(ValueError, match=r"n_devices is 99, and this machine has \d+ CUDA devices"):
        load(n_devices=99)
    with pytest.raises(ValueError, match="n_devices is 0"):
        load(n_devices=0)
    with pytest.raises(ValueError, match="Give one of them"):
        load(n_devices=1, device_map="auto")
    with pytest.raises(ValueError, match="device= is one device"):
        load(device="meta", device_map="auto")
    for name in ("tiny-ioi", "reverse"):
        with pytest.raises(ValueError, match="device_map: these are for models that transformers reads"):
            interp.load(name, device_map="auto")
    config = transformers.BitsAndBytesConfig(load_in_4bit=True)
    with pytest.raises(ValueError, match="transformers cannot read the model"):
        load(quantization_config=config)  # its package is not installed


def test_placement_says_what_transformers_takes() -> None:
    assert not Placement()
    assert Placement(device_map="auto").options == {"device_map": "auto"}
    assert Placement(quantization_config={"x": 1}).given == {"quantization_config": {"x": 1}}
