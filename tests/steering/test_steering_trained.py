"""Directions of a trained model on prompts held out of its training, at equal KL, against both controls.

The controls are means over draws: a single draw can come near, and nearer at a larger KL. At 0.5 nats one
shuffled-label direction reached 6.6 logits on sentiment, where the direction itself had 6.7.
"""

from __future__ import annotations

import pytest
import torch

import interp
from interp import steering, tasks
from interp.steering import controls
from interp.tasks import KL, LogitDiff, Task

TARGET = 0.2  # nats
EFFECT = {"sentiment": 4.0, "register": 3.5, "languages": 5.0, "requests": 7.0}  # logits; measured 4.6 to 9.1


@pytest.fixture(scope="module")
def world():
    return interp.load("tiny-world")


def first_side(task):
    """Rows of one of the two sides: the words of a side are linked by the prompts in which they stand."""
    parent: dict[int, int] = {}

    def root(word):
        while parent.setdefault(word, word) != word:
            word = parent[word]
        return word

    own = []
    for clean, corrupt, answers in zip(task.clean.tolist(), task.corrupt.tolist(), task.answers.tolist()):
        words = [a for a, b in zip(clean, corrupt) if a != b] + [word for word in answers if word >= 0]
        own.append(words[0])
        for word in words[1:]:
            parent[root(word)] = root(words[0])
    roots = [root(word) for word in own]
    assert len(set(roots)) == 2
    return torch.tensor([each == roots[0] for each in roots])


def turned(world, family, words):
    """Held-out prompts of the other side; their answers are now those of the first."""
    test = getattr(tasks, family)(world, n=24, seed=1, held_out=True)
    same = torch.tensor([bool(words & set(row)) for row in test.answers.tolist()])
    rest = test[(~same).nonzero().flatten()]
    return Task.from_tokens(
        clean=rest.clean, corrupt=rest.corrupt, answer=rest.wrongs, wrong=rest.answers,
        lengths=rest.lengths, positions=rest.positions,
    )  # fmt: skip


@pytest.mark.parametrize("family", EFFECT)
def test_a_direction_steers_held_out_prompts_and_beats_both_controls_at_equal_kl(world, family):
    train = getattr(tasks, family)(world, n=48, seed=0, held_out=False)
    side = first_side(train)
    up, down = (train[rows.nonzero().flatten()] for rows in (side, ~side))
    d = steering.mean_difference(world, up, down, layer=3)
    task = turned(world, family, set(up.answers.flatten().tolist()) - {-1})
    ours = effect(world, d, task)
    assert ours > EFFECT[family]
    for name in ("random", "shuffled"):
        draws = [steering.mean_difference(world, up, down, layer=3, seed=seed) for seed in range(3)]
        theirs = [effect(world, controls([each], seed)[name][0], task) for seed, each in enumerate(draws)]
        assert ours > sum(theirs) / 3 + 1


def effect(world, direction, task):
    """Mean change of the logit difference at the KL."""
    c = steering.calibrate(world, direction, task, TARGET, tolerance=0.01)
    result = steering.sweep(
        world, direction, task, [c.coefficient], metric=[LogitDiff(), KL()], with_controls=False
    )
    assert float(result["raw"].sel(metric="kl").mean()) == pytest.approx(TARGET, rel=0.01)
    return result["value"].sel(metric="logit_diff").mean().item()
