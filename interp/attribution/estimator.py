"""The estimates of some prompts, ready to be read for any cells of the places asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp.attribution.along_path import along_path
from interp.attribution.capture import autograd_on
from interp.attribution.grad_drop import paths_left
from interp.attribution.one_pass import one_pass
from interp.attribution.passes import Found, Passes
from interp.attribution.secant import secant
from interp.attribution.tables import Place, places, read
from interp.engine.cells import Cells
from interp.methods import IG, AtpStar, Method, Secant
from interp.patching.result import signs
from interp.places import SITES


@dataclass(frozen=True, eq=False)
class Estimates:
    """Estimated changes of the metrics [cell, prompt, metric]; the metrics of both runs [prompt, metric]."""

    change: np.ndarray
    base: np.ndarray
    source: np.ndarray


class Estimator:
    """A method applied to some prompts, at some places."""

    def __init__(self, passes: Passes, wanted: Sequence[Place], method: Method) -> None:
        self.passes, self.method = passes, method
        with autograd_on():
            found = _find(passes, wanted, method)
        self.tables = [{place: t.cpu().numpy() for place, t in one.items()} for one in found.tables]
        self.base, self.source = found.base.cpu().numpy(), found.source.cpu().numpy()
        self.clean_right = passes.scores.clean_right(found.clean)
        self.notes = found.notes

    def run(self, cells: Cells) -> Estimates:
        """The estimate of every cell."""
        found = [read(tables, cells) for tables in self.tables]
        if isinstance(self.method, AtpStar) and self.method.grad_drop:
            change = self._magnitude(found, cells)
        else:
            change = found[0]
        return Estimates(change, self.base, self.source)

    def _magnitude(self, found: list[np.ndarray], cells: Cells) -> np.ndarray:
        """Mean |estimate| over the layers dropped, with the sign that makes an effect positive."""
        n_layers = self.passes.facts.n_layers
        left = np.array([paths_left(SITES[site], n_layers) for site in cells.site])  # single: one row a cell
        by_cell = np.empty(len(cells))
        by_cell[cells.cell] = left
        total = np.sum([np.abs(one) for one in found], 0)
        sign = signs(self.passes.metrics, "noise" if self.passes.runs.clean_is_base else "denoise")
        return sign * total / by_cell[:, None, None]


def _find(passes: Passes, wanted: Sequence[Place], method: Method) -> Found:
    if isinstance(method, IG):
        return along_path(passes, wanted, method)
    if isinstance(method, Secant):
        return secant(passes, wanted)
    return one_pass(passes, wanted, method)


def all_places(cells: Sequence[Cells]) -> list[Place]:
    """The (site, layer) pairs of several tables of cells."""
    return sorted({place for one in cells for place in places(one)})
