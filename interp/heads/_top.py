"""The heads that a result puts first, and whether two results put the same ones there.

Overlap of the top n heads of two results: the share of heads in both among those in either (Jaccard), against

- heads drawn from the whole model: hypergeometric;
- heads drawn within their layers: each result's values are shuffled inside every layer. Two tasks may share
  no more than late layers; this null has that already, so what is above it is reuse of heads.

Ranks are compared by Spearman's correlation, with the second null. Circuits are compared by
`circuits.compare`. Merullo et al. 2310.08744 (circuit component reuse).
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.stats import hypergeom, rankdata

from interp._verbs import verb

TOP = 4


@verb
def top(result: xr.Dataset, n: int = TOP, *, score: str | None = None) -> list[str]:
    """The n heads with the highest mean over prompts, by name, highest first.

    For `load_bearing`, `backup`, `patching.pairs` and `knockouts`.
    result: of any verb, with dims layer and head. score: which one, where the result has several (`scores`,
    `roles`). NaN is never among them. Raises ValueError for other dims, and where all is NaN.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> effects = interp.patch(model, interp.tasks.ioi(model, n=8), "z", progress=False)
        >>> len(interp.heads.top(effects, 3))
        3
    """
    value = _by_head(result, score)
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n is {n!r}; ask for at least one head.")
    flat = value.values.ravel()
    order = [
        i for i in np.argsort(-np.nan_to_num(flat, nan=-np.inf), kind="stable")[:n] if not np.isnan(flat[i])
    ]
    if not order:
        raise ValueError("the result has no head with a number: all are NaN.")
    layer, head = np.unravel_index(order, value.shape)
    return [f"L{value['layer'].values[i]}H{value['head'].values[j]}" for i, j in zip(layer, head)]


def _by_head(result: xr.Dataset, score: str | None) -> xr.DataArray:
    """The mean over prompts [layer, head]. ValueError where that is not what a result holds."""
    if not isinstance(result, xr.Dataset) or not {"value", "estimate"} & set(result.data_vars):
        raise ValueError(
            f"a result (a Dataset with 'value') is wanted, not {type(result).__name__}. Give what "
            "heads.scores or interp.patch returns, or heads by name."
        )
    value = result["value" if "value" in result else "estimate"]
    if score is not None or "score" in value.dims:
        known = [str(name) for name in result["score"].values.ravel()] if "score" in result.coords else []
        if score not in known:
            raise ValueError(f"score is {score!r}; the result has {', '.join(known) or 'no scores'}.")
        value = value.sel(score=score)
    value = value.mean("prompt") if "prompt" in value.dims else value
    if set(value.dims) != {"layer", "head"}:
        raise ValueError(
            f"the result has dims {', '.join(map(str, value.dims))}, and heads lie along layer and head. "
            "Select the rest first, as in result.sel(metric='kl')."
        )
    return value.transpose("layer", "head")


@verb
def overlap(
    a: xr.Dataset,
    b: xr.Dataset,
    n: int = 10,
    *,
    score: str | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> xr.Dataset:
    """Do two results put the same heads first? No forward pass.

    a, b: results with dims layer and head, of one model shape. n: how many heads of each. score: which one,
    where they have several.

    Returns a Dataset of single numbers: `both`, how many of the n are the same; `jaccard`; `expected` and
    `p`, of n heads drawn from the whole model; `expected_in_layers` and `p_in_layers`, of heads shuffled
    within their layers; `spearman` and `p_spearman`, of the means of all heads, by the same shuffles. p is
    one-sided, (1 + draws at least as large) / (1 + draws). Attribute `shared`: the names.
    Raises ValueError for results of another shape, and an n that leaves no head out.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> tasks = [interp.tasks.ioi(model, n=8, seed=seed) for seed in (0, 1)]
        >>> effects = [interp.patch(model, task, "z", progress=False) for task in tasks]
        >>> int(interp.heads.overlap(*effects, n=3)["both"])
        3
    """
    values = [_by_head(result, score).values for result in (a, b)]
    if values[0].shape != values[1].shape:
        raise ValueError(
            f"the results have {values[0].shape} and {values[1].shape} layers and heads; only those of one "
            "shape can share heads."
        )
    known = ~np.isnan(values[0]) & ~np.isnan(values[1])
    if not isinstance(n, int) or not 1 <= n < known.sum():
        raise ValueError(f"n is {n!r}; of {int(known.sum())} heads 1 to {int(known.sum()) - 1} can be first.")
    values = [np.where(known, each, np.nan) for each in values]
    firsts = [_firsts(each, n) for each in values]
    both, rho = int((firsts[0] & firsts[1]).sum()), _spearman(*values)
    generator = np.random.default_rng(seed)
    shuffled = [_shuffled(values[1], generator) for _ in range(draws)]
    shared = np.array([(firsts[0] & _firsts(each, n)).sum() for each in shuffled])
    rhos = np.array([_spearman(values[0], each) for each in shuffled])
    total = int(known.sum())
    numbers = {
        "both": both, "jaccard": both / (2 * n - both), "expected": n * n / total,
        "p": float(hypergeom.sf(both - 1, total, n, n)), "expected_in_layers": float(shared.mean()),
        "p_in_layers": (1 + int((shared >= both).sum())) / (1 + draws),
        "spearman": rho, "p_spearman": (1 + int((rhos >= rho - 1e-12).sum())) / (1 + draws),
    }  # fmt: skip
    names = [f"L{layer}H{head}" for layer, head in np.argwhere(firsts[0] & firsts[1])]
    attrs = {"n": n, "draws": draws, "seed": seed, "shared": ", ".join(names)}
    return xr.Dataset(numbers, attrs=attrs)


def _firsts(values: np.ndarray, n: int) -> np.ndarray:
    """Which heads are among the n highest: [layer, head]."""
    order = np.argsort(-np.nan_to_num(values.ravel(), nan=-np.inf), kind="stable")[:n]
    out = np.zeros(values.size, dtype=bool)
    out[order] = True
    return out.reshape(values.shape)


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    known = ~np.isnan(a) & ~np.isnan(b)
    ranks = [rankdata(each[known]) for each in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def _shuffled(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Every layer's known values in random order."""
    out = values.copy()
    for row in out:
        known = ~np.isnan(row)
        row[known] = generator.permutation(row[known])
    return out
