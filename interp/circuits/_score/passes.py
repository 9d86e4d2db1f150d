"""The passes that scores of edges are made of, on some prompts: by the weights, or through the model itself.

A pass with a graph gives the slope of the metric in what every reader makes of its normed input (q, k, v, and
the MLP's pre-activations) and in the final stream: a few tensors a layer, one for each head where heads have
their own. No copy of the stream for each head is made.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from interp.attribution._by_hooks import ByHooks, Recording, Values
from interp.attribution._by_weights import INPUT, ByWeights, Runner
from interp.attribution._passes import prompt_bytes
from interp.attribution._tables import Place
from interp.attribution.secant import TwoRuns, metric_path
from interp.circuits._graph import Graph
from interp.engine.memory import Budget
from interp.engine.readout import Reads
from interp.engine.runs import Runs
from interp.methods import Rules
from interp.models import Anatomy, Model
from interp.models.parts import Weights, in_place
from interp.tasks.metrics import Metric


@dataclass(frozen=True, eq=False)
class Passed:
    """A run: the logits that are read, activations, and by metric the slopes by (part, layer)."""

    picked: Tensor
    values: Values
    slopes: tuple[Values, ...] = ()
    notes: dict[str, float] = field(default_factory=dict)


class EdgePasses:
    """Base and source runs of some prompts, ready to be made. `tick` hears of every pass, either way.

    weights: the model's, where the passes go by them; None for passes through the model itself. whole: all
    columns of the logits are read. by_block: hold the graph of one block at a time.
    """

    def __init__(
        self,
        model: Model,
        facts: Anatomy,
        runs: Runs,
        metrics: tuple[Metric, ...],
        tick: Callable[[int], object] = lambda passes: None,
        weights: Weights | None = None,
        whole: bool = False,
        by_block: bool = False,
    ) -> None:
        self.model, self.facts, self.runs, self.tick = model, facts, runs, tick
        self.reads = Reads(runs, metrics)
        self.by: Runner = (
            ByHooks(model, facts, self.reads)
            if weights is None
            else ByWeights(in_place(weights), facts, self.reads, whole, by_block)
        )
        layers = range(facts.n_layers)
        sites = ("z", "mlp_out", "resid_pre", "resid_mid")
        self.places = [(s, layer) for s in sites if s in facts.sites() for layer in layers]

    def plain(self, *, source: bool) -> Passed:
        """A run without a graph, its activations as the ablation replaces them. Cost: one forward."""
        picked, kept = self.by.plain(self.runs.source if source else self.runs.base, self.places)
        self.tick(1)
        if source and self.runs.fill is not None:
            kept = {place: self.runs.fill(*place, value) for place, value in kept.items()}
        return Passed(picked, self._home(kept))

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
        tokens = self.runs.source if source else self.runs.base
        gates = None if two is None else two.gates
        with nullcontext() if two is None else two.attached():
            recording = self.by.traced(
                tokens, self._taps(), self.places, put=replaced, gates=gates, rules=rules
            )
        self.tick(1)
        picked = recording.logits
        clean = picked.detach() if clean is None else clean
        tensors, notes = dict(recording.tensors), {}
        if two is None or other is None:
            value = self.by.measure(picked, clean)
        else:
            value, left = self._two_point(picked, clean, other)
            notes = {"softmax_residual": two.residual, "metric_residual": left}
            # what the two-point activation reads, which on a bridge is not what a later hook sees
            tensors |= {key: two.here[key] for key in tensors if key[0] in ("pre", "linear")}
        slopes = _slopes(value, replace(recording, tensors=tensors))
        self.tick(len(slopes))
        home = tuple(map(self._home, slopes))
        return Passed(picked.detach(), self._home(recording.values), home, notes)

    def _home(self, values: Values) -> Values:
        """On one device, where writers meet readers."""
        return {place: value.to(self.runs.base.device) for place, value in values.items()}

    def descent(self, point: Float[Tensor, "prompt pos d_model"], target: Tensor) -> Tensor:
        """The slope of ‖logits − target‖², at what is read, in the input. Cost: a forward and a backward."""
        recording = self.by.traced(self.runs.base, [INPUT], put={INPUT: point})
        self.tick(1)
        apart = (recording.logits - target).square()
        if self.reads.everywhere:  # [prompt, pos, vocab]; padding is nobody's logits
            pos = torch.arange(apart.shape[1], device=apart.device)
            apart = apart * (pos < self.runs.lengths[:, None])[..., None]
        slope = recording.gradients(apart.sum())[INPUT]
        self.tick(1)
        return slope

    def _two_point(self, picked: Tensor, clean: Tensor, other: Tensor) -> tuple[Tensor, float]:
        """The metrics with slopes between two runs' logits, and the residual."""
        cap = float(getattr(self.model.cfg, "output_logits_soft_cap", None) or -1.0)
        return metric_path(lambda x: self.by.measure(x, clean), picked, other, cap)

    def measure(self, picked: Tensor, clean: Tensor) -> Tensor:
        """The metrics, float64: [prompt, metric]."""
        with torch.no_grad():
            return self.by.measure(picked, clean)

    def _taps(self) -> list[Place]:
        """What readers make of their normed input, and the final stream."""
        facts, layers = self.facts, range(self.facts.n_layers)
        parts = ["q", "k", "v"] + ([] if facts.attn_only else ["pre"]) + (["linear"] if self.by.gated else [])
        return [(part, layer) for part in parts for layer in layers] + [("resid_post", facts.n_layers - 1)]


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


