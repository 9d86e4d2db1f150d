"""Several scores as one, and edges that hold when the prompts are drawn again.

| function    | gives                                                                                       |
|-------------|---------------------------------------------------------------------------------------------|
| `ensemble`  | one score for every edge from those of several methods                                      |
| `stability` | how often an edge is among the n best, and has its sign, when prompts are drawn again       |
| `stable`    | the circuit of the edges that are among the n best in a given share of those draws          |

Methods have different units, so an ensemble puts each on one scale first:

    rank: sign · (rank of the size) / (number of edges)      size: score / √(mean of squares over the edges)

A score of 0 stays 0. `mean` adds up; `min` and `max` go by size and never invent a sign: `min` is what all
agree on (0 where two signs differ), `max` what the most decided one says. An edge that a method has no score
for counts as 0 in it. θ of a learned mask is no effect, and σ(θ) stands for it.

Ensembles and edge selection over resampled prompts: the shared task of MIB (Mueller et al. 2504.13151).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from scipy.stats import rankdata

from interp import results
from interp._verbs import verb
from interp.circuits._circuit import Circuit
from interp.circuits._graph import Graph
from interp.circuits._select import Scores, made, read, require_number
from interp.places import hint
from interp.stats._resample import ends
from interp.stats._units import Units, sums, units_of

HOWS = ("mean", "min", "max")
SCALES = ("rank", "size")
_SHARED = ("direction", "ablation", "metric", "model", "task", "task_fingerprint", "seed")
_CONVENTION = "scores of several methods on one scale ({scale}), combined ({how}); positive: the edge helps"


@verb
def ensemble(scores: Sequence[Scores], *, how: str = "mean", scale: str = "rank") -> xr.Dataset:
    """One score for every edge from several results of `score_edges`, or circuits with scores.

    how: "mean", "min" (what all agree on) or "max" (what any finds). scale: "rank" (from -1 to 1) or "size"
    (in root mean squares of each method's scores).

    Returns a Dataset that every selection takes: `value` with dims (pos or span,) writer, reader, NaN where
    there is no edge, without unit, positive where the edge helps. The attribute `members` names the methods.

    Cost: no pass. Raises ValueError for no scores, scores of two graphs, models or tasks, and settings that
    are not known.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4)
        >>> members = [interp.circuits.score_edges(model, task, method=m, progress=False)
        ...            for m in ("eap-ig", "exact")]
        >>> both = interp.circuits.ensemble(members)
        >>> both.attrs["members"], interp.circuits.top(both, 40).n_edges
        ('eap-ig, exact', 40)
    """
    for name, value, known in (("how", how, HOWS), ("scale", scale, SCALES)):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(known)}{hint(value, known)}")
    members = [scores] if isinstance(scores, (xr.Dataset, Circuit)) else list(scores)
    if not members:
        raise ValueError("no scores are given. Give results of score_edges, or circuits with scores.")
    graphs, values, sources = zip(*(read(member) for member in members))
    _require_one_question(graphs, values, sources)
    allowed = graphs[0].allowed.numpy()
    scaled = np.stack([_scaled(value.numpy(), allowed, scale) for value in values])
    value = np.where(allowed, _combined(scaled, how), math.nan)
    attrs = _attrs(sources, members=", ".join(str(each.get("method", "scores")) for each in sources))
    attrs |= {"how": how, "scale": scale, "unit": scale, "better": "higher"}
    attrs["convention"] = _CONVENTION.format(scale=scale, how=how)
    coords = {"writer": _names(graphs[0].writers), "reader": _names(graphs[0].readers)}
    if value.ndim == 3:
        coords |= _positions(members)
    dims = (*(name for name in coords if name in ("pos", "span")), "writer", "reader")
    return results.dataset({"value": (dims, value)}, coords, attrs)


def _require_one_question(graphs: Sequence[Graph], values: Sequence[Any], sources: Sequence[Any]) -> None:
    for graph, value, source in zip(graphs, values, sources):
        if graph != graphs[0]:
            raise ValueError(f"the scores are of different graphs: {graphs[0]}; {graph}. Use one model.")
        if value.shape != values[0].shape:
            raise ValueError(
                f"the scores have shapes {list(values[0].shape)} and {list(value.shape)}: some are by "
                "position and some are not. Score all of them with the same positions=."
            )
        for name in ("model", "task_fingerprint"):
            ours, theirs = sources[0].get(name), source.get(name)
            if ours is not None and theirs is not None and ours != theirs:
                what = "models" if name == "model" else "tasks"
                raise ValueError(
                    f"the scores are of two {what} ({ours} and {theirs}), so their mean answers no question. "
                    "Score one model on one set of prompts by each method."
                )


def _scaled(value: np.ndarray, allowed: np.ndarray, scale: str) -> np.ndarray:
    """Scores on one scale; 0 where there is none."""
    there = np.broadcast_to(allowed, value.shape) & ~np.isnan(value)
    flat = value[there]
    if not np.isfinite(flat).all():
        raise ValueError("a score is not finite. Score again with a metric that stays finite.")
    if scale == "size":
        size = math.sqrt(float((flat**2).mean())) if len(flat) else 0.0
        flat = flat / size if size > 0 else flat
    else:
        flat = np.sign(flat) * rankdata(np.abs(flat)) / max(1, len(flat))
    out = np.zeros(value.shape)
    out[there] = flat
    return out


def _combined(scaled: Float[np.ndarray, "member *cell"], how: str) -> Float[np.ndarray, "*cell"]:
    if how == "mean":
        return scaled.mean(0)
    size = np.abs(scaled)
    at = (size.argmin(0) if how == "min" else size.argmax(0))[None]
    chosen = np.take_along_axis(scaled, at, 0)[0]
    agree = (scaled >= 0).all(0) | (scaled <= 0).all(0)
    return chosen if how == "max" else np.where(agree, chosen, 0.0)


def _attrs(sources: Sequence[Any], members: str) -> dict[str, Any]:
    """What all members say alike; "several" where they differ."""
    attrs = results.provenance(method="ensemble", site="edges", convention="", members=members)
    for name in _SHARED:
        told = {source[name] for source in sources if name in source}
        if told:
            attrs[name] = told.pop() if len(told) == 1 else -1 if name == "seed" else "several"
    return attrs | {"n_prompts": min(int(source.get("n_prompts", 0)) for source in sources)}


def _positions(members: Sequence[Scores]) -> dict[str, Any]:
    """The coordinate of positions or spans, from the first member that has one."""
    for member in members:
        if isinstance(member, xr.Dataset):
            dim = "span" if "span" in member.dims else "pos"
            return {dim: member[dim].values}
        if member.spans:
            return {"span": _names(member.spans)}
    masks = [member.mask for member in members if isinstance(member, Circuit)]
    return {"pos": np.arange(masks[0].shape[0])}


def _names(names: Sequence[str]) -> np.ndarray:
    return np.array(names, dtype=object)


@verb
def stability(
    scores: xr.Dataset,
    n: int,
    *,
    absolute: bool = True,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """How each edge fares when the prompts are drawn again, with replacement.

    scores: of `score_edges` (or `score_nodes`), by prompt. n: how many of the best count as found.
    absolute: as in `top`. draws: resamples; prompts that share a text are drawn together (`interp.stats`).

    Returns a Dataset with the dims of an edge: `value`, the mean score in its unit, with `low` and `high`
    (BCa, as `stats.bootstrap`); `in_top`, the share of resamples in which the edge is among the n best;
    `same_sign`, the share in which its mean has the sign of `value` (NaN where that is 0). NaN where there is
    no edge.

    Cost: no pass; a ranking for each draw. Raises ValueError for scores without prompts, fewer than two
    independent prompts, several metrics, and numbers out of range.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> scores = interp.circuits.score_edges(model, interp.tasks.ioi(model, n=8), progress=False)
        >>> found = interp.circuits.stability(scores, 20, draws=100)
        >>> round(float(found["in_top"].sum())), float(found["in_top"].max())
        (20, 1.0)
    """
    value, units = _by_prompt(scores), _units(scores)
    cells = value.transpose("prompt", ...)
    flat = cells.values.reshape(len(cells), -1)
    there = ~np.isnan(flat).all(0)
    require_number(n, int(there.sum()))
    _require_draws(draws)
    numerator, denominator = sums(flat[:, there], np.ones(len(flat)), units)
    top_share, sign_share, means = _shares(numerator, denominator, n, absolute, draws, seed)
    interval = ends(numerator, denominator, draws, level, seed)
    columns = {
        "value": means, "low": interval.low, "high": interval.high,
        "in_top": top_share, "same_sign": sign_share,
    }  # fmt: skip
    dims, shape = cells.dims[1:], cells.shape[1:]
    variables = {}
    for name, column in columns.items():
        full = np.full(flat.shape[1], math.nan)
        full[there] = column
        variables[name] = (dims, full.reshape(shape))
    coords = {str(name): scores[name] for name in scores.coords if "prompt" not in scores[name].dims}
    attrs = results.provenance(method="scores", site="edges", convention="positive: the edge helps")
    attrs |= dict(scores.attrs) | {"level": level, "draws": draws, "bootstrap_seed": seed, "n_top": n}
    attrs |= {"resampled": units.kind, "n_resampled": units.n, "absolute": int(absolute)}
    return results.dataset(variables, coords, attrs)


@verb
def stable(
    scores: xr.Dataset,
    n: int,
    *,
    share: float = 0.95,
    absolute: bool = True,
    draws: int = 1000,
    seed: int = 0,
) -> Circuit:
    """The edges that are among the n best in at least `share` of resamples of the prompts.

    There are at most n / share of them, and fewer where prompts disagree. scores, absolute, draws: as in
    `stability`. Raises ValueError as `stability`, and for a share outside 0 to 1.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> scores = interp.circuits.score_edges(model, interp.tasks.ioi(model, n=8), progress=False)
        >>> interp.circuits.stable(scores, 40, draws=100).n_edges <= 42
        True
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; it must be above 0 and at most 1, for example 0.95.")
    graph, values, told = read(scores)
    found = stability(scores, n, absolute=absolute, draws=draws, seed=seed)
    in_top = found["in_top"].transpose(..., "writer", "reader").values
    mask = graph.allowed & torch.from_numpy(np.nan_to_num(in_top) >= share)
    more = {"n": n, "share": share, "draws": draws, "bootstrap_seed": seed}
    return made(graph, mask, values, told, "stable", absolute, **more)


