"""The independent units of a result: which prompts are one draw, and their effects together.

Prompts are not always drawn one by one. Those that share a text (mirrored pairs, named by the coordinate
`unit`) are one draw. Those of a template share its wording: where templates repeat and there are at least
MIN_CLUSTERS of them, templates are the units; with fewer, what is found is about new prompts from the same
templates.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from interp.places import hint

MIN_CLUSTERS = 10


class Units(NamedTuple):
    """The unit of every prompt, from 0; how many; what a unit is: "prompt", "unit" or a coordinate."""

    group: Int[np.ndarray, "prompt"]
    n: int
    kind: str
    n_clusters: int | None = None  # values of the coordinate that was asked for

    def __str__(self) -> str:
        return {
            "prompt": "each prompt for itself",
            "unit": "prompts that share a text count once",
            "template": "prompts of a template count once",
        }.get(self.kind, f"by {self.kind}")


def units_of(result: xr.Dataset, cluster: str | None) -> Units:
    """The units by a coordinate on prompts; None takes each prompt for itself.

    "template" is the rule of this module's text. ValueError for a coordinate that the result does not have.
    """
    known = [str(name) for name in result.coords if name != "prompt" and on_prompts(result, name)]
    if cluster not in (None, "template", "unit", *known):
        raise ValueError(
            f"cluster is {cluster!r}, but the coordinates on prompts are {known}{hint(str(cluster), known)}"
        )
    n_prompts = result.sizes["prompt"]
    if not n_prompts:
        raise ValueError("the result has no prompts: its dim prompt has length 0. Give one or more.")
    alone = Units(np.arange(n_prompts), n_prompts, "prompt")
    if cluster is None:
        return alone
    if cluster in known:
        group = np.unique(result[cluster].values.astype(str), return_inverse=True)[1].ravel()
        n = int(group.max()) + 1
        if cluster != "template" or (n < n_prompts and n >= MIN_CLUSTERS):
            return Units(group, n, cluster if n < n_prompts else "prompt", n)
        alone = alone._replace(n_clusters=n)
    return units_of(result, "unit")._replace(n_clusters=alone.n_clusters) if cluster == "template" else alone


def on_prompts(result: xr.Dataset, name: Any) -> bool:
    """Whether a coordinate or variable varies by prompt."""
    return "prompt" in result[name].dims


def by_unit(effect: Float[np.ndarray, "prompt cell"], units: Units) -> Float[np.ndarray, "unit cell"]:
    """Means by unit over the prompts that have the cell; NaN where none of a unit's has."""
    member = (units.group == np.arange(units.n)[:, None]).astype(float)  # [unit, prompt]
    missing = np.isnan(effect)
    with np.errstate(invalid="ignore"):
        return (member @ np.where(missing, 0.0, effect)) / (member @ ~missing)


def sums(
    effect: Float[np.ndarray, "prompt cell"], full: Float[np.ndarray, "prompt"], units: Units
) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator by unit: [unit, cell], and [unit, cell] or [unit, 1].

    A prompt without the cell is in neither. NaN where a unit has no prompt with the cell.
    """
    missing = np.isnan(effect)
    member = (units.group == np.arange(units.n)[:, None]).astype(float)  # [unit, prompt]
    numerator = member @ np.where(missing, 0.0, effect)
    numerator[member @ ~missing == 0] = np.nan
    if not (missing.any(0) & ~missing.all(0)).any():
        return numerator, member @ full[:, None]
    return numerator, member @ np.where(missing, 0.0, full[:, None])


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient, NaN where it is not finite."""
    with np.errstate(invalid="ignore", divide="ignore"):
        out = numerator / denominator
    return np.where(np.isfinite(out), out, np.nan)