def _slopes(values: Float[Tensor, "prompt metric"], recording: Recording) -> tuple[Values, ...]:
    """By metric, d Σ value / d tensor where it depends on it. Prompts do not touch one another."""
    if not values.requires_grad:
        raise ValueError(
            "the metric has no gradient in the logits: it is not differentiable. Use another metric, or "
            "method='exact', which needs no gradient."
        )
    slopes = []
    for number, value in enumerate(values.sum(0)):
        slopes.append(recording.gradients(value, keep_graph=number + 1 < values.shape[1]))
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


class Sizes(NamedTuple):
    """How much of a scoring is held at once. each, least: bytes that one prompt takes, beside
    its scores, as it is held and at least."""

    prompts: int
    positions: int
    by_block: bool
    each: int
    least: int


def sizes(budget: Budget, n_pos: int, graph: Graph, n_metrics: int = 1, parts: int = 1) -> Sizes:
    """How many prompts, and how many positions at once: edges hold at most half of what a run holds.

    parts: arrays of the graph that a metric has, by position or span.
    """
    f = budget.facts
    sites = tuple(site for site in ("z", "mlp_out", "resid_pre", "resid_mid", "q") if site in f.sites())
    run = prompt_bytes(f, budget.item_size, n_pos, sites, 1, 0)
    scores = 8 * 3 * len(graph.writers) * len(graph.readers) * n_metrics * parts
    position = budget.item_size * f.d_model * (len(graph.writers) + 4 * f.n_heads)
    whole, least = 1.5 * run, _by_block_bytes(budget, n_pos, n_metrics) + position
    by_block = budget.limit < whole + scores and least < whole
    prompts = 1 if by_block else max(1, int(budget.limit // (whole + scores)))
    prompts = prompts if budget.batch_size is None else min(prompts, budget.batch_size)
    room = max(budget.limit - least - scores, 0) if by_block else run / 2
    each = int(least if by_block else whole)
    return Sizes(prompts, max(1, int(room / position)), by_block, each, int(min(least, whole)))


def _by_block_bytes(budget: Budget, n_pos: int, n_metrics: int) -> int:
    """Bytes of one prompt with the graph of one block: what both runs keep, and all slopes."""
    f, width = budget.facts, budget.facts.n_heads * budget.facts.d_head
    block = prompt_bytes(f, budget.item_size, n_pos, (), 0, 0, by_block=True, n_logits=f.d_vocab_out)
    both = 2 * (width + (1 if f.attn_only else 3) * f.d_model)
    slopes = n_metrics * (width + 2 * f.n_key_value_heads * f.d_head + (0 if f.attn_only else 2 * f.d_mlp))
    return block + budget.item_size * f.n_layers * n_pos * (both + slopes)
