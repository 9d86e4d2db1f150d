"""Trained models made by others, from ../shared/models: both engines, and behaviour that is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cases import QUIET

import interp
from interp.tasks import Task

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "models"


def load(name: str):
    if not (SHARED / name).is_dir():
        pytest.skip(f"{SHARED / name} is not here; the small trained models are not part of the project")
    return interp.load(str(SHARED / name))


def he_she(model) -> Task:
    """The next-word pronoun after a boy or a girl was named."""
    names = [("Tom", "Sue"), ("Ben", "Amy"), ("Tim", "Lily")]
    text = "Once upon a time there was a {} named {}."
    boys = [text.format("boy", a) for a, _ in names]
    girls = [text.format("girl", a) for a, _ in names]
    return Task.from_prompts(
        model, clean=boys, corrupt=girls, answer=[" He"] * 3, wrong=[" She"] * 3, name="he-she"
    )


def test_he_she_of_stories260k():
    """Both engines agree; the effect starts where boy differs from girl, and nowhere before."""
    model = load("stories260K")
    task = he_she(model)
    fast = interp.patch(model, task, "resid_pre", **QUIET)
    slow = interp.patch(model, task, "resid_pre", engine="reference", **QUIET)
    assert fast.attrs["engine"] == "fast"
    np.testing.assert_allclose(fast["value"], slow["value"], atol=1e-4)
    assert (fast["clean"] > fast["corrupt"] + 1).all()
    gap = (fast["clean"] - fast["corrupt"]).mean()
    start = fast["value"].mean("prompt").sel(layer=0)
    first = int(task.first_difference.min())
    assert float(start.isel(pos=slice(first, None)).max()) > 0.9 * float(gap)
    assert (start.isel(pos=slice(0, first)) == 0).all()


def test_heads_of_stories260k_in_both_directions():
    model = load("stories260K")
    for site in ("z", "k", "pattern"):
        for direction in ("denoise", "noise"):
            fast, slow = (
                interp.patch(model, he_she(model), site, direction=direction, engine=engine, **QUIET)
                for engine in ("fast", "reference")
            )
            np.testing.assert_allclose(fast["value"], slow["value"], atol=1e-4)
            assert abs(slow["value"]).max() > 0.1
    assert fast.sizes["head"] == 8
    assert interp.patch(model, he_she(model), "k", **QUIET).sizes["head"] == 4


def test_sorting_model():
    """The letter sorter: the first sorted letter is the smallest; patching restores it."""
    model = load("llmviz_gpt_nano_sort")
    clean, corrupt = torch.tensor([[2, 0, 1, 1, 2, 2]]), torch.tensor([[2, 2, 1, 1, 2, 2]])
    task = Task.from_tokens(clean=clean, corrupt=corrupt, answer=[0], wrong=[1])
    fast = interp.patch(model, task, "z", by=("layer", "pos", "head"), **QUIET)
    slow = interp.patch(model, task, "z", by=("layer", "pos", "head"), engine="reference", **QUIET)
    np.testing.assert_allclose(fast["value"], slow["value"], atol=1e-4)
    assert float(fast["clean"][0]) > 0 > float(fast["corrupt"][0])
    assert float(fast["value"].max()) > 1
