"""What must hold of exact patching whatever the model: identities, causality, nothing left behind."""

from __future__ import annotations

import numpy as np
import pytest
import small
import torch
from cases import QUIET, task

import interp
from interp.engine.block import attention
from interp.models import anatomy, logits
from interp.tasks import Custom, LogitDiff, Loss

ENGINES = ["fast", "reference"]
EXACT = 1e-12


@pytest.fixture(scope="module")
def model():
    return small.model()


@pytest.mark.parametrize("engine", ENGINES)
def test_patching_all_positions_gives_the_clean_run(model, engine):
    """resid_pre of a layer at every position: nothing of the corrupt run is left."""
    result = interp.patch(model, task(), "resid_pre", by="layer", engine=engine, **QUIET)
    whole = (result["clean"] - result["corrupt"]).expand_dims(layer=result["layer"], axis=1)
    assert abs(whole).min() > 1e-3
    np.testing.assert_allclose(result["value"], whole, atol=EXACT)


def test_full_logits_are_restored_at_every_layer(model):
    """The same for every logit at every position, by a metric that returns one of them."""
    clean = logits(model, task().clean).detach()
    for pos, column in ((4, 7), (8, 20)):
        pick = Custom(lambda r, p=pos, c=column: r.logits[:, p, c], name="one", reads_positions="all")
        result = interp.patch(model, task(), "resid_pre", by="layer", metric=pick, **QUIET)
        restored = result["value"] + result["corrupt"]
        np.testing.assert_allclose(
            restored, np.broadcast_to(clean[:, pos, column, None], restored.shape), atol=EXACT
        )


@pytest.mark.parametrize("engine", ENGINES)
def test_own_activation_changes_nothing_bit_for_bit(model, engine):
    """Positions at which the two runs agree are patched with their own activation."""
    result = interp.patch(model, task(first=5), "z", ("layer", "pos", "head"), engine=engine, **QUIET)
    assert (result["value"].sel(pos=slice(0, 4)) == 0).all()
    assert (result["value"].sel(pos=slice(5, None)) != 0).any()


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_identities_between_sites(model, direction):
    """The same intervention under two names."""

    def patch(*args, **options):
        return interp.patch(model, task(), *args, direction=direction, **options, **QUIET)["value"]

    pre, post = patch("resid_pre"), patch("resid_post")
    np.testing.assert_allclose(pre.values[:, 1:], post.values[:, :-1], atol=EXACT)
    np.testing.assert_allclose(patch("z", by=("layer", "pos")), patch("attn_out"), atol=EXACT)
    np.testing.assert_allclose(patch("post", by=("layer", "pos")), patch("mlp_out"), atol=EXACT)
    assert abs(post).max() > 1e-2


def test_a_group_of_cells_is_all_of_them_together(model):
    """All heads of a layer by name == attn_out at all positions."""
    heads = interp.patch(model, task(), cells=[[f"L1H{h}" for h in range(4)]], **QUIET)["value"]
    layer = interp.patch(model, task(), "attn_out", by="layer", **QUIET)["value"]
    np.testing.assert_allclose(heads.values[:, 0], layer.values[:, 1], atol=EXACT)
    assert abs(heads).max() > 1e-3


@pytest.mark.parametrize("engine", ENGINES)
def test_a_patch_never_changes_what_comes_before_it(model, engine):
    """Patch at p, read before p: the baseline, bit for bit."""
    early = task(first=4, positions=[3] * 6)
    result = interp.patch(model, early, "resid_pre", engine=engine, **QUIET)
    assert (result["value"] == 0).all()
    late = interp.patch(model, task(first=4, positions=[6] * 6), "resid_pre", engine=engine, **QUIET)
    assert (late["value"].sel(pos=[7, 8]) == 0).all()
    assert (late["value"].sel(pos=slice(4, 6)) != 0).any()


