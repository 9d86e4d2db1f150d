"""Names and hover texts of the cells of a result, along whatever dims it has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from interp.places import AXES, Place
from interp.plot.drawn import Drawn
from interp.plot.labels import escape, number, visible

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
