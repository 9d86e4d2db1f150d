"""Pairs of components: does the behaviour need both, either, or one through the other?

1. Denoise and noise every component alone, and every pair together: D(a), D(ab), N(a), N(ab).
2. Interaction I = effect(ab) − effect(a) − effect(b), in each direction; as a share of the gap clean −
   corrupt.
3. The table, of a gap that is wholly theirs:

| label         | D(a) D(b) D(ab) | N(a) N(b) N(ab) | I of D, I of N |
|---------------|-----------------|-----------------|----------------|
| `AND`         | 0 0 1           | 1 1 1           | +1, −1         |
| `OR`          | 1 1 1           | 0 0 1           | −1, +1         |
| `chain`       | 1 1 1           | 1 1 1           | −1, −1         |
| `independent` | x y x + y       | x y x + y       | 0, 0           |

Denoising alone cannot tell an OR from a chain. A label is given where the intervals of both interactions lie
on the sides that the table says (for `independent`: within a tenth of the gap), and where the pair moves a
fifth of the gap in some direction; else it is `none`: not decided. Where the interval of the gap itself holds
0 there is no share and no label, and the attribute `labels` says so.

Heimersheim & Nanda 2404.15255.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import xarray as xr

from interp import stats
from interp._verbs import verb
from interp.ablation import Ablation
from interp.experiment import MEMORY, Metrics
from interp.models import Model
from interp.patching._sweep import patch
from interp.tasks import Task

DIRECTIONS = ("denoise", "noise")
LABELS = {"AND": (1, -1), "OR": (-1, 1), "chain": (-1, -1)}  # the signs of both interactions
WORTH = 0.2  # of the gap: what a pair must move to have a label
NEGLIGIBLE = 0.1  # of the gap: an interaction that is none


@verb
def pairs(
    model: Model,
    task: Task,
    cells: Sequence[str | Sequence[str]],
    *,
    ablation: str | Ablation = "resample",
    metric: Metrics | None = None,
    level: float = 0.95,
    seed: int = 0,
    batch_size: int | None = None,
    memory: int = MEMORY,
    engine: str = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """Effects of components alone and in pairs, in both directions, and what each pair is.

    cells: names of places ("L9H6", "L3.mlp_out", "L2N17"), or lists of them that act as one (a set of heads
        or neurons); two at least. `heads.top` gives those of a result. metric: one.

    Returns a Dataset: `value` [prompt, direction, a, b], the effect of both patched together, in units of the
    metric, on the diagonal of one alone; `interaction` [prompt, direction, a, b], NaN on the diagonal;
    `share`, `share_low`, `share_high` [direction, a, b], the interaction as a share of clean − corrupt
    (ratio of means) with its interval; `label` [a, b] as in the table above; `clean` and `corrupt` [prompt].
    Symmetrical in a and b. Positive helps, in both directions.

    Cost: k (k + 1) / 2 cells in each direction, on the engine of `interp.patch`. Raises ValueError as
    `interp.patch`, for fewer than two cells or prompts, cells named twice, several metrics, and ablations
    that have no denoising direction.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8)
        >>> found = interp.patching.pairs(model, task, ["L0H0", "L1H1", "L2H2"], progress=False)
        >>> found["value"].dims, found["label"].shape
        (('prompt', 'direction', 'a', 'b'), (3, 3))
    """
    groups = _groups(cells)
    if len(task) < 2:
        raise ValueError(f"the task has {len(task)} prompt; intervals need at least two.")
    names = [" + ".join(group) for group in groups]
    both = list(combinations(range(len(groups)), 2))
    listed = [*groups, *([*groups[a], *groups[b]] for a, b in both)]
    sweeps = [
        patch(
            model, task, cells=[list(dict.fromkeys(cell)) for cell in listed], ablation=ablation,
            direction=direction, metric=metric, batch_size=batch_size, memory=memory, engine=engine,
            progress=progress,
        )
        for direction in DIRECTIONS
    ]  # fmt: skip
    if "metric" in sweeps[0].dims:
        raise ValueError(f"{sweeps[0].sizes['metric']} metrics were given; pairs are judged by one.")
    values = np.stack([_square(sweep["value"].values, len(groups), both) for sweep in sweeps], 1)
    alone = np.diagonal(values, axis1=2, axis2=3)  # [prompt, direction, cell]
    interaction = values - alone[..., :, None] - alone[..., None, :]
    interaction[..., np.arange(len(groups)), np.arange(len(groups))] = np.nan
    dims = ("prompt", "direction", "a", "b")
    out = sweeps[0][["clean", "corrupt", "clean_right"]].assign_coords(
        direction=list(DIRECTIONS), a=names, b=names
    )
    out = out.assign(value=(dims, values), interaction=(dims, interaction))
    out = out.assign_attrs(
        method="pairs", site="cells", direction="denoise, noise", level=level, seed=seed,
        convention="value = effect of both patched together; positive: the pair helps the metric",
    )  # fmt: skip
    return _labelled(out, level, seed)


def _groups(cells: Sequence[str | Sequence[str]]) -> list[list[str]]:
    if isinstance(cells, str) or len(cells) < 2:
        raise ValueError(f"pairs need at least two cells, and {cells!r} is fewer.")
    groups = [[cell] if isinstance(cell, str) else list(cell) for cell in cells]
    names = [" + ".join(group) for group in groups]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"{twice[0]} is listed twice; a pair is of two components.")
    return groups


def _square(values: np.ndarray, n: int, both: list[tuple[int, int]]) -> np.ndarray:
    """Singles and pairs [prompt, cell] as a symmetrical table [prompt, a, b]."""
    out = np.full((len(values), n, n), np.nan)
    out[:, np.arange(n), np.arange(n)] = values[:, :n]
    for number, (a, b) in enumerate(both, n):
        out[:, a, b] = out[:, b, a] = values[:, number]
    return out


def _labelled(out: xr.Dataset, level: float, seed: int) -> xr.Dataset:
    """With the interactions as shares of the gap, their intervals, and the labels."""
    kept = out[["clean", "corrupt", "interaction"]].rename(interaction="value")
    if not _has_gap(out, level, seed):
        nothing = kept["value"].mean("prompt") * np.nan
        labels = np.full(nothing.shape[1:], "none", dtype=object)
        names = dict.fromkeys(("share", "share_low", "share_high"), nothing)
        told = "not labelled: the interval of clean - corrupt holds 0, and nothing can be a share of it"
        return out.assign(names).assign(label=(("a", "b"), labels)).assign_attrs(labels=told)
    shares = stats.bootstrap(kept, level=level, seed=seed, statistic="normalised")
    moved = abs(stats.normalise(out)["value"]).max("direction").values  # [a, b]
    ends = [(shares["low"].values[d], shares["high"].values[d]) for d in range(2)]
    labels = np.full(moved.shape, "none", dtype=object)
    for name, signs in LABELS.items():
        labels[_beyond(*ends[0], signs[0]) & _beyond(*ends[1], signs[1])] = name
    small = [(low > -NEGLIGIBLE) & (high < NEGLIGIBLE) for low, high in ends]
    labels[(labels == "none") & small[0] & small[1]] = "independent"
    labels[~(moved >= WORTH)] = "none"
    names = {"share": shares["estimate"], "share_low": shares["low"], "share_high": shares["high"]}
    resampled = {key: shares.attrs[key] for key in ("resampled", "n_resampled") if key in shares.attrs}
    return out.assign(names).assign(label=(("a", "b"), labels)).assign_attrs(resampled)


def _has_gap(out: xr.Dataset, level: float, seed: int) -> bool:
    """Whether the mean of clean - corrupt is off 0."""
    gap = (out["clean"] - out["corrupt"]).expand_dims(cell=1, axis=1)
    ends = stats.bootstrap(out[["clean", "corrupt"]].assign(value=gap), level=level, seed=seed)
    return float(ends["low"][0]) > 0 or float(ends["high"][0]) < 0


def _beyond(low: np.ndarray, high: np.ndarray, sign: int) -> np.ndarray:
    """Where an interval lies on one side of 0."""
    return low > 0 if sign > 0 else high < 0
