"""The reference engine: one set of hooks and one full forward pass per cell.

Slow and obvious, for any architecture; the oracle of the fast engine. It shares no arithmetic with it: the
model computes everything, and every metric reads the full logits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.engine.cells import SITES, SPAN, Cells
from interp.engine.readout import Outcome, Reads, Scores
from interp.engine.runs import Mix, Runs
from interp.models import Model, anatomy, logits
from interp.models.hook_points import patch_hooks
from interp.places import AXES, hook_name
from interp.tasks.metrics import Metric

Hooks = list[tuple[str, Callable[..., Any]]]


class Reference:
    """Base and source runs of some prompts through the model itself, ready for any cells of the sites.

    source: another model, that the source run is of. both: keep the base run's activations too, to be mixed.
    """

    def __init__(
        self,
        model: Model,
        runs: Runs,
        sites: tuple[str, ...],
        metrics: tuple[Metric, ...],
        source: Model | None = None,
        both: bool = False,
    ) -> None:
        self.model, self.runs, self.scores = model, runs, Scores(Reads(runs, metrics))
        base_noise, source_noise = runs.noises()
        facts = anatomy(model)
        places = [(site, layer) for site in sites for layer in facts.layers(site)]
        check = finite_hooks(facts.n_layers)
        self.source_activations: dict[tuple[str, int], Tensor] = {}
        self.base_activations: dict[tuple[str, int], Tensor] = {}
        keep = [(hook_name(*place), partial(self._keep, place)) for place in places]
        other = model if source is None else source
        after_source = self._forward(runs.source, check + keep, source_noise, other)
        self.noise = base_noise
        own = [(hook_name(*place), partial(self._keep_own, place)) for place in places if both]
        base = self._forward(runs.base, check + own, base_noise)
        self.clean = base if runs.clean_is_base else after_source
        self.base, self.source = self._score(base), self._score(after_source)

    def _keep(self, place: tuple[str, int], tensor: Tensor, hook: Any) -> Tensor:
        self.source_activations[place] = self.runs.patched_in(*place, tensor.clone())
        return tensor

    def _keep_own(self, place: tuple[str, int], tensor: Tensor, hook: Any) -> Tensor:
        self.base_activations[place] = tensor.clone()
        return tensor

    def mixed(self, mix: Mix) -> Reference:
        """The same runs, of which a mixture is patched in; made with `both`. No pass."""
        other, theirs = copy.copy(self), self.source_activations
        other.source_activations = {p: mix(*p, self.base_activations[p], theirs[p]) for p in theirs}
        return other

    def _forward(
        self, tokens: Tensor, hooks: Hooks, noise: Tensor | None, model: Model | None = None
    ) -> Tensor:
        chosen = self.model if model is None else model
        if noise is not None:
            hooks = [*hooks, ("hook_embed", lambda tensor, hook: tensor + noise)]
        with chosen.hooks(fwd_hooks=hooks):
            return self.scores.pick(logits(chosen, tokens))

    def clean_right(self) -> np.ndarray:
        """1.0 where the clean run prefers the answers, else 0.0: [prompt]."""
        return self.scores.clean_right(self.clean)

    def _score(self, picked: Tensor) -> np.ndarray:
        """Every metric of the logits that are read: [prompt, metric]."""
        return self.scores(picked, self.clean).cpu().numpy()

    def run(self, cells: Cells, tick: Callable[[int], object] = lambda n: None) -> Outcome:
        """Metrics of every cell on every prompt, one forward pass a cell."""
        patched = np.empty((len(cells), *self.base.shape))
        for number in range(len(cells)):
            patches = np.flatnonzero(cells.cell == number).tolist()
            hooks = [hook for patch in patches for hook in self._patch_hooks(cells, patch)]
            patched[number] = self.under(hooks)
            tick(len(self.runs))
        return Outcome(patched, self.base, self.source)

    def under(self, hooks: Hooks) -> np.ndarray:
        """Metrics of the base run under some hooks: [prompt, metric]."""
        return self._score(self._forward(self.runs.base, hooks, self.noise))

    def _patch_hooks(self, cells: Cells, patch: int) -> Hooks:
        site, layer = SITES[cells.site[patch]], int(cells.column("layer")[patch])
        one: dict[str, Any] = {
            name: slice(None) if index[patch] < 0 else int(index[patch])
            for name, index in cells.index.items()
        }
        rows: Any = slice(None)
        span = SPAN - int(cells.column("pos")[patch])
        if span >= 0 and self.runs.spans is not None:
            rows, one["pos"] = self.runs.spans[:, span].nonzero(as_tuple=True)
        where = (rows, *(one[axis] for axis in AXES[site]))
        return patch_hooks(self.model, site, layer, where, self.source_activations[site, layer])


def finite_hooks(n_layers: int) -> Hooks:
    """Hooks that raise ValueError at the first value of the stream that is not finite."""
    return [_finite_hook(layer) for layer in range(n_layers)]


def _finite_hook(layer: int) -> tuple[str, Callable[..., Tensor]]:
    return hook_name("resid_post", layer), lambda tensor, hook: require_finite(layer, tensor)


def require_finite(layer: int, stream: Tensor) -> Tensor:
    """The stream after a layer; ValueError for a value that is not finite."""
    if not torch.isfinite(stream).all():
        prompt, pos = (~torch.isfinite(stream)).any(-1).nonzero()[0].tolist()
        raise ValueError(
            f"the model computes values that are not finite: first in L{layer}.resid_post, "
            f"prompt {prompt}, position {pos}. Check the weights, or load the model in float32."
        )
    return stream
