"""Trained vectors with any loss or reward, what they act through, token scales, transfer."""

from __future__ import annotations

import pytest
import small
import torch

from interp import Task, steering
from interp.models import logits
from interp.steering import Direction, methods


@pytest.fixture(scope="module")
def net():
    return small.model()


@pytest.fixture(scope="module")
def task():
    ids = torch.randint(3, 30, (6, 6), generator=torch.Generator().manual_seed(8))
    return Task.from_tokens(clean=ids.tolist(), corrupt=ids.flip(1).tolist(), answer=[4] * 6, wrong=[9] * 6)


def reward_of(token):
    return lambda out, rows: out[torch.arange(len(out)), rows.lengths - 1].log_softmax(-1)[:, token]


def p_of(model, ids, token, *made):
    with torch.no_grad(), steering.steer(model, *made):
        return logits(model, ids)[:, -1].softmax(-1)[:, token].mean().item()


def test_a_reward_and_a_loss_train_the_vector_that_targets_do(net, task):
    ids, last = task.clean, net.cfg.n_layers - 1
    options = {"layer": last, "site": "resid_post", "steps": 30, "lr": 0.3}
    by_target = steering.optimise(net, ids, torch.full((6,), 4), **options)
    by_reward = steering.optimise(net, ids, reward=reward_of(4), **options)
    by_loss = steering.optimise(net, ids, loss=lambda out, rows: -reward_of(4)(out, rows).mean(), **options)
    torch.testing.assert_close(by_reward.vector, by_loss.vector)
    assert float(by_reward.cosine(by_target)[0]) > 0.9
    base, up = p_of(net, ids, 4), p_of(net, ids, 4, steering.add(by_reward))
    random = Direction({by_reward.place: torch.randn(net.cfg.d_model).double()})
    control = random * (float(by_reward.vector.norm()) / float(random.vector.norm()))
    assert up > 5 * max(base, p_of(net, ids, 4, steering.add(control)))
    assert int(by_reward.lens(net).argmax()) == 4  # the lens of a last-layer vector names its token
    assert all(parameter.grad is None for parameter in net.parameters())


def test_layers_learn_together_or_apart_and_add_up(net, task):
    together = steering.optimise(net, task.clean, reward=reward_of(4), layer=[0, 2], steps=25, lr=0.2)
    assert [str(where) for where in together.places] == ["L0.resid_pre", "L2.resid_pre"]
    apart = [
        steering.optimise(net, task.clean, reward=reward_of(4), layer=n, steps=25, lr=0.2) for n in (0, 2)
    ]
    base = p_of(net, task.clean, 4)
    single = [p_of(net, task.clean, 4, steering.add(d)) for d in apart]
    both = p_of(net, task.clean, 4, steering.add(apart[0] + apart[1]))
    assert both == pytest.approx(p_of(net, task.clean, 4, *map(steering.add, apart)), rel=1e-9)
    assert min(both, *single, p_of(net, task.clean, 4, steering.add(together))) > 5 * base


def test_what_is_not_finite_is_refused_with_the_step(net, task):
    def breaks(out, rows):
        breaks.calls += 1
        good = reward_of(4)(out, rows)
        return good if breaks.calls <= 2 else good * torch.tensor([1.0, float("nan"), 1, 1, 1, 1])

    breaks.calls = 0
    with pytest.raises(ValueError, match="reward of prompt 1 is nan at step 2"):
        steering.optimise(net, task.clean, reward=breaks, layer=1, steps=5)
    with pytest.raises(ValueError, match=r"the loss is -?inf at step 0 of 5"):
        steering.optimise(
            net,
            task.clean,
            loss=lambda out, rows: out.sum() / 0.0,
            layer=1,
            steps=5,
        )
    for options, match in (
        ({}, "one thing"),
        ({"reward": reward_of(4), "loss": lambda out, rows: out.sum()}, "one thing"),
        ({"reward": lambda out, rows: out.sum()}, "for 6 prompts"),
        ({"reward": lambda out, rows: torch.ones(6)}, "made of the logits"),
    ):
        with pytest.raises(ValueError, match=match):
            steering.optimise(net, task.clean, layer=1, steps=2, **options)


