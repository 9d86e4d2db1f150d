"""The cells with the largest effects, and intervals for these alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from interp.plot.cells import Index, cell_names, tokens_at
from interp.plot.drawn import Drawn, drawn


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
