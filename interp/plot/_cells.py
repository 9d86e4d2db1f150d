"""From a result to the cells of a figure: one value each, its interval, its name, its hover text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from interp import stats
from interp.places import AXES, Place
from interp.plot import _words as words
from interp.plot._theme import escape, number, visible
from interp.results import VARIES
from interp.stats._means import MetricFacts, far_baseline, is_difference
from interp.stats._units import units_of

Index = tuple[int, ...]
_KINDS = ("score", "part", "norm")  # of what `interp.heads` says
PANELS = ("site", "receiver", *_KINDS)  # dims that give a panel each
_FREE = ("prompt", *PANELS, "metric")
_MOST = 20_000  # cells that are tested for a picture
_DRAWS = {
    ("layer", "head"): "plot.heads",
    ("layer", "pos"): "plot.positions",
    ("layer", "span"): "plot.positions",
}
_TOKENS = {"pos": "token", "dst": "dst_token", "src": "src_token"}


@dataclass(frozen=True)
class Cells:
    """The cells of one figure, for one metric, without a prompt dim."""

    value: xr.DataArray  # float32
    low: xr.DataArray | None
    high: xr.DataArray | None
    unit: str
    subtitle: str
    attrs: dict
    level: float | None = None  # of the intervals
    p: xr.DataArray | None = None  # of every cell, with all of them allowed for
    family: int = 0  # the cells that were tested
    gap: float | None = None  # clean - corrupt, mean over prompts: what a share is a share of

    def isel(self, **where: int) -> Cells:
        """The cells at an index of a dim."""
        parts = {name: getattr(self, name) for name in ("value", "low", "high", "p")}
        return replace(self, **{name: p if p is None else p.isel(where) for name, p in parts.items()})


def require_dataset(result: Any, function: str) -> None:
    """Raise ValueError with the way out unless this is a Dataset with effects."""
    if not isinstance(result, xr.Dataset):
        kind = type(result).__name__
        shape = f" of shape {tuple(result.shape)}" if hasattr(result, "shape") else ""
        advice = " Give the Dataset and not its variable." if isinstance(result, xr.DataArray) else ""
        raise ValueError(
            f"plot.{function} draws a result (an xarray Dataset, as interp.patch or interp.attribute "
            f"returns it), not a {kind}{shape}.{advice}"
        )
    if "value" not in result and "estimate" not in result:
        raise ValueError(f"the Dataset has no variable 'value'; it has {list(map(str, result.data_vars))}.")


def require_dims(result: Any, function: str, wanted: tuple[str, ...]) -> None:
    """Raise ValueError unless the cells of the result lie along exactly the wanted dims."""
    require_dataset(result, function)
    variable = "value" if "value" in result else "estimate"
    dims = tuple(str(dim) for dim in result[variable].dims if dim not in _FREE)
    if sorted(dims) == sorted(wanted):
        return
    raise ValueError(
        f"plot.{function} draws {' × '.join(wanted)}, but this result has the dims {', '.join(dims)}. "
        + _advice(dims, wanted)
    )


def _advice(dims: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    extra = [dim for dim in dims if dim not in wanted]
    if wanted in (("layer", "pos"), ("layer", "span")) and extra == ["head"] and set(wanted) < set(dims):
        return "Choose a head with head=."
    if {"writer", "reader"} <= set(dims):
        return "These are scores of edges: choose some with circuits.top, then use plot.circuit."
    if set(wanted) < set(dims):
        chosen = ", ".join(f"{dim}=0" for dim in extra)
        return f"Select one first, as in result.isel({chosen}), or use plot.bars for the largest cells."
    for known, name in _DRAWS.items():
        if sorted(known) == sorted(dims):
            return f"Use {name}."
    return "Use plot.bars, which takes any dims."


def cells_of(
    result: xr.Dataset,
    normalise: bool = False,
    interval: float | xr.Dataset | None = None,
    metric: str | None = None,
) -> Cells:
    """Prompt means (or normalised effects) of one metric, with intervals if they are asked for or present.

    `result` is a result, or what `stats.mean`, `stats.normalise` or `stats.bootstrap` made of one.
    `interval` is a level such as 0.95, or a Dataset of `stats.bootstrap`.
    """
    chosen, facts = words.one_metric(result, metric)
    if isinstance(interval, float) and "prompt" in chosen.dims and not is_tested(chosen):
        interval = None  # one unit has none; of very many cells they take long
    n_prompts = chosen.sizes.get("prompt")
    if isinstance(interval, xr.Dataset) and "value" not in interval and "estimate" not in interval:
        raise ValueError("interval is a Dataset without an estimate. Give stats.bootstrap's, or a level.")
    summary = _summary(chosen, normalise, interval, metric)
    normalised = summary.attrs.get("normalisation", "none") != "none"
    value = summary["estimate" if "estimate" in summary else "value"].astype(np.float32)
    ends = (summary[name].astype(np.float32) if name in summary else None for name in ("low", "high"))
    low, high = (end if end is None else end.transpose(*value.dims) for end in ends)
    level = float(summary.attrs["level"]) if low is not None and "level" in summary.attrs else None
    about = chosen if not is_difference(summary) else chosen.assign_attrs(method="difference")
    p, family = (None, 0) if interval is None else _tested(chosen)
    return Cells(
        value, low, high,
        unit=words.SHARE if normalised else facts.unit or facts.name,
        subtitle=_subtitle(about, facts, normalised, summary, n_prompts, value),
        attrs=dict(about.attrs), level=level, gap=None if normalised else _gap(chosen, facts), p=p,
        family=family,
    )  # fmt: skip


def several_units(result: xr.Dataset) -> bool:
    """Whether there are prompts to take an interval over: two independent units or more."""
    return "prompt" in result.dims and units_of(result, "template").n > 1


def is_tested(result: xr.Dataset) -> bool:
    """Whether a result's cells can be tested, and are not so many that it takes long."""
    if "value" not in result or not several_units(result):
        return False
    return result["value"].size <= _MOST * result.sizes["prompt"]


