"""The dictionaries that come with the package: what they are, and that they beat what costs nothing."""

from __future__ import annotations

import json

import pytest
import torch

from interp import sae
from interp.files import data_dir

FOLDER = data_dir() / "dictionaries"


def test_the_dictionary_of_smollm2_is_small_and_in_shape() -> None:
    d = sae.load("smollm2-135m")
    assert (str(d.place), d.model, d.activation) == ("L14.resid_post", "smollm2-135m", "jumprelu")
    assert (d.d, d.n_features, d.W_dec.dtype) == (576, 1280, torch.float16)
    assert float((d.W_dec.float().norm(dim=1) - 1).abs().max()) < 1e-2  # float16
    assert d.threshold is not None
    assert float(d.threshold.min()) > 0
    assert (FOLDER / "smollm2-135m" / "sae_weights.safetensors").stat().st_size < 3.2e6


@pytest.mark.parametrize("control", ["PCA", "random tokens", "random vectors"])
def test_its_card_has_the_controls_and_it_beats_them(control: str) -> None:
    card = json.loads((FOLDER / "smollm2-135m" / "card.json").read_text())
    ours, theirs = card["figures"], card[control]
    assert ours["l0"] <= theirs["l0"] + 1
    assert ours["fvu"] < theirs["fvu"]
    assert ours["ce_rise"] < theirs["ce_rise"]
