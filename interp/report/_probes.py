"""Probes as a table: the most accurate ones, with their control and their calibration."""

from __future__ import annotations

import numpy as np
import xarray as xr

from interp.report._effects import table

_ROWS = 12
_NOTE = (
    "p: share of the shuffles whose accuracy is as high, by probe; the best of many probes looks better than "
    "it is. ECE: expected calibration error of the probabilities, as trained and after Platt scaling."
)


def probe_table(result: xr.Dataset) -> str:
    """The probes with the highest held-out accuracy (ties by AUROC), at most twelve."""
    accuracy, auroc = (result[name].values.ravel() for name in ("accuracy", "auroc"))
    order = np.lexsort((-auroc, -accuracy))[:_ROWS]
    rows = [_row(result, np.unravel_index(int(at), result["accuracy"].shape)) for at in order]
    attrs = result.attrs
    caption = (
        f"Probes at {attrs['site']}, {attrs['reads']}: trained on {attrs['n_train']} prompts, measured on "
        f"{attrs['n_held_out']} others; {result.sizes['draw']} shuffles of the labels. {_NOTE}"
    )
    header = ["probe", "accuracy", "AUROC", "shuffled, mean", "p", "ECE", "after scaling"]
    return f"<section class='result'>{table(header, rows, caption)}</section>"


def _row(result: xr.Dataset, index: tuple) -> list[str]:
    dims = result["accuracy"].dims
    at = {dim: int(i) for dim, i in zip(dims, index)}
    one = result.isel(at)
    layer = int(one["layer"])
    name = f"L{layer}H{int(one['head'])}" if "head" in dims else f"L{layer}"
    numbers = (
        one["accuracy"],
        one["auroc"],
        one["control"].mean(),
        one["p_value"],
        one["ece_raw"],
        one["ece"],
    )
    return [name, *(f"{float(number):.3f}" for number in numbers)]
