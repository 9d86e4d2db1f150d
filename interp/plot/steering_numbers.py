"""From a sweep to what its figure draws: the effect, and what it costs in fluency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from interp.places import hint

SPREAD = (0.1, 0.9)  # quantiles over prompts
_CONTROLS = ("random", "shuffled")
_DIMS = ("layer", "coefficient")


@dataclass(frozen=True)
class Quantity:
    """One quantity of a sweep, by layer, coefficient and prompt, and that of the controls."""

    name: str
    unit: str
    is_effect: bool  # centred on 0, positive is better; otherwise a cost
    values: dict[str, xr.DataArray]  # "steered", "random", "shuffled"
    shown: Callable[[xr.DataArray], xr.DataArray]

    def mean(self, run: str = "steered") -> xr.DataArray:
        """Mean over prompts, (layer, coefficient)."""
        found = self.values[run]
        return self.shown(found.mean(_prompt_dim(found))).transpose(*_DIMS)

    def spread(self, run: str = "steered") -> tuple[xr.DataArray, xr.DataArray]:
        """The quantiles `SPREAD` over prompts."""
        found = self.values[run]
        ends = self.shown(found.quantile(SPREAD, _prompt_dim(found)))
        return ends.isel(quantile=0), ends.isel(quantile=1)

    @property
    def axis(self) -> str:
        """Name and unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


def quantities(result: xr.Dataset, metric: str | None = None) -> list[Quantity]:
    """The effect on a metric; the KL from the unsteered run, and the perplexity of neutral text, if measured.

    metric: default the first that is not the KL. The effect is metric − base, positive is better. Raises
    ValueError for what is not the result of a sweep, and for a metric that it does not have.
    """
    facts = _facts(result)
    names = list(facts)
    if metric is not None and metric not in names:
        raise ValueError(
            f"the sweep has no metric {metric!r}{hint(metric, names)} It has {', '.join(names)}."
        )
    chosen = metric or next((name for name in names if name != "kl"), "kl")
    found = [_effect(result, chosen, *facts[chosen])]
    if "kl" in names and chosen != "kl":
        found.append(Quantity("KL", "nats", False, _runs(result, "kl"), _same))
    if "neutral_loss" in result:
        loss = {"steered": result["neutral_loss"]}
        found.append(Quantity("perplexity of neutral text", "", False, loss, np.exp))
    return found


def _facts(result: xr.Dataset) -> dict[str, tuple[str, str]]:
    """Unit, and whether higher or lower is better, by metric."""
    if result.attrs.get("method") != "sweep" or not {"value", "base"} <= set(result.data_vars):
        raise ValueError(
            "this is not the result of steering.sweep: it has the variables "
            f"{', '.join(map(str, result.data_vars)) or 'none'}, method {result.attrs.get('method')!r}."
        )
    missing = [dim for dim in (*_DIMS, "prompt") if dim not in result["value"].dims]
    if missing:
        raise ValueError(
            f"the sweep has lost its dim {missing[0]!r}. Select with a list, as in isel({missing[0]}=[0])."
        )
    lists = ([part.strip() for part in result.attrs[key].split(",")] for key in ("metric", "unit", "better"))
    return {name: (unit, better) for name, unit, better in zip(*lists)}


def _effect(result: xr.Dataset, metric: str, unit: str, better: str) -> Quantity:
    if metric == "kl":
        return Quantity("KL", unit, False, _runs(result, "kl"), _same)
    base = _of(result["base"], metric)
    sign = 1.0 if better == "higher" else -1.0
    runs = {run: sign * (values - base) for run, values in _runs(result, metric).items()}
    return Quantity(f"effect on {metric}", unit, True, runs, _same)


def _runs(result: xr.Dataset, metric: str) -> dict[str, xr.DataArray]:
    names = {"steered": "value"} | {name: name for name in _CONTROLS if name in result}
    return {run: _of(result[name], metric) for run, name in names.items()}


def _of(values: xr.DataArray, metric: str) -> xr.DataArray:
    return values.sel(metric=metric, drop=True) if "metric" in values.dims else values


def _prompt_dim(values: xr.DataArray) -> str:
    return next(str(dim) for dim in values.dims if dim not in (*_DIMS, "quantile"))


def _same(values: xr.DataArray) -> xr.DataArray:
    return values
