"""Harmfulness and refusal at two positions, their effects on two tasks, and the latent guard."""

from __future__ import annotations

import architectures
import numpy as np
import pytest
import torch
import two_sides as sides

import interp
from interp import positions, steering, tasks
from interp.steering import methods
from interp.tasks import Task, vocabulary, wordlists

MARKER, D = 5, 24


@pytest.fixture(scope="module")
def planted():
    """A model without attention; tokens 10 to 59 carry u where harmful, 60 to 109 carry w where refused.

    Prompts are a token, one that is harmful or not, the marker, one that is refused or not.
    """
    model = architectures.build({"d_vocab": 110, "n_layers": 2})
    generator = torch.Generator().manual_seed(4)
    u, w = torch.linalg.qr(torch.randn(D, 2, generator=generator, dtype=torch.float64))[0].T
    with torch.no_grad():
        model.embed.W_E.copy_(0.1 * torch.randn(110, D, generator=generator, dtype=torch.float64))
        model.embed.W_E[10:35] += u
        model.embed.W_E[60:85] += w
        for block in model.blocks:
            block.attn.W_O.zero_()
    return model, u, w


def prompts(harm, refusal, n=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    first, second = 10 + 25 * (not harm), 60 + 25 * (not refusal)
    pick = lambda low: torch.randint(low, low + 25, (n,), generator=generator)  # noqa: E731
    return torch.stack((pick(10), pick(first), torch.full((n,), MARKER), pick(second)), 1)


def test_planted_at_two_positions_each_is_found_at_its_own_and_acts_there_alone(planted):
    model, u, w = planted
    end = positions.before([MARKER])
    both = torch.cat((prompts(True, True), prompts(True, False, seed=1)))
    none = torch.cat((prompts(False, True, seed=2), prompts(False, False, seed=3)))
    refused = torch.cat((prompts(True, True), prompts(False, True, seed=2)))
    accepted = torch.cat((prompts(True, False, seed=1), prompts(False, False, seed=3)))
    harm, refusal = methods.harm_and_refusal(
        model, both, none, refused, accepted, instruction_end=end, layer=0
    )
    cosine = lambda d, v: float(torch.nn.functional.cosine_similarity(d.vector, v, dim=0))  # noqa: E731
    assert cosine(harm, u) > 0.95
    assert cosine(refusal, w) > 0.95
    assert abs(cosine(harm, w)) < 0.15
    assert abs(cosine(refusal, u)) < 0.15
    assert abs(harm.cosine(refusal).item()) < 0.15
    top = [int(d.lens(model).argmax()) for d in (harm, refusal)]
    tasks = {
        name: Task.from_tokens(
            clean=none, corrupt=both, positions=torch.full((40,), at),
            answer=torch.full((40,), token), wrong=torch.full((40,), 6),
        )
        for name, at, token in (("harm", 1, top[0]), ("refusal", 3, top[1]))
    }  # fmt: skip
    when = {"harm": positions.at(1), "refusal": positions.at(-1)}
    found = methods.cross_effects(model, {"harm": harm, "refusal": refusal}, tasks, 2.0, when=when)
    table = found["value"].values
    assert table[0, 1] == 0 == table[1, 0]  # nothing flows between positions
    assert table[0, 0] > found["random"].values[0, 0] + 0.1
    assert table[1, 1] > found["random"].values[1, 1] + 0.1
    assert list(found["direction"].values) == ["harm", "refusal"]


def test_the_guard_is_a_difference_of_cosines_meaned_over_layers(toy, ids):
    guard = methods.latent_guard(toy, ids[:2], ids[2:], instruction_end=3, layer=[1, 2])
    expected = []
    for layer in (1, 2):
        rows = steering.activations(toy, ids, f"L{layer}.resid_pre", 3).double()
        means = rows[:2].mean(0), rows[2:].mean(0)
        up, down = (rows @ mean / rows.norm(dim=1) / mean.norm() for mean in means)
        expected.append(up - down)
    score = guard.score(toy, ids)
    torch.testing.assert_close(score, torch.stack(expected).mean(0), rtol=0, atol=1e-5)
    assert score[:2].mean() > score[2:].mean()


def test_what_follows_the_instruction_does_not_reach_the_guard(toy, ids):
    guard = methods.latent_guard(toy, ids[:2], ids[2:], instruction_end=3)
    other = ids.clone()
    other[:, 4:] = ids.flip(0)[:, 4:]
    torch.testing.assert_close(guard.score(toy, ids), guard.score(toy, other), rtol=0, atol=1e-6)
    last = methods.latent_guard(toy, ids[:2], ids[2:], instruction_end="last")
    assert (last.score(toy, ids) - last.score(toy, other)).abs().max() > 1e-3


@pytest.fixture(scope="module")
def world():
    """tiny-world; requests by kind (harmful, harmless), those to fit on and those held out."""
    model = interp.load("tiny-world")
    kinds = {"refusal": "sorry", "frame": "sorry", "harm": "harmful"}
    make = lambda kind, n, seed: sides.sides(  # noqa: E731
        model, tasks.requests(model, n=n, seed=seed, kind=kind, held_out=bool(seed)), kinds[kind]
    )
    fit, test = ({kind: make(kind, n, seed) for kind in kinds} for n, seed in ((192, 0), (64, 1)))
    marker = [each for each in vocabulary.encode(model, "? Assistant:") if each > 3]
    return model, fit, test, positions.before(marker)


def test_refusal_acts_on_refusal_alone_and_harmfulness_on_the_judgement_too(world):
    """tiny-world, layer 2, in logits: harmfulness 11.6 and 15.2, refusal 7.3 and 0.0; controls below 2."""
    model, fit, test, end = world
    harm, refusal = methods.harm_and_refusal(
        model, *fit["refusal"], *fit["frame"], instruction_end=end, layer=2
    )
    assert abs(harm.cosine(refusal).item()) < 0.2
    words = wordlists.load("world")["requests"]
    objects = [vocabulary.continuation(model, f" {each}") for each in words["valued"] + words["cheap"]]
    tasks = {
        "refuses": sides.exchanged(test["refusal"][1]),
        "judges harmful": sides.exchanged(test["harm"][1]),
    }
    colon = positions.tokens(vocabulary.encode(model, ":")[-1]) & ~positions.window(0, 4)
    found = methods.cross_effects(
        model, {"harm": harm, "refusal": refusal}, tasks, 2.0,
        when={"harm": positions.tokens(*objects), "refusal": colon},
    )  # fmt: skip
    value = found["value"].values
    assert value[0].min() > 8
    assert value[1, 0] > 5
    assert abs(value[1, 1]) < 0.2
    for name in ("random", "shuffled"):
        assert np.nanmax(found[name].values) < value[[0, 0, 1], [0, 1, 0]].min() - 3


def test_the_guard_sees_harm_in_requests_that_the_model_answers(world):
    """Harmful requests in a frame are answered; the guard's score is that of harmful ones all the same."""
    model, fit, test, end = world
    guard = methods.latent_guard(model, *fit["refusal"], instruction_end=end, layer=3)
    answered = test["frame"][1]  # harmful, in a game, story or film
    harmful, harmless = (guard.score(model, each) for each in test["refusal"])
    framed = guard.score(model, answered)
    assert (framed > 0).double().mean() > 0.9
    for score in (harmful, framed):
        assert (score[:, None] > harmless).double().mean() > 0.7
    late = methods.latent_guard(model, *fit["refusal"], instruction_end="last", layer=3)
    assert (late.score(model, answered) > 0).double().mean() == 0  # the prompt's end follows the refusal


def test_bad_input_before_any_pass(model, ids, draw):
    pair, guard = methods.harm_and_refusal, methods.latent_guard
    d = steering.Direction.from_tensor(draw(24), "L1.resid_pre")
    task = Task.from_tokens(clean=ids, corrupt=ids.flip(0), answer=ids[:, 0], wrong=ids[:, 1])
    found = guard(model, ids[:2], ids[2:], instruction_end=2)
    other = methods.LatentGuard(found.harmful, found.harmless, 2, "another")
    effects = methods.cross_effects
    sides.refused(
        model,
        [
            (lambda: pair(model, ids, ids[:, :3], instruction_end=4), "position 4 is outside prompt 0"),
            (lambda: pair(model, ids, ids, ids, instruction_end=2), "refused and accepted go together"),
            (lambda: pair(model, ids, [], instruction_end=2), "harmless: got no prompts"),
            (lambda: pair(model, ids, ids, instruction_end=positions.before([29, 29])), "does not have the"),
            (lambda: pair(model, ids, ids, instruction_end=2, layer=8), "layer 8 is out of range"),
            (lambda: guard(model, ids, ids, instruction_end="all"), "one position of each prompt"),
            (lambda: guard(model, ids, ids, instruction_end=2, site="stream"), "unknown site"),
            (lambda: other.score(model, ids), "found on model 'another'"),
            (lambda: effects(model, {}, {"t": task}), "give at least one"),
            (lambda: effects(model, {"d": d}, {"t": task}, float("nan")), "coefficient is nan"),
            (lambda: effects(model, {"d": d}, {"t": task}, when={"x": positions.at(0)}), r"when \['x'\]"),
        ],
    )
