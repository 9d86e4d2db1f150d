"""A sweep of steering as a table: for each layer, the best setting within a KL, beside both controls."""

from __future__ import annotations

import numpy as np
import xarray as xr

from interp.plot.labels import number
from interp.plot.steering_numbers import Quantity, quantities
from interp.report.tables import table

KL_LIMIT = 0.5  # nats
_NOTE = (
    "The settings were chosen on these prompts, so their effects look a little larger than they are; "
    "steering.select chooses on some prompts and reports others. Wrong way: share of prompts whose metric "
    "falls as the coefficient grows."
)


def sweep_table(result: xr.Dataset, kl_limit: float = KL_LIMIT) -> str:
    """One row a layer: of the coefficients with a mean KL within the limit, the one with the best effect."""
    effect, *costs = quantities(result)
    kl = next((each.mean().values for each in costs if each.name == "KL"), None)
    mean = effect.mean().values
    allowed = np.where(kl <= kl_limit, mean, np.nan) if kl is not None else mean
    rows = [
        _row(effect, costs, layer, int(np.nanargmax(scores)))
        for layer, scores in enumerate(allowed)
        if np.isfinite(scores).any()
    ]
    header = ["layer", "coefficient", "effect", *(_run(run) for run in effect.values if run != "steered")]
    header += [*(each.axis for each in costs), "wrong way"]
    limit = f" of a mean KL of {kl_limit:g} nats or less" if kl is not None else ""
    caption = f"The coefficient{limit} with the best {effect.axis}, by layer. {_NOTE}"
    return f"<section class='result'>{table(header, rows, caption)}</section>"


def _row(effect: Quantity, costs: list[Quantity], layer: int, step: int) -> list[str]:
    at = {"layer": layer, "coefficient": step}
    mean = effect.mean()
    return [
        str(int(mean["layer"].values[layer])),
        f"{float(mean['coefficient'].values[step]):.4g}".replace("-", "−"),
        *(number(float(effect.mean(run).isel(at))) for run in effect.values),
        *(f"{float(cost.mean().isel(at)):.3g}" for cost in costs),
        _wrong(effect.values["steered"].isel(layer=layer)),
    ]


def _wrong(values: xr.DataArray) -> str:
    """Share of prompts with a falling effect, by the least-squares slope."""
    if values.sizes["coefficient"] < 2:
        return ""
    centred = values["coefficient"] - values["coefficient"].mean()
    slope = (centred * values).sum("coefficient")
    return f"{100 * float((slope < 0).mean()):.0f} %"


def _run(run: str) -> str:
    return {"random": "random direction", "shuffled": "shuffled labels"}.get(run, run)
