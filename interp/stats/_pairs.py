"""Two results over the same cells: how well an estimate agrees with exact effects, and what parts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from interp._verbs import verb, warn
from interp.stats._means import far_baseline, metric_facts

_SAME_RUN = ("direction", "metric", "model", "task_fingerprint", "window")
_NEARLY_NONE = 1e-3  # of clean - corrupt: effects below it are compared, and the figures are called empty
_ROUNDING = 1e-5  # of the baselines


class NearlyNoEffect(UserWarning):
    """The effects that an estimate is compared with are so small that agreement means nothing."""


@verb
def agreement(a: xr.Dataset, b: xr.Dataset, top_k: Sequence[int] = (5, 10, 20)) -> xr.Dataset:
    """How well `a` (say, an estimate) agrees with `b` (say, the exact result), over cells' prompt means.

    Variables, by `cells` ("all" and "without largest", the cell with the largest |b|) and by metric if there
    are several: pearson, spearman, slope (least squares of a on b, with intercept: 1 is a faithful scale),
    relative_l1 (sum |a - b| / sum |b|), sign (share of cells of equal sign), recall (share of b's k largest
    |values| that are among a's k largest, by `k`), n_cells. Only live cells count: those that are exactly 0,
    or NaN, in both results are no-ops that any two methods agree on. `largest` is b's largest |effect| as a
    share of clean - corrupt, NaN without baselines.

    Warns (NearlyNoEffect) where it is below a thousandth: nothing in `b` matters there, and correlations of
    such numbers mean nothing. Raises ValueError for results of different runs or cells.

    Example:
        >>> import interp
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4)
        >>> exact = interp.patch(model, task, "z", progress=False)
        >>> estimate = interp.attribute(model, task, "z", method="atp", progress=False)
        >>> bool(interp.stats.agreement(estimate, exact)["pearson"].sel(cells="all") > 0.9)
        True
    """
    if any(k < 1 for k in top_k):
        raise ValueError(f"top_k is {list(top_k)}; count 1 cell or more.")
    _require_same_run(a, b)
    metrics = list(a["metric"].values) if "metric" in a.dims else [None]
    parts = [
        _agree(_cell_means(a, each), _cell_means(b, each), tuple(top_k)).assign(largest=_largest(b, each))
        for each in metrics
    ]
    out = parts[0] if metrics == [None] else xr.concat(parts, xr.IndexVariable("metric", metrics))
    described = {f"method_{name}": str(r.attrs.get("method", "")) for name, r in (("a", a), ("b", b))}
    kept = {
        name: b.attrs[name]
        for name in ("site", "model", "task", "metric", "unit", "direction")
        if name in b.attrs
    }
    return out.assign_attrs(**kept, **described)


@verb
def difference(a: xr.Dataset, b: xr.Dataset) -> xr.Dataset:
    """a - b, cell by cell and prompt by prompt, with attributes that say what was subtracted from what.

    a, b: results over the same cells and prompts of one model, such as two methods, two directions or two
    ablations. Returns the Dataset that `a - b` gives, with method "difference"; what the two do not share is
    in `difference`. Raises ValueError for other cells, models or prompts.

    Example:
        >>> import interp
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4)
        >>> exact = interp.patch(model, task, "z", progress=False)
        >>> estimate = interp.attribute(model, task, "z", method="atp", progress=False)
        >>> interp.stats.difference(estimate, exact).attrs["difference"]
        'atp - patch'
    """
    _require_same_run(a, b, ("metric", "model"))
    parts = ("method", "direction", "ablation", "task")
    parting = next((name for name in parts if _differ(a, b, name)), None)
    names = [str(r.attrs.get(parting, "")) if parting else label for r, label in ((a, "a"), (b, "b"))]
    shared = {name: value for name, value in a.attrs.items() if not _differ(a, b, name)}
    with xr.set_options(keep_attrs=False):
        numbers = [name for name in a.data_vars if name in b and a[name].dtype.kind in "fiu"]
        out = a[numbers] - b[numbers]
    return out.assign_attrs(shared | {"method": "difference", "difference": " - ".join(names)})


def _differ(a: xr.Dataset, b: xr.Dataset, name: Any) -> bool:
    return a.attrs.get(name) != b.attrs.get(name)


def _largest(exact: xr.Dataset, metric: Any) -> float:
    """The largest |effect| as a share of clean - corrupt; warns where it is nearly nothing."""
    far = far_baseline(exact)
    if far is None or "clean" not in exact:
        return float("nan")
    here = exact if metric is None else exact.sel(metric=metric)
    gap = abs(float((here["clean"] - here[far]).mean()))
    noise = _ROUNDING * max(float(np.abs(here[name]).mean()) for name in ("clean", far))
    largest = float(np.nanmax(np.abs(_cell_means(exact, metric)), initial=0.0))
    share = largest / gap if gap > noise else float("nan")
    if largest <= max(noise, _NEARLY_NONE * gap):
        facts = metric_facts(here)[0]
        warn(
            f"the largest exact effect on {facts.name} is {largest:.2g} {facts.unit}, where clean - {far} is "
            f"{gap:.3g}: nearly nothing. Agreement over such effects compares rounding, and means nothing.",
            NearlyNoEffect,
        )
    return share


def _require_same_run(a: xr.Dataset, b: xr.Dataset, facts: Sequence[str] = _SAME_RUN) -> None:
    for name, result in (("a", a), ("b", b)):
        if "value" not in result:
            raise ValueError(
                f"{name} has no variable 'value', only {list(map(str, result.data_vars))}. Give the result "
                "of a method, for example interp.patch(...)."
            )
    for name in facts:
        left, right = a.attrs.get(name), b.attrs.get(name)
        if left is not None and right is not None and left != right:
            raise ValueError(
                f"the two results differ in {name}: {left!r} and {right!r}. Compare like with like."
            )
    sizes = [dict(r["value"].sizes) for r in (a, b)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"the two results have different dims: {sizes[0]} and {sizes[1]}. Use the same site and by=."
        )
    for dim in a["value"].dims:
        if dim in a.coords and dim in b.coords and not np.array_equal(a[dim].values, b[dim].values):
            raise ValueError(
                f"the two results have different coordinates along {dim!r}: "
                f"{a[dim].values[:5]}... and {b[dim].values[:5]}... . Use the same cells and prompts."
            )


def _cell_means(result: xr.Dataset, metric: Any) -> np.ndarray:
    """The prompt mean of every cell, in one row."""
    value = result["value"] if metric is None else result["value"].sel(metric=metric)
    value = value.mean("prompt", skipna=True) if "prompt" in value.dims else value
    return value.values.astype(float).ravel()


def _agree(a: np.ndarray, b: np.ndarray, top_k: tuple[int, ...]) -> xr.Dataset:
    live = ~((np.nan_to_num(a) == 0) & (np.nan_to_num(b) == 0))
    if (np.isnan(a) ^ np.isnan(b))[live].any():
        raise ValueError(
            "some cells are NaN in one result and a number in the other. Compare the same cells."
        )
    if live.sum() < 3:
        raise ValueError(
            f"{int(live.sum())} live cells (not 0 or NaN in both results); agreement needs at least 3."
        )
    a, b = a[live], b[live]
    rest = np.arange(len(b)) != np.abs(b).argmax()
    rows = [_scores(a, b, top_k), _scores(a[rest], b[rest], top_k)]
    plain = {name: ("cells", [row[name] for row in rows]) for name in rows[0] if name != "recall"}
    recall = (("cells", "k"), np.array([row["recall"] for row in rows]).reshape(2, len(top_k)))
    return xr.Dataset(
        {**plain, "recall": recall}, coords={"cells": ["all", "without largest"], "k": list(top_k)}
    )


def _scores(a: np.ndarray, b: np.ndarray, top_k: tuple[int, ...]) -> dict[str, Any]:
    from scipy.stats import rankdata

    order = [np.argsort(-np.abs(x), kind="stable") for x in (a, b)]
    return {
        "pearson": _correlation(a, b),
        "spearman": _correlation(rankdata(a), rankdata(b)),
        "slope": float(np.cov(a, b)[0, 1] / b.var(ddof=1)) if b.std() > 0 else np.nan,
        "relative_l1": float(np.abs(a - b).sum() / np.abs(b).sum()) if np.abs(b).sum() > 0 else np.nan,
        "sign": float((np.sign(a) == np.sign(b)).mean()),
        "n_cells": len(b),
        "recall": [len(set(order[0][:k]) & set(order[1][:k])) / k if k <= len(b) else np.nan for k in top_k],
    }


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else np.nan
