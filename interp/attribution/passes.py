"""The passes that every estimate is made of, on some prompts: plain ones, and ones with a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.attribution.capture import Hook, Recording, record
from interp.attribution.tables import Place
from interp.engine.readout import Reads, Scores
from interp.engine.reference import finite_hooks
from interp.engine.runs import Runs
from interp.models import Anatomy, Model, logits
from interp.models.hook_points import slope_hook
from interp.places import hook_name
from interp.tasks.metrics import Metric

Values = dict[Place, Tensor]


@dataclass(frozen=True, eq=False)
class Plain:
    """A run without a graph: the logits that are read, and activations."""

    picked: Tensor
    values: Values


@dataclass(frozen=True, eq=False)
class Graph:
    """A run with its graph: the logits that are read, activations (detached), what slopes are taken in."""

    picked: Tensor
    values: Values
    recording: Recording

    def slopes(self, value: Float[Tensor, "prompt"], keep_graph: bool) -> dict[Place, Tensor]:
        """d Σ value / d activation. Prompts do not touch one another, so each gets its own."""
        return self.recording.slopes(value.sum(), keep_graph)


@dataclass(frozen=True, eq=False)
class Found:
    """What a method found of some prompts: tables [prompt, axis + 1, ..., metric], one set or one for every
    layer dropped; the metrics of both runs [prompt, metric]; the clean run's logits; numbers for attrs."""

    tables: list[dict[Place, Tensor]]
    base: Tensor
    source: Tensor
    clean: Tensor
    notes: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Passes:
    """Base and source runs of some prompts, ready to be made. `tick` hears of every pass, either way."""

    model: Model
    facts: Anatomy
    runs: Runs
    metrics: tuple[Metric, ...]
    tick: Callable[[int], object]

    @property
    def scores(self) -> Scores:
        return Scores(Reads(self.runs, self.metrics))

    def source(self, places: Sequence[Place], watch: Sequence[Hook] = ()) -> Plain:
        """The run that is patched in. Cost: one forward."""
        return self._plain(self.runs.source, self.runs.noises()[1], places, watch, self.runs.fill)

    def base(self, places: Sequence[Place]) -> Plain:
        """The run that is patched, without its graph. Cost: one forward."""
        return self._plain(self.runs.base, self.runs.noises()[0], places, [], None)

    def graph(
        self,
        slopes: Sequence[Place],
        values: Sequence[Place] = (),
        embeddings: Tensor | None = None,
        gates: Sequence[Hook] = (),
    ) -> Graph:
        """The run that is patched (or one from other embeddings), with its graph. Cost: one forward."""
        kept: Values = {}
        before = [*finite_hooks(self.facts.n_layers), *_noise(self.runs.noises()[0])]
        before += [(hook_name(*place), partial(_keep, kept, place)) for place in values]
        # on a bridge resid_mid is read at attention's write, behind that layer's gate
        taps = {place: slope_hook(self.model, *place) for place in slopes if place[0] != "resid_mid"}
        late = {place: slope_hook(self.model, *place) for place in slopes if place[0] == "resid_mid"}
        recording = record(
            self.model, self.runs.base, taps, embeddings=embeddings, before=before, gates=gates, late=late
        )
        self.tick(1)
        return Graph(self.scores.pick(recording.logits), kept, recording)

    def clean(self, base: Tensor, source: Tensor) -> Tensor:
        """The clean run's logits, out of both runs'."""
        return (base if self.runs.clean_is_base else source).detach()

    def measure(self, picked: Tensor, clean: Tensor) -> Tensor:
        """Every metric, in float64: [prompt, metric]."""
        return self.scores(picked, clean)

    @torch.no_grad()
    def _plain(
        self, tokens: Tensor, noise: Tensor | None, places: Sequence[Place], watch: Sequence[Hook], fill: Any
    ) -> Plain:
        kept: Values = {}
        hooks = [*finite_hooks(self.facts.n_layers), *_noise(noise), *watch]
        hooks += [(hook_name(*place), partial(_keep, kept, place)) for place in places]
        with self.model.hooks(fwd_hooks=hooks):
            picked = self.scores.pick(logits(self.model, tokens))
        self.tick(1)
        if fill is not None:
            kept = {place: fill(*place, value) for place, value in kept.items()}
        return Plain(picked, kept)


def _keep(kept: Values, place: Place, tensor: Tensor, hook: Any) -> Tensor:
    kept[place] = tensor.detach()
    return tensor


def _noise(noise: Tensor | None) -> list[Hook]:
    return [] if noise is None else [("hook_embed", lambda tensor, hook: tensor + noise)]
