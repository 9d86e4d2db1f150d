"""Files of results, the figures that suit each, and the page of some results: `interp report`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import plotly.graph_objects as go
import xarray as xr

from interp import plot
from interp.files import whole
from interp.report import write

_HEATMAPS: dict[tuple[str, ...], Callable[..., go.Figure]] = {
    ("layer", "head"): plot.heads,
    ("layer", "pos"): plot.positions,
}
_LEVEL = 0.95


def figures(result: xr.Dataset) -> list[go.Figure]:
    """For each metric a heatmap, where the dims have one, and the largest cells as bars."""
    interval = _LEVEL if result.sizes["prompt"] > 1 else None  # one prompt has no interval
    dims = tuple(str(dim) for dim in result["value"].dims if dim not in ("prompt", "site", "metric"))
    drawn: list[go.Figure] = []
    for metric in metric_names(result):
        if dims in _HEATMAPS:
            drawn.append(_HEATMAPS[dims](result, interval=interval, metric=metric))
        drawn.append(plot.bars(result, interval=interval, metric=metric))
    return drawn


def metric_names(result: xr.Dataset) -> list[str | None]:
    """The metrics to draw; None stands for the only one."""
    return [str(name) for name in result["metric"].values] if "metric" in result.dims else [None]


def heading(result: xr.Dataset) -> str:
    """What the result is, in a line: model, task, site, direction."""
    facts = [str(result.attrs.get(name, "")) for name in ("model", "task", "site", "direction")]
    return " · ".join(fact for fact in facts if fact)


_ENGINE = "h5netcdf"


def save(result: xr.Dataset, path: Path) -> Path:
    """Write a result whole or not at all."""
    with whole(path) as unfinished:
        result.to_netcdf(unfinished, engine=_ENGINE)
    return path


def read(path: Path) -> xr.Dataset:
    """Read a result. ValueError unless the file holds one."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. Give a .nc file that interp patch wrote.")
    try:
        result = xr.load_dataset(path, engine=_ENGINE)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read as netCDF ({error}). Give a file that interp patch wrote."
        ) from None
    missing = [name for name in ("value", "clean", "corrupt") if name not in result]
    if missing or "prompt" not in result.dims:
        raise ValueError(
            f"{path} is not a result: it lacks {', '.join(missing) or 'the dim prompt'}. "
            "Give a file that interp patch wrote."
        )
    return result


def write_page(results: Sequence[xr.Dataset], path: Path, title: str, opening: str = "") -> Path:
    """A page with the figures and the table of every result."""
    items: list = [opening] if opening else []
    for result in results:
        items += [("heading", heading(result)), *figures(result), result]
    return write(items, path, title=title)


def report(args: argparse.Namespace) -> None:
    """Read every result, write the page, print its path."""
    results = [read(path) for path in args.results]
    print(write_page(results, args.out, args.title))
