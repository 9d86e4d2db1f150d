"""Experts of a mixture switched off or on (MoTE, fTRI; derived from their abstracts).

1. The routing weight of an expert on a prompt: its mean over tokens, 0 where it is not chosen.
2. value = mean over positive prompts - mean over negative ones; the n highest experts carry the class.
3. Off: the gate's logit is minus infinity, before experts are chosen: another takes the place, and weights
   are normalised again. Forced: the logit is the highest of the token's, so that the expert is always chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp import results
from interp._verbs import verb
from interp.models import Anatomy, Model, anatomy, changed_gates, expert_points, experts_per_token, logits
from interp.places import Place, hook_name, parse
from interp.prompts import Prompts, read_classes

_ROWS = 16  # prompts at once


@verb
def expert_scores(
    model: Model, positive: Any, negative: Any, *, seed: int = 0, batch_size: int | None = None
) -> xr.Dataset:
    """How much more weight the router gives each expert on positive than on negative prompts.

    Returns `value` [layer, expert], the difference of mean routing weights, `positive` and `negative`, the
    means (0 to 1), and `shuffled`, the difference after the labels were shuffled, a control. NaN in layers
    without experts. `top_experts(result, n)` names the highest. Raises ValueError, before any pass, for a
    model without experts. Cost: one forward a prompt, with every expert on every token.

    Example:
        >>> from interp.steering import methods
        >>> try:
        ...     methods.expert_scores(interp.load("tiny-ioi"), "Mary gave", "John gave")
        ... except ValueError as error:
        ...     print(str(error)[:39])
        tiny-ioi has no experts, so it has no r
    """
    facts = _mixture(model)
    sides = read_classes(model, positive, negative)
    weights = [
        _weights(model, facts, side, batch_size or _ROWS) for side in sides
    ]  # each [prompt, layer, expert]
    both = np.concatenate(weights)
    order = np.random.default_rng(seed).permutation(len(both))
    up, down = (each.mean(0) for each in weights)
    first = len(weights[0])
    shuffled = both[order[:first]].mean(0) - both[order[first:]].mean(0)
    dims = ("layer", "expert")
    variables: dict[str, Any] = {
        "value": (dims, up - down), "positive": (dims, up), "negative": (dims, down),
        "shuffled": (dims, shuffled)
    }  # fmt: skip
    attrs = results.provenance(
        method="expert_scores", site="router", model=facts.name, n_prompts=len(both), seed=seed,
        convention="value = mean routing weight on positive - on negative prompts",
    )  # fmt: skip
    coords = {"layer": np.arange(facts.n_layers), "expert": np.arange(facts.n_experts)}
    return results.dataset(variables, coords, attrs)


@verb
def top_experts(result: xr.Dataset, n: int = 1, *, least: bool = False) -> list[str]:
    """The n experts with the highest value of `expert_scores` (least: the lowest), by name, as in "L1E3".

    Example:
        >>> import numpy as np
        >>> import xarray as xr
        >>> scores = xr.Dataset({"value": (("layer", "expert"), np.array([[0.1, 0.4], [0.3, np.nan]]))})
        >>> interp.steering.methods.top_experts(scores, 2)
        ['L0E1', 'L1E0']
    """
    if "value" not in result or set(result["value"].dims) != {"layer", "expert"}:
        raise ValueError("this is not the result of expert_scores; it has no value by layer and expert.")
    values = result["value"].transpose("layer", "expert").values * (-1 if least else 1)
    known = int(np.isfinite(values).sum())
    if not 1 <= n <= known:
        raise ValueError(f"n is {n}; there are {known} experts.")
    order = np.argsort(-np.nan_to_num(values, nan=-np.inf).ravel(), kind="stable")[:n]
    return [f"L{each // values.shape[1]}E{each % values.shape[1]}" for each in order.tolist()]


@verb
@contextmanager
def switch_experts(
    model: Model, *, off: Sequence[str | Place] = (), forced: Sequence[str | Place] = ()
) -> Iterator[Model]:
    """Experts that are never chosen (off), or always (forced), on every pass inside the block.

        with methods.switch_experts(model, off=["L1E3"]):
            logits = model(tokens)

    The model is left as found. Raises ValueError, before any pass, for names that are no experts, one that is
    named twice, a layer of which fewer experts would be left than a token needs. Cost: nothing.

    Example:
        >>> from interp.steering import methods
        >>> try:
        ...     with methods.switch_experts(interp.load("tiny-ioi"), off=["L1E3"]):
        ...         pass
        ... except ValueError as error:
        ...     print(str(error)[:39])
        tiny-ioi has no experts, so it has no r
    """
    facts = _mixture(model)
    kinds: dict[int, dict[str, list[int]]] = {}
    for kind, names in (("off", off), ("forced", forced)):
        for where in (_place(each, facts) for each in names):
            if where.expert is None:
                raise ValueError(f"{str(where)!r} is no expert; name experts, as in 'L1E3'.")
            by_kind = kinds.setdefault(where.layer or 0, {"off": [], "forced": []})
            if where.expert in (*by_kind["off"], *by_kind["forced"]):
                raise ValueError(f"{where} is named twice.")
            by_kind[kind].append(where.expert)
    needs = experts_per_token(model)
    for layer, by_kind in kinds.items():
        left = facts.n_experts - len(by_kind["off"])
        if left < needs or len(by_kind["forced"]) > needs:
            raise ValueError(
                f"layer {layer} has {facts.n_experts} experts, of which a token needs {needs}: at most "
                f"{facts.n_experts - needs} can be off and {needs} forced."
            )
    with changed_gates(model, {layer: partial(_switched, **by_kind) for layer, by_kind in kinds.items()}):
        yield model


def _place(name: str | Place, facts: Anatomy) -> Place:
    sizes = {"n_layers": facts.n_layers, "n_heads": facts.n_heads, "n_experts": facts.n_experts}
    where = name.check(**sizes) if isinstance(name, Place) else parse(name, **sizes)
    if where.expert is not None and not facts.experts[where.layer or 0]:
        raise ValueError(f"{where}: layer {where.layer} has no experts.")
    return where


def _switched(gate: Tensor, off: list[int], forced: list[int]) -> Tensor:
    """Logits [token, expert] with some at minus infinity, some at the token's highest."""
    out = gate.clone()
    out[..., off] = -torch.inf
    if forced:
        top = out.amax(-1, keepdim=True)  # and above it by what the dtype can tell apart
        out[..., forced] = top + (2 * torch.finfo(out.dtype).eps * top.abs()).clamp(min=1e-4)
    return out


