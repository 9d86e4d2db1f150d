"""`attribute`: the shape of exact patching, batches, metrics, cells; the caller and the model undisturbed."""

from __future__ import annotations

import architectures
import numpy as np
import pytest
import small
import torch
import xarray as xr
from cases import QUIET, task
from estimates import FEW, finite_difference, model_of
from sides import grids

import interp
from interp.attribution import attribute, gradients
from interp.methods import IG
from interp.models import anatomy
from interp.places import AXES, EXPERT_SITES
from interp.tasks import KL, Custom, LogitDiff, LogProb, Loss

SITES = tuple(site for site in AXES if site not in EXPERT_SITES)
METHODS = ("atp", "ig", "atp*", "relp", "attnlrp", "gim", "secant")


@pytest.fixture(scope="module")
def model():
    return small.model()


@pytest.mark.parametrize("site", SITES)
def test_shape_and_labels_are_those_of_patching(model, site):
    """The same coordinates and attributes, so that the two subtract; no site is estimated as 0."""
    for by in grids(site):
        exact = interp.patch(model, task(first=4), site, by, **QUIET)
        estimate = attribute(model, task(first=4), site, by, **QUIET)
        own = {"value", "method", "engine", "convention", "forwards", "backwards"}
        assert estimate["value"].dims == exact["value"].dims
        xr.testing.assert_identical(*(r.coords.to_dataset().drop_attrs() for r in (estimate, exact)))
        assert {k: v for k, v in estimate.attrs.items() if k not in own} == {
            k: v for k, v in exact.attrs.items() if k not in own
        }
        assert estimate.attrs["method"] == "atp"
        np.testing.assert_allclose(estimate["clean"], exact["clean"], atol=1e-12)
        live = exact["value"].values != 0
        assert (estimate["value"].values[~live] == 0).all()  # what patching need not run is 0 here too
        assert live.any()
        assert (estimate["value"].values[live] != 0).mean() > 0.9
        assert abs(estimate - exact)["value"].max() > 1e-6  # they subtract, and are not the same


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("on", ["hooked", "bridge"])
def test_every_site_has_estimates_or_raises(on, method):
    model = model_of(FEW[1]) if on == "hooked" else small.bridge("gpt2")
    dead = ("q", "k") if method == "relp" else ()  # nothing flows through them with the pattern constant
    sites = [site for site in anatomy(model).sites() if site not in dead]
    found = attribute(model, task(n=2), sites, "layer", method=method, **QUIET)["value"]
    assert (abs(found).max("prompt") > 1e-7).all()
    for site in dead:
        with pytest.raises(ValueError, match=f"no gradient reaches blocks.*{site}"):
            attribute(model, task(n=2), site, method=method, **QUIET)


@pytest.mark.parametrize("method", ["atp", "ig", "atp*", "gim", "secant"])
def test_batched_equals_each_prompt_alone(model, method):
    """Prompts of different lengths, read at positions of their own, in batches and one by one."""
    full = task()
    lengths, positions = torch.tensor([9, 7, 8, 9, 6, 9]), torch.tensor([8, 6, 5, 4, 5, 7])
    rows = [[t[i, : lengths[i]].tolist() for i in range(6)] for t in (full.clean, full.corrupt)]
    keep = {"answer": full.answer, "wrong": full.wrong}
    batch = interp.Task.from_tokens(clean=rows[0], corrupt=rows[1], positions=positions, **keep)
    chosen = IG(steps=2) if method == "ig" else method
    options = {"method": chosen, "metric": [LogitDiff(), Loss()], **QUIET}
    sites, by = ("resid_mid", "q", "k", "pattern", "post"), "layer"
    together = attribute(model, batch, sites, by, **options)["value"]
    in_twos = attribute(model, batch, sites, by, batch_size=2, **options)["value"]
    np.testing.assert_allclose(in_twos, together, atol=1e-10)
    for i in range(6):
        one = interp.Task.from_tokens(
            clean=[rows[0][i]], corrupt=[rows[1][i]], positions=positions[i : i + 1],
            answer=full.answer[i : i + 1], wrong=full.wrong[i : i + 1],
        )  # fmt: skip
        alone = attribute(model, one, sites, by, **options)["value"]
        np.testing.assert_allclose(together[i : i + 1], alone, atol=1e-9)
        assert abs(alone).max() > 1e-6


