"""How good circuits are, as tables: what `circuits.evaluate` measured of each, and a curve by size."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from interp.plot._circuit import Drawable, edges_of
from interp.plot._layout import label
from interp.plot._theme import number
from interp.report._html import table
from interp.results import require_axes
from interp.stats._means import metric_facts

_MEASURES: tuple[tuple[Any, ...], ...] = (  # label, variable, what a perfect circuit has, ends
    ("faithfulness (ratio of means)", "faithfulness", "1", ("low", "high")),
    ("faithfulness (mean of ratios)", "mean_of_ratios", "1"),
    ("KL from the clean run, nats", "kl", "0"),
    ("faithfulness of the rest of the model", "without", "0"),
    ("incompleteness, mean over random sets", "incompleteness", "0"),
    ("minimality, least of its nodes", "minimality", "not 0"),
)
_EDGES = 30
_RECIPE = ("ablation", "granularity", "direction")


def circuit_tables(result: xr.Dataset) -> str:
    """One table for each circuit and metric, with what a perfect circuit would have."""
    parts = [
        _evaluation(result.isel(circuit=i), name)
        for i in range(result.sizes["circuit"])
        for name in _metrics(result)
    ]
    return "\n".join(["<section class='result'>", *parts, "</section>"])


def edge_table(circuit: Drawable) -> str:
    """The edges of a circuit, those of the largest |score| first."""
    edges = edges_of(circuit)
    scored = any(np.isfinite(edge.score) for edge in edges)
    ordered = sorted(edges, key=lambda edge: -np.nan_to_num(abs(edge.score)))[:_EDGES]
    rows = []
    for edge in ordered:
        reader = f"{label(edge.target)}{'.' + edge.part if edge.part else ''}"
        rows.append([label(edge.source), reader, *([number(edge.score)] if scored else [])])
    first = f"the {len(rows)} largest of " if len(rows) < len(edges) else ""
    caption = f"{circuit.name}: {first}{len(edges)} edges, from a writer to a reader."
    header = ["writer", "reader", *(["score"] if scored else [])]
    return f"<section class='result'>{table(header, rows, caption)}</section>"


def curve_tables(result: xr.Dataset) -> str:
    """One table for each ranking and metric: edges and faithfulness by size, and the area."""
    require_axes(result, "the table of a curve", "ranking", "size")
    rankings = [str(ranking) for ranking in result["ranking"].values]
    parts = [
        _curve(result.sel(ranking=ranking), ranking, name)
        for ranking in rankings
        for name in _metrics(result)
    ]
    return "\n".join(["<section class='result'>", *parts, "</section>"])


def _metrics(result: xr.Dataset) -> list[str]:
    return [facts.name for facts in metric_facts(result)]


def _of(result: xr.Dataset, metric: str) -> xr.Dataset:
    return result.sel(metric=metric) if "metric" in result.dims else result


def _about(result: xr.Dataset, metric: str) -> str:
    recipe = [f"{name} {result.attrs[name]}" for name in _RECIPE if name in result.attrs]
    return ", ".join([*recipe, f"metric {metric}"]) + "."


def _level(result: xr.Dataset) -> str:
    return f"{100 * float(result.attrs.get('level', 0.95)):.4g} % from"


def _evaluation(circuit: xr.Dataset, metric: str) -> str:
    chosen = _of(circuit, metric)
    rows = [_row(chosen, *row) for row in _MEASURES if row[1] in chosen]
    caption = (
        f"{chosen['circuit'].item()}: {int(chosen['edges'])} edges, {int(chosen['heads'])} heads, on "
        f"{chosen.sizes['prompt']} prompts. {_about(chosen, metric)}"
    )
    return table(["", "value", _level(chosen), "to", "a perfect circuit"], rows, caption)


def _row(result: xr.Dataset, label: str, name: str, best: str, ends: tuple[str, ...] = ()) -> list[str]:
    values = result[name].values
    known = values[np.isfinite(values)]
    value = float("nan")
    if known.size:
        value = float(known[np.abs(known).argmin()] if name == "minimality" else known.mean())
    shown = [number(float(result[end])) for end in ends] or ["", ""]
    return [label, number(value), *shown, best]


def _curve(result: xr.Dataset, ranking: str, metric: str) -> str:
    chosen = _of(result, metric)
    columns = [chosen[name].values for name in ("edges", "faithfulness", "low", "high")]
    rows = [
        [f"{100 * float(size):.3g} %", str(int(edges)), *(number(float(value)) for value in values)]
        for size, edges, *values in zip(chosen["size"].values, *columns)
    ]
    caption = (
        f"Faithfulness by size, edges ranked by {ranking} score, on {chosen.sizes.get('prompt', '')} "
        f"prompts. {_about(chosen, metric)}"
    )
    return table(["size asked for", "edges left", "faithfulness", _level(chosen), "to"], rows, caption)
