"""The arrays of a result while it is made: effects and baselines, filled part by part."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import xarray as xr

from interp.patching import result
from interp.patching.job import Job

Parts = dict[str, tuple[tuple, np.ndarray]]  # by variable: the region, and what fills it


@runtime_checkable
class Measured(Protocol):
    """Some cells on some prompts, float64: raw changes of the metrics, and the metrics of both runs."""

    @property
    def change(self) -> np.ndarray: ...  # [cell, prompt draw, metric]: patched - base

    @property
    def base(self) -> np.ndarray: ...  # [prompt draw, metric]

    @property
    def source(self) -> np.ndarray: ...


class Sheet:
    """Arrays of a job's result, NaN until they are filled."""

    def __init__(self, job: Job, attrs: dict[str, Any]) -> None:
        self.job, self.attrs = job, attrs
        n, n_metrics = len(job.task), len(job.metrics)
        _, shape = result.sizes(job.request, n, n_metrics)
        shapes = {"value": shape, "clean": (n, n_metrics), "corrupt": (n, n_metrics), "clean_right": (n,)}
        if job.draws > 1:
            shapes["draw_variance"] = shape
        self.arrays = {name: np.full(shape, np.nan) for name, shape in shapes.items()}

    def fill(
        self, prompts: slice, site: int, first: slice, measured: Measured, clean_right: np.ndarray
    ) -> Parts:
        """Take in the cells of one site at `first` along the first dim; what was filled, and where."""
        parts = self._parts(prompts, site, first, measured)
        parts["clean_right"] = ((prompts,), clean_right)
        for name, (region, values) in parts.items():
            self.arrays[name][region] = values
        return parts

    def dataset(self) -> xr.Dataset:
        """The result so far."""
        job = self.job
        return result.dataset(
            self.arrays,
            request=job.request,
            facts=job.budget.facts,
            task=job.task,
            metrics=job.metrics,
            attrs=self.attrs,
        )

    def _parts(self, prompts: slice, site: int, first: slice, measured: Measured) -> Parts:
        """Arrays and the regions they fill, with draws averaged."""
        job, n = self.job, prompts.stop - prompts.start
        by_draw = measured.change.transpose(1, 0, 2)  # [prompt draw, cell, metric]
        by_draw = by_draw * result.signs(job.metrics, job.direction)
        lengths = [len(job.request.coords[site][dim]) for dim in job.request.by[1:]]
        effects = by_draw.reshape(n, job.draws, first.stop - first.start, *lengths, len(job.metrics))
        region = (prompts, site, first, *(slice(0, length) for length in lengths))
        clean, corrupt = (
            (measured.base, measured.source) if job.runs.clean_is_base else (measured.source, measured.base)
        )
        mean = lambda raw: raw.reshape(n, job.draws, -1).mean(1)  # noqa: E731
        parts: Parts = {
            "value": (region, effects.mean(1)),
            "clean": ((prompts,), mean(clean)),
            "corrupt": ((prompts,), mean(corrupt)),
        }
        if job.draws > 1:
            parts["draw_variance"] = (region, effects.var(1, ddof=1))
        return parts

    def squeezed(self, parts: Parts) -> Parts:
        """Parts in the dims of the dataset, which drops a lone site and a lone metric."""
        out = {}
        for name, (region, values) in parts.items():
            if name in ("value", "draw_variance") and not self.job.request.several:
                region = (region[0], *region[2:])
            lone = len(self.job.metrics) == 1 and name != "clean_right"
            out[name] = (region, values[..., 0] if lone else values)
        return out