def test_paths_add_up_and_are_those_of_a_run_by_hand(net, task):
    d = Direction.from_tensor(
        torch.randn(net.cfg.d_model, generator=torch.Generator().manual_seed(0)).double(), "resid_pre", 1
    )
    out = methods.vector_paths(net, d, task, 2.0, progress=False)
    whole = methods.measure(net, task, steering.add(d, 2.0)) - methods.measure(net, task)
    value = torch.tensor(out["value"].values)
    torch.testing.assert_close(value[:, 0], whole)
    torch.testing.assert_close(value[:, 1:].sum(1), whole)
    assert (value.abs().mean(0) > 1e-4).all()
    nothing = methods.vector_paths(net, d, task, 0.0, progress=False)
    assert abs(nothing["value"].values).max() < 1e-9
    assert (out["layer_value"].sel(layer=0).values == 0).all()
    kept = {}
    hooks = [(f"blocks.{n}.hook_{part}", n) for n in (1, 2) for part in ("attn_out", "mlp_out")]
    with (
        torch.no_grad(),
        net.hooks(fwd_hooks=[(name, lambda t, hook: kept.update({hook.name: t})) for name, _ in hooks]),
    ):
        base = logits(net, task.clean)[:, -1]
    freeze = [(name, lambda t, hook: kept[hook.name]) for name, _ in hooks]
    with (
        torch.no_grad(),
        net.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", lambda t, hook: t + 2 * d.vector), *freeze]),
    ):
        direct = logits(net, task.clean)[:, -1]
    by_hand = (direct[:, 4] - direct[:, 9]) - (base[:, 4] - base[:, 9])
    torch.testing.assert_close(value[:, 1], by_hand, rtol=1e-6, atol=1e-8)


def test_a_vector_planted_for_one_head_acts_through_attention_alone():
    import toys

    sketch = toys.chain()
    model, task = toys.model(sketch), toys.task(sketch, toys.WORDS)
    red = sketch.features.index("mid red")
    vector = torch.zeros(model.cfg.d_model).double()
    vector[red] = 3.0
    d = Direction.from_tensor(vector, "resid_pre", 1)  # L1H0 moves mid to out
    out = methods.vector_paths(model, d, task[:1], progress=False)
    shares = dict(zip(out["path"].values.tolist(), out["value"].values[0]))
    assert shares["attention"] == pytest.approx(shares["all"])
    assert shares["all"] > 1
    assert shares["direct"] == pytest.approx(0, abs=1e-9)
    assert shares["mlp"] == pytest.approx(0, abs=1e-9)
    assert float(out["layer_value"].sel(layer=1, part="attention")[0]) == pytest.approx(shares["all"])


def test_the_scale_of_a_token_learns_where_the_vector_is_wanted(net):
    ids = torch.randint(3, 15, (12, 6), generator=torch.Generator().manual_seed(8))
    ids[:6, -1], ids[6:, -1] = 20, 25  # wanted after 20, not after 25

    def reward(out, rows):
        log = out[:, -1].log_softmax(-1)
        with torch.no_grad():
            base = logits(net, rows.tokens)[:, -1].log_softmax(-1)
        return torch.where(torch.arange(12) < 6, log[:, 4], -20 * (base.exp() * (base - log)).sum(-1))

    adaptive = methods.adaptive_vector(net, ids, reward=reward, layer=1, steps=60, lr=0.1)
    h = steering.activations(net, ids, "L1.resid_pre")
    scale = adaptive.scale(h)
    assert scale[:6].min() > 2 * scale[6:].max()
    every, _ = adaptive.scales(net, ids)
    assert every.shape == (72,)
    with torch.no_grad(), steering.steer(net, *adaptive.steer(2.0)):
        ours = logits(net, ids)

    def by_hand(tensor, hook):
        s = torch.sigmoid(tensor @ adaptive.weight + adaptive.bias)
        return tensor + 2 * s[..., None] * adaptive.direction.vector

    with torch.no_grad(), net.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", by_hand)]):
        torch.testing.assert_close(ours, logits(net, ids))
    with torch.no_grad(), steering.steer(net, *adaptive.steer(0.0)):
        assert torch.equal(logits(net, ids), logits(net, ids))


def test_a_vector_goes_to_another_model_of_its_width(net, task):
    other = small.own()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(3)
        other.W_U.add_(0.02 * torch.randn(other.W_U.shape, generator=generator))
    d = steering.optimise(net, task.clean, reward=reward_of(4), layer=2, steps=25, lr=0.2)
    moved = methods.transfer(d, other)
    assert torch.equal(moved.vector, d.vector)
    assert "transferred" in moved.method
    assert p_of(other, task.clean, 4, steering.add(moved)) > 3 * p_of(other, task.clean, 4)
    with pytest.raises(ValueError, match="out of range"):
        methods.transfer(Direction.from_tensor(torch.ones(net.cfg.d_model), "resid_pre", 9), net)
