"""Models of every kind: an estimate is right, or there is a sentence instead of it."""

from __future__ import annotations

from typing import Any

import architectures
import numpy as np
import pytest
import small
import torch
from cases import QUIET, task
from estimates import finite_difference

import interp
from interp.attribution import attribute, relevance, relevance_rules, screen
from interp.methods import GIM, AtpStar, Relp
from interp.tasks import Custom, LogitDiff

needs_hooked = pytest.mark.skipif(
    not architectures.has_hooked_transformer(), reason="no HookedTransformer in this release"
)


# Attention that looks ahead


def bidirectional(**more: Any) -> Any:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=2, d_model=16, d_head=8, n_heads=2, n_ctx=6, d_vocab=20, attention_dir="bidirectional",
        seed=0, initializer_range=0.5, dtype=torch.float64,
        **{"attn_only": True, "normalization_type": None} | more,
    )  # fmt: skip
    return HookedTransformer(config).eval()


def first_read() -> interp.Task:
    """Read at the first position; the change stands behind it."""
    tokens = {"clean": [[1, 2, 3, 4]], "corrupt": [[1, 2, 9, 4]]}
    return interp.Task.from_tokens(**tokens, answer=[5], wrong=[6], positions=[0])


@needs_hooked
@pytest.mark.parametrize("method", ["atp", "ig", "atp*", "relp", "attnlrp", "gim"])
def test_nothing_is_cut_by_causality_where_attention_looks_ahead(method: str) -> None:
    """In the last layer the metric is linear in z: every estimate is exact, and was 0."""
    model = bidirectional()
    chosen: Any = AtpStar(grad_drop=False) if method == "atp*" else method
    found = attribute(model, first_read(), "z", method=chosen, **QUIET)["value"].sel(layer=1)
    by_hand = []
    with torch.no_grad():
        _, source = model.run_with_cache(first_read().clean)
        for head in range(2):

            def put(z: torch.Tensor, hook: Any, head: int = head) -> torch.Tensor:
                z = z.clone()
                z[:, :, head] = source["blocks.1.attn.hook_z"][:, :, head]
                return z

            run = model.run_with_hooks(first_read().corrupt, fwd_hooks=[("blocks.1.attn.hook_z", put)])[0, 0]
            base = model(first_read().corrupt)[0, 0]
            by_hand.append(float((run[5] - run[6]) - (base[5] - base[6])))
    np.testing.assert_allclose(found.values[0], by_hand, atol=1e-10)
    assert np.abs(by_hand).min() > 0.1


@needs_hooked
def test_slopes_are_those_of_a_small_step_where_attention_looks_ahead() -> None:
    model = bidirectional(attn_only=False, d_mlp=20, act_fn="gelu", normalization_type="LN")
    for site in ("resid_pre", "attn_out", "q", "k", "v", "pattern", "post"):
        found = attribute(model, first_read(), site, "layer", **QUIET)["value"]
        for layer in range(2):
            slope = finite_difference(model, first_read(), site, {"layer": layer}, "denoise", 1e-4)
            np.testing.assert_allclose(found.sel(layer=layer), slope, rtol=1e-5, atol=1e-7)


@needs_hooked
def test_a_screen_leaves_no_cell_out_where_attention_looks_ahead() -> None:
    model, by = bidirectional(), ("layer", "pos", "head")
    exact = interp.patch(model, first_read(), "z", by, engine="reference", **QUIET)["value"]
    found = screen(
        model, first_read(), "z", 16, by, method="atp", threshold=0.01, engine="reference", **QUIET
    )
    assert not (found["group"] == 3).any()
    np.testing.assert_allclose(found["value"], exact, atol=1e-10)
    assert found.attrs["missed_at_most"] == 0


@needs_hooked
def test_what_needs_causal_attention_is_refused() -> None:
    for method, site in (("secant", "z"), (AtpStar(grad_drop=False), "q")):
        with pytest.raises(ValueError, match="attention is not causal"):
            attribute(bidirectional(), first_read(), site, method=method, **QUIET)


# Norms


@needs_hooked
@pytest.mark.parametrize("kind", ["LN", "RMS"])
def test_attention_only_models_with_folded_norms(kind: str) -> None:
    """TransformerLens leaves a second norm in the block, which no pass goes by."""
    plain = architectures.build({"attn_only": True, "normalization_type": kind})
    folded = architectures.build({"attn_only": True, "normalization_type": f"{kind}Pre"})
    for block in folded.blocks:
        block.ln2 = type(block.ln1)(folded.cfg)
    folded.setup()
    folded.eval()
    for model in (plain, folded):
        found = attribute(model, task(), "z", method="relp", **QUIET)["value"]
        assert float(abs(found).max()) > 1e-3
        hooked = attribute(model, task(), "z", method="relp", engine="reference", **QUIET)["value"]
        assert float(abs(found - hooked).max()) < 1e-10
        assert abs(float(relevance(model, task().clean[0], (3, 5))["residual"])) < 1e-10


