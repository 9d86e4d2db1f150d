"""One forward pass with its graph, and the slopes of a quantity at hook points.

1. Attach the rules, if any, then hooks that hand on each wanted tensor and keep it.
2. Run forward from embeddings that require a gradient, so that frozen models work too.
3. `torch.autograd.grad` of the quantity in the kept tensors: no `.grad` field is written, and parameters are
   never differentiated.

Backward hooks are not used: they do not fire below hooks that replace a tensor. A kept tensor that is a
constant (a pattern under the AH-rule) becomes a leaf, so that the slope in it exists all the same.

`Passes` are those that every estimate is made of, on some prompts: plain ones, and ones with a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp._arguments import shown
from interp._verbs import verb
from interp.attribution._tables import Place
from interp.attribution.rules import check_hooks, ruled
from interp.engine.readout import Scores
from interp.engine.reference import finite_hooks
from interp.engine.runs import Runs
from interp.experiment import Experiment
from interp.methods import Method, Rules
from interp.models import Anatomy, Model, logits
from interp.models.hook_points import kept_in_path, slope_hook
from interp.places import AXES, hint, hook_name
from interp.tasks import vocabulary

Hook = tuple[str, Callable[..., Tensor]]
Taps = Mapping[Any, str]  # key of a kept tensor -> hook point


@contextmanager
def autograd_on() -> Iterator[None]:
    """Gradients, whatever the caller's mode."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@dataclass(frozen=True, eq=False)
class Recording:
    """One pass: its logits, and the tensors kept, all in one graph."""

    logits: Float[Tensor, "prompt pos vocab"]
    tensors: dict[Any, Tensor]
    taps: Taps

    def slopes(self, value: Tensor, keep_graph: bool = False) -> dict[Any, Tensor]:
        """d value / d tensor for every tensor kept. ValueError where the value does not depend on it."""
        if not value.requires_grad:
            raise ValueError(
                "the metric has no gradient in the logits: it is not differentiable. Use another metric, or "
                "interp.patch, which needs no gradient."
            )
        keys = list(self.taps)
        found = torch.autograd.grad(
            value, [self.tensors[key] for key in keys], retain_graph=keep_graph, allow_unused=True
        )
        lost = [self.taps[key] for key, slope in zip(keys, found) if slope is None]
        if lost:
            raise ValueError(
                f"no gradient reaches {lost[0]} ({len(lost)} of {len(keys)} places): the metric does not "
                "depend on it under this method. With a rule that holds the pattern constant (AH) nothing "
                "flows through queries and keys: use Relp(ah=False), or another method. Where a model hands "
                "attention to a kernel of its own, or goes on with another tensor than its hook point gives, "
                "the site can neither be estimated nor patched."
            )
        return dict(zip(keys, found))


def record(
    model: Model,
    tokens: Int[Tensor, "prompt pos"],
    taps: Taps,
    *,
    embeddings: Float[Tensor, "prompt pos d_model"] | None = None,
    before: Sequence[Hook] = (),
    gates: Sequence[Hook] = (),
    late: Taps | None = None,
) -> Recording:
    """One forward pass that keeps its graph at the hook points of `taps` and `late`.

    embeddings: what `hook_embed` gives instead of the tokens' own. before: hooks that come before the taps,
    gates: after them, and then come the `late` taps. The model is left as found. Run it in `autograd_on`, and
    in `relevance_rules` for modified slopes: hooks that are there already come first.
    """
    late = {} if late is None else late
    tokens = tokens.clone() if tokens.is_inference() else tokens
    kept: dict[Any, Tensor] = {}
    hooks: list[Hook] = [*before, ("hook_embed", _leaf(embeddings))]
    hooks += [(name, keep(kept, key)) for key, name in taps.items()]
    hooks += [*gates, *((name, keep(kept, key)) for key, name in late.items())]
    every = {**taps, **late}
    with model.hooks(fwd_hooks=hooks, bwd_hooks=kept_in_path(model, every.values())):
        out = logits(model, tokens)
    missed = [name for key, name in every.items() if key not in kept]
    if missed:
        raise ValueError(
            f"the forward pass did not go through {missed[0]}. A fused kernel or a setting of the model "
            "bypasses the hook point: load the model with eager attention and its hook flags on."
        )
    return Recording(out, kept, every)


def keep(kept: dict[Any, Tensor], key: Any) -> Callable[..., Tensor]:
    """A hook that keeps its tensor and hands it on: a bridge uses what the hook returns, not what it got.

    It is a view of its own, which a slope reaches only where the model goes on with it.
    """

    def hook(tensor: Tensor, hook: Any) -> Tensor:
        if torch.is_grad_enabled():
            tensor = tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_(True)
        kept[key] = tensor
        return tensor

    return hook


