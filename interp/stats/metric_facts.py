"""What a result says of its metrics: names, units, and which way is better."""

from __future__ import annotations

from typing import NamedTuple

import xarray as xr


class MetricFacts(NamedTuple):
    """One metric of a result."""

    name: str
    unit: str
    better: str  # "higher" or "lower"

    @property
    def sign(self) -> float:
        """+1 where a higher value is better, -1 where a lower one is."""
        return -1.0 if self.better == "lower" else 1.0


def metric_facts(result: xr.Dataset) -> list[MetricFacts]:
    """The metrics of a result in the order of its metric dim, or the one it has without such a dim.

    The attrs list every metric of the run; a selection such as `result.sel(metric="kl")` keeps them all, so
    the metric coordinate decides.
    """
    columns = [_listed(result.attrs.get(key, "")) for key in ("metric", "unit", "better")]
    columns = [column + [""] * (len(columns[0]) - len(column)) for column in columns]
    known = {name: MetricFacts(name, unit, better or "higher") for name, unit, better in zip(*columns)}
    if "metric" not in result.coords:
        return list(known.values())[:1]
    names = [str(name) for name in result["metric"].values.ravel()]
    return [known.get(name, MetricFacts(name, "", "higher")) for name in names]


def _listed(text: str) -> list[str]:
    return [word.strip() for word in str(text).split(",")]
