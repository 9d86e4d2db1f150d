"""Passes by the weights give what passes through the model give, under hooks: the oracle of every slope."""

from __future__ import annotations

from typing import Any

import architectures
import numpy as np
import pytest
import small
from cases import QUIET, task
from estimates import FEW, model_of

import interp
from interp.attribution import attribute, relevance
from interp.circuits import score_edges
from interp.methods import GIM, IG, Atp, AtpStar, AttnLRP, GradPath, Method, Relp
from interp.models import anatomy, is_bridge
from interp.places import SITES

KINDS = [*FEW, "local", "alibi"]
METHODS = [Atp(), IG(steps=2), AtpStar(), Relp(), Relp(ah=False), AttnLRP(), GIM()]
EDGES = [Atp(), IG(steps=2), IG(steps=1, variant="activations"), GradPath(steps=1), Relp()]


def compared(by_hooks: Any, by_weights: Any, model: Any, name: str = "value") -> None:
    """Equal, and something: to 1e-10, on a bridge of transformers to its norms in float32."""
    assert by_hooks.attrs["engine"] == "reference"
    assert by_weights.attrs["engine"] == "fast"
    largest = float(abs(by_hooks[name]).max())
    assert largest > 1e-3
    tolerance = 1e-4 * largest if is_bridge(model) else 1e-10
    np.testing.assert_allclose(by_weights[name], by_hooks[name], rtol=0, atol=tolerance)


def sites_of(model: Any, method: Method) -> list[str]:
    """Every site that slopes reach: under the AH-rule no query or key."""
    cut = ("q", "k") if method.rules is not None and method.rules.ah is not False else ()
    return [site for site in SITES if site in anatomy(model).sites() and site not in cut]


@pytest.mark.parametrize("kind", KINDS)
def test_estimates(kind: str) -> None:
    model = model_of(kind)
    for method in METHODS:
        if isinstance(method, AtpStar) and anatomy(model).whole_qk_norm:
            method = AtpStar(qk_fix=False)
        sites = sites_of(model, method)
        found = [
            attribute(model, task(), sites, "layer", method=method, engine=engine, **QUIET)
            for engine in ("reference", "fast")
        ]
        compared(*found, model)


@pytest.mark.parametrize("kind", KINDS)
def test_relevance(kind: str) -> None:
    model = model_of(kind)
    for method in ("relp", "attnlrp"):
        found = [
            relevance(model, task().clean[0], [(3, 5), 4], method=method, engine=engine)
            for engine in ("reference", "fast")
        ]
        for name in ("value", "tokens", "raw"):
            compared(*found, model, name)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "-norm" not in kind or kind == "qk-norm"])
def test_edges(kind: str) -> None:
    model = model_of(kind)
    for method in EDGES:
        found = [
            score_edges(model, task(), method=method, engine=engine, progress=False)
            for engine in ("reference", "fast")
        ]
        compared(*found, model)


def test_metrics_that_read_all_positions_and_columns() -> None:
    model, metrics = small.model(), [interp.tasks.KL(), interp.tasks.LogitDiff()]
    for engine in ("reference", "fast"):
        found = attribute(model, task(), "z", metric=metrics, engine=engine, **QUIET)
        if engine == "reference":
            oracle = found
    compared(oracle, found, model)


def test_noise_and_draws() -> None:
    model = small.model()
    found = [
        attribute(model, task(), "z", ablation="gaussian", direction="noise", engine=engine, **QUIET)
        for engine in ("reference", "fast")
    ]
    compared(*found, model)


def test_a_model_that_the_trust_check_refuses_goes_through_its_own_forward() -> None:
    """A hook of the user's own counts; asked for by name, the fast engine says why not."""
    model = small.model()
    plain = attribute(model, task(), "z", **QUIET)
    model.add_hook("blocks.0.hook_mlp_out", lambda tensor, hook: 2 * tensor)
    try:
        found = attribute(model, task(), "z", **QUIET)
        assert found.attrs["engine"] == "reference"
        assert float(abs(found["value"] - plain["value"]).max()) > 1e-3
        with pytest.raises(ValueError, match="hooks are attached"):
            attribute(model, task(), "z", engine="fast", **QUIET)
    finally:
        model.reset_hooks()


@pytest.mark.skipif(not architectures.has_hooked_transformer(), reason="no HookedTransformer in this release")
def test_no_weight_gets_a_gradient_and_none_is_kept_for_the_way_back() -> None:
    """Also of a model whose parameters all ask for one."""
    import torch

    model, kept = small.model(), []
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    weights = {parameter.data_ptr() for parameter in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        attribute(model, task(), "z", engine="fast", **QUIET)
    assert all(parameter.grad is None for parameter in model.parameters())
    n_rows = len(task()) * task().clean.shape[1]
    wide = (n_rows, model.cfg.d_model)
    assert kept.count(wide) <= 4 * model.cfg.n_layers + 2  # what norms read, not what projections do


def test_methods_that_have_one_engine() -> None:
    model = small.model()
    with pytest.raises(ValueError, match="'secant' goes through the model"):
        attribute(model, task(), "z", method="secant", engine="fast", **QUIET)
    with pytest.raises(ValueError, match="'secant' goes through the model"):
        score_edges(model, task(), method="secant", engine="fast", progress=False)
    with pytest.raises(ValueError, match="'exact' goes by the model's weights"):
        score_edges(model, task(), method="exact", engine="reference", progress=False)
