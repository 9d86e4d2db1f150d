"""Circuits over features: which features matter, what feeds what, and what the dictionaries leave out.

1. Nodes: every feature and every error of every dictionary, by position. The score of a node is its estimate
   (`interp.attribute` with features=): (φ − φ') d · g, the slope g taken of the model as it is, so that the
   scores of a site and of its error add up to the estimate of the site.
2. Keep the features of largest mean |score|; errors that differ are never left out.
3. Edges are direct: one pass in which every site goes on as a constant, so that nothing flows through a site
   but what enters there. For a target v with s_v = φ_v (d_v · g), or ε · g, the edge from u is
   (φ_u − φ'_u) d_u · ∂s_v / ∂x_u; to the logits the metric itself is the target.
4. So where every path from one site goes through the next, a node's edges into all features and the error of
   that site add up to its score; in general edges into all targets do, first order.

Marks et al. 2403.19647 (error nodes, edges); the direct rule is the paper's for neighbouring sites.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp._verbs import verb
from interp.ablation import Ablation, Mean, Resample, Zero, averaged
from interp.attribution._by_hooks import EMBED as EMBED_END
from interp.attribution._by_hooks import autograd_on, record
from interp.attribution._features import attribute_features
from interp.attribution._passes import prompt_bytes
from interp.engine.readout import Reads, Scores
from interp.engine.runs import Runs
from interp.experiment import MEMORY, Experiment, prepare
from interp.methods import Method, parse
from interp.models import Model, is_bridge, logits
from interp.models.hook_points import slope_hook
from interp.patching._feature_cells import feature_runs
from interp.places import hook_name
from interp.results import attrs as provenance
from interp.results import position_labels
from interp.sae._dictionary import Dictionary
from interp.sae._graph import ALL, EMBED, LOGITS, FeatureGraph, Node
from interp.sae._site import ERROR, Parts, Site, require, site_name
from interp.tasks import Task
from interp.tasks.metrics import Metric

End = tuple[str, int]
_ORDER = ("resid_pre", "z", "attn_out", "resid_mid", "post", "mlp_out", "resid_post")  # within a block
_BY = ("feature", "pos")
_ROWS, _COPIES = 8, 8  # prompts at once at most; arrays of features: both runs, means, slopes, products


@verb
def circuit(
    model: Model,
    task: Task,
    dictionaries: Sequence[Dictionary],
    *,
    nodes: int | None = 20,
    edges: int | None = 200,
    by: str = "pos",
    method: str | Method = "atp",
    ablation: str | Ablation = "resample",
    metric: str | Metric | None = None,
    memory: int = MEMORY,
    progress: bool = True,
) -> FeatureGraph:
    """The features that matter, with the dictionaries' errors, and the direct edges between them.

    dictionaries: one or several, each at a site of its own (the stream, z, post). nodes: features kept, by
    mean
    |score|; None: all. edges: kept, by |weight|; None: all. by: "pos" (a node is a feature at one position,
    which prompts share) or "feature" (at all of them). method: of the scores of nodes, "atp" or "ig".
    ablation: what stands in for a node: "resample", "zero" or "mean" (of φ, of ε, of embeddings); effects are
    of taking nodes out of the clean run, and positive means that the node helps.

    Returns a `FeatureGraph`: `error_share` says how much of the effects lies in what the dictionaries leave
    out. Cost: two forwards and a backward of each prompt for each dictionary; then a forward and a backward
    for each node kept. Raises ValueError for dictionaries that do not fit, two at one site, and
    other ablations. A transcoder's skip stands in its error. Marks et al. 2403.19647.

    Example:
        >>> import torch
        >>> from interp import sae
        >>> model = interp.load("tiny-ioi")
        >>> both = torch.cat((torch.eye(64), -torch.eye(64)))
        >>> low = sae.Dictionary(both.T, torch.zeros(128), both, torch.zeros(64), place="L1.resid_pre")
        >>> task = interp.tasks.ioi(model, n=2)
        >>> found = sae.circuit(model, task, [low, low.at("L2.resid_pre")], nodes=6, progress=False)
        >>> found.sites, len(found.features), len(found.edges) > 0
        (('L1.resid_pre', 'L2.resid_pre'), 6, True)
    """
    experiment = circuit_experiment(model, task, ablation, metric, memory, progress)
    sites = circuit_sites(experiment, dictionaries)
    if by not in _BY:
        raise ValueError(f"by is {by!r}; a node is a feature at one position ('pos') or at all ('feature').")
    if (nodes is not None and nodes < 1) or (edges is not None and edges < 1):
        raise ValueError(f"nodes is {nodes} and edges {edges}; keep one of each at least, or None for all.")
    dims = ("pos", "feature") if by == "pos" else ("feature",)
    chosen: list[Node] = []
    for site in sites:
        scores = attribute_features(experiment, site.dictionary, parse(method), dims, None)
        chosen += _scored(site_name(site.dictionary), scores["value"], by)
    features = sorted((node for node in chosen if node.is_feature), key=lambda node: -abs(node.score))
    best = set(features[:nodes])
    kept = [node for node in chosen if node in best or node.feature == ERROR]
    with autograd_on():
        return _Edges(experiment, sites, tuple(kept), by).graph(edges)


def circuit_experiment(
    model: Model, task: Task, ablation: Any, metric: Any, memory: int, progress: bool
) -> Experiment:
    """What circuits over features are found and judged on: effects of taking nodes out of the clean run."""
    experiment = prepare(
        model, task, ablation=ablation, direction="noise", metric=metric, memory=memory, progress=progress
    )
    if not isinstance(experiment.contrast.ablation, (Resample, Zero, Mean)):
        raise ValueError(
            f"{experiment.contrast.ablation.kind} ablation of a circuit over features is not known. "
            "Use resample, zero or mean."
        )
    if len(experiment.metric) != 1:
        raise ValueError(f"metric has {len(experiment.metric)} metrics; a graph has scores of one.")
    return experiment


def rows_at_once(experiment: Experiment, sites: Sequence[Site], most: int) -> int:
    """Prompts in a batch: what fits into `memory` of a pass's graph and of features, from one to `most`."""
    facts, item, n_pos = experiment.facts, experiment.room.item_size, experiment.task.clean.shape[1]
    numbers = _COPIES * n_pos * sum(site.dictionary.n_features for site in sites)
    each = prompt_bytes(facts, item, n_pos, (), 1, 1) + item * numbers
    return max(1, min(most, experiment.budget.memory // each))


def circuit_sites(experiment: Experiment, dictionaries: Sequence[Dictionary]) -> list[Site]:
    """The dictionaries at their sites, in the order of the pass. ValueError for those that do not fit."""
    if not dictionaries:
        raise ValueError("dictionaries is empty; give one for each site of the circuit.")
    places = [require(d, experiment.model) for d in dictionaries]
    names = [site_name(d) for d in dictionaries]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two dictionaries lie at {twice[0]}; give one for each site.")
    for place in places:
        if place.site == "resid_mid" and is_bridge(experiment.model):
            raise ValueError(
                "resid_mid of a bridge is the MLP's input alone; give a dictionary of another site."
            )
    order = sorted(range(len(places)), key=lambda i: (places[i].layer or 0, _ORDER.index(places[i].site)))
    return [Site(experiment, dictionaries[i]) for i in order]


def _scored(name: str, value: Any, by: str) -> list[Node]:
    """Nodes of a dictionary with their mean scores; those that never differ are left out."""
    mean = np.nan_to_num(value.mean("prompt").values)  # [(pos,) feature]
    index = value["index"].values
    positions = range(mean.shape[0]) if by == "pos" else (ALL,)
    table = mean if by == "pos" else mean[None]
    return [
        Node(name, int(feature), pos, float(score))
        for pos, row in zip(positions, table)
        for feature, score in zip(index, row)
        if score != 0
    ]


@dataclass(frozen=True, eq=False)
class _Edges:
    """Edges between chosen nodes, summed over blocks of prompts."""

    experiment: Experiment
    sites: list[Site]
    nodes: tuple[Node, ...]  # features and errors
    by: str

    def graph(self, most: int | None) -> FeatureGraph:
        task, runs = self.experiment.task, feature_runs(self.experiment).outside_inference()
        n_pos = task.clean.shape[1]
        positions = range(n_pos) if self.by == "pos" else (ALL,)
        self_nodes = [Node(EMBED, ERROR, pos, 0.0) for pos in positions]
        sources = [*self_nodes, *self.nodes]
        weights = np.zeros((len(sources), len(self.nodes) + 1))  # targets: nodes, then the logits
        level, embed = np.zeros(len(self.nodes)), np.zeros(len(self_nodes))
        rows = rows_at_once(self.experiment, self.sites, _ROWS)
        for start in range(0, len(task), rows):
            block = _Block(self, runs.take(slice(start, min(start + rows, len(task)))))
            weights += block.weights(sources)
            level += block.levels()
            embed += block.embedding_scores(self_nodes)
        n = len(task)
        scored = [Node(EMBED, ERROR, node.pos, float(s / n)) for node, s in zip(self_nodes, embed)]
        kept = [Node(o.site, o.feature, o.pos, o.score, float(a / n)) for o, a in zip(self.nodes, level)]
        every = (*scored, *kept, Node(LOGITS, ERROR, ALL, 0.0))
        a, b = np.nonzero(weights)
        order = np.argsort(-np.abs(weights[a, b]), kind="stable")[:most]
        shift = len(scored)
        edges = tuple((int(a[i]), int(b[i]) + shift, float(weights[a[i], b[i]] / n)) for i in order)
        ids = tuple(task.clean[0, : int(task.lengths[0])].tolist()) if len(task) == 1 else ()
        end = int(task.last_position[0]) if ids else ALL
        labels = tuple(str(each) for each in position_labels(task))
        about = provenance(self.experiment, method="sae.circuit", site=" ".join(self._names), by=self.by)
        return FeatureGraph(tuple(self._names), every, edges, labels, ids, end, about)

    def stand_in(self, source: Tensor) -> Tensor:
        """For an embedding: the source run's, zeros, or the mean."""
        ablation = self.experiment.contrast.ablation
        if isinstance(ablation, Zero):
            return torch.zeros_like(source)
        return self._mean.to(source) if isinstance(ablation, Mean) else source

    @cached_property
    def _mean(self) -> Tensor:
        """Mean embedding over prompts, [pos, width], or [1, width] where positions do not line up."""
        ablation = self.experiment.contrast.ablation
        if not isinstance(ablation, Mean):
            raise ValueError("means are of mean ablation.")
        tokens, real, by_position = averaged(self.experiment.task, ablation, self.experiment.facts.device)
        rows = [captured(self.experiment.model, part, [])[0][EMBED_END] for part in tokens.split(_ROWS)]
        total = (torch.cat(rows).double() * real[..., None]).sum(0)
        counts = real.sum(0).clamp(min=1)[:, None]
        return total / counts if by_position else total.sum(0, keepdim=True) / real.sum()

    @property
    def _names(self) -> list[str]:
        return [site_name(site.dictionary) for site in self.sites]


class _Block:
    """Some prompts: the clean run in parts, what stands in for these, and a pass that is cut at every
    site."""

    def __init__(self, edges: _Edges, runs: Runs) -> None:
        self.edges, self.model, self.runs = edges, edges.experiment.model, runs
        self.real = (
            torch.arange(runs.n_pos, device=runs.lengths.device) < runs.lengths[:, None]
        )  # [prompt, pos]
        self.scores = Scores(Reads(runs, edges.experiment.metric))
        with torch.no_grad():
            base, out = captured(self.model, runs.base, edges.sites)
            source, _ = captured(self.model, runs.source, edges.sites)
            self.clean = self.scores.pick(out).detach()
            self.embedding = base[EMBED_END] - edges.stand_in(source[EMBED_END])
            self.base = [site.parts(base) for site in edges.sites]
            put = [site.replacement(site.parts(source)) for site in edges.sites]
            self.phi = [mine.phi - other.phi for mine, other in zip(self.base, put)]  # what is taken away
            self.error = [mine.error - other.error for mine, other in zip(self.base, put)]
        self.slopes = self._slopes()
        self._cut_pass()

    def _slopes(self) -> list[Tensor]:
        """g of every site, in the model as it is: [prompt, pos, width]."""
        taps = {site.ends[1]: slope_hook(self.model, *site.ends[1]) for site in self.edges.sites}
        recording = record(self.model, self.runs.base, {**taps, EMBED_END: "hook_embed"})
        found = recording.slopes(self._metric(recording.logits))
        self.embedding_slope = found[EMBED_END]
        return [found[site.ends[1]].flatten(2).detach() for site in self.edges.sites]

    def _metric(self, out: Tensor) -> Tensor:
        """The metric, summed over prompts, turned so that positive helps."""
        sign = self.edges.experiment.metric[0].sign
        return sign * self.scores(self.scores.pick(out), self.clean)[:, 0].sum()

    def _cut_pass(self) -> None:
        """Every site goes on as a leaf of its own value: what reaches it is kept in the graph before that."""
        kept: dict[End, Tensor] = {}
        leaves: dict[Any, Tensor] = {}
        written = {site.ends[1] for site in self.edges.sites}
        read = {site.ends[0] for site in self.edges.sites} - written

        def cut(end: Any, tensor: Tensor, hook: object) -> Tensor:
            kept[end] = tensor
            leaves[end] = tensor.detach().clone().requires_grad_()
            return leaves[end]

        def keep(end: End, tensor: Tensor, hook: object) -> Tensor:
            kept[end] = tensor
            return tensor

        hooks: list[Any] = [("hook_embed", partial(cut, EMBED))]
        hooks += [(hook_name(*end), partial(cut, end)) for end in written]
        hooks += [(hook_name(*end), partial(keep, end)) for end in read]
        with self.model.hooks(fwd_hooks=hooks):
            out = logits(self.model, self.runs.base)
        self.leaves, self.value = leaves, self._metric(out)
        self.parts: list[Parts] = [site.parts(kept) for site in self.edges.sites]

    def weights(self, sources: Sequence[Node]) -> np.ndarray:
        """[source, target], summed over prompts."""
        keys = [EMBED, *(site.ends[1] for site in self.edges.sites)]
        leaves = [self.leaves[key] for key in keys]
        columns = []
        for target in (*self.edges.nodes, None):
            value = self.value if target is None else self._target(target)
            column = np.zeros(len(sources))
            if value.requires_grad:
                slopes = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
                found = dict(zip(keys, slopes))
                column = np.array([self._along(source, found) for source in sources])
            columns.append(column)
        return np.stack(columns, 1)

    def _target(self, node: Node) -> Tensor:
        """s_v: the node's own part of x · g, g held fixed."""
        number = self.edges._names.index(node.site)
        parts, g = self.parts[number], self.slopes[number]
        if node.feature == ERROR:
            each = (parts.error * g.to(parts.error)).sum(-1)
        else:
            row = self.edges.sites[number].dictionary.W_dec[node.feature].to(g)
            each = parts.phi[..., node.feature] * (g @ row).to(parts.phi)
        return each.sum() if node.pos == ALL else each[:, node.pos].sum()

    def _along(self, source: Node, slopes: Mapping[Any, Tensor | None]) -> float:
        """(what is taken away with a node) · slope."""
        key = (
            EMBED if source.site == EMBED else self.edges.sites[self.edges._names.index(source.site)].ends[1]
        )
        slope = slopes[key]
        if slope is None:
            return 0.0
        rows = slice(None) if source.pos == ALL else slice(source.pos, source.pos + 1)
        return float((self._change(source)[:, rows] * slope.flatten(2)[:, rows]).sum())

    def _change(self, node: Node) -> Tensor:
        """What is taken away with a node, [prompt, pos, width]."""
        if node.site == EMBED:
            return self.embedding
        number = self.edges._names.index(node.site)
        if node.feature == ERROR:
            return self.error[number]
        row = self.edges.sites[number].dictionary.W_dec[node.feature].to(self.phi[number])
        return self.phi[number][..., node.feature, None] * row

    def embedding_scores(self, nodes: Sequence[Node]) -> np.ndarray:
        """Estimates of the embeddings, in the model as it is, summed over prompts."""
        each = (self.embedding * self.embedding_slope).sum((0, 2))  # [pos]
        return np.array([float(each.sum() if node.pos == ALL else each[node.pos]) for node in nodes])

    def levels(self) -> np.ndarray:
        """Contributions of features, and lengths of errors, in the clean run, summed over real tokens."""
        out = []
        for node in self.edges.nodes:
            parts = self.base[self.edges._names.index(node.site)]
            each = parts.error.norm(dim=-1) if node.feature == ERROR else parts.phi[..., node.feature]
            each = torch.where(self.real, each, 0.0)
            out.append(float(each.sum() if node.pos == ALL else each[:, node.pos].sum()))
        return np.array(out)


def captured(model: Model, tokens: Tensor, sites: Sequence[Site]) -> tuple[dict[End, Tensor], Tensor]:
    """What the dictionaries read and write in a run, and its logits."""
    kept: dict[End, Tensor] = {}

    def keep(end: End, tensor: Tensor, hook: object) -> Tensor:
        kept[end] = tensor.detach()
        return tensor

    ends = dict.fromkeys(end for site in sites for end in site.ends)
    hooks: list[tuple[str, Callable[..., Tensor]]] = [(hook_name(*end), partial(keep, end)) for end in ends]
    hooks.append(("hook_embed", partial(keep, EMBED_END)))
    with model.hooks(fwd_hooks=hooks):
        return kept, logits(model, tokens)
