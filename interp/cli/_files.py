"""Files of results, the figures that suit each, and the page of some results: `interp report`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp import plot
from interp.cli._output import Output, require_file
from interp.files import whole
from interp.plot._cells import is_significant, labels, several_units, top_cells
from interp.plot._export import require_page
from interp.report import write

if TYPE_CHECKING:
    from interp.circuits import Circuit

_ENGINE = "h5netcdf"
_LEVEL = 0.95
_WRITERS = "interp patch, path, attribute, circuit or steer"
_HEATMAPS: dict[tuple[str, ...], Callable[..., go.Figure]] = {
    ("layer", "head"): plot.heads,
    ("score", "layer", "head"): plot.heads,
    ("layer", "pos"): plot.positions,
    ("layer", "span"): plot.positions,
}
_OWN: dict[str, Callable[..., go.Figure]] = {  # by the method of a result that is no map of cells
    "curve": plot.curve,
    "probe": plot.probes,
    "sweep": plot.steering,
}
_TABLES_ONLY = ("evaluate", "generations")


def save(result: xr.Dataset, path: Path) -> Path:
    """Write a result whole or not at all."""
    with whole(path) as unfinished:
        result.to_netcdf(unfinished, engine=_ENGINE)
    return path


def read(path: Path) -> xr.Dataset:
    """Read a result of any verb. ValueError unless the file holds one."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. Give a .nc file that {_WRITERS} wrote.")
    try:
        result = xr.load_dataset(path, engine=_ENGINE)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read as netCDF ({error}). Give a file that {_WRITERS} wrote."
        ) from None
    if "method" not in result.attrs or not {"value", "accuracy", "text"} & set(result.data_vars):
        lacks = "the attribute 'method'" if "method" not in result.attrs else "the variable 'value'"
        raise ValueError(f"{path} is not a result: it lacks {lacks}. Give a file that {_WRITERS} wrote.")
    return result


def read_circuit(path: Path) -> Circuit:
    """A circuit from the JSON that `interp circuit` wrote."""
    from interp.circuits import Circuit

    return Circuit.load(path)


def figures(result: xr.Dataset, level: float = _LEVEL) -> list[go.Figure]:
    """What suits a result: for each metric a heatmap, where the dims have one, and its largest cells."""
    method = str(result.attrs.get("method"))
    if method in _TABLES_ONLY:
        return []
    if method in _OWN:
        several = metric_names(result) if method == "curve" else [None]
        return [_OWN[method](result, **({} if name is None else {"metric": name})) for name in several]
    interval = level if several_units(result) else None  # one unit has no interval
    dims = tuple(
        str(dim) for dim in result["value"].dims if dim not in ("prompt", "site", "receiver", "metric")
    )
    drawn: list[go.Figure] = []
    for metric in metric_names(result):
        if dims in _HEATMAPS:
            drawn.append(_HEATMAPS[dims](result, interval=interval, metric=metric))
        drawn.append(plot.bars(result, interval=interval, metric=metric))
    return drawn


def metric_names(result: xr.Dataset) -> list[str | None]:
    """The metrics to draw; None stands for the only one."""
    return [str(name) for name in result["metric"].values] if "metric" in result.dims else [None]


def largest(result: xr.Dataset, top: int = 10, level: float = _LEVEL) -> list[dict[str, Any]]:
    """The largest effects with their intervals, and p with all cells allowed for."""
    rows = []
    for metric in metric_names(result):
        cells, indices = top_cells(result, top, interval=level, metric=metric)
        for name, index in zip(labels(cells, indices), indices):
            row = {"cell": name, "effect": float(cells.value.values[index]), "unit": cells.unit}
            ends = [(key, end) for key, end in (("low", cells.low), ("high", cells.high)) if end is not None]
            row |= {key: float(end.values[index]) for key, end in ends}
            if cells.p is not None:
                row |= {"p": float(cells.p.values[index]), "significant": bool(is_significant(cells, index))}
            rows.append(row | _named(metric))
    return rows


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows of `largest` as lines for people."""
    width = max((len(row["cell"]) for row in rows), default=4)
    lines = []
    for row in rows:
        ends = f"  {row['low']:+.3g} to {row['high']:+.3g}" if "low" in row else ""
        p = f"  p {row['p']:.2g}{' *' if row['significant'] else ''}" if "p" in row else ""
        metric = f"  {row['metric']}" if "metric" in row else ""
        lines.append(f"{row['cell']:<{width}}  {row['effect']:+.3g} {row['unit']}{ends}{p}{metric}")
    return lines


def _named(metric: str | None) -> dict[str, str]:
    return {} if metric is None else {"metric": metric}


def about(result: xr.Dataset) -> dict[str, Any]:
    """What a result is, for scripts: its attributes, and the means of its baselines."""
    names = ("method", "model", "task", "task_fingerprint", "site", "direction", "ablation", "metric", "seed")
    facts: dict[str, Any] = {name: result.attrs[name] for name in names if name in result.attrs}
    facts["n_prompts"] = result.sizes.get("prompt", result.attrs.get("n_prompts"))
    for name in ("clean", "corrupt", "empty"):
        if name in result:
            facts[name] = np.atleast_1d(result[name].mean("prompt").values).tolist()
    return facts


def heading(result: xr.Dataset) -> str:
    """What the result is, in a line: method, model, task, site, direction."""
    facts = [str(result.attrs.get(name, "")) for name in ("model", "task", "site", "direction")]
    return " · ".join(fact for fact in facts if fact and fact != "none")


def write_page(
    results: Sequence[xr.Dataset | Circuit],
    path: Path,
    title: str,
    opening: str = "",
    level: float = _LEVEL,
) -> Path:
    """A page with the figures and the table of every result, and the picture of every circuit."""
    items: list = [opening] if opening else []
    for result in results:
        if not isinstance(result, xr.Dataset):
            items += [("heading", result.name), plot.circuit(result)]
            continue
        method = str(result.attrs.get("method", ""))
        items += [("heading", " · ".join(filter(None, (method, heading(result)))))]
        items += [*figures(result, level), result]
    return write(items, path, title=title)


def report(args: argparse.Namespace, out: Output) -> None:
    """Read every result, write the page, print its path."""
    require_page(args.out)
    require_file(args.out)
    results = [read_circuit(path) if path.suffix == ".json" else read(path) for path in args.results]
    title = args.title or ("Results" if len(results) > 1 else "Result")
    out.wrote("report", write_page(results, args.out, title))
