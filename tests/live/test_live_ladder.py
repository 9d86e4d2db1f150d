"""The ladder: the texts of `steering.side_by_side`, rung by rung, and given up where nobody wants them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import interp
from interp import steering
from interp.live._answers import Superseded

STEPS = (-2.0, 3.0)


@pytest.fixture(scope="module")
def ask(model: Any, task: interp.Task, direction: Any) -> Any:
    page = interp.explore([direction], model, task, coefficients=STEPS, max_new_tokens=3, progress=False)
    return page.answers.ask


def test_every_rung_has_the_texts_of_its_controls(
    ask: Any, model: Any, task: interp.Task, direction: Any
) -> None:
    assert ask("meta")["directions"][0]["prompts"] == 4
    rungs = ask("generate", {"direction": "d0", "prompt": 1})["rungs"]
    assert [rung["coefficient"] for rung in rungs] == list(STEPS)
    for rung in rungs:
        texts = steering.side_by_side(model, task[[1]], direction, rung["coefficient"], max_new_tokens=3)
        assert set(rung["runs"]) == {"base", "steered", "random", "shuffled"}
        for run, told in rung["runs"].items():
            one = texts.sel(run=run).isel(prompt=0)
            assert told["text"] == str(one["text"].item())
            assert told["kl"] == pytest.approx(float(one["kl"]), abs=1e-4)
    written = steering.generate(model, task[[1]], steering.add(direction, 3.0), max_new_tokens=3)
    new = written[0, int(task.lengths[1]) : int(task.lengths[1]) + 3]
    assert rungs[1]["runs"]["steered"]["text"] == steering.texts(model, new[None])[0].strip()
    assert rungs[1]["runs"]["steered"]["kl"] > 0.01


def test_a_text_and_a_coefficient_of_ones_own(ask: Any, model: Any, direction: Any) -> None:
    text = "Then Mary and John went to the store . Mary gave it to"
    answer = ask("generate", {"direction": "d0", "text": text, "coefficient": 1})["rungs"]
    texts = steering.side_by_side(model, [text], direction, 1.0, max_new_tokens=3)
    assert [rung["coefficient"] for rung in answer] == [1.0]
    assert answer[0]["runs"]["random"]["text"] == str(texts["text"].sel(run="random").item())


def test_a_newer_question_stops_the_climb(model: Any, task: interp.Task, direction: Any) -> None:
    answers = interp.explore([direction], model, task, coefficients=STEPS, max_new_tokens=2).answers
    calls = []

    def checkpoint() -> None:
        calls.append(len(answers.ladders[0]._known))
        if len(calls) == 3:
            raise Superseded

    with pytest.raises(Superseded):
        answers.ask("generate", {"direction": "d0", "prompt": 0}, checkpoint)
    assert calls == [0, 0, 1], "before all, before the first rung, before the second"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"direction": "d1", "prompt": 0}, "direction is 'd1'; this page has d0"),
        ({"direction": "d0", "prompt": 4}, "prompt is 4; prompts 0 to 3 are steered"),
        ({"direction": "d0"}, "prompt is None"),
        ({"direction": "d0", "prompt": 0, "coefficient": "much"}, "coefficient is 'much'"),
        ({"direction": "d0", "prompt": 0, "coefficient": float("nan")}, "coefficient is nan"),
        ({"direction": "d0", "text": " "}, "give a prompt of words"),
        ({"direction": "d0", "text": "x" * 3_000}, "at most 2,000 letters"),
    ],
)
def test_what_cannot_be_asked_gets_a_sentence(ask: Any, args: dict, words: str) -> None:
    assert words in ask("generate", args)["error"]


def test_what_does_not_fit_is_refused_at_the_door(model: Any, task: interp.Task, direction: Any) -> None:
    twice = steering.mean_difference(model, task.clean[:3], task.clean[3:], layer=[0, 1])
    elsewhere = steering.Direction.from_tensor(torch.ones(7), "L1.resid_pre")
    for item, options, words in (
        (twice, {}, "has one place, this has L0.resid_pre, L1.resid_pre"),
        (elsewhere, {}, "7"),
        (direction, {"coefficients": [0.0]}, "not 0"),
        (direction, {"coefficients": []}, "coefficients is a list"),
        (direction, {"max_new_tokens": 0}, "max_new_tokens is 0"),
    ):
        with pytest.raises(ValueError, match=words):
            interp.explore([item], model, task, **options)
    with pytest.raises(ValueError, match="texts need model= and task="):
        interp.explore([direction])