def _tested(chosen: xr.Dataset) -> tuple[xr.DataArray | None, int]:
    """p of every cell, corrected for all of them, and how many they are."""
    if not is_tested(chosen):
        return None, 0
    found = stats.test(chosen)
    return found["p"], int(found.attrs["family"])


def _summary(
    chosen: xr.Dataset, normalise: bool, interval: float | xr.Dataset | None, metric: str | None
) -> xr.Dataset:
    """The values without prompts: means, shares, or estimates with their ends."""
    if isinstance(interval, xr.Dataset):
        chosen = words.one_metric(interval, metric)[0]
    elif interval is not None and "prompt" in chosen.dims:
        statistic = "normalised" if normalise else "mean"
        return stats.bootstrap(chosen, level=interval, statistic=statistic)
    elif "estimate" not in chosen and "prompt" in chosen.dims:
        return stats.normalise(chosen) if normalise else stats.mean(chosen)
    if normalise and chosen.attrs.get("normalisation", "none") == "none":
        raise ValueError(
            "normalise=True needs the prompts, but this Dataset holds means in units of the metric. Give the "
            "result itself, or intervals made with stats.bootstrap(result, statistic='normalised')."
        )
    return chosen


def _subtitle(
    about: xr.Dataset,
    facts: MetricFacts,
    normalised: bool,
    summary: xr.Dataset,
    n_prompts: int | None,
    value: xr.DataArray,
) -> str:
    interval = summary.attrs if "low" in summary else {}
    if n_prompts is None and "prompt" not in about.coords and "n_prompts" not in about.attrs:
        about = about.assign_attrs({k: v for k, v in summary.attrs.items() if k == "n_prompts"})
    text = words.subtitle(about, facts, normalised, interval)
    notes = ["hatched: no value"] if np.isnan(value.values).any() else []
    tokens = value["token"].values.ravel() if "token" in value.coords else ()
    varying = any(str(token).endswith(VARIES) for token in tokens)
    notes += [f"{VARIES}: another token in other prompts"] if varying else []
    return " · ".join([text, *notes])


