"""Attention that goes both ways: nothing is cut by causality, and padding is never attended to."""

from __future__ import annotations

import warnings

import architectures
import numpy as np
import pytest
import torch

import interp
from interp import circuits, steering


@pytest.fixture(scope="module")
def model():
    return architectures.build({"attention_dir": "bidirectional"})


def task(rows, positions=0):
    corrupt = [[row[0], 25, *row[2:]] for row in rows]
    n = len(rows)
    return interp.Task.from_tokens(
        clean=rows, corrupt=corrupt, answer=[5] * n, wrong=[6] * n, positions=[positions] * n
    )


def test_no_cell_is_a_no_op_by_causality(model):
    """The first position is read; what differs stands after it."""
    given = task([[1, 2, 3, 4]])
    with pytest.warns(UserWarning, match="attention is not causal"):
        exact = interp.patch(model, given, "resid_pre", progress=False)
    last = abs(exact["value"].sel(layer=1))
    assert float(last.min()) > 1e-3
    plan = interp.plan("patch", model, given, "resid_pre")
    assert plan.live == 1 + 2 * 4  # layer 0: the token that differs
    patterns = interp.plan("patch", model, given, "pattern", ("layer", "head", "dst", "src"))
    assert patterns.no_ops == 4 * 3 * 4  # of the last layer, other destinations than the one that is read
    assert interp.plan("patch", model, given, "z", ("layer", "pos", "head")).live >= 2 * 4 * 4


def test_prompts_of_several_lengths_are_refused(model):
    with pytest.raises(ValueError, match=r"have 3 to 5 tokens, .* goes both ways"):
        interp.patch(model, task([[1, 2, 3], [1, 2, 3, 4, 5]]), "resid_pre", progress=False)


def test_extraction_does_not_depend_on_the_batch(model):
    rows = [[1, 2, 3], [1, 2, 3, 4, 5], [4, 5, 6], [7, 8, 9, 10, 11]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        together = steering.activations(model, rows, "L2.resid_pre", "last")
        alone = [steering.activations(model, [row], "L2.resid_pre", "last") for row in rows]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["atp", "ig", "relp"])
def test_screening_knows_no_cell_to_be_nothing(model, method):
    """Every cell can matter, those of the last layer too; what is measured is what a patch gives."""
    given = task([[1, 2, 3, 4], [2, 2, 3, 5]], 1)
    options = {"engine": "reference", "progress": False}
    exact = interp.patch(model, given, "resid_pre", **options)["value"]
    screened = interp.attribution.screen(model, given, "resid_pre", 6, method=method, sample=0.5, **options)
    assert 3 not in screened["group"].values
    measured = screened["value"].notnull()
    assert int(measured.any("prompt").sum()) == 6
    assert float(abs(screened["value"] - exact).max()) <= 1e-12
    assert float(abs(screened["value"]).max()) > 1e-3


def test_estimates_reach_every_position(model):
    """The slope at a site times its change, by finite differences of the model itself."""
    given = task([[1, 2, 3, 4], [2, 2, 3, 5]], 1)
    found = interp.attribute(model, given, "resid_pre", direction="denoise", progress=False)["value"]
    exact = interp.patch(model, given, "resid_pre", engine="reference", progress=False)["value"]
    assert float(abs(found.sel(layer=2, pos=3)).min()) > 1e-4  # after the position that is read
    assert np.corrcoef(found.values.ravel(), exact.values.ravel())[0, 1] > 0.9


RAGGED = [[1, 2, 3], [1, 2, 3, 4, 5], [4, 5, 6], [7, 8, 9, 10, 11]]


