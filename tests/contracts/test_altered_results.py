"""Results altered by hand are drawn and written where that makes sense; else a sentence is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import interp
from interp import circuits, plot, stats

QUIET: dict[str, Any] = {"progress": False}


@pytest.fixture(scope="module")
def made() -> dict[str, xr.Dataset]:
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=4, seed=0, template=0)
    scores = circuits.score_edges(model, task, **QUIET)
    best = circuits.top(scores, 20)
    probed = interp.probes.fit(model, task.clean, task.corrupt, layer=[0, 2], draws=2, held_out=0.5, **QUIET)
    return {
        "heads": interp.patch(model, task, "z", **QUIET),
        "scores": scores,
        "stability": circuits.stability(scores, 20, draws=100),
        "curve": circuits.curve(model, task, scores, sizes=[0.1, 0.5], **QUIET),
        "evaluate": circuits.evaluate(model, task, best, **QUIET),
        "lens": interp.lens.logit(model, task.clean),
        "probe": probed[0],
    }


def write(result: xr.Dataset) -> Any:
    return interp.report.write([result], "never-written.html")


def as_kind(name: str, kind: type) -> Any:
    return lambda result: result.assign({name: result[name].astype(kind)})


def without(attr: str) -> Any:
    return lambda r: xr.Dataset(r.data_vars, r.coords, {k: v for k, v in r.attrs.items() if k != attr})


CASES = {
    "dim renamed": (plot.curve, "curve", lambda r: r.rename(ranking="order"), "has no ranking"),
    "one ranking": (
        plot.curve,
        "curve",
        lambda r: r.isel(ranking=0),
        r"has no ranking.*\(ranking=\[0\]",
    ),
    "one size, table": (write, "curve", lambda r: r.isel(size=0), "has no size"),
    "words for numbers": (plot.curve, "curve", as_kind("faithfulness", str), "'faithfulness' as <U"),
    "objects": (plot.heads, "heads", as_kind("value", object), "'value' as object"),
    "complex": (stats.test, "heads", as_kind("value", complex), "'value' as complex128"),
    "words, chosen from": (lambda r: circuits.top(r, 5), "scores", as_kind("value", str), "'value' as <U"),
    "no attribute": (plot.probes, "probe", without("n_held_out"), "reads 'n_held_out'"),
    "no layers": (plot.probes, "probe", lambda r: r.isel(layer=[]), "has no layers"),
    "no coordinate": (plot.lens, "lens", lambda r: r.drop_vars("token"), "reads 'token'"),
    "one prompt": (plot.lens, "lens", lambda r: r.isel(prompt=0), "has no prompt"),
    "one position": (plot.lens, "lens", lambda r: r.isel(pos=0), "has no pos"),
    "one circuit, table": (write, "evaluate", lambda r: r.isel(circuit=0), "reads 'circuit'"),
    "no interval, table": (write, "evaluate", lambda r: r.drop_vars("low"), "reads 'low'"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_verb_cannot_read_is_a_sentence(
    case: str, made: dict[str, xr.Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verb, name, alter, said = CASES[case]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said):
        verb(alter(made[name]))
    assert not list(tmp_path.iterdir())


def test_one_chosen_cell_is_a_bar(made: dict[str, xr.Dataset]) -> None:
    chosen = made["heads"].isel(layer=0, head=1)
    drawn = plot.bars(chosen).data[0]
    np.testing.assert_allclose(drawn.x, [chosen["value"].mean()], rtol=1e-6)
    assert drawn.error_x.array is not None


def test_intervals_follow_their_cells_in_any_order_of_dims(made: dict[str, xr.Dataset]) -> None:
    result = made["stability"]
    turned = result.assign(value=result["value"].transpose())
    first, second = (plot.bars(each).data[0] for each in (result, turned))
    np.testing.assert_array_equal(*(np.sort(bars.x) for bars in (first, second)))
    np.testing.assert_array_equal(*(np.sort(bars.error_x.arrayminus) for bars in (first, second)))
