"""The families of the hand-built models: what they ask, how prompts are paired, what they refuse."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import pytest
import torch

import interp
from interp.tasks import Task, handmade
from interp.tasks.handmade import (
    FAMILIES,
    and_gate,
    every_input,
    linear,
    or_gate,
    reverse,
    some_inputs,
    xproportion,
)

MIRRORED = ["reverse", "xproportion", "linear"]


@functools.lru_cache
def model_of(name: str) -> Any:
    return interp.load(name)


def texts(task: Task) -> list[list[str]]:
    """The words of each clean prompt after <bos>."""
    assert task.labels is not None
    return [[word for word in row[1:] if word] for row in task.labels]


def answers(model: Any, task: Task) -> list[str]:
    return [model.to_string(token) for token in task.answer]


def said_backwards(words: list[str]) -> str:
    equals = words.index("=")
    return words[:equals][::-1][len(words) - equals - 1]


def most(words: list[str]) -> str:
    return Counter(words).most_common(1)[0][0]


RULES = {
    "reverse": said_backwards,
    "xproportion": lambda words: "yes" if words.count("x") > len(words) / 2 else "no",
    "linear": most,
    "and-gate": lambda words: words[1] if words[1] == words[3] else "none",
    "or-gate": lambda words: next((w for w in (words[1], words[3]) if w != "none"), "none"),
    "induction": lambda words: words[words.index(words[-1]) + 1],
}


@pytest.mark.parametrize("name", list(RULES))
def test_the_answer_follows_the_rule(name: str) -> None:
    model = model_of(name)
    task = some_inputs(model, name, n=32, seed=1)
    assert answers(model, task) == [RULES[name](words) for words in texts(task)]
    assert task.problems(model) == []


@pytest.mark.parametrize("name", ["reverse", "xproportion", "linear", "and-gate", "or-gate"])
def test_every_input_follows_the_rule_once(name: str) -> None:
    model = model_of(name)
    task = every_input(model, name)
    assert answers(model, task) == [RULES[name](words) for words in texts(task)]
    assert len({tuple(words) for words in texts(task)}) == len(task)
    assert not (task.answer == task.wrong).any()


def test_the_domains_are_whole() -> None:
    """As many prompts as the rules of each domain allow."""
    sequences = sum(n * 3**n for n in range(1, 6))  # each cut in n places
    assert len(every_input(model_of("reverse"), "reverse")) == sequences
    assert len(every_input(model_of("xproportion"), "xproportion")) == 4 + 4**3 + 4**5
    assert len(every_input(model_of("linear"), "linear")) == 3 * (10 * 4 + 5 * 2 + 1)
    assert len(every_input(model_of("and-gate"), "and-gate")) == 12 * 9**2
    assert len(every_input(model_of("or-gate"), "or-gate")) == 12 * (8 * 3 + 1)


@pytest.mark.parametrize("name", MIRRORED)
def test_pairs_are_mirrored_and_no_prompt_comes_twice(name: str) -> None:
    task = FAMILIES[name](model_of(name), n=48, seed=2)
    twin = torch.arange(48) ^ 1
    assert torch.equal(task.corrupt, task.clean[twin])
    assert torch.equal(task.answer, task.wrong[twin])
    assert len({tuple(row) for row in task.clean.tolist()}) == 48
    assert len(set(task.template)) == 24
    assert all(task.template[i] == task.template[i + 1] for i in range(0, 48, 2))


def test_reverse_varies_the_place_of_the_sign() -> None:
    model = model_of("reverse")
    task = reverse(model, n=64)
    clean, corrupt = (
        (tokens == model.to_single_token("=")).int().argmax(-1) for tokens in (task.clean, task.corrupt)
    )
    assert (clean != corrupt).double().mean() > 0.2
    assert set(clean.tolist()) == {4, 5, 6}
    assert reverse(model, n=16, letters=3).clean.shape == (16, 5)


@pytest.mark.parametrize(("gate", "name"), [(and_gate, "and-gate"), (or_gate, "or-gate")])
def test_gates_lose_both_places_at_once(gate: Any, name: str) -> None:
    model = model_of(name)
    task = gate(model, n=96)
    none = model.to_single_token("none")
    assert torch.equal(task.clean[:, 2], task.clean[:, 4])
    assert torch.equal(task.clean[:, 2], task.answer)
    assert (task.corrupt[:, [2, 4]] == none).all()
    assert (task.clean != task.corrupt).sum(-1).tolist() == [2] * 96
    assert len({tuple(row) for row in task.clean.tolist()}) == 96


@pytest.mark.parametrize("name", list(FAMILIES))
def test_the_seed_decides(name: str) -> None:
    model, build = model_of(name), FAMILIES[name]
    state = torch.get_rng_state()
    assert build(model, n=12, seed=5).fingerprint() == build(model, n=12, seed=5).fingerprint()
    assert build(model, n=12, seed=6).fingerprint() != build(model, n=12, seed=5).fingerprint()
    assert torch.equal(torch.get_rng_state(), state)


def test_every_input_has_a_corrupt_prompt_of_its_length() -> None:
    task = every_input(model_of("reverse"), "reverse")
    inside = torch.arange(task.clean.shape[1]) < task.lengths[:, None]
    pad = model_of("reverse").tokenizer.pad_token_id
    assert sorted(set(task.lengths.tolist())) == list(range(3, 12))
    assert ((task.corrupt != pad) == inside).all()
    assert ((task.clean != pad) == inside).all()


def test_bad_input() -> None:
    model = model_of("reverse")
    with pytest.raises(ValueError, match="n is 500, but 351 prompts do not make so many pairs"):
        reverse(model, n=500)
    with pytest.raises(ValueError, match="n is 3, but prompts come in mirrored pairs"):
        reverse(model, n=3)
    with pytest.raises(ValueError, match="letters is 10; a prompt has from 1 to 9"):
        reverse(model, letters=10)
    with pytest.raises(ValueError, match="letters is 4; it must be odd, from 1 to 5"):
        xproportion(model_of("xproportion"), letters=4)
    with pytest.raises(ValueError, match="n is 97; there are 96 pairs"):
        or_gate(model_of("or-gate"), n=97)
    with pytest.raises(ValueError, match="'x' is not in the vocabulary"):
        xproportion(model)
    with pytest.raises(ValueError, match="'or_gate' is not a hand-built model"):
        every_input(model, "or_gate")
    with pytest.raises(ValueError, match="n is 200"):
        linear(model_of("linear"), n=200)


def test_the_families_know_the_words_of_the_models() -> None:
    """Stated twice, as tasks import no models; the same."""
    from interp.models.handmade import gates, induction, letters
    from interp.models.handmade import reverse as reversal

    assert reversal.LETTERS == letters.LINEAR_LETTERS == handmade.ABC
    assert letters.X_LETTERS == handmade.WXYZ
    assert (gates.COLOURS, gates.NAMES, gates.NONE) == (handmade.COLOURS, handmade.NAMES, handmade.NONE)
    assert induction.WORDS == handmade.WORDS
    assert {reversal.LONGEST, letters.LONGEST} == {handmade.LONGEST}
