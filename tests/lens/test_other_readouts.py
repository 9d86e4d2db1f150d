"""Patchscopes, mixed layers, backward readouts and clusters of value rows: identities and planted truth."""

from __future__ import annotations

from typing import Any

import architectures
import numpy as np
import pytest
import small
import torch
import two_sides

import interp
from interp import lens
from interp.steering import Direction

EVERY = list(range(architectures.VOCAB))


@pytest.fixture(scope="module")
def model() -> Any:
    return small.model()


@pytest.fixture(scope="module")
def rows() -> list[list[int]]:
    return architectures.tokens(3)[0].tolist()


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_placed_where_it_came_from_it_changes_nothing(model: Any, rows: Any, engine: str) -> None:
    found = lens.patchscope(model, rows[:1], rows[:1], EVERY, layer=[0, 1, 2], pos=4, at=4, engine=engine)
    with torch.no_grad():
        own = model(torch.tensor(rows[:1]))[0, -1].log_softmax(-1)
    for layer in range(3):
        np.testing.assert_allclose(found["value"].values[0, layer], own, atol=1e-9)
    assert float(abs(found["value"] - found["random"]).max()) > 1e-2


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_at_the_last_layers_output_it_is_the_logit_lens(model: Any, rows: Any, engine: str) -> None:
    options = {"site": "resid_post", "engine": engine}
    found = lens.patchscope(model, rows, [rows[1][:5]], EVERY, to_layer=2, **options)
    plain = lens.logit(model, rows, EVERY, pos="last", **options)
    np.testing.assert_allclose(found["value"].values, plain["value"].values[:, :, 0], atol=1e-9)
    np.testing.assert_allclose(found["shuffled"].values, found["value"].roll(prompt=1).values, atol=1e-9)


