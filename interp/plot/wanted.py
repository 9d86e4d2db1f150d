"""Which function draws which dims, and the error for the others."""

from __future__ import annotations

import xarray as xr

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
