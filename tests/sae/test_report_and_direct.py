"""Figures of a dictionary by hand, and what features write and are written by, as sums that add up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import small
import torch

import interp
from interp import sae
from interp.sae._report import _figures, _held_out

EYE = torch.eye(64)
BOTH = torch.cat((EYE, -EYE))
ZERO = torch.zeros(64)


@pytest.fixture(scope="module")
def model() -> Any:
    return interp.load("tiny-ioi")


@pytest.fixture(scope="module")
def task(model: Any) -> interp.Task:
    return interp.tasks.ioi(model, n=6, seed=0)


def perfect(place: str) -> sae.Dictionary:
    return sae.Dictionary(BOTH.T, torch.zeros(128), BOTH, ZERO, place=place)


def drawn(d: int, n: int, place: str, seed: int = 0, **more: Any) -> sae.Dictionary:
    g = torch.Generator().manual_seed(seed)
    r = lambda *size: torch.randn(*size, generator=g, dtype=torch.float64)  # noqa: E731
    return sae.Dictionary(r(d, n) / 8, 0.1 * r(n), r(n, d) / 8, 0.1 * r(d), place=place, centre=True, **more)


@pytest.mark.parametrize("place", ["L1.resid_pre", "L2.resid_post", "L1.z"])
def test_a_perfect_dictionary_costs_nothing(place: str, model: Any, task: interp.Task) -> None:
    found = sae.report(model, perfect(place), task)["estimate"]
    wanted = {
        "fvu": 0,
        "ce_rise": 0,
        "kl": 0,
        "recovered_zero": 1,
        "recovered_mean": 1,
        "cosine": 1,
        "bias": 1,
    }
    for name, value in wanted.items():
        assert float(found.sel(figure=name)) == pytest.approx(value, abs=1e-5)
    assert 0 < float(found.sel(figure="l0")) <= 64
    assert np.isnan(found.sel(figure="dark_linear"))


def test_a_dictionary_that_knows_the_mean_alone(model: Any, task: interp.Task) -> None:
    rows = interp.activations(model, task, "L1.resid_pre", "all")
    starts = torch.cat((torch.zeros(1, dtype=torch.int64), task.lengths.cumsum(0)[:-1]))
    kept = torch.ones(len(rows), dtype=torch.bool)
    kept[starts] = False
    mean = rows[kept].mean(0)
    d = sae.Dictionary(EYE, torch.zeros(64), 0 * EYE, mean, place="L1.resid_pre")
    found = sae.report(model, d, task)
    assert float(found["estimate"].sel(figure="fvu")) == pytest.approx(1, abs=1e-6)
    assert float(found["estimate"].sel(figure="recovered_mean")) == pytest.approx(0, abs=1e-5)
    np.testing.assert_allclose(found["ce"].sel(run="dictionary"), found["ce"].sel(run="mean"), atol=1e-6)
    assert float(found["estimate"].sel(figure="ce_rise")) > 0.1
    assert int(found.attrs["n_tokens"]) == int(kept.sum())


def test_cross_entropy_by_hand(model: Any, task: interp.Task) -> None:
    d = drawn(64, 96, "L1.resid_pre").to(torch.float32)
    found = sae.report(model, d, task[:1], skip=2)
    hook, n = "blocks.1.hook_resid_pre", int(task.lengths[0])

    def put(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        tensor = tensor.clone()
        tensor[:, 2:] = d(tensor[:, 2:])
        return tensor

    tokens = task.clean[:1, :n]
    with torch.no_grad():
        for run, hooks in (("model", []), ("dictionary", [(hook, put)])):
            out = model.run_with_hooks(tokens, fwd_hooks=hooks).log_softmax(-1)[0]
            hand = -out[torch.arange(2, n - 1), tokens[0, 3:]].mean()
            assert found["ce"].sel(run=run).item() == pytest.approx(float(hand), abs=1e-5)


def test_figures_of_three_tokens_by_hand() -> None:
    one = {n: np.array([v]) for n, v in {"n": 3.0, "sse": 2.0, "sst": 8.0, "l0": 6.0, "cosine": 2.4}.items()}
    one |= {
        n: np.array([v])
        for n, v in {"ratio": 2.7, "out2": 9.0, "dot": 10.0, "n_next": 2.0, "kl": 0.5}.items()
    }
    found = _figures(one | {"ce": np.array([[2.0, 3.0, 6.0, 4.0]])}, np.array([0]))
    wanted = {"l0": 2, "fvu": 0.25, "cosine": 0.8, "norm_ratio": 0.9, "bias": 0.9, "ce_rise": 0.5, "kl": 0.25}
    assert found == pytest.approx({**wanted, "recovered_zero": 0.75, "recovered_mean": 0.5})


def test_linear_and_other_dark_matter() -> None:
    g = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 800, 8, generator=g, dtype=torch.float64)
    fitted = torch.arange(800) < 400
    planted = x @ torch.randn(8, 8, generator=g, dtype=torch.float64)
    assert _held_out(x, planted, fitted) == pytest.approx(1, abs=1e-4)
    assert abs(_held_out(x, noise, fitted)) < 0.05


def test_check_warns_of_another_site(model: Any, task: interp.Task) -> None:
    rows = interp.activations(model, task, "L2.resid_post", "all")
    d = sae.Dictionary(EYE, -rows.mean(0) * 0, EYE, 3 * rows.mean(0) + 2, place="L1.resid_pre")
    with pytest.warns(UserWarning, match="a site off by one"):
        assert sae.check(model, d, task) > 1
    assert sae.check(model, perfect("L1.resid_pre"), task) < 1e-6


@pytest.mark.parametrize(
    "place", ["L0.resid_pre", "L1.resid_mid", "L1.mlp_out", "L2.attn_out", "L2.resid_post"]
)
def test_shares_of_features_add_up_to_the_logit_difference(place: str, model: Any, task: interp.Task) -> None:
    d = drawn(64, 96, place).to(torch.float32)
    found = sae.to_logits(model, task, d)
    total = found["value"].sum("feature") + found["constant"] + found["rest"]
    np.testing.assert_allclose(total, found["raw"], atol=1e-4)
    whole = interp.attribution.direct(model, task, heads=False)
    np.testing.assert_allclose(found["raw"], whole["raw"], atol=1e-4)
    assert abs(found["value"]).max() > 1e-3
    if place == "L2.resid_post":  # nothing comes after but biases
        bias = whole["value"].sel(component="bias")
        np.testing.assert_allclose(found["rest"], bias, atol=1e-4)
    if place in ("L1.mlp_out", "L2.attn_out"):
        parts = found["value"].sum("feature") + found["constant"]
        name = "MLP1" if place == "L1.mlp_out" else place
        np.testing.assert_allclose(parts, whole["value"].sel(component=name), atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama", "olmo2"])
@pytest.mark.parametrize("site", ["z", "attn_out"])
def test_heads_and_sources_add_up_to_the_pre_activation(family: str, site: str) -> None:
    """Grouped queries, biases, and a norm after attention."""
    model = small.bridge(family)
    task = interp.Task.from_tokens(
        clean=[[5, 6, 7, 8], [9, 4, 3, 2]], corrupt=[[5, 6, 7, 9], [8, 4, 3, 2]], answer=[3, 4], wrong=[4, 5]
    )
    d = drawn(24, 40, f"L1.{site}")
    found = sae.through_attention(model, task, d, [0, 7])
    total = found["value"].sum(["head", "src"]) + found["constant"]
    np.testing.assert_allclose(total, found["raw"], atol=1e-5 * float(abs(found["raw"]).max()))
    x = model.run_with_cache(task.clean)[1][
        "blocks.1.attn.hook_z" if site == "z" else "blocks.1.hook_attn_out"
    ]
    hand = d.pre_activations(x.flatten(2))[..., [0, 7]].transpose(1, 2)
    np.testing.assert_allclose(found["raw"], hand.detach(), atol=1e-6)
    assert float(abs(found["value"]).max()) > 1e-3
    assert float(abs(found["value"].values[:, :, 0, :, 1:]).max()) == 0  # nothing from later positions


def test_what_cannot_be_attributed(model: Any, task: interp.Task) -> None:
    with pytest.raises(ValueError, match="no linear sum over heads"):
        sae.through_attention(model, task, perfect("L1.resid_pre"), [0])
    with pytest.raises(ValueError, match="give some of 0 to 127"):
        sae.through_attention(model, task, perfect("L1.z"), [500])
    with pytest.raises(ValueError, match="is not in the stream"):
        sae.to_logits(model, task, perfect("L1.z"))
    for wrong in (-1, 40):
        with pytest.raises(ValueError, match=rf"skip is {wrong}, and the shortest prompt has \d+ tokens"):
            sae.check(model, drawn(64, 96, "L1.resid_pre"), task, skip=wrong)
    with pytest.raises(ValueError, match=r"skip is 40, and the shortest prompt has \d+ tokens"):
        sae.report(model, perfect("L1.z"), task, skip=40)
