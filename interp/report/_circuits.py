"""How good circuits are: the figures of `circuits.evaluate` as a table for each circuit."""

from __future__ import annotations

import numpy as np
import xarray as xr

from interp.plot._theme import number
from interp.report._effects import table

_RECIPE = ("ablation", "granularity", "direction", "metric")


def circuit_tables(found: xr.Dataset) -> str:
    """One table for each circuit, with what a perfect one would have."""
    parts = [_one(found.isel(circuit=i)) for i in range(found.sizes["circuit"])]
    return "\n".join(["<section class='result'>", *parts, "</section>"])


def _one(found: xr.Dataset) -> str:
    rows = [
        _row("faithfulness (ratio of means)", found, "faithfulness", "1", ("low", "high")),
        _row("faithfulness (mean of ratios)", found, "mean_of_ratios", "1"),
        _row("KL from the clean run, nats", found, "kl", "0"),
        _row("faithfulness of the rest of the model", found, "without", "0"),
        _row("incompleteness, mean over random sets", found, "incompleteness", "0"),
        _row("minimality, least of its nodes", found, "minimality", "not 0"),
    ]
    caption = (
        f"{found['circuit'].item()}: {int(found['edges'])} edges, {int(found['heads'])} heads, on "
        f"{found.sizes['prompt']} prompts. " + ", ".join(f"{k} {found.attrs[k]}" for k in _RECIPE) + "."
    )
    header = ["", "value", f"{100 * float(found.attrs['level']):.4g} % from", "to", "a perfect circuit"]
    return table(header, rows, caption)


def _row(label: str, found: xr.Dataset, name: str, best: str, ends: tuple[str, ...] = ()) -> list[str]:
    values = found[name].values
    known = values[np.isfinite(values)]
    value = float("nan")
    if known.size:
        value = float(known[np.abs(known).argmin()] if name == "minimality" else known.mean())
    shown = [number(float(found[end])) for end in ends] or ["", ""]
    return [label, number(value), *shown, best]
