"""CAA: the mean difference of pairs, added after the prompt or ablated everywhere."""

from __future__ import annotations

import math

import architectures
import pytest
import torch
import two_sides as sides

import interp
from interp import steering, tasks
from interp.models import logits
from interp.steering import controls, methods
from interp.tasks import LogitDiff

SIGMA, D = 0.25, 24


def stream(model, tokens, *made, **options):
    """The stream before every layer."""
    seen = []
    hooks = [(f"blocks.{i}.hook_resid_pre", lambda t, hook: seen.append(t.clone())) for i in range(3)]
    with torch.no_grad(), steering.steer(model, *made, **options), model.hooks(fwd_hooks=hooks):
        logits(model, tokens)
    return seen


def test_a_planted_difference_is_recovered_as_theory_says():
    """Embeddings are noise, and half of them have u too: cosine 1/√(1 + 2dσ²/n)."""
    model = architectures.build({"d_vocab": 1300})
    generator = torch.Generator().manual_seed(3)
    u = torch.nn.functional.normalize(torch.randn(D, generator=generator, dtype=torch.float64), dim=0)
    with torch.no_grad():
        model.embed.W_E.copy_(SIGMA * torch.randn(1300, D, generator=generator, dtype=torch.float64))
        model.embed.W_E[:650] += u
    for n, draws in ((8, 30), (32, 15), (128, 5)):
        found = []
        for i in range(draws):
            up, down = (first + torch.arange(i * n, (i + 1) * n)[:, None] for first in (0, 650))
            d = methods.caa(model, up, down, layer=0)
            found.append(torch.nn.functional.cosine_similarity(d.vector, u, dim=0).item())
        assert sum(found) / draws == pytest.approx(1 / math.sqrt(1 + 2 * D * SIGMA**2 / n), abs=0.02)
    assert min(found) > 0.95


def test_pairs_do_not_change_the_vector_but_the_control(toy, ids):
    d = methods.caa(toy, ids[:2], ids[2:], layer=[0, 2])
    plain = steering.mean_difference(toy, ids[:2], ids[2:], layer=[0, 2])
    back = methods.caa(toy, ids[2:], ids[:2], layer=[0, 2])
    for where in d.places:
        torch.testing.assert_close(d.vectors[where], plain.vectors[where])
        torch.testing.assert_close(d.vectors[where], -back.vectors[where])
    same, two = ids[0].repeat(4, 1), ids[0].repeat(4, 1)
    same[:, 1], two[:, 1] = 7, 9  # four pairs with one difference: exchanged at random it cancels
    equal = methods.caa(toy, same, two, layer=1)
    assert equal.vector.norm() > 1e-2
    assert equal.shuffled[equal.place].norm() < 1e-9 * equal.vector.norm()


def test_it_is_added_from_the_last_prompt_token_on(model, ids):
    d = methods.caa(model, ids[:2], ids[2:], layer=1)
    made = methods.add_after_prompt(d, 2.0)
    change = stream(model, ids, made, prompt_length=4)[1] - stream(model, ids)[1]
    torch.testing.assert_close(change[:, 3:], (2 * d.vector).expand(4, 3, -1))
    assert torch.equal(change[:, :3], torch.zeros_like(change[:, :3]))


def test_ablated_everywhere_the_stream_has_no_part_along_it(toy, ids, within):
    d = methods.caa(toy, ids[:2], ids[2:], layer=1)
    plain, none, half, whole = (
        stream(toy, ids, *([] if s is None else [methods.ablate_everywhere(toy, d, s)]))
        for s in (None, 0.0, 0.5, 1.0)
    )
    assert all(torch.equal(a, b) for a, b in zip(plain, none))
    for before, after in zip(plain, whole):
        assert d.project(before).abs().max() > 0.1
        assert d.project(after).abs().max() < max(within, 1e-9)
    torch.testing.assert_close(d.project(half[0]), d.project(plain[0]) / 2)


@pytest.fixture(scope="module")
def refusal():
    """tiny-world, its refusal direction, and harmful requests that were held out."""
    world = interp.load("tiny-world")
    up, down = sides.sides(world, tasks.requests(world, n=64, seed=0, held_out=False), "sorry")
    test = tasks.requests(world, n=32, seed=1, held_out=True)
    draws = [methods.caa(world, up, down, layer=3, seed=seed) for seed in range(3)]
    return world, draws, *sides.sides(world, test, "sorry")


def effects(world, direction, task, intervene):
    found = steering.sweep(
        world, direction, task, [1.0], metric=LogitDiff(), intervene=intervene, with_controls=False
    )
    return found["value"].values.ravel()


def test_refusal_is_added_to_harmless_requests_and_ablated_from_harmful_ones(refusal):
    world, draws, harmful, harmless = refusal

    def add(direction, step):
        return methods.add_after_prompt(direction, step)

    def ablate(direction, step):
        return methods.ablate_everywhere(world, direction, step)

    d = draws[0]
    drawn = [controls([each], seed) for seed, each in enumerate(draws)]
    others = [found[name][0] for found in drawn for name in ("random", "shuffled")]
    gain = effects(world, d, sides.exchanged(harmless), add)
    loss = effects(world, d, harmful, ablate)
    chance = [effects(world, other, sides.exchanged(harmless), add).mean() for other in others]
    assert gain.min() > 10  # logits, in every prompt; measured 25 to 29
    assert gain.mean() > 3 * max(chance)
    chance = [effects(world, other, harmful, ablate).mean() for other in others]
    assert loss.max() < -8  # measured -15 to -11
    assert loss.mean() < 2 * min(chance)


def test_bad_input_before_any_pass(model, ids, draw):
    one = steering.Direction.from_tensor(draw(24), "L1.resid_pre")
    two = methods.caa(model, ids[:2], ids[2:], layer=[0, 1])
    other = steering.Direction.from_tensor(draw(24), "L1.resid_pre", model="another")
    head = steering.Direction.from_tensor(draw(6), "L1H2")
    sides.refused(
        model,
        [
            (lambda: methods.caa(model, ids[:3], ids[3:]), "3 positive and 1 negative"),
            (lambda: methods.caa(model, [], ids), "positive: got no prompts"),
            (lambda: methods.caa(model, ids, ids, layer=9), "layer 9 is out of range"),
            (lambda: methods.caa(model, ids, ids, pos=6), "position 6 is outside prompt 0"),
            (lambda: methods.caa(model, ids, ids[:, :4], pos=5), "position 5 is outside prompt 0"),
            (lambda: methods.add_after_prompt(one, float("inf")), "coefficient is inf"),
            (lambda: methods.ablate_everywhere(model, two), "has 2 places"),
            (lambda: methods.ablate_everywhere(model, other), "found on model 'another'"),
            (lambda: methods.ablate_everywhere(model, head), "'L1H2', which is not in the stream"),
        ],
    )