@verb
def gradients(
    model: Model,
    tokens: Int[Tensor, "prompt pos"],
    hook_names: Sequence[str],
    metric_fn: Callable[[Tensor], Tensor],
    *,
    rules: Rules | Method | str | None = None,
    embeddings: Float[Tensor, "prompt pos d_model"] | None = None,
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """The metric, activations and gradients (of its sum) at hook points, by name.

    metric_fn: from logits [prompt, pos, vocab] to a tensor, usually one number a prompt. rules: see
    `interp.attribution.relevance_rules`. Cost: one forward, one backward. Everything returned is detached.
    Raises ValueError for a model that is compiled or checkpoints activations, for a hook point that the pass
    does not go by, and for one that no gradient reaches.

    Example:
        >>> from interp.attribution import gradients
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=2)
        >>> names = ["blocks.1.hook_resid_post"]
        >>> value, values, slopes = gradients(model, task.clean, names, lambda logits: logits[:, -1, 3])
        >>> value.shape, values[names[0]].shape == slopes[names[0]].shape
        (torch.Size([2]), True)
    """
    check_hooks(model)
    _check_request(model, tokens, hook_names, embeddings)
    with autograd_on():
        with ruled(model, rules):
            recording = record(model, tokens, {name: name for name in hook_names}, embeddings=embeddings)
        value = metric_fn(recording.logits)
        if not isinstance(value, Tensor) or not value.requires_grad:
            raise ValueError(f"metric_fn gave {shown(value)}; it must give a tensor with a gradient.")
        slopes = recording.slopes(value.sum())
    activations = {name: tensor.detach() for name, tensor in recording.tensors.items()}
    return value.detach(), activations, slopes


def _check_request(
    model: Model, tokens: Tensor, hook_names: Sequence[str], embeddings: Tensor | None
) -> None:
    """Raise ValueError for ids, hook points or embeddings that the model does not have."""
    vocabulary.require_ids(model, tokens)
    unknown = [name for name in hook_names if name not in model.hook_dict]
    if unknown or not hook_names:
        raise ValueError(
            f"this model has no hook point {unknown[0]!r}{hint(unknown[0], model.hook_dict)}"
            if unknown
            else "hook_names is empty. Name at least one, such as 'blocks.1.hook_resid_post'."
        )
    wanted = (*tokens.shape, model.cfg.d_model)
    if embeddings is not None and tuple(embeddings.shape) != wanted:
        raise ValueError(f"embeddings have shape {tuple(embeddings.shape)}; these tokens need {wanted}.")


def _leaf(embeddings: Tensor | None) -> Callable[..., Tensor]:
    def hook(tensor: Tensor, hook: Any) -> Tensor:
        given = tensor if embeddings is None else embeddings
        return given.detach().requires_grad_(True)

    return hook


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
    """Base and source runs of some prompts, ready to be made. `tick` hears of every pass, either way."""

    experiment: Experiment
    runs: Runs
    tick: Callable[[int], object]

    @property
    def model(self) -> Model:
        return self.experiment.model

    @property
    def facts(self) -> Anatomy:
        return self.experiment.facts

    @property
    def scores(self) -> Scores:
        return Scores(self.experiment.reads(self.runs))

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
        before += [(hook_name(*place), partial(_put_down, kept, place)) for place in values]
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
        hooks += [(hook_name(*place), partial(_put_down, kept, place)) for place in places]
        with self.model.hooks(fwd_hooks=hooks):
            picked = self.scores.pick(logits(self.model, tokens))
        self.tick(1)
        if fill is not None:
            kept = {place: fill(*place, value) for place, value in kept.items()}
        return Plain(picked, kept)


def _put_down(kept: Values, place: Place, tensor: Tensor, hook: Any) -> Tensor:
    kept[place] = tensor.detach()
    return tensor


def _noise(noise: Tensor | None) -> list[Hook]:
    return [] if noise is None else [("hook_embed", lambda tensor, hook: tensor + noise)]


def prompt_bytes(
    facts: Anatomy, item_size: int, n_pos: int, sites: tuple[str, ...], n_metrics: int, n_tables: int
) -> int:
    """Peak bytes of one prompt: the graph of a pass, the logits, and what the estimates hold."""
    width = facts.n_heads * facts.d_head
    row = 16 * facts.d_model + 8 * width + (0 if facts.attn_only else 10 * facts.d_mlp)
    graph = facts.n_layers * (n_pos * row + 6 * facts.n_heads * n_pos * n_pos)
    kept = sum(_numbers(facts, site, n_pos) for site in sites) * facts.n_layers
    tables = sum(_cells(facts, site, n_pos) for site in sites) * facts.n_layers * n_metrics * n_tables
    return item_size * (graph + 3 * kept + 3 * n_pos * facts.d_vocab_out) + 16 * tables


def _cells(facts: Anatomy, site: str, n_pos: int) -> int:
    return int(np.prod([facts.size(site, axis, n_pos) + 1 for axis in AXES[site]]))


def _numbers(facts: Anatomy, site: str, n_pos: int) -> int:
    return _cells(facts, site, n_pos) * facts.width(site)