def test_metrics_and_sites_together_equal_them_alone(model):
    metrics = [LogitDiff(), LogProb(), KL(), Loss()]
    sites = ["resid_pre", "attn_out"]
    together = attribute(model, task(), sites, metric=metrics, **QUIET)
    assert together["value"].dims == ("prompt", "site", "layer", "pos", "metric")
    for site in sites:
        for metric in metrics:
            alone = attribute(model, task(), site, metric=metric, **QUIET)
            part = together["value"].sel(site=site, metric=metric.name)
            np.testing.assert_allclose(part, alone["value"], atol=1e-12)
            assert abs(alone["value"]).max() > 1e-6


def test_lower_is_better_turns_the_sign(model):
    """Minus a metric that is better when lower is the metric: the same effects."""
    up = Custom(lambda r: r.logits[:, 3], name="up")
    down = Custom(lambda r: -r.logits[:, 3], name="down", better="lower")
    values = attribute(model, task(), "z", metric=[up, down], **QUIET)["value"]
    np.testing.assert_allclose(values.sel(metric="up"), values.sel(metric="down"), atol=1e-14)
    assert abs(values).max() > 1e-3


def test_listed_cells_are_the_cells_of_the_grid(model):
    grid = attribute(model, task(), "z", ("layer", "pos", "head"), **QUIET)["value"]
    listed = attribute(model, task(), cells=["L1H2@4", "L2H0", "L0.z@7"], **QUIET)["value"]
    assert list(listed["cell"].values) == ["L1H2@4", "L2H0", "L0.z@7"]
    wanted = [
        grid.sel(layer=1, head=2, pos=4),
        grid.sel(layer=2, head=0).sum("pos"),
        grid.sel(layer=0, pos=7).sum("head"),
    ]
    np.testing.assert_allclose(listed, np.stack(wanted, -1), atol=1e-13)
    some = attribute(model, task(), "post", neurons=[3, 30], **QUIET)["value"]
    every = attribute(model, task(), "post", **QUIET)["value"]
    np.testing.assert_array_equal(some, every.sel(neuron=[3, 30]))


def test_key_heads_that_do_not_exist_are_nan():
    estimate = attribute(model_of(FEW[0]), task(), ["q", "k"], **QUIET)["value"]
    assert estimate.sel(site="k", head=[2, 3]).isnull().all()
    assert (estimate.sel(site="k", head=[0, 1]) != 0).all()
    assert (estimate.sel(site="q") != 0).all()


@pytest.mark.parametrize("name", [FEW[0], "RMS-silu-gated-serial-mha-learned"])
def test_node_score_is_the_sum_of_its_outgoing_edges(name):
    """What a head writes, times the slope at every input that reads it: Syed et al.'s edges."""
    model, pairs = model_of(name), task()
    node = attribute(model, pairs, "z", **QUIET)["value"].values  # [prompt, layer, head]
    inputs = ("hook_q_input", "hook_k_input", "hook_v_input", "hook_mlp_in")
    model.set_use_split_qkv_input(True)
    model.set_use_hook_mlp_in(True)
    try:
        readers = [f"blocks.{layer}.{name}" for layer in range(3) for name in inputs]
        readers.append("blocks.2.hook_resid_post")
        names = [f"blocks.{layer}.attn.hook_z" for layer in range(3)]
        rows = torch.arange(len(pairs))

        def metric(out):
            last = out[rows, pairs.positions]
            return last[rows, pairs.answers[:, 0]] - last[rows, pairs.wrongs[:, 0]]

        _, base, slopes = gradients(model, pairs.corrupt, [*names, *readers], metric)
        _, source, _ = gradients(model, pairs.clean, names, metric)
    finally:
        model.set_use_split_qkv_input(False)
        model.set_use_hook_mlp_in(False)
    for layer, z in enumerate(names):
        writes = torch.einsum("nphd,hdm->nphm", source[z] - base[z], model.blocks[layer].attn.W_O)
        edges = torch.zeros(len(pairs), 4, dtype=torch.float64)
        for reader in readers:
            at, point = reader.split(".")[1:]
            behind = int(at) > layer or (int(at) == layer and point in ("hook_mlp_in", "hook_resid_post"))
            slope = slopes[reader] if slopes[reader].ndim == 4 else slopes[reader][:, :, None]
            if behind:
                edges += torch.einsum("nphm,npsm->nh", writes, slope).detach()
        np.testing.assert_allclose(edges, node[:, layer], atol=1e-11)
    assert np.abs(node).max() > 0.01