def _shares(
    numerator: np.ndarray, denominator: np.ndarray, n: int, absolute: bool, draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By cell: the share of draws among the n best, the share with its sign, and the mean."""
    above = np.nan_to_num(numerator)
    k, n_cells = above.shape
    counts = np.random.default_rng(seed).multinomial(k, np.full(k, 1 / k), size=draws).astype(float)
    means = above.sum(0) / denominator.sum(0)
    inside, same = np.zeros(n_cells), np.zeros(n_cells)
    for count in counts:  # one at a time: a model has 10⁵ edges
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn = np.nan_to_num((count @ above) / (count @ denominator))
        ranked = np.abs(drawn) if absolute else drawn
        inside[np.argsort(-ranked, kind="stable")[:n]] += 1
        same += np.sign(drawn) == np.sign(means)
    return inside / draws, np.where(means == 0, math.nan, same / draws), means


def _by_prompt(scores: xr.Dataset) -> xr.DataArray:
    if not isinstance(scores, xr.Dataset) or "value" not in scores or "prompt" not in scores["value"].dims:
        raise ValueError(
            "stability draws prompts again, and these scores have none. Give the result of score_edges "
            "itself, not a mean, an ensemble or a circuit."
        )
    if "metric" in scores["value"].dims:
        raise ValueError(
            f"the scores have the metrics {', '.join(map(str, scores['metric'].values))}. Take one of them: "
            "scores.sel(metric=...)."
        )
    return scores["value"]


def _units(scores: xr.Dataset) -> Units:
    units = units_of(scores, "template")
    if units.n < 2:
        raise ValueError(
            f"{scores.sizes['prompt']} prompt(s) are {units.n} independent unit ({units}), and there is "
            "nothing to draw again. Use more prompts."
        )
    return units


def _require_draws(draws: int) -> None:
    if not isinstance(draws, int) or isinstance(draws, bool) or draws < 100:
        raise ValueError(f"draws is {draws!r}; shares and intervals need at least 100 (1000 is the default).")
