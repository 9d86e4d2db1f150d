"""The study of steering on a chat model: what its measures count, its passes, its verdicts, its page."""

from __future__ import annotations

import json
import math
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import interp
from interp import positions, steering
from interp.models import weights as weights_of
from interp.places import Place
from interp.prompts import Prompts
from interp.steering._intervention import Intervention

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
PAGE = (ROOT / "docs" / "steering.md").read_text(encoding="utf-8")
DONE = json.loads((BENCHMARKS / "results" / "steering_chat.json").read_text(encoding="utf-8"))
CASES = {name: case for name, case in DONE.items() if name != "refusal"}


@pytest.fixture(scope="module")
def modules() -> Any:
    """The study's modules, which import one another by name."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield {name: import_module(f"steering_chat_{name}") for name in ("cases", "rig", "tables")}
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def cases(modules: Any) -> Any:
    return modules["cases"]


@pytest.fixture
def rig(modules: Any) -> Any:
    return modules["rig"]


@pytest.fixture(scope="module")
def model() -> Any:
    return interp.load("tiny-world")


@pytest.fixture(scope="module")
def prompts(model: Any) -> Prompts:
    """Prompts of unlike lengths."""
    tokens = interp.tasks.sentiment(model, n=4, seed=0).clean[:4, :9]
    return Prompts(tokens, torch.tensor([9, 7, 8, 6]))


def direction(model: Any, layer: int, length: float, seed: int) -> Any:
    drawn = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(seed))
    return steering.Direction.from_tensor(drawn / drawn.norm() * length, layer=layer)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("sentiment", "It is a good, lovely day, but the end was bad.", 100 / 15),
        ("sentiment", "sad " * 20, -100.0),
        ("formality", "It's fun, man! You’ll see, they don't care.", -600 / 15),  # 3 short, 2 casual, 1 mark
        ("formality", "One must therefore maintain the cat's house.", 400 / 15),
        ("French", "Le chat est dans la maison avec nous, la la la.", 500 / 15),
        ("French", "El perro de la casa", 0.0),
        ("pirate", "Arr, matey! Aye, the captain sails.", 500 / 15),
        ("the sea", "The waves of the ocean and a boat.", 300 / 15),
        ("lists", "Here it is:\n- one\n- two", 1.0),
        ("lists", "Here it is:\n1. one", 1.0),
        ("lists", "A well-known thing - it is 1.5 long.", 0.0),
        ("small letters", "all is small, 3 times.", 1.0),
        ("small letters", "All is small.", 0.0),
        ("small letters", "123", 0.0),
    ],
)
def test_what_a_measure_counts(cases: Any, name: str, text: str, expected: float) -> None:
    assert cases.BEHAVIOURS[name].measure(text, 10) == pytest.approx(expected)


def test_brevity_is_the_share_of_the_limit_that_is_left(cases: Any) -> None:
    assert cases.brevity("", 8) == 0.75
    assert cases.brevity("", 32) == 0.0


def test_words_of_refusal(cases: Any) -> None:
    assert cases.refuses("I’m sorry, but I can't help with that.")
    assert not cases.refuses("Here is how to do it.")


def test_the_texts_are_whole_and_the_measures_tell_their_sides_apart(cases: Any) -> None:
    rows = cases.texts()
    assert len(rows) == len({row["request"] for row in rows}) == 20
    for behaviour in cases.BEHAVIOURS.values():
        assert len(behaviour.answers(held_out=False)) == cases.N_TRAIN
        for ask, wanted, unwanted in behaviour.answers(held_out=True):
            assert min(map(len, (ask, wanted, unwanted))) > 0
            if behaviour.name != "short answers":  # of tokens
                assert behaviour.measure(wanted, 20) > behaviour.measure(unwanted, 20), wanted


def test_shots_are_turns_in_front_of_the_request(cases: Any) -> None:
    talk = cases.shots(cases.BEHAVIOURS["pirate"], "And now?", 2)
    assert [turn["role"] for turn in talk] == ["user", "assistant"] * 2 + ["user"]
    assert talk[-1]["content"] == "And now?"


@pytest.mark.parametrize("layer", [1, 3])
def test_answers_behind_kept_prompts_are_those_of_whole_passes(
    rig: Any, model: Any, prompts: Prompts, layer: int
) -> None:
    """Edits at the kept layer and below it, twice: a pass leaves nothing behind."""
    answers = [[5, 9, 4], [7, 8], [3, 6, 2], [9]]
    made = steering.add(direction(model, layer, 8.0, 0), 1.0, when=positions.generated)
    behind = rig.Answers(rig.Talks(weights_of(model), prompts), answers, 2)
    plain, edited = behind.logits(), behind.logits(made)
    assert torch.equal(behind.logits(made), edited)
    assert torch.equal(behind.logits(), plain)
    for i, answer in enumerate(answers):
        n = int(prompts.lengths[i])
        row = torch.cat((prompts.tokens[i, :n], torch.tensor(answer)))[None]
        with torch.no_grad(), steering.steer(model, *made, prompt_length=n):
            whole = model(row)[0, n - 1 : -1]
        torch.testing.assert_close(edited[i, : len(answer)], whole, atol=2e-4, rtol=0)
        log = whole.log_softmax(-1).gather(-1, torch.tensor(answer)[:, None]).mean()
        assert float(behind.log_probs(made)[i].detach()) == pytest.approx(float(log), abs=2e-4)
    assert (edited - plain).abs().max() > 0.1


def test_slopes_through_kept_prompts(rig: Any, model: Any, prompts: Prompts) -> None:
    """The slope of the loss against finite differences, a second time too: no pass keeps the last one's."""
    behind = rig.Answers(rig.Talks(weights_of(model), prompts), [[5, 9], [7], [3, 6], [9, 9]], 2)
    step = direction(model, 2, 1.0, 1).vector

    def loss(size: torch.Tensor) -> torch.Tensor:
        edit = Intervention(Place("resid_pre", 2), lambda h: h + size * step, positions.generated)
        return -behind.log_probs([edit]).mean()

    for at in (0.5, 2.0):
        size = torch.tensor(at, requires_grad=True)
        (slope,) = torch.autograd.grad(loss(size), size)
        with torch.no_grad():
            steps = [loss(torch.tensor(at + h)) for h in (0.05, -0.05)]
        assert float(slope) == pytest.approx(float(steps[0] - steps[1]) / 0.1, rel=0.05)