def _gap(chosen: xr.Dataset, facts: MetricFacts) -> float | None:
    far = far_baseline(chosen)
    if far is None or "clean" not in chosen or is_difference(chosen):
        return None
    gap = facts.sign * float(chosen["clean"].mean() - chosen[far].mean())
    return gap if abs(gap) > 1e-6 * float(np.abs(chosen["clean"]).mean()) else None


def every(value: xr.DataArray) -> list[Index]:
    """The index of every cell, in order."""
    return list(np.ndindex(*value.shape))


def cell_names(value: xr.DataArray, attrs: dict, indices: Sequence[Index]) -> list[str]:
    """Names of cells, such as L9H6, L3.resid_pre@5 or L9H6.pattern@7<-2."""
    coords = {str(dim): value[dim].values for dim in value.dims}
    chosen = (*PANELS, "layer", "head", "pos", "span")
    fixed = {dim: value[dim].item() for dim in chosen if _is_scalar(value, dim)}
    return [
        _name({**fixed, **{dim: coords[dim][i] for dim, i in zip(coords, index)}}, attrs) for index in indices
    ]


def _is_scalar(value: xr.DataArray, dim: str) -> bool:
    return dim in value.coords and value[dim].ndim == 0


def _name(at: dict, attrs: dict) -> str:
    receiver = at.pop("receiver", attrs.get("receivers"))
    if receiver is not None and "receivers" in attrs:
        return f"{_name(at, {k: v for k, v in attrs.items() if k != 'receivers'})} → {receiver}"
    for named in ("cell", "component", "sender"):
        if named in at:
            return str(at[named])
    site = str(at.get("site", attrs.get("site", "")))
    kinds = [str(at[kind]).replace("_", " ") for kind in _KINDS if kind in at]
    if {"layer", "head"} <= set(at) and (kinds or site not in AXES):
        return " ".join([f"L{int(at['layer'])}H{int(at['head'])}", *kinds])
    if site not in AXES or "layer" not in at:
        named = [f"{dim} {index}" for dim, index in at.items()]
        return str(next(iter(at.values()))) if "run" in at and len(at) == 1 else ", ".join(named)
    given = {axis: int(at[axis]) for axis in AXES[site] if axis in at}
    name = str(Place(site, int(at["layer"]), **given)) + (f"@{at['span']}" if "span" in at else "")
    window = int(attrs.get("window", 1))
    return name if window == 1 else f"{name} to L{int(at['layer']) + window - 1}"


def tokens_at(value: xr.DataArray, index: Index) -> dict[str, str]:
    """The token of each position of a cell, by dim."""
    known = {dim: name for dim, name in _TOKENS.items() if dim in value.dims and name in value.coords}
    return {
        str(dim): visible(str(value[known[str(dim)]].values[at]))
        for dim, at in zip(value.dims, index)
        if dim in known
    }


def hover(cells: Cells, indices: Sequence[Index]) -> list[str]:
    """Hover texts of cells: name, tokens, value and unit, share of the gap, interval and its level."""
    names = cell_names(cells.value, cells.attrs, indices)
    return ["<br>".join(_hover_lines(cells, name, index)) for name, index in zip(names, indices)]


def _hover_lines(cells: Cells, name: str, index: Index) -> list[str]:
    lines = [f"<b>{escape(name)}</b>"]
    for dim, token in tokens_at(cells.value, index).items():
        at = cells.value[dim].values[index[cells.value.dims.index(dim)]]
        lines.append(f"{dim} {at}: {escape(token)}")
    some = _presence(cells, index)
    lines += some
    value = float(cells.value.values[index])
    if not np.isfinite(value):
        return [*lines, "no value (NaN): not measured, or no such cell"]
    percent = "" if cells.gap is None or some else f", {100 * value / cells.gap:.0f} % of clean − corrupt"
    lines.append(f"{number(value)} {escape(cells.unit)}{percent.replace(', -', ', −')}")
    if cells.low is not None and cells.high is not None:
        low, high = (number(float(end.values[index])) for end in (cells.low, cells.high))
        level = "" if cells.level is None else f"{100 * cells.level:.4g} % "
        lines.append(f"{level}interval {low} to {high}")
    return [*lines, *_significance(cells, index)]