def _mixture(model: Model) -> Anatomy:
    facts = anatomy(model)
    if not facts.n_experts:
        raise ValueError(f"{facts.name} has no experts, so it has no routing. Give a mixture of experts.")
    return facts


@torch.no_grad()
def _weights(model: Model, facts: Anatomy, rows: Prompts, size: int) -> np.ndarray:
    """Mean routing weight over a prompt's tokens [prompt, layer, expert]; NaN in layers without experts."""
    out = np.full((len(rows), facts.n_layers, facts.n_experts), np.nan)
    layers = [layer for layer in range(facts.n_layers) if facts.experts[layer]]
    for index, batch in rows.batches(size, padded=facts.causal):
        real, at = batch.real[..., None], index.cpu().numpy()

        def keep(tensor: Tensor, hook: Any, layer: int, real: Tensor = real, at: Any = at) -> Tensor:
            shares = tensor.double().masked_fill(~real, 0.0).sum(1) / real.sum(1)
            out[at, layer] = shares.cpu().numpy()
            return tensor

        points: list[tuple[str, Callable[..., Tensor]]] = [
            (hook_name("router", layer), partial(keep, layer=layer)) for layer in layers
        ]
        with expert_points(model, ("router",)), model.hooks(fwd_hooks=points):
            logits(model, batch.tokens)
    return out
