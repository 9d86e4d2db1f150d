"""tiny-world: batches are what they claim, a smaller copy learns, the files load and state their figures."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

import interp
from interp.tasks.world import World, behaviours, split_marked, vocabulary
from training import network, tiny_world, world_batches, world_evaluate, world_optimise
from training.batches import BOS, EOS, PAD, Batch


def small() -> network.Sizes:
    return network.Sizes(
        d_vocab=len(vocabulary()), n_layers=1, d_model=32, n_heads=2, d_head=16, d_mlp=64, n_ctx=64
    )


def test_batches_hold_every_document_once_with_its_marks() -> None:
    words, world = vocabulary(), World()
    ids = {word: i for i, word in enumerate(words)}
    batches = world_batches.document_batches(world, ids, random.Random(0), 50)
    assert len(batches) == world_batches.PARTS
    rng = random.Random(0)
    documents = sorted((split_marked(world.document(rng)) for _ in range(50)), key=lambda each: len(each[0]))
    rows = [(tokens, weight) for batch in batches for tokens, weight in zip(batch.tokens, batch.weight)]
    for (tokens, weight), (expected, marked) in zip(rows, documents, strict=True):
        length = len(expected) + 2
        assert [words[i] for i in tokens[1 : length - 1].tolist()] == expected
        assert (int(tokens[0]), int(tokens[length - 1])) == (BOS, EOS)
        assert set(tokens[length:].tolist()) <= {PAD}
        wanted = [0.0, *(world_batches.MARKED if mark else 1.0 for mark in marked), 1.0]
        assert weight[:length].tolist() == wanted
        assert not weight[length:].any()


def test_the_loss_of_the_parts_is_the_weighted_mean_of_all() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[1, 2, 3], [1, 4, 0]])
    weight = torch.tensor([[0.0, 1.0, 4.0], [0.0, 2.0, 0.0]])
    logp = logits.log_softmax(-1)
    expected = -(logp[0, 0, 2] + 4 * logp[0, 1, 3] + 2 * logp[1, 0, 4]) / 7
    parts = [
        world_optimise.loss(logits[i : i + 1], Batch(tokens[i : i + 1], weight[i : i + 1]), 7.0)
        for i in (0, 1)
    ]
    torch.testing.assert_close(sum(parts), expected)


def test_the_schedule_warms_up_and_falls_to_zero() -> None:
    schedule = world_optimise.Schedule(steps=1000, warmup=100, decay=0.5)
    factors = [schedule.factor(step) for step in range(1000)]
    assert factors[0] == pytest.approx(0.01)
    assert factors[99] == factors[400] == 1.0
    assert factors[750] == pytest.approx(0.5)
    assert 0 < factors[-1] < 0.01


def losses(seed: int) -> tuple[list[float], network.Parameters]:
    found: list[float] = []
    schedule = world_optimise.Schedule(
        steps=60, rows=24, copying_rows=4, warmup=5, muon_rate=1e-2, adam_rate=1e-2
    )
    parameters = world_optimise.train(schedule, small(), seed, lambda step, loss, _: found.append(loss))
    return found, parameters


def test_a_smaller_copy_learns_and_the_run_repeats() -> None:
    state = torch.get_rng_state()
    found, parameters = losses(0)
    assert found[0] > 6.5
    assert sum(found[-5:]) / 5 < found[0] - 0.8
    assert torch.equal(torch.get_rng_state(), state)
    again = losses(0)[1]
    assert all(torch.equal(value, again[name]) for name, value in parameters.items())
    assert not torch.equal(losses(1)[1]["embed.W_E"], parameters["embed.W_E"])


def test_the_figures_know_a_perfect_and_a_blind_model() -> None:
    ids = {word: i for i, word in enumerate(vocabulary())}
    each = behaviours()["docstring"]
    rng = random.Random(1)
    answers = [ids[each.pair(rng, test=True).answer[0]] for _ in range(20)]

    def perfect(tokens: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(*tokens.shape, len(ids))
        out[torch.arange(len(tokens)), :, torch.tensor(answers)] = 20.0
        return out

    def blind(tokens: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*tokens.shape, len(ids))

    found = world_evaluate.shares(perfect, each, ids, n=20, seed=1)
    assert found == pytest.approx({"right": 1.0, "first": 1.0, "mass": 1.0}, abs=1e-3)
    found = world_evaluate.shares(blind, each, ids, n=20, seed=1)
    assert found == pytest.approx({"right": 0.0, "first": 0.0, "mass": 1 / len(ids)}, abs=1e-6)


def test_a_written_folder_loads_and_states_its_figures(tmp_path: Path) -> None:
    parameters = network.initial(world_optimise.sizes(), 0)
    training = dict.fromkeys(("command", "seed", "steps", "documents", "seconds", "threads", "torch"), 0)
    tiny_world.write(tmp_path, parameters, {**training, "prompts": 5})
    card = json.loads((tmp_path / "card.json").read_text())
    model = interp.load(tmp_path)
    assert set(card["tasks"]) == set(tiny_world.FAMILIES)
    found = world_evaluate.figures(model, n=5)
    assert found["stories"]["loss"] == pytest.approx(card["figures"]["stories"]["loss"], rel=0.1)
    readme = (tmp_path / "README.md").read_text()
    for name, figures in card["figures"].items():
        assert name in readme
        shown = f"{figures['perplexity']:.2f}" if name == "stories" else f"{figures['first']:.4f}"
        assert shown in readme