def _significance(cells: Cells, index: Index) -> list[str]:
    """p of a cell, with all cells allowed for."""
    if cells.p is None:
        return []
    p = float(cells.p.values[index])
    if not np.isfinite(p):
        return ["not tested: the same on every prompt"]
    return [f"p {p:.2g} with all {cells.family} cells allowed for (max-|t|)"]


def is_significant(cells: Cells, index: Index) -> bool | None:
    """Whether a cell's p is below 1 - level; None where it is not known."""
    if cells.p is None or cells.level is None or not np.isfinite(cells.p.values[index]):
        return None
    return bool(cells.p.values[index] < 1 - cells.level)


def _presence(cells: Cells, index: Index) -> list[str]:
    """In how many prompts a span is, where some lack it."""
    if "present" not in cells.value.coords or "span" not in cells.value.dims:
        return []
    at = index[cells.value.dims.index("span")]
    count, n = int(cells.value["present"].values[at]), cells.attrs.get("n_prompts")
    return [] if n is None or count == int(n) else [f"in {count} of {int(n)} prompts"]


def top_cells(
    result: xr.Dataset,
    top: int,
    normalise: bool = False,
    interval: float | xr.Dataset | None = 0.95,
    metric: str | None = None,
) -> tuple[Cells, list[Index]]:
    """All cells, with intervals at the `top` largest by |effect|, and the indices of these, largest first."""
    if top < 1:
        raise ValueError(f"top is {top}; ask for at least 1 cell.")
    if "prompt" in result.dims and not several_units(result) and not isinstance(interval, xr.Dataset):
        interval = None  # one unit has none
    cells = cells_of(result, normalise, interval if isinstance(interval, xr.Dataset) else None, metric)
    order = largest(cells.value.values, top)
    if isinstance(interval, float) and "prompt" in result.dims:
        few = cells_of(_few(result, cells, order), normalise, interval, metric)
        p, family = _tested(words.one_metric(result, metric)[0])
        cells = replace(_with_intervals(cells, few, order), p=p, family=family)
    if not cells.value.dims:  # one cell, chosen
        return cells, [()] * len(order)
    columns = np.unravel_index(order, cells.value.shape)
    return cells, list(zip(*(column.tolist() for column in columns)))


def largest(values: np.ndarray, top: int) -> np.ndarray:
    """Flat indices of the `top` largest |values|, largest first; cells that do not exist left out."""
    flat = np.abs(values.ravel().astype(float))
    order = np.argsort(-np.nan_to_num(flat, nan=-1.0), kind="stable")[:top]
    return order[~np.isnan(flat[order])]


def at(values: xr.DataArray, indices: Sequence[Index]) -> np.ndarray:
    """The values at some cells, in one row."""
    return np.array([values.values[index] for index in indices], dtype=np.float32)


def labels(cells: Cells, indices: Sequence[Index]) -> list[str]:
    """Names, with the token where a cell has a position."""
    names = cell_names(cells.value, cells.attrs, indices)
    tokens = [tokens_at(cells.value, index).get("pos", "") for index in indices]
    return [f"{name}  {token}".rstrip() for name, token in zip(names, tokens)]


def _few(result: xr.Dataset, cells: Cells, order: np.ndarray) -> xr.Dataset:
    """The result at a few cells, so that only their intervals are computed."""
    wanted = ("value", "clean", "corrupt", "empty")
    kept = result.drop_vars([name for name in result.data_vars if name not in wanted])
    if not cells.value.dims:
        return kept.expand_dims(flat=len(order))
    return kept.stack(flat=cells.value.dims, create_index=False).isel(flat=order)


def _with_intervals(cells: Cells, few: Cells, order: np.ndarray) -> Cells:
    """The cells with the intervals that were computed for some of them."""
    ends = {}
    for name, end in (("low", few.low), ("high", few.high)):
        if end is None:
            continue
        whole = np.full(cells.value.size, np.nan, dtype=np.float32)
        whole[order] = end.values
        ends[name] = cells.value.copy(data=whole.reshape(cells.value.shape))
    return replace(cells, **ends, subtitle=few.subtitle, level=few.level)