def test_norms_without_weights_on_a_bridge() -> None:
    """OLMo: relevance is conserved, to the rounding of norms that compute in float32."""
    model = small.bridge("olmo")
    row = task().clean[0]
    found = relevance(model, row, (3, 5))
    assert abs(float(found["residual"])) < 1e-5
    assert float(abs(found["tokens"]).max()) > 1e-3
    assert abs(float(relevance(model, row, (3, 5), method=Relp(ln=False, ah=False))["residual"])) > 1e-3
    with torch.no_grad():
        plain = model(row[None])
        with relevance_rules(model) as report:
            ruled = model(row[None])
    torch.testing.assert_close(ruled, plain, rtol=0, atol=0)
    assert len(report["ln"]) == 7


# Hook points that attention does not go on with


def test_attention_that_is_delegated() -> None:
    """GPT-J's bridge hands the pattern over after attention has used it."""
    model = small.bridge("gptj")
    for method in ("relp", "gim", GIM(ln=False)):
        with pytest.raises(ValueError, match=r"is not what attention goes on with.*Use a method that leaves"):
            attribute(model, task(), "resid_pre", method=method, engine="reference", **QUIET)
        assert attribute(model, task(), "resid_pre", method=method, **QUIET).attrs["engine"] == "fast"
    with pytest.raises(ValueError, match=r"attention hands over its pattern after|has to know every step"):
        attribute(model, task(), "z", method="secant", **QUIET)
    with pytest.raises(ValueError, match=r"no gradient reaches blocks\.0\.attn\.hook_pattern.*estimated nor"):
        attribute(model, task(), "pattern", engine="reference", **QUIET)
    cell = {"layer": 1, "pos": 4}
    for site in ("resid_pre", "attn_out"):
        found = attribute(model, task(), site, **QUIET)["value"]
        slope = finite_difference(model, task(), site, cell, "denoise", 1e-2)
        np.testing.assert_allclose(found.sel(**cell), slope, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("site", ["attn_out", "mlp_out"])
def test_writes_that_are_scaled_outside_of_the_sublayer(site: str) -> None:
    """Granite: a hook that changes nothing is dropped by the bridge, and the slope was lost with it."""
    model, cell = small.bridge("granite"), {"layer": 1, "pos": 4}
    found = attribute(model, task(), site, **QUIET)["value"]
    slope = finite_difference(model, task(), site, cell, "denoise", 1e-2)  # norms compute in float32
    np.testing.assert_allclose(found.sel(**cell), slope, rtol=1e-3, atol=2e-4)
    assert float(abs(found).max()) > 1e-2


# Modes, dtypes, metrics


def test_tasks_made_in_inference_mode() -> None:
    model = small.model()
    with torch.inference_mode():
        made = interp.Task.from_tokens(
            clean=task().clean.clone(),
            corrupt=task().corrupt.clone(),
            answer=task().answer,
            wrong=task().wrong,
        )
    for method in ("atp", "ig", "secant"):
        found = attribute(model, made, "z", method=method, **QUIET)["value"]
        assert np.isfinite(found).all()
        assert float(abs(found).max()) > 1e-3


@needs_hooked
def test_models_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = architectures.build({})
    for call in (
        lambda: attribute(model, task(), "z", **QUIET),
        lambda: relevance(model, task().clean[0], 3),
    ):
        with pytest.raises(ValueError, match="the model was made in inference mode"):
            call()


@pytest.mark.parametrize("metric", [lambda reading: reading.logits[:, 3], LogitDiff, "kll", 3])
def test_what_is_no_metric(metric: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="metric"):
        attribute(small.model(), task(), "z", metric=metric, **QUIET)


def test_a_slope_that_is_not_finite() -> None:
    """The metric is 0 on every run, and its slope is infinite there."""
    rooted = Custom(lambda r: (r.logits[:, 3] - r.logits[:, 3].detach()).clamp(min=0).sqrt(), name="rooted")
    with pytest.raises(
        ValueError, match=r"the slope of the metric at L0\.z is not finite, in torch\.float64"
    ):
        attribute(small.model(), task(), "z", metric=rooted, **QUIET)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@needs_hooked
def test_half_precision_says_what_it_can_decide(dtype: torch.dtype) -> None:
    low = architectures.build({"dtype": dtype})
    found = attribute(low, task(), "z", **QUIET)
    assert str(dtype).removeprefix("torch.") in found.attrs["precision"]
    assert "precision" not in attribute(small.model(), task(), "z", **QUIET).attrs


def test_a_hook_point_that_holds_another_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The anatomy says how wide a head is, and the hook point gives something else: no number, a sentence."""
    from dataclasses import replace

    from interp import experiment

    model = small.model()
    other = replace(interp.models.anatomy(model), d_head=5)
    monkeypatch.setattr(experiment, "anatomy", lambda model: other)
    with pytest.raises(
        ValueError, match=r"L0\.z of .* has shape \[9, 4, 6\].*\[9, 4, 5\] is what its name says"
    ):
        attribute(model, task(), "z", **QUIET)
