"""One forward pass with its graph, and the slopes of a quantity at hook points.

1. Attach the rules, if any, then hooks that hand on each wanted tensor and keep it.
2. Run forward from embeddings that require a gradient, so that frozen models work too.
3. `torch.autograd.grad` of the quantity in the kept tensors: no `.grad` field is written, and parameters are
   never differentiated.

Backward hooks are not used: they do not fire below hooks that replace a tensor. A kept tensor that is a
constant (a pattern under the AH-rule) becomes a leaf, so that the slope in it exists all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.attribution.checks import check_model
from interp.attribution.rules import relevance_rules
from interp.methods import Method, Rules
from interp.models import Model, logits

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
                "flows through queries and keys: use ah=False, or another method."
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
    with model.hooks(fwd_hooks=hooks):
        out = logits(model, tokens)
    every = {**taps, **late}
    missed = [name for key, name in every.items() if key not in kept]
    if missed:
        raise ValueError(
            f"the forward pass did not go through {missed[0]}. A fused kernel or a setting of the model "
            "bypasses the hook point: load the model with eager attention and its hook flags on."
        )
    return Recording(out, kept, every)


def keep(kept: dict[Any, Tensor], key: Any) -> Callable[..., Tensor]:
    """A hook that keeps its tensor and hands it on: a bridge uses what the hook returns, not what it got."""

    def hook(tensor: Tensor, hook: Any) -> Tensor:
        if torch.is_grad_enabled() and not tensor.requires_grad:
            tensor = tensor.detach().requires_grad_(True)
        kept[key] = tensor
        return tensor

    return hook


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
    """
    check_model(model)
    with autograd_on():
        with ruled(model, rules):
            recording = record(model, tokens, {name: name for name in hook_names}, embeddings=embeddings)
        value = metric_fn(recording.logits)
        slopes = recording.slopes(value.sum())
    activations = {name: tensor.detach() for name, tensor in recording.tensors.items()}
    return value.detach(), activations, slopes


def _leaf(embeddings: Tensor | None) -> Callable[..., Tensor]:
    def hook(tensor: Tensor, hook: Any) -> Tensor:
        given = tensor if embeddings is None else embeddings
        return given.detach().requires_grad_(True)

    return hook


def ruled(model: Model, rules: Rules | Method | str | None) -> AbstractContextManager[Any]:
    """The model under relevance rules, or as it is for None."""
    if rules is None:
        return nullcontext()
    return relevance_rules(model, rules)
