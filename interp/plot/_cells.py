"""From a result to the cells of a figure: one value each, its interval, its name, unit and words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from interp import stats
from interp.places import AXES, Place, nearest
from interp.plot._theme import escape, number, visible
from interp.stats._means import MetricFacts, metric_facts

_FREE = ("prompt", "site", "metric")
_DRAWS = {("layer", "head"): "plot.heads", ("layer", "pos"): "plot.positions"}


def require_dims(result: xr.Dataset, function: str, wanted: tuple[str, ...]) -> None:
    """Raise ValueError unless the cells of the result lie along exactly the wanted dims."""
    variable = next((name for name in ("value", "estimate") if name in result), None)
    if variable is None:
        raise ValueError(f"the Dataset has no variable 'value'; it has {list(map(str, result.data_vars))}.")
    dims = tuple(str(dim) for dim in result[variable].dims if dim not in _FREE)
    if sorted(dims) == sorted(wanted):
        return
    raise ValueError(
        f"plot.{function} draws {' × '.join(wanted)}, but this result has the dims {', '.join(dims)}. "
        + _advice(dims, wanted)
    )


def _advice(dims: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    extra = [dim for dim in dims if dim not in wanted]
    if wanted == ("layer", "pos") and extra == ["head"] and "pos" in dims:
        return "Choose a head with head=."
    if set(wanted) < set(dims):
        chosen = ", ".join(f"{dim}=..." for dim in extra)
        return f"Select one first, result.isel({chosen}), or use plot.bars for the largest cells."
    for known, name in _DRAWS.items():
        if sorted(known) == sorted(dims):
            return f"Use {name}."
    return "Use plot.bars, which takes any dims."


MEANING = {"denoise": "clean patched into corrupt", "noise": "corrupt patched into clean"}
SHARE = "share of clean − corrupt"


@dataclass(frozen=True)
class Drawn:
    """The cells of one figure, for one metric, without a prompt dim."""

    value: xr.DataArray  # float32
    low: xr.DataArray | None
    high: xr.DataArray | None
    unit: str
    subtitle: str
    attrs: dict

    def isel(self, **where: int) -> Drawn:
        """The cells at an index of a dim."""
        parts = {name: getattr(self, name) for name in ("value", "low", "high")}
        return replace(self, **{name: p if p is None else p.isel(where) for name, p in parts.items()})


def drawn(
    result: xr.Dataset,
    normalise: bool = False,
    interval: float | xr.Dataset | None = None,
    metric: str | None = None,
) -> Drawn:
    """Prompt means (or normalised effects) of one metric, with intervals if they are asked for or present.

    `result` is a result, or what `stats.mean`, `stats.normalise` or `stats.bootstrap` made of one.
    `interval` is a level such as 0.95, or a Dataset of `stats.bootstrap`.
    """
    one, facts = _one_metric(result, metric)
    if isinstance(interval, xr.Dataset):
        one = _one_metric(interval, metric)[0]
        _require_scale(one, normalise)
    elif interval is not None and "prompt" in one.dims:
        statistic = "normalised" if normalise else "mean"
        one = stats.bootstrap(one, level=interval, statistic=statistic)
    n_prompts = result.sizes.get("prompt", result.attrs.get("n_prompts"))
    if "estimate" not in one and "prompt" in one.dims:
        one = stats.normalise(one) if normalise else stats.mean(one)
    _require_scale(one, normalise)
    low, high = (one[name].astype(np.float32) if name in one else None for name in ("low", "high"))
    value = one["estimate" if "estimate" in one else "value"].astype(np.float32)
    normalised = one.attrs.get("normalisation", "none") != "none"
    unit = SHARE if normalised else facts.unit or facts.name
    words = _subtitle(result.attrs, facts, n_prompts, normalised, one.attrs if low is not None else {})
    return Drawn(value, low, high, unit, words, dict(result.attrs))


def _one_metric(result: xr.Dataset, metric: str | None) -> tuple[xr.Dataset, MetricFacts]:
    if "value" not in result and "estimate" not in result:
        raise ValueError(f"the Dataset has no variable 'value'; it has {list(map(str, result.data_vars))}.")
    known = [facts.name for facts in metric_facts(result)]
    if metric is not None and metric not in known:
        close = nearest(metric, known)
        hint = f" Did you mean {close!r}?" if close else ""
        raise ValueError(f"metric is {metric!r}, but the result has {', '.join(known)}.{hint}")
    if "metric" not in result.dims:
        return result, metric_facts(result)[0]
    if metric is None and result.sizes["metric"] > 1:
        raise ValueError(f"the result has {len(known)} metrics: {', '.join(known)}. Choose one with metric=.")
    one = result.sel(metric=metric or known[0])
    return one, metric_facts(one)[0]


def _require_scale(one: xr.Dataset, normalise: bool) -> None:
    """Refuse to normalise what has lost its prompts."""
    if normalise and "prompt" not in one.dims and one.attrs.get("normalisation", "none") == "none":
        raise ValueError(
            "normalise=True needs the prompts, but this Dataset holds means in units of the metric. Give the "
            "result itself, or intervals made with stats.bootstrap(result, statistic='normalised')."
        )


def _subtitle(
    attrs: dict, facts: MetricFacts, n_prompts: int | None, normalised: bool, interval: dict
) -> str:
    direction = str(attrs.get("direction", ""))
    means = MEANING.get(direction)
    parts = [f"{direction}: {means}" if means else direction]
    parts.append("" if n_prompts is None else f"{n_prompts} prompt{'s' if n_prompts != 1 else ''}")
    unit = f" ({facts.unit})" if facts.unit and facts.unit != facts.name else ""
    scale = "normalised: 0 unpatched, 1 the whole of clean − corrupt" if normalised else "not normalised"
    parts += [f"{facts.name}{unit}", scale]
    if interval:
        unit = interval.get("resampled", "prompt")
        plural = "groups of prompts" if unit == "template" else f"{unit}s"  # templates, or pairs within one
        units = f"{interval.get('n_resampled', '')} {plural}".strip()
        parts.append(f"{100 * float(interval.get('level', 0.95)):.4g} % intervals over {units}")
    return " · ".join(part for part in parts if part)


_TOKENS = {"pos": "token", "dst": "dst_token", "src": "src_token"}


Index = tuple[int, ...]


def every(value: xr.DataArray) -> list[Index]:
    """The index of every cell, in order."""
    return list(np.ndindex(*value.shape))


def cell_names(value: xr.DataArray, attrs: dict, indices: Sequence[Index]) -> list[str]:
    """Names of cells, such as L9H6, L3.resid_pre@5 or L9H6.pattern@7<-2."""
    coords = {str(dim): value[dim].values for dim in value.dims}
    fixed = {dim: value[dim].item() for dim in ("site", "layer", "head", "pos") if _is_scalar(value, dim)}
    return [
        _name({**fixed, **{dim: coords[dim][i] for dim, i in zip(coords, index)}}, attrs) for index in indices
    ]


def tokens_at(value: xr.DataArray, index: Index) -> dict[str, str]:
    """The token of each position of a cell, by dim."""
    known = {dim: name for dim, name in _TOKENS.items() if dim in value.dims and name in value.coords}
    return {
        str(dim): visible(str(value[known[str(dim)]].values[at]))
        for dim, at in zip(value.dims, index)
        if dim in known
    }


def hover(drawn: Drawn, indices: Sequence[Index]) -> list[str]:
    """Hover texts of cells: name, tokens, value and unit, interval."""
    names = cell_names(drawn.value, drawn.attrs, indices)
    unit = escape(drawn.unit)
    texts = []
    for name, index in zip(names, indices):
        lines = [f"<b>{escape(name)}</b>"]
        for dim, token in tokens_at(drawn.value, index).items():
            at = drawn.value[dim].values[index[drawn.value.dims.index(dim)]]
            lines.append(f"{dim} {at}: {escape(token)}")
        lines.append(f"{number(float(drawn.value.values[index]))} {unit}")
        if drawn.low is not None and drawn.high is not None:
            low, high = (number(float(end.values[index])) for end in (drawn.low, drawn.high))
            lines.append(f"interval {low} to {high}")
        texts.append("<br>".join(lines))
    return texts


def _is_scalar(value: xr.DataArray, dim: str) -> bool:
    return dim in value.coords and value[dim].ndim == 0


def _name(at: dict, attrs: dict) -> str:
    for named in ("cell", "component"):
        if named in at:
            return str(at[named])
    site = str(at.get("site", attrs.get("site", "")))
    if site not in AXES or "layer" not in at:
        return ", ".join(f"{dim} {index}" for dim, index in at.items())
    given = {axis: int(at[axis]) for axis in AXES[site] if axis in at}
    name = str(Place(site, int(at["layer"]), **given))
    window = int(attrs.get("window", 1))
    return name if window == 1 else f"{name} to L{int(at['layer']) + window - 1}"


def top_cells(
    result: xr.Dataset,
    top: int,
    normalise: bool = False,
    interval: float | xr.Dataset | None = 0.95,
    metric: str | None = None,
) -> tuple[Drawn, list[Index]]:
    """All cells, with intervals at the `top` largest by |effect|, and the indices of these, largest first."""
    if top < 1:
        raise ValueError(f"top is {top}; ask for at least 1 cell.")
    if result.sizes.get("prompt") == 1 and not isinstance(interval, xr.Dataset):
        interval = None  # one prompt has none
    cells = drawn(result, normalise, interval if isinstance(interval, xr.Dataset) else None, metric)
    order = largest(cells.value.values, top)
    if isinstance(interval, float) and "prompt" in result.dims:
        cells = _with_intervals(cells, drawn(_few(result, cells, order), normalise, interval, metric), order)
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


def labels(cells: Drawn, indices: Sequence[Index]) -> list[str]:
    """Names, with the token where a cell has a position."""
    names = cell_names(cells.value, cells.attrs, indices)
    tokens = [tokens_at(cells.value, index).get("pos", "") for index in indices]
    return [f"{name}  {token}".rstrip() for name, token in zip(names, tokens)]


def _few(result: xr.Dataset, cells: Drawn, order: np.ndarray) -> xr.Dataset:
    """The result at a few cells, so that only their intervals are computed."""
    kept = result.drop_vars([name for name in result.data_vars if name not in ("value", "clean", "corrupt")])
    return kept.stack(flat=cells.value.dims, create_index=False).isel(flat=order)


def _with_intervals(cells: Drawn, few: Drawn, order: np.ndarray) -> Drawn:
    """The cells with the intervals that were computed for some of them."""
    ends = {}
    for name, end in (("low", few.low), ("high", few.high)):
        if end is None:
            continue
        whole = np.full(cells.value.size, np.nan, dtype=np.float32)
        whole[order] = end.values
        ends[name] = cells.value.copy(data=whole.reshape(cells.value.shape))
    return replace(cells, **ends, subtitle=few.subtitle)
