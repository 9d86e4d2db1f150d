"""Vectors that a probe or a network chooses, prompt by prompt: G-ACT and Guiding Giants."""

from __future__ import annotations

import pytest
import small
import torch

from interp import steering
from interp.models import logits
from interp.places import parse
from interp.probes.selectors import auroc
from interp.steering import Direction, methods


@pytest.fixture(scope="module")
def net():
    return small.model()


def pairs(n, seed):
    """Half of the prompts end in 20 and should in 25, the others the other way round."""
    ids = torch.randint(3, 15, (n, 6), generator=torch.Generator().manual_seed(seed))
    kind = torch.arange(n) % 2
    wanted = ids.clone()
    ids[:, -1], wanted[:, -1] = torch.where(kind == 0, 20, 25), torch.where(kind == 0, 25, 20)
    return wanted, ids, kind


def test_of_two_opposite_vectors_the_right_one_is_chosen_where_the_mean_is_none(net):
    wanted, ids, kind = pairs(40, 4)
    made = methods.gact(net, wanted, ids, 2, layer=1)
    rows = [steering.activations(net, each, "L1.resid_pre") for each in (wanted, ids)]
    v = (rows[0] - rows[1])[kind == 0].mean(0)
    assert made.accuracy > 0.95
    assert made.chance == pytest.approx(0.5)
    cosines = torch.nn.functional.cosine_similarity(made.vectors, v[None])
    assert sorted(round(float(c)) for c in cosines) == [-1, 1]
    assert (rows[0] - rows[1]).mean(0).norm() < 0.2 * v.norm()  # the mean difference is nothing
    _, fresh, of_kind = pairs(30, 9)
    chosen, right = made.choose(net, fresh), int(cosines.argmax())
    assert ((chosen == right) == (of_kind == 0)).double().mean() > 0.95
    with torch.no_grad():
        base = logits(net, fresh)
        with steering.steer(net, *made.steer(2.0)):
            ours = logits(net, fresh)
        step = 2.0 * made.vectors[chosen][:, None]
        with net.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", lambda t, hook: t + step)]):
            torch.testing.assert_close(ours, logits(net, fresh))
        with steering.steer(net, *made.steer(0.0)):
            assert torch.equal(logits(net, fresh), base)
    cached, plain = (
        steering.generate(net, fresh[:6], *made.steer(2.0), max_new_tokens=4, use_cache=use)
        for use in (True, False)
    )
    assert torch.equal(cached, plain)
    assert torch.equal(cached[1:2], steering.generate(net, fresh[1:2], *made.steer(2.0), max_new_tokens=4))


def test_a_prompt_that_stands_several_times_is_never_tested_on_itself(net):
    """Which of two words is wanted is a coin's choice for each of twelve prompts, which come four times."""
    ids = torch.randint(3, 15, (12, 6), generator=torch.Generator().manual_seed(5))
    wanted = ids.clone()
    wanted[:, -1] = torch.where(torch.arange(12) % 2 == 0, 20, 25)
    made = methods.gact(net, wanted.repeat(4, 1), ids.repeat(4, 1), 2, layer=1)
    assert made.chance == pytest.approx(0.5)
    assert made.accuracy < 0.9


def test_the_probe_goes_on_learning_and_bad_input_is_refused(net):
    wanted, ids, _kind = pairs(40, 4)
    made = methods.gact(net, wanted, ids, 2, layer=1)
    other = 1 - made.choose(net, ids)
    turned = made.refine(net, ids, other, steps=300)
    assert (turned.choose(net, ids) == other).double().mean() > 0.9
    assert torch.equal(turned.vectors, made.vectors)
    blind = methods.gact(net, torch.cat((wanted, wanted)), torch.cat((ids, ids))[:, :], 1, layer=1)
    assert blind.chance == 1.0
    for call, match in (
        (lambda: methods.gact(net, ids[:3], ids, 2, layer=1), "3"),
        (lambda: methods.gact(net, ids, ids, 99, layer=1), "k is 99"),
        (lambda: methods.gact(net, wanted, ids, 2, layer=1, site="z"), "has heads"),
        (lambda: made.refine(net, ids, [0, 1]), "for 40 prompts"),
        (lambda: made.direction(5), "cluster is 5"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


@pytest.fixture(scope="module")
def control(net):
    generator = torch.Generator().manual_seed(1)
    sides = [torch.randint(3, 15, (24, 6), generator=generator) for _ in range(2)]
    for side, token in zip(sides, (20, 25)):
        side[:, -1] = token
    places = ["L1.resid_pre", "L2.resid_pre"]
    d = Direction({parse(p): torch.randn(net.cfg.d_model, generator=generator).double() for p in places})
    before = {name: p.clone() for name, p in net.named_parameters()}
    made = methods.guiding_giants(
        net, d, *(s[:12] for s in sides), ["L0.resid_post", "L0.resid_pre"], steps=150
    )
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    return made, [side[12:] for side in sides]


def test_a_controller_tells_harmful_prompts_and_leaves_benign_ones_exactly(net, control):
    made, (bad, good) = control
    assert made.losses[-1] < made.losses[0]
    assert float(auroc(made.harmful(net, bad)[:, None], made.harmful(net, good)[:, None])[0]) > 0.95
    with torch.no_grad():
        base = [logits(net, side) for side in (bad, good)]
        mixed = torch.cat((bad, good))
        with steering.steer(net, *made.steer(3.0)):
            steered = logits(net, mixed)
    assert torch.equal(steered[12:], base[1])
    assert (steered[:12, -1] - base[0][:, -1]).abs().amax(1).min() > 1e-3
    assert torch.equal(steered[:12, :-1], base[0][:, :-1])  # before the end of the prompt nothing changes
    with torch.no_grad(), steering.steer(net, *made.steer(0.0)):
        assert torch.equal(logits(net, mixed)[:12], base[0])


def test_the_patch_is_that_of_the_formula_with_and_without_a_cache(net, control):
    made, (bad, _) = control
    kept = {}
    names = {"blocks.0.hook_resid_pre": "L0.resid_pre", "blocks.0.hook_resid_post": "L0.resid_post"}

    def keeper(place):
        return lambda t, hook: kept.update({place: t[:, -1]})

    with torch.no_grad(), net.hooks(fwd_hooks=[(n, keeper(place)) for n, place in names.items()]):
        logits(net, bad)
    p, share = made.decide({where: kept[str(where)] for where in made.inputs})

    def patch(i, where):
        def hook(tensor, hook):
            out = tensor.clone()
            out[:, -1] += 3.0 * (p * share[:, i])[:, None] * made.direction.vectors[where]
            return out

        return hook

    hooks = [(f"blocks.{where.layer}.hook_resid_pre", patch(i, where)) for i, where in enumerate(made.layers)]
    with torch.no_grad(), net.hooks(fwd_hooks=hooks):
        by_hand = logits(net, bad)
    with torch.no_grad(), steering.steer(net, *made.steer(3.0)):
        torch.testing.assert_close(logits(net, bad), by_hand)
    tokens = [
        steering.generate(net, bad[:4], *made.steer(3.0), max_new_tokens=4, use_cache=c)
        for c in (True, False)
    ]
    assert torch.equal(*tokens)
    assert not torch.equal(tokens[0], steering.generate(net, bad[:4], max_new_tokens=4))
    with pytest.raises(ValueError, match="before the first patch"):
        methods.guiding_giants(net, made.direction, bad, bad, "L1.resid_pre")
    with pytest.raises(ValueError, match="threshold is 2"):
        methods.guiding_giants(net, made.direction, bad, bad, "L0.resid_pre", threshold=2.0)
