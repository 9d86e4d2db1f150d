"""Passes by the model's weights: the engine's own forward with its graph.

What `_by_hooks` does through the model, where the trust check allows it:

1. The stream before the first block is the leaf; the weights are constants, so that nothing of their size is
   made or kept on the way back.
2. Rules are parts of the blocks (`rules/_parts.py`); attention keeps no pattern where nobody asks for it.
3. Only the logits that the metrics read are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.attribution._by_block import ByBlock, streams
from interp.attribution._by_hooks import EMBED, ByHooks, Gates, Recording, Values
from interp.attribution._tables import Place
from interp.attribution.rules import ruled_weights
from interp.engine.forward import Taps, forward
from interp.engine.readout import Readout, Reads, clean_right
from interp.engine.reference import require_finite
from interp.methods import Rules
from interp.models import Anatomy
from interp.models.parts import Weights
from interp.places import hook_name

INPUT: Place = ("resid_pre", 0)
Part = TypeVar("Part")


@dataclass(eq=False)
class ByWeights:
    """Runs by a model's weights, and what metrics read of them. whole: all columns of the logits.

    by_block: hold the graph of one block at a time (`_by_block`).
    The place "embed" is the stream before the first block here: positions are added to both runs alike.
    """

    weights: Weights
    facts: Anatomy
    reads: Reads
    whole: bool = False
    by_block: bool = False
    engine = "fast"

    def __post_init__(self) -> None:
        self.weights = constant(self.weights)
        with torch.inference_mode(False):  # the columns that it takes of W_U go into the graph
            self.readout = Readout(self.weights, self.reads, self.whole)

    @torch.no_grad()
    def plain(
        self, tokens: Int[Tensor, "prompt pos"], places: Sequence[Place], noise: Tensor | None = None
    ) -> tuple[Tensor, Values]:
        """A run without a graph: the logits that are read, and the activations at some places."""
        kept: Values = {}
        taps = _tapped({}, (), {}, places, kept, None)
        stream = self._through(self.weights, self.weights.embed(tokens, noise), taps)
        return self.readout.whole_runs(stream), kept

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

        put: what some places carry instead ("embed" among them). gates: see `_by_hooks`.
        """
        put = {_place(place): value for place, value in (put or {}).items()}
        with torch.no_grad():
            x = put.pop(INPUT, None)
            x = self.weights.embed(tokens, noise) if x is None else x
        kept: Values = {}
        tapped = partial(_tapped, put, slopes, gates or {})
        weights = ruled_weights(self.weights, rules, self.facts.act_fn)
        readout = self.readout if rules is None else Readout(weights, self.reads, self.whole)
        points = {at: _point(*at) for at in slopes}
        if self.by_block:
            before = streams(weights, x.detach(), tapped(values, kept, None))
            final = self._finite(before.pop(), weights, x).requires_grad_(True)
            again = partial(tapped, (), kept)
            return ByBlock(
                readout.whole_runs(final), {}, points, kept, weights=weights, streams=before, final=final,
                tapped=again,
            )  # fmt: skip
        tensors: Values = {}
        stream = self._through(weights, x.detach().requires_grad_(True), tapped(values, kept, tensors))
        return Recording(readout.whole_runs(stream), tensors, points, kept)

    @property
    def gated(self) -> bool:
        """Whether MLPs have a second factor."""
        return any(block.mlp is not None and block.mlp.W_gate is not None for block in self.weights.blocks)

    def measure(self, picked: Tensor, clean: Tensor) -> Float[Tensor, "prompt metric"]:
        """Every metric, float64."""
        return self.readout.score(picked, clean, torch.arange(len(picked), device=picked.device))

    def clean_right(self, clean: Tensor) -> np.ndarray:
        """1.0 where the clean run prefers the answers, else 0.0: [prompt]."""
        return clean_right(clean, self.reads.runs, self.readout.answer, self.readout.wrong)

    def _through(self, weights: Weights, x: Tensor, taps: Taps) -> Float[Tensor, "prompt pos d_model"]:
        """The final stream, which is finite."""
        return self._finite(forward(weights, x, taps=taps, fused=True), weights, x)

    def _finite(self, stream: Tensor, weights: Weights, x: Tensor) -> Tensor:
        """The final stream of x. ValueError, with the layer, where it is not finite."""
        if not torch.isfinite(stream).all():
            sites = {("resid_post", n): partial(require_finite, n) for n in range(len(weights.blocks))}
            with torch.no_grad():
                forward(weights, x, taps=sites)
        return stream


Runner = ByHooks | ByWeights


def runner(
    facts: Anatomy, model: Any, weights: Weights | None, reads: Reads, by_block: bool = False
) -> Runner:
    """Passes by the weights, where they are given, or through the model."""
    if weights is None:
        return ByHooks(model, facts, reads)
    return ByWeights(weights, facts, reads, by_block=by_block)


def constant(part: Part) -> Part:
    """A dataclass of weights whose tensors take no gradient; no copies."""
    if isinstance(part, Tensor):
        return part.detach()  # type: ignore[return-value]
    if isinstance(part, tuple):
        return tuple(constant(each) for each in part)  # type: ignore[return-value]
    if not is_dataclass(part) or isinstance(part, type):
        return part
    return replace(part, **{each.name: constant(getattr(part, each.name)) for each in fields(part)})  # type: ignore[type-var]


def _point(site: str, layer: int) -> str:
    """TransformerLens's name of a place."""
    inner = {"pre": "mlp.hook_pre", "linear": "mlp.hook_pre_linear"}.get(site)
    return hook_name(site, layer) if inner is None else f"blocks.{layer}.{inner}"


def _place(place: Place) -> Place:
    return INPUT if place == EMBED else place


def _tapped(
    put: Values,
    slopes: Sequence[Place],
    gates: Gates,
    values: Sequence[Place],
    kept: Values,
    tensors: Values | None,
) -> Taps:
    """The taps of a pass: what places carry, values that are kept, tensors held for slopes, gates.

    tensors: None to hold none, in a pass without a graph that takes the same way.
    """
    taps: dict[Place, list[Callable[[Tensor], Tensor]]] = {}
    for place, value in put.items():
        taps.setdefault(place, []).append(partial(_leaf, value))
    for place in values:
        taps.setdefault(_place(place), []).append(partial(_put_down, kept, place))
    for place in slopes:
        taps.setdefault(_place(place), []).extend([] if tensors is None else [partial(hold, tensors, place)])
    for place, act in gates.items():
        taps.setdefault(_place(place), []).append(act)
    return {at: partial(_each, acts) for at, acts in taps.items()}


def _each(acts: list[Callable[[Tensor], Tensor]], tensor: Tensor) -> Tensor:
    for act in acts:
        tensor = act(tensor)
    return tensor


def _put_down(kept: Values, place: Place, tensor: Tensor) -> Tensor:
    kept[place] = tensor.detach()
    return tensor


def hold(tensors: dict[Any, Tensor], place: Any, tensor: Tensor) -> Tensor:
    """Keep the tensor in its graph; one that is a constant becomes a leaf."""
    tensor = tensor if tensor.requires_grad else tensor.detach().requires_grad_(True)
    tensors[place] = tensor
    return tensor


def _leaf(value: Tensor, tensor: Tensor) -> Tensor:
    return value.detach().requires_grad_(True)
