"""The passes that every estimate is made of, on some prompts: plain ones, and ones with a graph.

They go by the model's weights (`_by_weights`) or through the model itself (`_by_hooks`), and give the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.attribution._by_hooks import EMBED, Gates, Recording, Values
from interp.attribution._by_weights import Runner, runner
from interp.attribution._tables import Place
from interp.engine.runs import Runs
from interp.experiment import Experiment
from interp.methods import Rules
from interp.models import Anatomy, Model
from interp.models.parts import Weights
from interp.places import AXES


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
class Estimated:
    """The estimates of some prompts: tables [prompt, axis + 1, ..., metric], one set or one for every
    layer dropped; the metrics of both runs [prompt, metric]; the clean run's logits; numbers for attrs."""

    tables: list[dict[Place, Tensor]]
    base: Tensor
    source: Tensor
    clean: Tensor
    notes: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Passes:
    """Base and source runs of some prompts, ready to be made. `tick` hears of every pass, either way.

    weights: the model's, where the passes may go by them; None for passes through the model itself.
    by_block: hold the graph of one block at a time.
    """

    experiment: Experiment
    runs: Runs
    tick: Callable[[int], object]
    weights: Weights | None = None
    by_block: bool = False

    @property
    def model(self) -> Model:
        return self.experiment.model

    @property
    def facts(self) -> Anatomy:
        return self.experiment.facts

    @cached_property
    def by(self) -> Runner:
        """What makes the passes."""
        reads = self.experiment.reads(self.runs)
        return runner(self.facts, self.model, self.weights, reads, self.by_block)

    def source(self, places: Sequence[Place]) -> Plain:
        """The run that is patched in. Cost: one forward."""
        picked, kept = self.by.plain(self.runs.source, places, self.runs.noises()[1])
        self.tick(1)
        fill = self.runs.fill
        return Plain(picked, kept if fill is None else {at: fill(*at, value) for at, value in kept.items()})

    def base(self, places: Sequence[Place]) -> Plain:
        """The run that is patched, without its graph. Cost: one forward."""
        picked, kept = self.by.plain(self.runs.base, places, self.runs.noises()[0])
        self.tick(1)
        return Plain(picked, kept)

    def graph(
        self,
        slopes: Sequence[Place],
        values: Sequence[Place] = (),
        embeddings: Tensor | None = None,
        gates: Gates | None = None,
        rules: Rules | None = None,
    ) -> Graph:
        """The run that is patched (or one from other embeddings), with its graph. Cost: one forward."""
        noise, put = self.runs.noises()[0], {} if embeddings is None else {EMBED: embeddings}
        recording = self.by.traced(
            self.runs.base, slopes, values, noise=noise, put=put, gates=gates, rules=rules
        )
        self.tick(1)
        return Graph(recording.logits, recording.values, recording)

    def clean(self, base: Tensor, source: Tensor) -> Tensor:
        """The clean run's logits, out of both runs'."""
        return (base if self.runs.clean_is_base else source).detach()

    def measure(self, picked: Tensor, clean: Tensor) -> Tensor:
        """Every metric, in float64: [prompt, metric]."""
        return self.by.measure(picked, clean)


def prompt_bytes(
    facts: Anatomy,
    item_size: int,
    n_pos: int,
    sites: tuple[str, ...],
    n_metrics: int,
    n_tables: int,
    by_block: bool = False,
    n_logits: int | None = None,
) -> int:
    """Peak bytes of one prompt: the graph of a pass (or of a block of it), logits, what estimates hold.

    n_logits: numbers that are read of a run; by default all, as the model itself gives them.
    """
    n_logits = n_pos * facts.d_vocab_out if n_logits is None else n_logits
    width = facts.n_heads * facts.d_head
    row = 16 * facts.d_model + 8 * width + (0 if facts.attn_only else 10 * facts.d_mlp)
    graph = n_pos * row + 6 * facts.n_heads * n_pos * n_pos
    graph = graph + facts.n_layers * n_pos * facts.d_model if by_block else facts.n_layers * graph
    kept = sum(_numbers(facts, site, n_pos) for site in sites) * facts.n_layers
    tables = sum(_cells(facts, site, n_pos) for site in sites) * facts.n_layers * n_metrics * n_tables
    return item_size * (graph + 3 * kept + 3 * n_logits) + 16 * tables


def logits_read(experiment: Experiment) -> int:
    """At most how many logits the metrics read of one prompt."""
    facts, task, metrics = experiment.facts, experiment.task, experiment.metric
    every = any(metric.reads_columns == "vocabulary" for metric in metrics)
    columns = (
        facts.d_vocab_out if every else min(facts.d_vocab_out, task.answers.numel() + task.wrongs.numel())
    )
    everywhere = task.reads is not None or any(metric.reads_positions == "all" for metric in metrics)
    return columns * (task.clean.shape[1] if everywhere else 1)


def at_once(memory: int, whole: int | float, by_block: int | float) -> tuple[int, bool]:
    """Prompts at once, one at least, and whether its graph is held block by block."""
    return (1, True) if by_block < whole and memory < whole else (max(1, int(memory // whole)), False)


def require_room(memory: int, least: int | float, n_pos: int) -> None:
    """ValueError where one block of one prompt is more than the memory."""
    if memory < least:
        raise ValueError(
            f"memory= is {memory / 2**20:.3g} MiB, and one prompt of {n_pos} tokens takes "
            f"{least / 2**20:.3g} with the graph of one block at a time, which is the least. Give more "
            "memory, fewer sites or shorter prompts."
        )


def _cells(facts: Anatomy, site: str, n_pos: int) -> int:
    return int(np.prod([facts.size(site, axis, n_pos) + 1 for axis in AXES[site]]))


def _numbers(facts: Anatomy, site: str, n_pos: int) -> int:
    return _cells(facts, site, n_pos) * facts.width(site)