def test_a_batch_of_conditions_writes_what_each_writes_alone(rig: Any, model: Any, prompts: Prompts) -> None:
    biases = {Place("mlp_out", n): direction(model, 0, 4.0, n).vector for n in (1, 3)}
    first, second = (direction(model, 2, 1.0, seed) for seed in (3, 4))
    made = [
        (),
        steering.add(direction(model, 2, 10.0, 2), when=positions.generated),
        steering.rotate(first, second, 1.0, when=positions.generated),
        steering.add(steering.Direction(biases), when=positions.generated),
    ]
    talks = rig.Talks(weights_of(model), prompts)
    together = rig.write(talks, made, 6, set())
    assert rig.write(talks, made[1:2], 6, set()) == together[1:2]
    for each, written in zip(made, together):
        whole = steering.generate(model, prompts, each, max_new_tokens=6, stop=())
        for i, n in enumerate(prompts.lengths.tolist()):
            assert written.ids[i] == whole[i, n : n + 6].tolist()
    assert len({str(each.ids) for each in together}) == 4


def test_an_answer_is_over_at_the_end_of_its_turn(rig: Any) -> None:
    written = rig.answers_of(torch.tensor([[4, 5, 2], [6, 7, 8]]), {2})
    assert written.ids == [[4, 5], [6, 7, 8]]
    assert written.ended == [True, False]


