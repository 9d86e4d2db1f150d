"""Path patching by hooks on the model itself: four runs a path, for any architecture; the slow definition.

A: the own run, whose z and MLP outputs are kept. B: the other run, whose senders are kept. C: the own tokens,
with frozen outputs from A and the senders' from B; the receivers' values are recorded. D: the own tokens with
these values put in. What an MLP makes of its input stands for the input.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.engine.readout import Outcome
from interp.engine.reference import Hooks, Reference
from interp.engine.runs import Runs
from interp.models import Model, anatomy
from interp.models.hook_points import patch_hooks
from interp.paths._ends import Cell, Ends
from interp.places import Place, hook_name
from interp.tasks.metrics import Metric


class PathReference(Reference):
    """Runs A and B of some prompts, ready for every path. `prompts`: their rows of the marks."""

    def __init__(
        self,
        model: Model,
        runs: Runs,
        ends: Ends,
        metrics: tuple[Metric, ...],
        prompts: slice,
        source: Model | None = None,
    ) -> None:
        self.ends, self.prompts, self.facts = ends, prompts, anatomy(model)
        super().__init__(model, runs, ends.sites(self.facts), metrics, source)
        self.own: dict[tuple[str, int], Tensor] = {}
        layers, frozen = range(self.facts.n_layers), ends.frozen
        wanted = [("z", layer) for layer in layers if frozen.heads[layer].any()]
        neurons = {p.layer for cell in ends.senders for p in cell.places if p.site == "post"}
        wanted += [("mlp_out", layer) for layer in layers if frozen.mlps[layer]]
        wanted += [("post", layer) for layer in layers if frozen.mlps[layer] and layer in neurons]
        keep = [(hook_name(*place), partial(_keep, self.own, place)) for place in wanted]
        self.base_picked = self._forward(runs.base, keep, self.noise)

    def run_paths(self, tick: Callable[[int], object] = lambda n: None) -> Outcome:
        """Metrics by sender and receiver, the receivers of one sender side by side."""
        n = (len(self.ends.senders), len(self.ends.receivers))
        patched = np.broadcast_to(self.base, (*n, *self.base.shape)).copy()
        for number, sender in enumerate(self.ends.senders):
            reached = np.flatnonzero(self.ends.reachable[number])
            recorded: dict[Place, Tensor] = {}
            after_c = None
            for index in reached.tolist():
                if after_c is None:
                    after_c = self._run_c(sender, recorded)
                patched[number, index] = self._score(
                    self._run_d(self.ends.receivers[index], recorded, after_c)
                )
            tick(len(self.runs) * n[1])
        return Outcome(patched.reshape(-1, *self.base.shape), self.base, self.source)

    def _run_c(self, sender: Cell, recorded: dict[Place, Tensor]) -> Tensor:
        hooks: Hooks = []
        inputs = {place for cell in self.ends.receivers for place in cell.places if place.layer is not None}
        for place in inputs:
            hooks.append((hook_name(place.site, place.layer), partial(_record, recorded, place)))
        neurons = {place.layer for place in sender.places if place.site == "post"}
        for site, layer in self.own:  # the MLP of a neuron is frozen within, at its neurons
            if site == "z" or (site == "post") == (layer in neurons):
                hooks.append((hook_name(site, layer), partial(self._freeze, (site, layer))))
        for place in sender.places:
            assert place.layer is not None
            where = self._where(place, sending=True)
            source = self.source_activations[place.site, place.layer]
            hooks += patch_hooks(self.model, place.site, place.layer, where, source)
        return self._forward(self.runs.base, hooks, self.noise)

    def _run_d(self, receiver: Cell, recorded: dict[Place, Tensor], after_c: Tensor) -> Tensor:
        hooks: Hooks = []
        for place in receiver.places:
            if place.layer is not None:
                where = self._where(place, sending=False)
                hooks += patch_hooks(self.model, place.site, place.layer, where, recorded[place])
        ends = [place for place in receiver.places if place.layer is None]
        picked = self._forward(self.runs.base, hooks, self.noise) if hooks else self.base_picked
        return self._at_the_end(picked, after_c, ends[0]) if ends else picked

    def _at_the_end(self, picked: Tensor, after_c: Tensor, place: Place) -> Tensor:
        """The logits of C where the logits are received."""
        marks = self.ends.marks(place, self.prompts, sending=False)
        if not self.scores.reads.everywhere:
            rows = torch.arange(len(marks), device=marks.device)
            marks = marks[rows, self.runs.positions]
        return torch.where(marks[..., None], after_c, picked)

    def _freeze(self, place: tuple[str, int], tensor: Tensor, hook: Any) -> Tensor:
        site, layer = place
        if site != "z":
            return self.own[place]
        heads = torch.as_tensor(self.ends.frozen.heads[layer], device=tensor.device)
        return torch.where(heads[:, None], self.own[place], tensor)

    def _where(self, place: Place, *, sending: bool) -> tuple[Tensor | int, ...]:
        """Index of a place in the activations of its site."""
        where = self.ends.marks(place, self.prompts, sending=sending).nonzero(as_tuple=True)
        unit = place.head if place.head is not None else place.neuron
        return where if unit is None else (*where, unit)


def _keep(kept: dict[Any, Tensor], place: Any, tensor: Tensor, hook: Any) -> Tensor:
    kept[place] = tensor.clone()
    return tensor


def _record(recorded: dict[Place, Tensor], place: Place, tensor: Tensor, hook: Any) -> Tensor:
    recorded[place] = tensor.clone()
    return tensor
