"""Passes through the model itself, under hooks: the definition of every slope, and the way for any model.

1. Attach the rules, if any, then hooks that hand on each wanted tensor and keep it.
2. Run forward from embeddings that require a gradient, so that frozen models work too.
3. `torch.autograd.grad` of the quantity in the kept tensors: no `.grad` field is written, and parameters are
   never differentiated.

Backward hooks are not used: they do not fire below hooks that replace a tensor. A kept tensor that is a
constant (a pattern under the AH-rule) becomes a leaf, so that the slope in it exists all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
from interp.engine.readout import Reads, Scores
from interp.engine.reference import finite_hooks
from interp.methods import Method, Rules
from interp.models import Anatomy, Model, logits
from interp.models.hook_points import MLPPoints, kept_in_path, mlp_points, slope_hook
from interp.places import hint, hook_name
from interp.tasks import vocabulary

Hook = tuple[str, Callable[..., Tensor]]
Taps = Mapping[Any, str]  # key of a kept tensor -> hook point
Values = dict[Place, Tensor]
Gates = Mapping[Place, Callable[[Tensor], Tensor]]  # what the pass goes on with, behind all that is kept
EMBED: Place = ("embed", 0)


@contextmanager
def autograd_on() -> Iterator[None]:
    """Gradients, whatever the caller's mode."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@dataclass(frozen=True, eq=False)
class Recording:
    """One pass: its logits (all of them, or those that are read), and the tensors kept, all in one graph.

    taps: what to call the tensors kept, by key. values: those kept without their graph.
    """

    logits: Float[Tensor, "prompt *pos vocab"]
    tensors: dict[Any, Tensor]
    taps: Taps
    values: Values = field(default_factory=dict)

    def slopes(self, value: Tensor, keep_graph: bool = False) -> dict[Any, Tensor]:
        """d value / d tensor for every tensor kept. ValueError where the value does not depend on it."""
        if not value.requires_grad:
            raise ValueError(
                "the metric has no gradient in the logits: it is not differentiable. Use another metric, or "
                "interp.patch, which needs no gradient."
            )
        reached = self.gradients(value, keep_graph)
        lost = [name for key, name in self.taps.items() if key not in reached]
        if lost:
            raise ValueError(
                f"no gradient reaches {lost[0]} ({len(lost)} of {len(self.taps)} places): the metric does "
                "not depend on it under this method. With a rule that holds the pattern constant (AH) none "
                "flows through queries and keys: use Relp(ah=False), or another method. Where a model hands "
                "attention to a kernel of its own, or goes on with another tensor than its hook point gives, "
                "the site can neither be estimated nor patched."
            )
        return reached

    def gradients(self, value: Tensor, keep_graph: bool = False) -> dict[Any, Tensor]:
        """d value / d tensor for every tensor kept that the value depends on."""
        kept = list(self.tensors.values())
        slopes = torch.autograd.grad(value, kept, retain_graph=keep_graph, allow_unused=True)
        return {key: slope for key, slope in zip(self.tensors, slopes) if slope is not None}


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


@dataclass(eq=False)
class ByHooks:
    """Runs of the model itself, and what metrics read of them."""

    model: Model
    facts: Anatomy
    reads: Reads
    engine = "reference"

    def __post_init__(self) -> None:
        self.scores = Scores(self.reads)

    @torch.no_grad()
    def plain(
        self, tokens: Int[Tensor, "prompt pos"], places: Sequence[Place], noise: Tensor | None = None
    ) -> tuple[Tensor, Values]:
        """A run without a graph: the logits that are read, and the activations at some places."""
        kept: Values = {}
        hooks = [*finite_hooks(self.facts.n_layers), *_noise(noise), *_keepers(kept, places)]
        with self.model.hooks(fwd_hooks=hooks):
            return self.scores.pick(logits(self.model, tokens)), kept

    def traced(
        self,
        tokens: Int[Tensor, "prompt pos"],
        slopes: Sequence[Place],
        values: Sequence[Place] = (),
        *,
        noise: Tensor | None = None,
        put: Values | None = None,
        gates: Gates | None = None,
        rules: Rules | None = None,
    ) -> Recording:
        """A run with its graph: the logits that are read, tensors to differentiate in, activations.

        put: what some places carry instead ("embed" among them). gates: see `Gates`. Run it in `autograd_on`.
        """
        kept, put = {}, dict(put or {})
        embeddings = put.pop(EMBED, None)
        before = [*finite_hooks(self.facts.n_layers), *_noise(noise)]
        before += [(hook_name(*place), _putting(value)) for place, value in put.items()]
        before += _keepers(kept, values)
        points = self._points(slopes)
        # on a bridge resid_mid is read at attention's write, behind that layer's gate
        taps = {place: name for place, name in points.items() if place[0] != "resid_mid"}
        late = {place: name for place, name in points.items() if place[0] == "resid_mid"}
        shut = [(hook_name(*place), _gate(act)) for place, act in (gates or {}).items()]
        with ruled(self.model, rules):
            recording = record(
                self.model, tokens, taps, embeddings=embeddings, before=before, gates=shut, late=late
            )
        return replace(recording, logits=self.scores.pick(recording.logits), values=kept)

    @property
    def gated(self) -> bool:
        """Whether MLPs have a second factor."""
        return not self.facts.attn_only and any(mlp.linear for mlp in mlp_points(self.model))

    def measure(self, picked: Tensor, clean: Tensor) -> Float[Tensor, "prompt metric"]:
        """Every metric, float64."""
        return self.scores(picked, clean)

    def clean_right(self, clean: Tensor) -> np.ndarray:
        """1.0 where the clean run prefers the answers, else 0.0: [prompt]."""
        return self.scores.clean_right(clean)

    def _points(self, places: Sequence[Place]) -> dict[Place, str]:
        mlps: dict[int, MLPPoints] = {}
        if any(site in ("pre", "linear") for site, _ in places):
            mlps = {mlp.layer: mlp for mlp in mlp_points(self.model)}
        points = {}
        for site, layer in places:
            inner = {"pre": mlps[layer].pre, "linear": mlps[layer].linear} if layer in mlps else {}
            points[site, layer] = str(inner.get(site) or slope_hook(self.model, site, layer))
        return points


def _keepers(kept: Values, places: Sequence[Place]) -> list[Hook]:
    return [(hook_name(*place), partial(_put_down, kept, place)) for place in places]


def _put_down(kept: Values, place: Place, tensor: Tensor, hook: Any) -> Tensor:
    kept[place] = tensor.detach()
    return tensor


def _putting(value: Tensor) -> Callable[..., Tensor]:
    return lambda tensor, hook: value.detach().requires_grad_(True)


def _gate(act: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda tensor, hook: act(tensor)


def _noise(noise: Tensor | None) -> list[Hook]:
    return [] if noise is None else [("hook_embed", lambda tensor, hook: tensor + noise)]