def test_a_matched_norm_is_that_of_what_stood_there(model: Any, rows: Any) -> None:
    """A source's direction alone counts: ten times its stream gives the same."""
    from interp.lens._patchscope import _placed

    target = torch.tensor(rows[:1])
    vector = torch.randn(1, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one, ten, raw = (
        _placed(model, None, target, ("resid_pre", 1), 3, vector * by, matched).detach()
        for by, matched in ((1, True), (10, True), (1, False))
    )
    np.testing.assert_allclose(one, ten, atol=1e-9)
    assert float((one - raw).abs().max()) > 1e-3
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_each_source_has_targets_of_its_own(model: Any, rows: Any) -> None:
    ids = torch.tensor([[3, 4], [5, 6]])
    found = lens.patchscope(model, rows, [rows[0]], ids, layer=1)["value"].values[:, 0]
    every = lens.patchscope(model, rows, [rows[0]], EVERY, layer=1)["value"].values[:, 0]
    np.testing.assert_array_equal(found, np.take_along_axis(every, ids.numpy(), 1))


def test_a_source_can_be_read_in_words() -> None:
    """tiny-ioi's answer is in its last token's stream before the last layer, whatever stands around."""
    world = interp.load("tiny-ioi")
    task = interp.tasks.ioi(world, n=8, seed=0)
    found = lens.patchscope(world, task, "Mary gave a book to", to_layer=2, layer=2)
    assert float(found["value"].mean()) > float(found["random"].mean()) + 1
    assert float(found["value"].mean()) > float(found["shuffled"].mean())


def test_a_share_of_nothing_is_the_model_and_of_all_the_early_layers(model: Any, rows: Any) -> None:
    found = lens.mixed(model, rows, EVERY, gammas=[0.0, 0.5, 1.0], layer=[0, 1])
    with torch.no_grad():
        out, cache = model.run_with_cache(torch.tensor(rows))
        low = [model.unembed(model.ln_final(cache[f"blocks.{n}.hook_resid_post"]))[:, -1] for n in (0, 1)]
    early = torch.stack(low).mean(0)
    for k, gamma in enumerate((0.0, 0.5, 1.0)):
        expected = ((1 - gamma) * out[:, -1] + gamma * early).log_softmax(-1)
        np.testing.assert_allclose(found["value"].values[:, k], expected, atol=1e-9)
        order = expected.argsort(-1, descending=True).argsort(-1)
        np.testing.assert_array_equal(found["rank"].values[:, k], order)
    assert float(found["kl"].sel(gamma=1.0).min()) > 1e-3 > float(abs(found["kl"].sel(gamma=0.0)).max())


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_a_slope_is_what_small_changes_do(model: Any, rows: Any, engine: str) -> None:
    vector = torch.randn(24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    d = Direction.from_tensor(vector, "L2.resid_post")
    found = lens.backward(model, rows, d, layer=1, engine=engine, top=architectures.VOCAB)
    kept: list[torch.Tensor] = []

    def projection(step: float) -> torch.Tensor:
        def scale(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
            out = tensor.clone()
            out[:, 3] *= 1 + step
            return out

        hooks = [
            ("blocks.1.hook_resid_pre", scale),
            ("blocks.2.hook_resid_post", lambda t, hook: kept.append(t)),
        ]
        with torch.no_grad():
            model.run_with_hooks(torch.tensor(rows), fwd_hooks=hooks)
        return kept.pop()[:, -1] @ (vector / vector.norm())

    measured = (projection(1e-5) - projection(-1e-5)) / 2e-5
    np.testing.assert_allclose(found["value"].values[:, 0, 3], measured, atol=1e-6)
    np.testing.assert_allclose(found["raw"], projection(0.0), atol=1e-9)
    assert float(measured.abs().max()) > 1e-2


def test_read_where_it_stands_the_slope_is_the_direction(model: Any, rows: Any) -> None:
    """And the tokens that would write it are those whose embeddings point along it."""
    vector = (model.W_E[7] - model.W_E.mean(0)).detach()
    found = lens.backward(model, rows, Direction.from_tensor(vector, "L0.resid_pre"))
    assert found["norm"].values[:, 0, -1] == pytest.approx(1.0)
    assert (found["top_id"].values[:, 0, -1, 0] == 7).all()
    assert float(abs(found["norm"].values[:, 0, :-1]).max()) == 0
    with two_sides.no_pass(model), pytest.raises(ValueError, match="comes after"):
        lens.backward(model, rows, Direction.from_tensor(vector, "L0.resid_pre"), layer=1)


def test_planted_clusters_of_neurons_are_found() -> None:
    """Neurons that write one of four tokens' unembeddings, with a little noise."""
    planted = architectures.build({"normalization_type": None})  # skips where there is none
    generator = torch.Generator().manual_seed(0)
    W_U = planted.W_U.detach()
    centred = W_U - W_U.mean(1, keepdim=True)
    W_out = planted.blocks[1].mlp.W_out
    before = W_out.detach().clone()
    truth = torch.arange(len(W_out)) % 4
    aims = torch.linalg.pinv(centred.T) @ torch.eye(len(W_U.T), dtype=W_U.dtype)[:, [3, 9, 14, 20]]
    try:
        with torch.no_grad():
            noise = torch.randn(W_out.shape, generator=generator, dtype=W_out.dtype)
            W_out.copy_(aims.T[truth] / aims.norm(dim=0)[truth][:, None] + 0.02 * noise)
        found = lens.values(planted, 1, clusters=4, top=1)
        pairs = {(int(a), int(b)) for a, b in zip(truth, found["of_neuron"].values)}
        assert len(pairs) == 4  # one cluster a token
        assert sorted(found["top_id"].values[:, 0]) == [3, 9, 14, 20]
        assert float(found["value"].min()) > 0.9 > float(found["null"].max())
        assert int(found["size"].sum()) == len(W_out)
    finally:
        with torch.no_grad():
            W_out.copy_(before)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m, r: lens.patchscope(m, r, [r[0]], site="z"), "site is 'z'"),
        (lambda m, r: lens.patchscope(m, r, [r[0]], at=30), "at is 30"),
        (lambda m, r: lens.patchscope(m, r, [r[0]], pos="all"), "pos is 'all', several positions"),
        (lambda m, r: lens.patchscope(m, r, [r[0]], [3], pos=(1, 3)), "several positions of a prompt"),
        (lambda m, r: lens.mixed(m, r, [3], pos=(1, 3)), "several positions of a prompt"),
        (lambda m, r: lens.mixed(m, r, gammas=[1.5]), r"gammas is \[1.5\]"),
        (lambda m, r: lens.mixed(m, r, pos="all"), "pos is 'all'"),
        (lambda m, r: lens.values(m, 7), "layer is 7"),
        (lambda m, r: lens.values(m, 1, clusters=1000), "clusters is 1000"),
        (
            lambda m, r: lens.backward(m, r, Direction.from_tensor(torch.ones(6), "L1H0")),
            "vector of the stream",
        ),
    ],
)
def test_mistakes_are_said_before_a_pass(call: Any, said: str, model: Any, rows: Any) -> None:
    with two_sides.no_pass(model), pytest.raises(ValueError, match=said):
        call(model, rows)


def test_a_neuron_that_is_set_moves_the_token_it_writes(model: Any, rows: Any) -> None:
    """Its output row raises one token: lists it first, and the token's lead grows with the value."""
    W_U, W_out, token = model.W_U.detach(), model.blocks[2].mlp.W_out, 7
    before = W_out.detach().clone()
    try:
        with torch.no_grad():
            aim = W_U[:, token] - W_U.mean(1)
            W_out[3] = 4 * (aim - aim.mean()) / aim.norm()
        assert int(lens.read(model, ["L2N3"], top=1)["top_id"][0, 0]) == token
        leads = []
        for value in (0.0, 1.0, 2.0, 4.0):
            made = interp.steering.edits.set_units("L2.post", [3], value)
            with torch.no_grad(), interp.steering.steer(model, made):
                logits = model(torch.tensor(rows))[:, -1]
            leads.append(logits[:, token] - logits.mean(-1))
        assert bool((torch.stack(leads).diff(dim=0) > 0).all())
    finally:
        with torch.no_grad():
            W_out.copy_(before)
