"""The bundled models: their cards against their weights."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from model_folders import CLASS

import interp
from interp.files import data_dir
from interp.models import available
from training import evaluate
from training.language import Language


@pytest.fixture(scope="module")
def model() -> Any:
    return interp.load("tiny-ioi")


@pytest.fixture(scope="module")
def card() -> dict[str, Any]:
    return json.loads((data_dir() / "tiny-ioi" / "card.json").read_text())


def test_the_list(model: Any) -> None:
    cards = {card.name: card for card in available()}
    assert cards["tiny-ioi"].where == "bundled"
    assert cards["tiny-ioi"].description
    state = {name: value for name, value in model.state_dict().items() if "W_" in name}
    if CLASS == "HookedTransformer":
        assert cards["tiny-ioi"].parameters == sum(parameter.numel() for parameter in model.parameters())
        assert len(state) == 3 + 6 * model.cfg.n_layers


def test_the_files_are_small() -> None:
    assert sum(path.stat().st_size for path in (data_dir() / "tiny-ioi").iterdir()) <= 2_000_000


def test_the_figures_of_the_card(model: Any, card: dict[str, Any]) -> None:
    found = evaluate.figures(model, Language(card["training"]["seed"]), n=card["figures"]["n"])
    assert found == pytest.approx(card["figures"], abs=2e-3)


def test_the_bars(card: dict[str, Any]) -> None:
    for name in ("ioi_answer_above_wrong", "ioi_answer_first", "copying_argmax"):
        assert card["figures"][name] >= 0.99


@pytest.mark.parametrize("seed", [0, 7])
def test_the_task_agrees(model: Any, seed: int) -> None:
    task = interp.tasks.ioi(model, n=200, seed=seed)
    with torch.inference_mode():
        logits = model(task.clean)[torch.arange(len(task)), task.positions]
    answer, wrong = (logits.gather(1, ids[:, None])[:, 0] for ids in (task.answer, task.wrong))
    assert (answer > wrong).double().mean() >= 0.99
    assert (logits.argmax(-1) == task.answer).double().mean() >= 0.99


def test_induction(model: Any) -> None:
    task = interp.tasks.induction(model, n=200, seed=0)
    with torch.inference_mode():
        logits = model(task.clean)[torch.arange(len(task)), task.positions]
    assert (logits.argmax(-1) == task.answer).double().mean() >= 0.99


def test_the_text(model: Any) -> None:
    tokens = model.to_tokens("When Mary and John went to the store, John gave a book to")
    assert tokens[0, 0] == model.tokenizer.bos_token_id
    assert tokens.shape[1] == 15
    assert model.to_string(tokens[0]) == "<bos> When Mary and John went to the store, John gave a book to"
    assert model.to_string(model(tokens)[0, -1].argmax()) == "Mary"
    assert model.tokenizer.unk_token_id in model.to_tokens("Zebediah")[0]
