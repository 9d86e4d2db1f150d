"""Learnt subspaces: a planted variable is found, an absent one is not; pairs, controls, refusals."""

from __future__ import annotations

import architectures
import numpy as np
import pytest
import small
import torch
from two_sides import refused

import interp
from interp import subspaces
from interp.subspaces import Flow, Subspace, orthonormal
from interp.subspaces._controls import weights_drawn_anew
from interp.subspaces._search import featuriser
from interp.subspaces._stage import Stage
from interp.tasks import Variable

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def planted():
    """A linear model of two letters: the answer is 10 · (first letter) + (second letter), read at the end.

    One layer of attention without anything else would do; here a model of no layer's worth: the first letter
    stands in a random four-dimensional subspace of what position 0 writes to the end, by hand.
    """
    if not architectures.has_hooked_transformer():
        pytest.skip("this TransformerLens has no HookedTransformer")
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    torch.manual_seed(0)
    config = HookedTransformerConfig(
        n_layers=2, d_model=48, d_head=24, n_heads=2, n_ctx=3, d_vocab=26, attn_only=True,
        normalization_type=None, seed=0,
    )  # fmt: skip
    model = HookedTransformer(config).double().eval()
    frame = torch.linalg.qr(torch.randn(48, 48, dtype=torch.float64))[0]
    letters, other = frame[:, :5].T, frame[:, 5:10].T  # [5, d_model] each
    state = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    for i in range(5):
        state["embed.W_E"][i] = letters[i]  # the first letter
        state["embed.W_E"][5 + i] = other[i]  # the second
    state["embed.W_E"][25] = 0.0
    for head in range(2):  # uniform attention carries both letters to the end
        state[f"blocks.{head}.attn.IGNORE"] = state[f"blocks.{head}.attn.IGNORE"].fill_(-torch.inf)
        state[f"blocks.{head}.attn.mask"] = model.state_dict()[f"blocks.{head}.attn.mask"]
    reading = frame[:, :10].T  # of ten directions, 24 at most fit into a head
    state["blocks.0.attn.W_V"][0, :, :10] = reading.T * 3
    state["blocks.0.attn.W_O"][0, :10] = reading
    for first in range(5):
        for second in range(5):
            state["unembed.W_U"][:, 5 * first + second] = 4 * (letters[first] + other[second])
    model.load_state_dict(state)

    return model


