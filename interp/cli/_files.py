"""What a result says in lines and in JSON, and `interp report`: the page of some results."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import xarray as xr

from interp.cli._output import Output, require_file
from interp.plot._cells import is_significant, labels, top_cells
from interp.plot._export import require_page
from interp.report import _run
from interp.report._figures import LEVEL, metric_names, write_page
from interp.results import facts as facts_of


def largest(result: xr.Dataset, top: int = 10, level: float = LEVEL) -> list[dict[str, Any]]:
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
    """What a result is, for scripts: its facts, and the means of its baselines."""
    facts = facts_of(result) | {"n_prompts": result.sizes.get("prompt", result.attrs.get("n_prompts"))}
    for name in ("clean", "corrupt", "empty"):
        if name in result:
            facts[name] = np.atleast_1d(result[name].mean("prompt").values).tolist()
    return facts


def report(args: argparse.Namespace, out: Output) -> None:
    """Read every file and folder, write the page, print its path."""
    require_page(args.out)
    require_file(args.out)
    runs = [_run.open(path) for path in args.results]
    results = [part for run in runs for part in (*run.results.values(), *run.circuits.values())]
    if not results:
        raise ValueError(f"{', '.join(map(str, args.results))}: no result and no circuit is there to show.")
    title = args.title or ("Results" if len(results) > 1 else "Result")
    out.wrote("report", write_page(results, args.out, title))