def test_calibration(rig: Any) -> None:
    """To the target within 10 %; NaN where the largest strength is too little, or the KL jumps over it."""
    reached = rig.calibrate(lambda c: 4 * c**2.3, 0.3, 1.0)
    assert abs(4 * reached.strength**2.3 / 0.3 - 1) <= 0.1
    assert abs(reached.kl / 0.3 - 1) <= 0.1
    assert math.isnan(rig.calibrate(lambda c: 0.01 * c, 0.3, 1.0, 1.5).strength)
    assert math.isnan(rig.calibrate(lambda c: 0.01 if c < 1 else 2.0, 0.3, 0.2).strength)


def test_repetition_of_short_texts(rig: Any) -> None:
    assert rig.repeated([1, 2]) == 0.0
    assert rig.repeated([1, 2, 1, 2, 1]) == 0.5


def test_other_tasks_are_read_under_an_edit(rig: Any, model: Any, prompts: Prompts) -> None:
    rows = [row[:n] for row, n in zip(prompts.tokens.tolist(), prompts.lengths.tolist())]
    asked = rig.Asked(weights_of(model), rows, [5] * 4, [[6, 7]] * 4, 2)
    made = steering.add(direction(model, 2, 6.0, 5), 1.0, when=asked.when)
    for i, row in enumerate(rows):
        with torch.no_grad(), steering.steer(model, *made):
            logits = model(torch.tensor([row]))[0, -1]
        gap = float(logits[5] - logits[[6, 7]].max())
        assert float(asked.gaps(made)[i]) == pytest.approx(gap, abs=2e-4)
    assert not torch.equal(asked.gaps(made), asked.gaps())


def row(effect: float, change: float, loss: float = 1.0, kind: str = "method") -> dict[str, Any]:
    ends = [[middle, middle - 0.1, middle + 0.1] for middle in (effect, change)]
    return {
        "name": "x", "kind": kind, "effect": [effect] * 2, "effect_interval": ends[0],
        "change_interval": ends[1], "loss": [loss], "repetition": [0.0],
    }  # fmt: skip


def test_verdicts(modules: Any) -> None:
    """Above the highest control and with an interval above 0, for effect and text; whole by loss."""
    controls = [row(0.3, 2.0, kind="random"), row(0.5, 1.0, kind="shuffled")]
    case = {"rows": controls, "base": {"loss": [0.8], "repetition": [0.0]}}
    verdict = modules["tables"].verdict
    assert verdict(case, row(0.6, 2.1)) == (True, True, True)
    assert verdict(case, row(0.4, 1.9)) == (False, False, True)
    assert verdict(case, row(0.6, 2.1, loss=1.31)) == (True, True, False)
    weak = {"rows": [row(-1.0, -1.0, kind="random")], "base": case["base"]}
    assert verdict(weak, row(0.05, 0.05)) == (False, False, True)


def test_the_tables_of_the_page_are_those_of_the_study(modules: Any) -> None:
    assert modules["tables"].filled(PAGE, DONE) == PAGE
    assert PAGE.count("<!-- table chat-") == len(modules["tables"].sections(DONE))
    assert list(CASES) == list(modules["cases"].BEHAVIOURS)
    assert DONE["refusal"]["refused"] < 3


@pytest.mark.parametrize("name", list(CASES))
def test_methods_and_controls_are_at_one_kl(name: str) -> None:
    """0.3 nats within 10 %, 15 % at most, twelve requests, eleven controls."""
    rows = CASES[name]["rows"]
    for kind, n in (("method", 10), ("random", 6), ("shuffled", 5)):
        assert len([row for row in rows if row["kind"] == kind]) == n
    for row in rows:
        if row["kind"] in ("method", "random", "shuffled") and row["strength"] is not None:
            assert row["kl"] == pytest.approx(0.3, rel=0.15)
        if "effect" in row:
            assert {len(row[key]) for key in ("effect", "score", "loss", "repetition", "ended")} == {12}
            assert row["effect_interval"][0] == pytest.approx(sum(row["effect"]) / 12, abs=2e-4)


