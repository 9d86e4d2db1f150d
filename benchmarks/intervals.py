"""Do intervals hold the truth as often as they say, and do tests err as often as they say?

    python benchmarks/intervals.py             # the figures of docs/statistics.md, about two minutes
    python benchmarks/intervals.py --quick

Simulated effects with known means: by units, how often the 95 % interval holds the true value, for the mean
of an exponential and for a ratio of means; how often a grid without any effect has a significant cell.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import xarray as xr

from interp import stats

UNITS = (10, 20, 50)
METHODS = ("percentile", "bca")
AT_ONCE = 50  # data sets that share their draws
OUT = Path(__file__).parent / "results" / "intervals.json"


def result(effect: np.ndarray, gap: np.ndarray | None = None) -> xr.Dataset:
    """A result of these effects [prompt, cell], or with gap [prompt, metric] a metric a data set."""
    names = ["m"] if gap is None else [f"m{i}" for i in range(gap.shape[1])]
    attrs = {"metric": ", ".join(names), "unit": ", ".join(["logits"] * len(names))}
    if gap is None:
        return xr.Dataset({"value": (("prompt", "cell"), effect)}, attrs=attrs)
    dims = ("prompt", "metric")
    return xr.Dataset(
        {"value": (dims, effect), "clean": (dims, gap), "corrupt": (dims, 0 * gap)}, {"metric": names}, attrs
    )


def coverage(kind: str, n: int, method: str, sets: int) -> float:
    """The share of data sets whose interval holds the truth."""
    inside = 0
    for number in range(sets // AT_ONCE):
        rng = np.random.default_rng((n, number))
        if kind == "ratio of means":
            data = result(rng.normal(1.0, 1.0, (n, AT_ONCE)), rng.normal(3.0, 1.5, (n, AT_ONCE)))
            statistic, truth = "normalised", 1 / 3
        else:
            data, statistic, truth = result(rng.exponential(1.0, (n, AT_ONCE))), "mean", 1.0
        found = stats.bootstrap(data, method=method, seed=number, statistic=statistic)
        inside += int(((found["low"] <= truth) & (truth <= found["high"])).sum())
    return inside / (sets // AT_ONCE * AT_ONCE)


def alarms(kind: str, method: str, n: int, grids: int, cluster: str | None = "unit") -> float:
    """The share of grids of 60 cells without any effect that have a significant one."""
    found = 0
    for number in range(grids):
        rng = np.random.default_rng((n, number, 7))
        if kind == "mirrored pairs":
            shared, own = rng.normal(size=(n, 60)), rng.normal(size=(2, n, 60))
            effect = (np.sqrt(0.8) * shared + np.sqrt(0.2) * own).transpose(1, 0, 2).reshape(2 * n, 60)
            data = result(effect).assign_coords(unit=("prompt", np.arange(2 * n) // 2))
        else:
            data = result(rng.exponential(size=(n, 60)) - 1)
        tested = stats.test(data, method=method, cluster=cluster, n=499)
        found += bool(tested["significant"].any())
    return found / grids


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the data sets")
    quick = parser.parse_args().quick
    sets, grids = (200, 50) if quick else (2000, 500)
    warnings.simplefilter("ignore")
    figures: dict[str, float] = {}
    for kind in ("mean of an exponential", "ratio of means"):
        for n in UNITS:
            for method in METHODS:
                figures[f"{kind}, {n} units, {method}"] = coverage(kind, n, method, sets)
    for method in ("sign-flip", "bootstrap-t"):
        for n in (12, 48):
            figures[f"skewed, {n} units, {method}"] = alarms("skewed", method, n, grids // 2, None)
    figures["mirrored pairs, by pair"] = alarms("mirrored pairs", "sign-flip", 12, grids)
    figures["mirrored pairs, by prompt"] = alarms("mirrored pairs", "sign-flip", 12, grids, None)
    for name, figure in figures.items():
        print(f"{name:<45} {figure:.3f}")
    if not quick:
        OUT.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
