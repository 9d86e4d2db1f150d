"""The passes that scores of edges are made of, on some prompts, through the model itself.

A pass with a graph gives the slope of the metric in what every reader makes of its normed input (q, k, v, and
the MLP's pre-activations) and in the final stream: a few tensors a layer, one for each head where heads have
their own. No copy of the stream for each head is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.attribution._passes import Hook, record
from interp.attribution.rules import ruled
from interp.attribution.secant import TwoRuns, metric_path
from interp.engine.readout import Reads, Scores
from interp.engine.reference import finite_hooks
from interp.engine.runs import Runs
from interp.methods import Rules
from interp.models import Anatomy, Model, logits
from interp.models.hook_points import MLPPoints, mlp_points, slope_hook
from interp.places import hook_name
from interp.tasks.metrics import Metric

Place = tuple[str, int]  # site or part, layer
Values = dict[Place, Tensor]
INPUT: Place = ("resid_pre", 0)


@dataclass(frozen=True, eq=False)
class Passed:
    """A run: the logits that are read, activations, and by metric the slopes by (part, layer)."""

    picked: Tensor
    values: Values
    slopes: tuple[Values, ...] = ()
    notes: dict[str, float] = field(default_factory=dict)


class EdgePasses:
    """Base and source runs of some prompts, ready to be made. `tick` hears of every pass, either way."""

    def __init__(
        self,
        model: Model,
        facts: Anatomy,
        runs: Runs,
        metrics: tuple[Metric, ...],
        tick: Callable[[int], object],
    ) -> None:
        self.model, self.facts, self.runs, self.tick = model, facts, runs, tick
        self.scores = Scores(Reads(runs, metrics))
        self.mlps: list[MLPPoints] = [] if facts.attn_only else mlp_points(model)
        layers = range(facts.n_layers)
        sites = ("z", "mlp_out", "resid_pre", "resid_mid")
        self.places = [(s, layer) for s in sites if s in facts.sites() for layer in layers]

    def plain(self, *, source: bool, watch: Sequence[Hook] = ()) -> Passed:
        """A run without a graph, its activations as the ablation replaces them. Cost: one forward."""
        tokens, kept = (self.runs.source if source else self.runs.base), {}
        with torch.no_grad(), self.model.hooks(fwd_hooks=[*watch, *self._keepers(kept)]):
            picked = self.scores.pick(logits(self.model, tokens))
        self.tick(1)
        if source and self.runs.fill is not None:
            kept = {place: self.runs.fill(*place, value) for place, value in kept.items()}
        return Passed(picked, kept)

    def graph(
        self,
        clean: Tensor | None = None,
        *,
        rules: Rules | None = None,
        replaced: Values | None = None,
        source: bool = False,
        two: TwoRuns | None = None,
        other: Tensor | None = None,
    ) -> Passed:
        """A run with its graph, and the slopes of the metrics. Cost: one forward, a backward by metric.

        clean: the clean run's logits; this run's own for None. replaced: what some places carry instead. two,
        other: for secant slopes, the source run's activations and logits.
        """
        kept: Values = {}
        tokens = self.runs.source if source else self.runs.base
        before = [(hook_name(*place), _putting(value)) for place, value in (replaced or {}).items()]
        before += self._keepers(kept)
        gates = () if two is None else two.gates
        with ruled(self.model, rules), nullcontext() if two is None else two.attached():
            recording = record(self.model, tokens, self._taps(), before=before, gates=gates)
        self.tick(1)
        picked = self.scores.pick(recording.logits)
        clean = picked.detach() if clean is None else clean
        tensors, notes = dict(recording.tensors), {}
        if two is None or other is None:
            value = self.scores(picked, clean)
        else:
            value, left = self._two_point(picked, clean, other)
            notes = {"softmax_residual": two.residual, "metric_residual": left}
            # what the two-point activation reads, which on a bridge is not what a later hook sees
            tensors |= {key: two.here[key] for key in tensors if key[0] in ("pre", "linear")}
        slopes = _slopes(value, tensors)
        self.tick(len(slopes))
        return Passed(picked.detach(), kept, slopes, notes)

    def descent(self, point: Float[Tensor, "prompt pos d_model"], target: Tensor) -> Tensor:
        """The slope of ‖logits − target‖², at what is read, in the input. Cost: a forward and a backward."""
        leaf = point.detach().clone().requires_grad_(True)
        hooks: list[Hook] = [(hook_name(*INPUT), lambda tensor, hook: leaf)]
        with self.model.hooks(fwd_hooks=[*hooks, *finite_hooks(self.facts.n_layers)]):
            picked = self.scores.pick(logits(self.model, self.runs.base))
        self.tick(1)
        apart = (picked - target).square()
        if self.scores.reads.everywhere:  # [prompt, pos, vocab]; padding is nobody's logits
            pos = torch.arange(apart.shape[1], device=apart.device)
            apart = apart * (pos < self.runs.lengths[:, None])[..., None]
        (slope,) = torch.autograd.grad(apart.sum(), leaf)
        self.tick(1)
        return slope

    def _two_point(self, picked: Tensor, clean: Tensor, other: Tensor) -> tuple[Tensor, float]:
        """The metrics with slopes between two runs' logits, and the residual."""
        cap = float(getattr(self.model.cfg, "output_logits_soft_cap", None) or -1.0)
        return metric_path(lambda x: self.scores(x, clean), picked, other, cap)

    def measure(self, picked: Tensor, clean: Tensor) -> Tensor:
        """The metrics, float64: [prompt, metric]."""
        with torch.no_grad():
            return self.scores(picked, clean)

    def _taps(self) -> dict[Place, str]:
        """Hook points of what readers make of their normed input, and of the final stream."""
        found = {(s, layer): hook_name(s, layer) for layer in range(self.facts.n_layers) for s in "qkv"}
        found |= {("pre", mlp.layer): mlp.pre for mlp in self.mlps}
        found |= {("linear", mlp.layer): mlp.linear for mlp in self.mlps if mlp.linear is not None}
        last = self.facts.n_layers - 1
        return found | {("resid_post", last): slope_hook(self.model, "resid_post", last)}

    def _keepers(self, kept: Values) -> list[Hook]:
        def keeper(place: Place) -> Callable[..., Tensor]:
            def keep(tensor: Tensor, hook: Any) -> Tensor:
                kept[place] = tensor.detach()
                return tensor

            return keep

        hooks: list[Hook] = finite_hooks(self.facts.n_layers)
        return hooks + [(hook_name(*place), keeper(place)) for place in self.places]


