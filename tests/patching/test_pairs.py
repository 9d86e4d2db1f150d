"""Pairs of components: the truth table on gates, a chain and independent heads built by hand."""

from __future__ import annotations

import architectures
import numpy as np
import pytest
import small
import toys

import interp
from interp.patching import pairs

QUIET = {"progress": False}
TABLE = {  # D(a), D(b), D(ab), N(a), N(b), N(ab), the interactions and the label, in gaps
    "and-gate": (0, 0, 1, 1, 1, 1, 1, -1, "AND"),
    "or-gate": (1, 1, 1, 0, 0, 1, -1, 1, "OR"),
    "chain": (1, 1, 1, 1, 1, 1, -1, -1, "chain"),
    "independent": (0.6, 0.4, 1, 0.6, 0.4, 1, 0, 0, "independent"),
}


def gate(name):
    if name.endswith("gate"):
        model = interp.load(name)
        build = {"and-gate": interp.tasks.and_gate, "or-gate": interp.tasks.or_gate}[name]
        return model, build(model, n=8), ["L0H0", "L0H1"]
    sketch = getattr(toys, name)()
    cells = ["L0H0", "L1H0" if name == "chain" else "L0H1"]
    return toys.model(sketch), toys.task(sketch, toys.WORDS), cells


@pytest.mark.parametrize("name", sorted(TABLE))
def test_the_truth_table(name):
    model, task, cells = gate(name)
    found = pairs(model, task, cells, **QUIET)
    gap = float((found["clean"] - found["corrupt"]).mean())
    effect = found["value"].mean("prompt").values / gap  # [direction, a, b]
    measured = [effect[d][i] for d in (0, 1) for i in ((0, 0), (1, 1), (0, 1))]
    np.testing.assert_allclose(measured, TABLE[name][:6], atol=1e-5)
    np.testing.assert_allclose(found["share"].values[:, 0, 1], TABLE[name][6:8], atol=1e-5)
    assert found["label"].values[0, 1] == TABLE[name][8]
    assert found["label"].values[0, 0] == "none"
    assert gap > 1


def test_an_idle_head_makes_no_pair():
    sketch = toys.independent()
    found = pairs(toys.model(sketch), toys.task(sketch, toys.WORDS), ["L0H0", "L0H1", "L0H2"], **QUIET)
    assert found["label"].sel(a="L0H0", b="L0H1") == "independent"
    assert float(abs(found["interaction"].sel(a="L0H0", b="L0H2")).max()) < 1e-9


def test_one_direction_alone_cannot_tell_or_from_chain():
    shares = {}
    for name in ("or-gate", "chain"):
        model, task, cells = gate(name)
        shares[name] = pairs(model, task, cells, **QUIET)["share"].values[:, 0, 1]
    np.testing.assert_allclose(shares["or-gate"][0], shares["chain"][0], atol=1e-5)
    assert shares["or-gate"][1] > 0.5 > -0.5 > shares["chain"][1]


def test_pairs_are_cells_patched_together_and_sets_of_neurons_are_components():
    model = small.model()
    clean, corrupt = architectures.tokens()
    task = interp.Task.from_tokens(clean=clean, corrupt=corrupt, answer=[3, 4], wrong=[5, 6])
    cells = ["L0H1", ["L1N2", "L1N7"], "L2.mlp_out"]
    found = pairs(model, task, cells, **QUIET)
    for number, direction in enumerate(("denoise", "noise")):
        own = interp.patch(
            model, task, cells=["L0H1", ["L1N2", "L1N7"], ["L1N2", "L1N7", "L2.mlp_out"]],
            direction=direction, engine="reference", **QUIET,
        )["value"].values  # fmt: skip
        value = found["value"].values[:, number]
        np.testing.assert_allclose(
            np.stack([value[:, 0, 0], value[:, 1, 1], value[:, 2, 1]], 1), own, atol=1e-9
        )
        assert np.abs(own).max() > 1e-3


def test_without_a_gap_there_is_no_share_and_no_label():
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=8)
    rows = list(range(0, 8, 2))
    swapped = interp.Task.from_tokens(  # half of the answers the wrong way round: the mean gap is about 0
        clean=task.clean[rows], corrupt=task.corrupt[rows], lengths=task.lengths[rows],
        answer=[(task.answer if i % 2 else task.wrong)[row] for i, row in enumerate(rows)],
        wrong=[(task.wrong if i % 2 else task.answer)[row] for i, row in enumerate(rows)],
    )  # fmt: skip
    found = pairs(model, swapped, ["L0H0", "L1H1"], **QUIET)
    assert "holds 0" in found.attrs["labels"]
    assert set(found["label"].values.ravel()) == {"none"}
    assert np.isnan(found["share"]).all()
    assert float(abs(found["value"]).max()) > 0.1


@pytest.mark.parametrize(
    ("cells", "options", "message"),
    [
        (["L0H0"], {}, "at least two cells"),
        (["L0H0", "L0H0"], {}, "twice"),
        (["L0H0", "L0H1"], {"ablation": "zero"}, "no denoising direction"),
        (["L0H0", "L0H1"], {"metric": ["logit_diff", "kl"]}, "2 metrics"),
        (["L0H0", "L9H1"], {}, "L9H1"),
    ],
)
def test_bad_input_is_one_sentence(cells, options, message):
    model = interp.load("tiny-ioi")
    with pytest.raises(ValueError, match=message):
        pairs(model, interp.tasks.ioi(model, n=4), cells, **options, **QUIET)