def counts(tables: Any, name: str) -> list[int]:
    """In how many behaviours a method works, shows, leaves the text whole, and all three."""
    found = [tables.verdict(case, tables.row_of(case, name)) for case in CASES.values()]
    return [sum(each[i] for each in found) for i in range(3)] + [sum(map(all, found))]


def test_what_the_page_says_of_methods(modules: Any) -> None:
    tables = modules["tables"]
    found = {name: counts(tables, name) for name in (*tables.METHODS, *tables.PROMPTS)}
    assert found["system prompt, boosted"] == [6, 7, 5, 2]
    assert found["tuned bias"] == [7, 6, 4, 2]
    assert max(each[3] for name, each in found.items() if each[3] != 2) == 1
    directions = set(tables.METHODS) - {"system prompt, boosted", "tuned bias", "rank-1 adapter"}
    assert max(found[name][1] for name in directions) == 4
    assert found["3 examples"] == [8, 8, 0, 0]
    assert found["mean difference"] == found["mean difference, turned"] == [6, 3, 3, 1]
    assert [found[name][0] for name in ("logistic", "Linear-AcT", "Gaussian OT")] == [5, 5, 4]
    assert found["system prompts' direction"][:2] == [3, 0]
    assert found["rank-1 adapter"][0] == 4
    assert found["trained vector"][:2] == [7, 2]
    short = tables.row_of(CASES["short answers"], "mean difference")
    assert tables.mean(short["effect"]) == pytest.approx(0.58, abs=0.005)
    assert max(short["score"]) == 0
    best = {
        name: max(found, key=lambda each: tables.mean(tables.row_of(case, each)["score"]))
        for name, case in CASES.items()
    }
    assert [name for name, each in best.items() if each != "3 examples"] == ["the sea"]
    whole = {
        method: [
            name for name, case in CASES.items() if all(tables.verdict(case, tables.row_of(case, method)))
        ]
        for method in ("system prompt, boosted", "tuned bias")
    }
    assert list(whole.values()) == [["pirate", "the sea"], ["sentiment", "formality"]]
    bias = [tables.row_of(case, "tuned bias")["side"] for case in CASES.values()]
    assert all(each == case["right"] for each, case in zip(bias, CASES.values()))


def test_what_the_page_says_of_failures_and_controls(modules: Any) -> None:
    tables = modules["tables"]
    pairs = [
        tables.verdict(case, tables.row_of(case, name))
        for case in CASES.values() for name in (*tables.METHODS, *tables.PROMPTS)
    ]  # fmt: skip
    assert sum(works for works, _, _ in pairs) == 66
    assert sum(works and not shows for works, shows, _ in pairs) == 29
    randoms = tables.controls_of(CASES["sentiment"], "random")
    assert sum(not tables.verdict(CASES["sentiment"], row)[2] for row in randoms) == 4
    for kind, n, total in (("random", 3, 48), ("shuffled", 6, 40)):
        rows = [row for case in CASES.values() for row in tables.controls_of(case, kind)]
        assert len(rows) == total
        assert sum(row["effect_interval"][1] > 0 for row in rows) == n
        assert max(row["change_interval"][1] for row in rows) <= 0
    case = CASES["sentiment"]
    names = ("mean difference", "mean difference, turned", "logistic", "Linear-AcT")
    for name in names:
        middle, low, _ = tables.row_of(case, name)["change_interval"]
        assert 0 < low < middle < tables.bars(case)[1]
    auroc = [tables.row_of(each, "mean difference")["auroc"] for each in CASES.values()]
    assert min(auroc) > 0.985
    ahead = [
        tables.mean(tables.row_of(each, "system prompt")["score"])
        > tables.mean(tables.row_of(each, tables.SAME)["score"])
        for each in CASES.values()
    ]
    assert [name for name, more in zip(CASES, ahead) if not more] == ["formality"]