def test_cells_without_effect_are_not_run(model, monkeypatch):
    """Block calls and rows: what lies before the first difference costs nothing."""
    rows = []

    def counting(attn, layer, queries, keys, groups, past, tap):
        if past is not None:  # a counterfactual pass, not the capture
            rows.append(len(keys[0]))
        return attention(attn, layer, queries, keys, groups, past, tap)

    interp.patch(model, task(), "resid_pre", **QUIET)  # the self-check comes with the first use
    monkeypatch.setattr("interp.engine.block.attention", counting)
    interp.patch(model, task(first=8, n=1), "resid_pre", **QUIET)
    assert rows == [1, 2, 3]  # one position, one more cell at every layer
    rows.clear()
    interp.patch(model, task(first=6, n=1), "resid_pre", **QUIET)
    assert len(rows) == 3
    assert rows[0] <= 1 + 2 + 3
    assert interp.plan("patch", model, task(first=8, n=1), "resid_pre").live == 3
    assert interp.plan("patch", model, task(first=8, n=1), "resid_pre").no_ops == 3 * 8


def test_padded_batch_equals_each_prompt_alone(model):
    """Prompts of different lengths, read at positions of their own."""
    full = task()
    lengths, positions = torch.tensor([9, 7, 8, 9, 6, 9]), torch.tensor([8, 6, 5, 4, 5, 7])
    rows = [[t[i, : lengths[i]].tolist() for i in range(6)] for t in (full.clean, full.corrupt)]
    keep = {"answer": full.answer, "wrong": full.wrong}
    batch = interp.Task.from_tokens(clean=rows[0], corrupt=rows[1], positions=positions, **keep)
    metrics = [LogitDiff(), Loss()]
    for site in ("resid_pre", "z"):
        together = interp.patch(model, batch, site, metric=metrics, **QUIET)["value"]
        for i in range(6):
            one = interp.Task.from_tokens(
                clean=[rows[0][i]], corrupt=[rows[1][i]], positions=positions[i : i + 1],
                answer=full.answer[i : i + 1], wrong=full.wrong[i : i + 1],
            )  # fmt: skip
            alone = interp.patch(model, one, site, metric=metrics, **QUIET)["value"]
            mine = together[i : i + 1, :, : alone.sizes.get("pos", None)]
            np.testing.assert_allclose(mine, alone, atol=EXACT)
            assert abs(alone).max() > 1e-6


@pytest.mark.parametrize("engine", ENGINES)
def test_the_model_is_left_as_it_was(model, engine):
    before = _state(model)
    interp.patch(model, task(), "q", engine=engine, **QUIET)
    assert _state(model) == before

    def fails(reading):
        raise RuntimeError("a metric that fails")

    with pytest.raises(RuntimeError, match="a metric that fails"):
        interp.patch(model, task(), "q", engine=engine, metric=Custom(fails), **QUIET)
    assert _state(model) == before


def test_no_graph_is_built(model):
    seen = []
    watch = Custom(lambda r: (seen.append(r.logits.requires_grad), r.logits[:, 0])[1], name="watch")
    for engine in ENGINES:
        interp.patch(model, task(), "z", metric=watch, engine=engine, **QUIET)
    assert seen
    assert not any(seen)


def _state(model):
    hooks = sum(len(p.fwd_hooks) + len(p.bwd_hooks) for p in model.hook_dict.values())
    grads = [p.requires_grad for p in model.parameters()]
    flags = {k: str(v) for k, v in vars(model.cfg).items()}
    sums = [float(p.detach().double().sum()) for p in model.parameters()]
    mode = (model.training, torch.is_grad_enabled(), torch.get_default_dtype(), anatomy(model).dtype)
    return hooks, grads, flags, sums, mode, torch.get_rng_state().tolist()


def test_hooks_of_the_user_are_obeyed(model):
    """With a hook attached the reference engine runs, hook included, and says so."""
    name = "blocks.1.hook_attn_out"
    plain = interp.patch(model, task(), "resid_pre", **QUIET)
    model.add_hook(name, lambda tensor, hook: tensor * 0.5)
    try:
        with pytest.warns(UserWarning, match="hooks are attached"):
            hooked = interp.patch(model, task(), "resid_pre", **QUIET)
    finally:
        model.reset_hooks()
    assert hooked.attrs["engine"] == "reference"
    assert abs(hooked["value"] - plain["value"]).max() > 1e-3