def run_secant(passes: EdgePasses) -> tuple[Passed, Passed]:
    """Source and base run, the base with slopes between both."""
    two = TwoRuns(passes.model, passes.facts)
    with two.watch():
        source = passes.plain(source=True)
    clean = None if passes.runs.clean_is_base else source.picked
    return source, passes.graph(clean, two=two, other=source.picked)


def run_base(passes: EdgePasses, rules: Rules | None) -> tuple[Passed, Passed]:
    """Source and base run, the base with its slopes or those of the method's rules."""
    source = passes.plain(source=True)
    clean = None if passes.runs.clean_is_base else source.picked
    return source, passes.graph(clean, rules=rules)


def _putting(value: Tensor) -> Callable[..., Tensor]:
    return lambda tensor, hook: value.detach().requires_grad_(True)


def _slopes(values: Float[Tensor, "prompt metric"], tensors: Values) -> tuple[Values, ...]:
    """By metric, d Σ value / d tensor where it depends on it. Prompts do not touch one another."""
    if not values.requires_grad:
        raise ValueError(
            "the metric has no gradient in the logits: it is not differentiable. Use another metric, or "
            "method='exact', which needs no gradient."
        )
    slopes = []
    for number, value in enumerate(values.sum(0)):
        again = number + 1 < values.shape[1]
        by_tensor = torch.autograd.grad(value, list(tensors.values()), retain_graph=again, allow_unused=True)
        slopes.append({place: slope for place, slope in zip(tensors, by_tensor) if slope is not None})
        _require_finite(slopes[-1])
    return tuple(slopes)


def _require_finite(slopes: Values) -> None:
    for (part, layer), slope in slopes.items():
        if not bool(torch.isfinite(slope).all()):
            raise ValueError(
                f"the slope of the metric at {part} of layer {layer} is not finite, in {slope.dtype}. Use a "
                "wider dtype (float32, or bfloat16 for float16), or a metric that stays finite."
            )


def wide(x: Tensor) -> Tensor:
    """Float32 or better."""
    return x if x.dtype == torch.float64 else x.float()
