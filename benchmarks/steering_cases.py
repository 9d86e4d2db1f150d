"""The models and behaviours that the study of steering steers, and the prompts of each.

A behaviour has two sides. `up[i]` and `down[i]` are the same prompt on either side, from what the model was
trained on. The prompts that are steered are those of one side, and their answers the words of the other.
Directions are found on `up` and `down`, layers are chosen on `choose`, figures are made on `test`, which was
held out of tiny-world's training.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import interp
from interp.prompts import Prompts
from interp.tasks import Task, wordlists
from interp.tasks.world import WORD_KINDS

SENSES = {
    "sentiment": ("positive", "negative"),
    "register": ("formal", "casual"),
    "languages": ("English", "the other language"),
    "refusal": ("refuse", "comply"),
    "pronouns": ("she", "he"),
}
FAMILY = {"refusal": "requests"}
METHODS = (
    "mean_difference", "pca", "lda", "logistic", "weighted_mean", "class_means", "prompt_pair", "optimise",
)  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """A model of the study, and how much of it the model's size allows."""

    model: str
    cases: tuple[str, ...]
    layers: tuple[int, ...]
    methods: tuple[str, ...] = METHODS
    edits: tuple[str, ...] = ("add", "rotate", "ablate")
    test: int = 24  # prompts of each side that figures are made on
    stories: int = 32
    new_tokens: int = 20
    spared: int = 0  # first positions that no edit touches
    pairs: int = 48  # of prompts that directions are found on
    choose: int = 16  # prompts of each side that layers are chosen on


SETUPS = {
    "tiny-world": Setup("tiny-world", tuple(SENSES), (1, 2, 3)),
    "smollm2": Setup(
        "smollm2-135m", ("sentiment",), (15, 22),
        ("mean_difference", "pca", "logistic", "prompt_pair"), ("add", "rotate"),
        test=12, stories=6, new_tokens=12, spared=1,
    ),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Case:
    """Prompts of a behaviour. Sense 0 steers towards the first side, sense 1 towards the second."""

    name: str
    senses: tuple[str, str]
    up: Prompts
    down: Prompts
    third: Prompts | None  # a class of its own beside the two sides
    train: tuple[Task, Task]
    choose: tuple[Task, Task]
    test: tuple[Task, Task]


def case(model: Any, name: str, setup: Setup) -> Case:
    """The prompts of a behaviour."""
    more = 3 if name == "pronouns" else 1  # a third of the pairs are of she and he
    make = getattr(interp.tasks, FAMILY.get(name, name))
    sides = [_ids(model, words) for words in words_of(name)]
    train = make(model, n=2 * setup.pairs * more, seed=0, held_out=False)
    other = make(model, n=4 * setup.choose * more, seed=1, held_out=False)
    fresh = _without(other, train)
    test = make(model, n=2 * setup.test * more, seed=2, held_out=True)
    towards = [tuple(_turned(task, sides, sense) for sense in (0, 1)) for task in (train, fresh, test)]
    chosen = tuple(task[: setup.choose] for task in towards[1])
    pairs, third = _pairs(train, sides, setup.pairs), _third(train, sides)
    return Case(name, SENSES[name], *pairs, third, towards[0], chosen, towards[2])


def words_of(name: str) -> list[list[str]]:
    """The words of both sides."""
    world = wordlists.load("world")
    if name == "sentiment":
        return [world[name]["positive"], world[name]["negative"]]
    if name == "refusal":
        return [["sorry"], ["sure"]]
    if name == "pronouns":
        cases = ("subject", "possessive", "reflexive")
        return [[world[name][case][side] for case in cases] for side in (0, 1)]
    kinds = ("verbs", "nouns", "adverbs") if name == "register" else tuple(WORD_KINDS.values())
    return [[word[side] for kind in kinds for word in world[name][kind]] for side in (0, 1)]


def _ids(model: Any, words: list[str]) -> set[int]:
    return set(wordlists.single_tokens(model, words).values())


def _rows(task: Task, answers: set[int], wrongs: set[int]) -> Tensor:
    """Rows whose answers are of one set, and whose wrong answers are of the other."""
    pairs = zip(task.answers.tolist(), task.wrongs.tolist())
    found = [set(a) - {-1} <= answers and set(w) - {-1} <= wrongs for a, w in pairs]
    return torch.tensor(found).nonzero().flatten()


def _pairs(task: Task, sides: list[set[int]], n: int) -> tuple[Prompts, Prompts]:
    rows = _rows(task, *sides)[:n]
    return Prompts(task.clean[rows], task.lengths[rows]), Prompts(task.corrupt[rows], task.lengths[rows])


def _turned(task: Task, sides: list[set[int]], sense: int) -> Task:
    """Prompts of the side away from which a sense steers; the answers are those towards which it does."""
    rest = task[_rows(task, sides[1 - sense], sides[sense])]
    return Task.from_tokens(
        clean=rest.clean, corrupt=rest.corrupt, answer=rest.wrongs, wrong=rest.answers,
        lengths=rest.lengths, positions=rest.positions,
    )  # fmt: skip


def _third(task: Task, sides: list[set[int]]) -> Prompts | None:
    either = sides[0] | sides[1]
    rows = [i for i, answers in enumerate(task.answers.tolist()) if not (set(answers) - {-1}) & either]
    return Prompts(task.clean[rows], task.lengths[rows]) if rows else None


def _without(task: Task, other: Task) -> Task:
    """The prompts that are not among those of another task."""
    seen = set(_texts(other))
    return task[[i for i, text in enumerate(_texts(task)) if text not in seen]]


def _texts(task: Task) -> Iterable[tuple[int, ...]]:
    return [tuple(row[:n]) for row, n in zip(task.clean.tolist(), task.lengths.tolist())]