def letters(n: int = 64, seed: int = 0) -> interp.Task:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(25, generator=generator).repeat(-(-n // 25))[:n]
    first, second = drawn // 5, drawn % 5
    clean = torch.stack((first, 5 + second, torch.full_like(first, 25)), 1)
    every = torch.arange(5)
    return interp.Task.from_tokens(
        clean=clean, answer=5 * first + second, wrong=5 * ((first + 1) % 5) + second
    ).with_variables(
        first=Variable(first, 5 * every[None] + second[:, None]),
        second=Variable(second, 5 * first[:, None] + every),
    )


def test_a_planted_variable_is_found_where_it_is(planted):
    task, state = letters(), torch.get_rng_state()
    controls = ("random", "norm_matched", "shuffled", "pca", "mean_difference")
    found = subspaces.das(
        planted, task, "first", "L1.resid_pre", rank=4, n_pairs=256, controls=controls, **QUIET
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert not planted.training
    assert all(p.grad is None for p in planted.parameters())
    means = found.table["raw"].mean("pair")
    assert found.accuracy >= 0.95
    assert found.selectivity >= 0.5
    assert float(means.sel(exchange="none")) == 0
    assert float(means.sel(exchange="whole")) == 0
    B = found.subspace.basis.double()
    assert torch.allclose(B.T @ B, torch.eye(4, dtype=torch.float64), atol=1e-6)
    again = subspaces.das(planted, task, "first", "L1.resid_pre", rank=4, n_pairs=256, controls=(), **QUIET)
    assert torch.equal(again.subspace.basis, found.subspace.basis)
    assert found.dropped == 0
    assert "first at L1.resid_pre, rank 4" in str(found)


def test_it_is_not_found_where_it_is_not(planted):
    """At the second letter before attention the first letter is not there."""
    result = subspaces.scan(
        planted, letters(), "first", ["L0.resid_pre", "L1.resid_pre"], [1, 2], rank=4, n_pairs=128, **QUIET
    )
    assert result["raw"].dims == ("layer", "pos")
    assert float(result["raw"].sel(layer=0).max()) <= float(result["control"].sel(layer=0).max()) + 0.05
    assert float(result["raw"].sel(layer=1, pos="2")) >= 0.9
    assert interp.plot.positions(result).layout.title.text


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_the_stage_is_the_model(engine):
    """Logits with other values at a place equal those of the model under a plain hook."""
    for name in ("LN-gelu_new-plain-serial-mha-learned", "RMS-silu-gated-parallel-gqa-rotary"):
        model = architectures.build(dict(architectures.grid())[name])
        ids = torch.randint(0, 30, (5, 7), generator=torch.Generator().manual_seed(1))
        task = interp.Task.from_tokens(
            clean=[row[: 5 + i % 3].tolist() for i, row in enumerate(ids)], answer=[1] * 5, wrong=[2] * 5
        )
        model.requires_grad_(False)
        stage = Stage.of(model, task, "L1H1", 3, engine)
        own, source = torch.tensor([0, 3, 4, 1]), torch.tensor([2, 2, 1, 0])
        new = stage.values[own].clone()
        new[:2] = stage.values[source[:2]]
        seen = stage.logits(own, new)
        kept = {}
        with model.hooks(
            fwd_hooks=[("blocks.1.attn.hook_z", lambda x, hook, kept=kept: kept.update(z=x.clone()))]
        ):
            model(task.clean)

        def put(x, hook, kept=kept, new=new):
            x = x.clone()
            x[:, 3, 1] = new[:, 0]
            return x

        assert torch.allclose(kept["z"][:, 3, 1], stage.values[:, 0], atol=1e-12)
        with model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", put)]):
            expected = model(task.clean[own])[torch.arange(4), task.last_position[own]]
        assert float((seen - expected).abs().max()) <= 1e-12
        assert (
            float((seen - model(task.clean[own])[torch.arange(4), task.last_position[own]]).abs().max())
            > 1e-3
        )


@pytest.mark.parametrize("pos", [1, 5])
def test_what_is_read_before_the_place_does_not_change(pos):
    """The answer is read at position 3, of some prompts before the exchanged position and of some after."""
    model = small.own()
    model.requires_grad_(False)
    ids = torch.randint(0, 30, (6, 7), generator=torch.Generator().manual_seed(2))
    reads = torch.tensor([3, 3, 6, 3, 2, 4])
    task = interp.Task.from_tokens(clean=ids, answer=[1] * 6, wrong=[2] * 6, positions=reads)
    own, source = torch.arange(6), torch.tensor([1, 2, 3, 4, 5, 0])
    seen = {}
    for engine in ("fast", "reference"):
        stage = Stage.of(model, task, "L1.resid_pre", pos, engine)
        seen[engine] = stage.logits(own, stage.values[source])
    assert float((seen["fast"] - seen["reference"]).abs().max()) <= 1e-9
    plain = model(ids)[torch.arange(6), reads]
    changed = (seen["fast"] - plain).abs().amax(1) > 1e-3
    assert torch.equal(changed, reads >= pos)


def test_all_directions_are_the_whole_site_and_a_flow_starts_as_its_rotation(planted):
    task = letters()
    test = subspaces.pairs(task, "first", n=64)["test"]
    every = Subspace(torch.eye(48, dtype=torch.float64), "L1.resid_pre")
    seen = subspaces.accuracy(planted, test, every)
    assert np.array_equal(seen["raw"].sel(exchange="subspace"), seen["raw"].sel(exchange="whole"))
    Q = orthonormal(torch.randn(48, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    draw = lambda *s: torch.randn(*s, dtype=torch.float64, generator=torch.Generator().manual_seed(3))  # noqa: E731
    layers = ((draw(24, 96), draw(96), draw(96, 24)), (draw(24, 96), draw(96), draw(96, 24)))
    flow, h = Flow(Q, layers), draw(6, 48)
    assert float((flow.inverse(flow(h)) - h).abs().max()) <= 1e-9
    assert float((flow(h) - h @ Q).abs().max()) > 1
    still = Flow(Q, tuple((a, torch.zeros(96, dtype=torch.float64), c * 0) for a, _, c in layers))
    bent, straight = Subspace(Q[:, :3], "L1.resid_pre", flow=still), Subspace(Q[:, :3], "L1.resid_pre")
    other = draw(6, 48).flip(0)
    assert torch.allclose(bent.exchange(h, other), straight.exchange(h, other), atol=1e-12)
    curved = subspaces.das(
        planted, task, "first", "L1.resid_pre", rank=4, featuriser="flow", n_pairs=64, steps=12,
        controls=("random",), **QUIET,
    )  # fmt: skip
    assert curved.losses[-1] < curved.losses[0]


def test_a_model_that_has_learnt_nothing_is_a_null(planted):
    """The same search in a copy with weights drawn anew finds less; the model itself is left as it was."""
    before = {name: value.clone() for name, value in planted.state_dict().items()}
    found = subspaces.das(
        planted, letters(), "first", "L1.resid_pre", rank=4, n_pairs=256,
        controls=("random_model",), **QUIET,
    )  # fmt: skip
    assert all(torch.equal(value, before[name]) for name, value in planted.state_dict().items())
    null = float(found.table["raw"].sel(exchange="random_model").mean())
    assert found.accuracy >= 0.9
    assert null <= 0.5
    assert found.selectivity == pytest.approx(found.accuracy - null)


def test_weights_are_drawn_anew_and_come_back():
    model = small.model()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}

    def look() -> None:
        with weights_drawn_anew(model, 0):
            for name, value in model.named_parameters():
                spread = float(before[name].std(correction=0))
                assert torch.equal(value, before[name]) == (spread == 0), name
                if value.numel() > 500:
                    assert float(value.detach().std()) == pytest.approx(spread, rel=0.2)
            raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        look()
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_masks_open_the_neurons_that_carry_the_variable():
    """Neurons 3 and 7 of eight hold the value, one each way; the gates of the others stay closed."""
    if not architectures.has_hooked_transformer():
        pytest.skip("this TransformerLens has no HookedTransformer")
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=1, d_model=12, d_head=4, n_heads=1, n_ctx=2, d_vocab=20, d_mlp=8, act_fn="relu",
        normalization_type=None, seed=0,
    )  # fmt: skip
    model = HookedTransformer(config).double().eval()
    state = {n: torch.zeros_like(v) if v.is_floating_point() else v for n, v in model.state_dict().items()}
    state["blocks.0.attn.IGNORE"] = model.state_dict()["blocks.0.attn.IGNORE"]
    state["embed.W_E"][torch.arange(4), torch.arange(4)] = 1.0  # the others are fillers that nothing reads
    W_in, W_out = state["blocks.0.mlp.W_in"], state["blocks.0.mlp.W_out"]
    for i in range(4):  # tokens 0 to 3 are (first bit, second bit); neurons 3, 7 the first, 1, 4 the second
        W_in[i, 3 if i // 2 else 7], W_in[i, 1 if i % 2 else 4] = 2.0, 1.0
    W_out[[3, 7, 1, 4], [6, 7, 8, 9]] = 1.0
    for i in range(4):
        state["unembed.W_U"][6 if i // 2 else 7, i] = 3.0
        state["unembed.W_U"][8 if i % 2 else 9, i] = 3.0
    model.load_state_dict(state)
    tokens = torch.arange(64) % 4
    clean = torch.stack((4 + torch.arange(64) // 4, tokens), 1)
    task = interp.Task.from_tokens(clean=clean, answer=tokens, wrong=(tokens + 1) % 4)
    bits = torch.arange(2)
    task = task.with_variables(high=Variable(tokens // 2, 2 * bits[None] + (tokens % 2)[:, None]))
    quick = {"n_pairs": 64, "steps": 120, **QUIET}
    found = subspaces.das(model, task, "high", "L0.post", featuriser="dbm", controls=("random",), **quick)
    assert set(found.subspace.basis.nonzero()[:, 0].tolist()) == {3, 7}
    assert found.accuracy == 1
    components = subspaces.das(model, task, "high", "L0.post", featuriser="dbm+pca", controls=(), **quick)
    assert components.accuracy == 1
    assert components.subspace.rank <= 3


def test_pairs_keep_content_apart():
    task = letters(50)  # every prompt twice
    parts = subspaces.pairs(task, "first", n=128)
    seen = {
        name: {tuple(task.clean[i].tolist()) for i in torch.cat((p.own, p.source)).tolist()}
        for name, p in parts.items()
    }
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["stop"]
    test = parts["test"]
    assert bool(test.informative.all())
    assert "neither" in test.judged
    assert (task.variables["first"].intervene(test.own, test.source) == test.expected).all()
    several = task.variables["second"].values
    assert bool((several[test.own] != several[test.source]).any())


def test_one_step_has_the_gradient_of_the_formula(planted):
    """The loss on free directions against the same written out with hooks and autograd."""
    task = letters()
    stage, parts = Stage.of(planted, task, "L1.resid_pre", "last"), subspaces.pairs(task, "first", n=16)
    train = parts["train"]
    free = featuriser("das", stage, 2, 0.0, 0).start(torch.Generator().manual_seed(5))
    loss = stage.loss(train, Subspace(orthonormal(free[0]), "L1.resid_pre").exchange)
    (slope,) = torch.autograd.grad(loss, free)
    matrix = free[0].detach().clone().requires_grad_(True)
    with torch.no_grad():
        kept = planted.run_with_cache(task.clean)[1]["blocks.1.hook_resid_pre"][:, -1]

    def put(x, hook):
        Q = orthonormal(matrix)
        own, source = kept[train.own], kept[train.source]
        return torch.cat((x[:, :-1], (own + ((source - own) @ Q) @ Q.T)[:, None]), 1)

    with planted.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", put)]):
        logits = planted(task.clean[train.own])[:, -1][:, train.choices]
    theirs = torch.nn.functional.cross_entropy(logits, train.target)
    (expected,) = torch.autograd.grad(theirs, matrix)
    assert float((loss - theirs).detach().abs()) <= 1e-10
    assert float((slope - expected).abs().max()) <= 1e-10
    assert float(expected.abs().max()) > 1e-4


def test_what_is_wrong_is_said(planted):
    task = letters()
    still = letters(20)
    still = still[(still.variables["first"].values == 0).nonzero().flatten()]
    das = subspaces.das
    refused(
        planted,
        [
            (lambda: das(planted, task, "frist", "L1.resid_pre"), "did you mean 'first'"),
            (
                lambda: das(
                    planted, interp.Task.from_tokens(clean=[[1]], answer=[1], wrong=[2]), "x", "L0H0"
                ),
                "no causal",
            ),
            (lambda: das(planted, still, "first", "L1.resid_pre"), "does not vary"),
            (lambda: das(planted, task, "first", "L1.resid_pre", rank=49), "rank is 49"),
            (lambda: das(planted, task, "first", "L1.resid_pre", rank=0), "rank is 0"),
            (lambda: das(planted, task, "first", "L1H0", rank=2, featuriser="dbm"), "leave rank out"),
            (lambda: das(planted, task, "first", "L1H0", featuriser="dbm", l1=-1), "l1 is -1"),
            (lambda: das(planted, task, "first", "L1.resid_pre", 7), "outside"),
            (lambda: das(planted, task, "first", "L1.z"), "one head"),
            (lambda: das(planted, task, "first", "L1H0", featuriser="tree"), "not one of das, dbm"),
            (lambda: das(planted, task, "first", "L1H0", controls=["none"]), "not one of"),
            (lambda: subspaces.scan(planted, task, "first", ["L0H0", "L1.resid_pre"]), "one of them"),
            (lambda: Variable([0, 5], [[1, 2], [3, 4]]), "between 0 and 1"),
            (lambda: task.with_variables(x=Variable([0] * 64, [[1, 2]] * 64)), "is its answer"),
        ],
    )


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_bridge_is_run_as_it_is(family):
    model = small.bridge(family)
    ids = torch.randint(1, 30, (12, 6), generator=torch.Generator().manual_seed(3))
    answer = model(ids)[:, -1].argmax(-1).detach()  # what it says, so that every prompt is solved
    other = (answer + 1 + torch.arange(12) % 2) % 30
    values, outcomes = torch.arange(12) % 2, torch.stack((answer, other), 1)
    outcomes[values == 1] = outcomes[values == 1].flip(1)
    task = interp.Task.from_tokens(clean=ids, answer=answer, wrong=other)
    task = task.with_variables(x=Variable(values, outcomes))
    test = subspaces.pairs(task, "x", n=24)["train"]
    basis = orthonormal(torch.randn(24, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5)))
    some = {"three": Subspace(basis, "L1.resid_mid")}
    fast, slow = (subspaces.accuracy(model, test, some, 2, engine=each) for each in ("fast", "reference"))
    assert float(abs(fast["probability"] - slow["probability"]).max()) <= 1e-6
    assert float(abs(slow["probability"] - slow["probability"].sel(exchange="none")).max()) > 1e-6
    with weights_drawn_anew(model, 0):
        fast, anew = (subspaces.accuracy(model, test, some, 2, engine=each) for each in ("fast", "reference"))
    assert float(abs(fast["probability"] - anew["probability"]).max()) <= 1e-6
    assert float(abs(slow["probability"] - anew["probability"]).max()) > 1e-2


def test_variables_of_families_say_what_the_other_value_would_give():
    """Mirrored prompts share all but the variable: each has the other's answer at the other's value."""
    model = interp.load("tiny-world")
    tasks = interp.tasks
    for build, names in (
        (tasks.ioi, ("subject", "output_position")),
        (tasks.coloured_objects, ("answer_pointer", "object")),
    ):
        task = build(model, n=24)
        own = torch.arange(24)
        mirrored = own + 1 - 2 * (own % 2)
        for name in names:
            given = task.variables[name].intervene(own, mirrored)
            assert torch.equal(given, task.answers[mirrored, 0]), name
            assert torch.equal(given, task.wrongs[own, 0]), name
    objects = task.variables["object"]
    assert bool(((objects.outcomes >= 0).sum(1) == 3).all())
    listed = objects.outcomes.clone().masked_fill(objects.outcomes < 0, 10**6).sort(1).values[:, :3]
    assert torch.equal(listed, task.variables["answer_pointer"].outcomes.sort(1).values)


def test_too_few_prompts_make_no_pairs():
    for n, match in ((1, "does not vary"), (3, "Give more prompts")):
        with pytest.raises(ValueError, match=match):
            subspaces.pairs(letters(n), "first")


def test_the_subject_of_tiny_world_is_found_where_it_is():
    """At the end before layer 1 the repeated name is in few directions; before layer 0 nothing is yet."""
    model = interp.load("tiny-world")
    task = interp.tasks.ioi(model, n=256, template=0)
    result = subspaces.scan(
        model,
        task,
        "subject",
        ["L0.resid_pre", "L1.resid_pre"],
        "end",
        rank=16,
        n_pairs=256,
        steps=80,
        **QUIET,
    )
    raw, control = (result[name].isel(pos=0).values for name in ("raw", "control"))
    assert raw[1] >= 0.95
    assert control[1] <= 0.6  # without the subject the model names one of two at random
    assert raw[0] <= control[0] + 0.05