def each_alone(run):
    """What a verb gives of all rows, and of every row by itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run(RAGGED), [run([row]) for row in RAGGED]


def test_a_lens_reads_each_prompt_as_alone(model):
    def run(rows):
        return interp.lens.logit(model, rows, targets=[5])["value"].values[..., 0]  # prompt, layer, pos

    whole, alone = each_alone(run)
    for row, single in zip(whole, alone):
        assert np.isfinite(single).all()
        np.testing.assert_allclose(row[:, : single.shape[-1]], single[0], atol=1e-9)


def test_telemetry_of_each_prompt_as_alone(model):
    whole, alone = each_alone(lambda rows: interp.heads.telemetry(model, rows)[["stream_norm", "max_logit"]])
    for i, single in enumerate(alone):
        for name in single.data_vars:
            row = whole[name].isel(prompt=i)
            part = row.isel(pos=slice(0, single.sizes["pos"])) if "pos" in row.dims else row
            assert np.isfinite(single[name].values).any()
            np.testing.assert_allclose(part, single[name].isel(prompt=0), atol=1e-9, err_msg=name)


def test_text_goes_on_from_each_prompt_as_alone(model):
    def run(rows):
        tokens = steering.generate(model, rows, max_new_tokens=3, stop=(), pad=0)
        return [row[len(given) : len(given) + 3].tolist() for row, given in zip(tokens, rows)]

    whole, alone = each_alone(run)
    assert whole == [single[0] for single in alone]


@pytest.mark.filterwarnings("ignore")  # side_by_side may first tell of a fall-back
@pytest.mark.parametrize("verb", ["sweep", "calibrate", "side_by_side", "effect_curves", "attention"])
def test_prompts_beside_padding_are_refused(model, verb):
    d = steering.Direction.from_tensor(torch.ones(24), "L1.resid_pre")
    doors = {
        "sweep": lambda: steering.sweep(model, d, RAGGED, [1.0], progress=False),
        "calibrate": lambda: steering.calibrate(model, d, RAGGED, 0.1),
        "side_by_side": lambda: steering.side_by_side(model, RAGGED, d, target_kl=0.1, max_new_tokens=1),
        "effect_curves": lambda: steering.methods.effect_curves(model, d, RAGGED, [1.0], progress=False),
        "attention": lambda: interp.heads.attention(model, RAGGED),
    }
    with pytest.raises(ValueError, match=r"have 3 to 5 tokens, .* goes both ways"):
        doors[verb]()


REFUSED = {
    "secant": lambda m, t: interp.attribute(m, t, "z", method="secant", progress=False),
    "score_edges": lambda m, t: circuits.score_edges(m, t, progress=False),
    "score_edges, secant": lambda m, t: circuits.score_edges(m, t, method="secant", progress=False),
    "score_edges, exact": lambda m, t: circuits.score_edges(m, t, method="exact", progress=False),
    "score_nodes": lambda m, t: circuits.score_nodes(m, t, progress=False),
    "acdc": lambda m, t: circuits.acdc(m, t, threshold=0.01, progress=False),
    "train_mask": lambda m, t: circuits.train_mask(m, t, progress=False),
    "run": lambda m, t: circuits.run(m, t, circuits.Graph.of(m).allowed[None], progress=False),
    "random_baseline": lambda m, t: circuits.random_baseline(m, t, [3], draws=1, progress=False),
    "composition": lambda m, t: interp.heads.composition(m),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_the_weights_says_that_it_cannot(model, name):
    with pytest.raises(ValueError, match="its attention is not causal"):
        REFUSED[name](model, task([[1, 2, 3, 4], [2, 2, 3, 5]], 1))


def test_text_goes_on_by_the_model_itself(model):
    """Decoding with both engines; nothing is cached that a later token would change."""
    with pytest.warns(UserWarning, match="using the reference engine, .* its attention is not causal"):
        rows = steering.generate(model, torch.tensor([[1, 2, 3]]), max_new_tokens=3, stop=())
    tokens = torch.tensor([[1, 2, 3]])
    for _ in range(3):
        tokens = torch.cat((tokens, model(tokens)[:, -1:].argmax(-1)), 1)
    assert torch.equal(rows, tokens)
