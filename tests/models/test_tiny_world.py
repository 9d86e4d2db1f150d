"""tiny-world as it is shipped: its card against its weights, its bars, and the size of the data."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import interp
from interp.files import data_dir
from interp.tasks.world import vocabulary
from training import accuracy, network, tiny_world, world_evaluate

FOLDER = data_dir() / "tiny-world"


@pytest.fixture(scope="module")
def card() -> dict[str, Any]:
    return json.loads((FOLDER / "card.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "model.safetensors")


def test_the_loaded_model_is_the_trained_network(state: dict[str, torch.Tensor]) -> None:
    model = interp.load("tiny-world")
    tokens = model.to_tokens("When Mary and John went to the store, John gave a book to")
    ours = network.logits(state, tokens)
    torch.testing.assert_close(model(tokens), ours, atol=2e-4, rtol=0)
    assert ours.std() > 1
    assert model.to_string(ours[0, -1].argmax()) == "Mary"


def test_the_figures_of_the_card(card: dict[str, Any], state: dict[str, torch.Tensor]) -> None:
    found = world_evaluate.figures(
        lambda tokens: network.logits(state, tokens), n=card["training"]["prompts"]
    )
    assert found.keys() == card["figures"].keys()
    for name, figures in card["figures"].items():
        assert found[name] == pytest.approx(figures, abs=5e-3), name


@pytest.mark.parametrize("name", sorted(world_evaluate.BARS))
def test_the_bars(card: dict[str, Any], name: str) -> None:
    share, least = world_evaluate.BARS[name]
    assert card["bars"][name] == {"share": share, "at_least": least}
    assert card["figures"][name][share] >= least


def test_the_accuracy_on_the_task_families(card: dict[str, Any]) -> None:
    assert set(card["tasks"]) == set(tiny_world.FAMILIES)
    some = ("ioi", "facts", "requests")
    found = accuracy.measured(FOLDER, some)
    assert found == pytest.approx({name: card["tasks"][name] for name in some}, abs=5e-3)


def test_sizes(card: dict[str, Any], state: dict[str, torch.Tensor]) -> None:
    assert card["parameters"] == sum(value.numel() for value in state.values())
    assert card["sizes"]["d_vocab"] == len(vocabulary()) == state["embed.W_E"].shape[0]
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 5_000_000
    assert sum(path.stat().st_size for path in data_dir().rglob("*") if path.is_file()) < 10_000_000