@pytest.mark.filterwarnings("ignore:secant estimates miss:UserWarning")  # in bfloat16 they do, and say so
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 0.9999), (torch.bfloat16, 0.9)])
def test_low_precision_agrees(method, dtype, least):
    """Finite, and correlated over the cells with the same in float64."""
    wide = model_of(FEW[1])
    low = architectures.build(dict(architectures.grid())[FEW[1]] | {"dtype": dtype})
    low.load_state_dict({name: t.to(dtype) for name, t in wide.state_dict().items()})
    values = [attribute(model, task(), "z", method=method, **QUIET)["value"].values for model in (wide, low)]
    assert np.isfinite(values[1]).all()
    assert np.corrcoef(*(v.ravel() for v in values))[0, 1] > least


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_mode_does_not_matter(model, mode):
    plain = attribute(model, task(), "z", **QUIET)
    with mode():
        inside = attribute(model, task(), "z", **QUIET)
    xr.testing.assert_identical(inside, plain)


def test_frozen_parameters_do_not_matter(model):
    plain = attribute(model, task(), "resid_pre", **QUIET)
    before = [p.requires_grad for p in model.parameters()]
    try:
        model.requires_grad_(False)
        frozen = attribute(model, task(), "resid_pre", **QUIET)
        assert not any(p.requires_grad for p in model.parameters())
    finally:
        for parameter, flag in zip(model.parameters(), before):
            parameter.requires_grad_(flag)
    np.testing.assert_allclose(frozen["value"], plain["value"], atol=1e-12)


@pytest.mark.parametrize("method", ["atp", "ig", "atp*", "secant"])
def test_the_model_is_left_as_it_was(model, method):
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    before = _state(model)

    def fails(reading):
        raise RuntimeError("a metric that fails")

    try:
        attribute(model, task(), "q", method=method, **QUIET)
        assert _state(model) == before
        with pytest.raises(RuntimeError, match="a metric that fails"):
            attribute(model, task(), "q", method=method, metric=Custom(fails), **QUIET)
        assert _state(model) == before
    finally:
        for parameter in model.parameters():
            parameter.grad = None


def _state(model):
    hooks = sum(len(p.fwd_hooks) + len(p.bwd_hooks) for p in model.hook_dict.values())
    plain = sum(len(m._forward_hooks) for m in model.modules())
    grads = [(p.requires_grad, float(p.grad.sum())) for p in model.parameters()]
    sums = [float(p.detach().double().sum()) for p in model.parameters()]
    mode = (model.training, torch.is_grad_enabled(), torch.get_default_dtype())
    return hooks, plain, grads, sums, mode, torch.get_rng_state().tolist()


def test_hooks_of_the_user_are_obeyed(model):
    plain = attribute(model, task(), "resid_pre", **QUIET)["value"]
    model.add_hook("blocks.1.hook_attn_out", lambda tensor, hook: tensor * 0.5)
    try:
        hooked = attribute(model, task(), "resid_pre", **QUIET)["value"]
        cell = {"layer": 0, "pos": 4}
        slope = finite_difference(model, task(), "resid_pre", cell, "denoise", 1e-4)
    finally:
        model.reset_hooks()
    np.testing.assert_allclose(hooked.sel(cell), slope, atol=1e-6)
    assert abs(hooked - plain).max() > 1e-3
