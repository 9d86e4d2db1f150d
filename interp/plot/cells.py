"""Names and hover texts of the cells of a result, along whatever dims it has."""

from __future__ import annotations

import numpy as np
import xarray as xr

from interp.names import AXES, Place
from interp.plot.drawn import Drawn
from interp.plot.labels import escape, number, visible

_TOKENS = {"pos": "token", "dst": "dst_token", "src": "src_token"}


def cell_names(value: xr.DataArray, attrs: dict) -> np.ndarray:
    """The name of every cell, such as L9H6, L3.resid_pre@5 or L9H6.pattern@7<-2: same shape as `value`."""
    out = np.empty(value.shape, dtype=object)
    coords = {dim: value[dim].values for dim in value.dims}
    fixed = {dim: value[dim].item() for dim in ("site", "layer", "head", "pos") if _is_scalar(value, dim)}
    for index in np.ndindex(*value.shape):
        at = {str(dim): coords[dim][i] for dim, i in zip(value.dims, index)}
        out[index] = _name({**fixed, **at}, attrs)
    return out


def hover(drawn: Drawn) -> np.ndarray:
    """Hover text of every cell: name, tokens, value and unit, interval."""
    value = drawn.value
    names = cell_names(value, drawn.attrs)
    out = np.empty(value.shape, dtype=object)
    tokens = {dim: value[name].values for dim, name in _TOKENS.items() if name in value.coords}
    unit = escape(drawn.unit)
    for index in np.ndindex(*value.shape):
        lines = [f"<b>{escape(names[index])}</b>"]
        for dim, at in zip(value.dims, index):
            if dim in tokens and tokens[dim].ndim:
                lines.append(f"{dim} {value[dim].values[at]}: {escape(visible(tokens[dim][at]))}")
        lines.append(f"{number(float(value.values[index]))} {unit}")
        if drawn.low is not None and drawn.high is not None:
            low, high = (float(end.values[index]) for end in (drawn.low, drawn.high))
            lines.append(f"interval {number(low)} to {number(high)}")
        out[index] = "<br>".join(lines)
    return out


def _is_scalar(value: xr.DataArray, dim: str) -> bool:
    return dim in value.coords and value[dim].ndim == 0


def _name(at: dict, attrs: dict) -> str:
    if "cell" in at:
        return str(at["cell"])
    site = str(at.get("site", attrs.get("site", "")))
    if site not in AXES or "layer" not in at:
        return ", ".join(f"{dim} {index}" for dim, index in at.items())
    given = {axis: int(at[axis]) for axis in AXES[site] if axis in at}
    name = str(Place(site, int(at["layer"]), **given))
    window = int(attrs.get("window", 1))
    return name if window == 1 else f"{name} to L{int(at['layer']) + window - 1}"
