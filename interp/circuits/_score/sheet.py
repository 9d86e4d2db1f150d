"""Scores of edges as blocks of prompts come: in an array, as their sum, or written to a store.

With a store no array of all prompts is made: each prompt is a part of it, written as soon as it is measured,
and the result reads its `value` from there when it is asked for. The same call goes on after a kill.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from interp import stores
from interp.circuits._run.job import Job
from interp.circuits._score.result import edge_dataset


@dataclass(eq=False)
class Sheet:
    """Effects [prompt, (pos,) writer, reader, metric], and the metrics of both runs [2, prompt, metric].

    places: the dim beside prompt, writer and reader ("pos", "span") and its size. identity: what tells this
    work from another in a store, beside the experiment. by_prompt: keep prompts apart.
    """

    job: Job
    method: str
    identity: dict[str, Any]
    places: tuple[str, int] | None = None
    by_prompt: bool = True
    store: stores.ArrayStore | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        job = self.job
        graph, n, n_metrics = job.graph, len(job.runs), len(job.metric)
        pos = () if self.places is None else (self.places[1],)
        self.shape = (*pos, len(graph.writers), len(graph.readers), n_metrics)
        self.ends = np.full((2, n, n_metrics), np.nan)
        kept = job.experiment.budget.store is not None
        rows = (n if self.by_prompt else 1, *self.shape)
        self.effects = np.broadcast_to(np.float64(np.nan), rows) if kept else np.zeros(rows)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Ready to take in blocks; a store is locked meanwhile."""
        experiment = self.job.experiment
        identity = experiment.identity() | {
            "method": self.method,
            "site": "edges",
            "graph": str(self.job.graph),
        }
        regions = [self._regions(slice(prompt, prompt + 1)) for prompt in range(len(self.job.runs))]
        template = self._dataset({}) if experiment.budget.store is not None else xr.Dataset()
        chunks = {"prompt": 1, "pos": 1, "span": 1}
        with stores.open_arrays(
            experiment.budget.store, template, identity | self.identity, chunks, regions
        ) as self.store:
            yield

    def blocks(self, size: int) -> list[slice]:
        """What is left to do, in blocks of `size` prompts that do not depend on what is done."""
        n = len(self.job.runs)
        done = np.zeros(n, bool) if self.store is None else self.store.done
        every = [slice(start, min(start + size, n)) for start in range(0, n, size)]
        return [block for block in every if not done[block].all()]

    def take(
        self,
        block: slice,
        effects: Float[np.ndarray, "prompt *pos writer reader metric"],
        ends: Float[np.ndarray, "2 prompt metric"],
    ) -> None:
        """Take in the effects of some prompts."""
        self.ends[:, block] = ends
        if not self.by_prompt:
            self.effects[0] += effects.sum(0)
        elif self.store is None:
            self.effects[block] = effects
        else:
            effects[..., ~self.job.graph.allowed.numpy(), :] = np.nan
            clean, corrupt = self._sides()
            for prompt in range(block.start, block.stop):
                values = {
                    "value": effects[prompt - block.start],
                    "clean": clean[prompt],
                    "corrupt": corrupt[prompt],
                }
                lone = len(self.job.metric) == 1
                parts = {name: (value[..., 0] if lone else value)[None] for name, value in values.items()}
                regions = self._regions(slice(prompt, prompt + 1))
                self.store.write(prompt, {name: (regions[name], part) for name, part in parts.items()})

    def dataset(self, counts: np.ndarray | int = 1, **attrs: str | int | float) -> xr.Dataset:
        """The result. counts: what a sum over prompts is divided by."""
        if self.store is not None:
            return self.store.load().assign_attrs(self._dataset(attrs).attrs)
        if not self.by_prompt:
            self.effects = self.effects / counts + 0.0
        return self._dataset(attrs)

    def _dataset(self, attrs: dict[str, Any]) -> xr.Dataset:
        lead = ("prompt",) if self.places is None else ("prompt", self.places[0])
        effects = self.effects
        if not self.by_prompt:
            lead, effects = lead[1:], effects[0]
        return edge_dataset(effects, *self._sides(), self.job, lead, method=self.method, **attrs)

    def _sides(self) -> tuple[np.ndarray, np.ndarray]:
        """The metrics of the clean and the corrupt runs."""
        clean, corrupt = self.ends if self.job.runs.clean_is_base else self.ends[::-1]
        return clean, corrupt

    def _regions(self, prompts: slice) -> dict[str, tuple[slice, ...]]:
        """What some prompts fill, in the dims of the dataset."""
        whole = tuple(
            slice(0, size) for size in (self.shape[:-1] if len(self.job.metric) == 1 else self.shape)
        )
        tail = () if len(self.job.metric) == 1 else (slice(0, len(self.job.metric)),)
        return {"value": (prompts, *whole), "clean": (prompts, *tail), "corrupt": (prompts, *tail)}
