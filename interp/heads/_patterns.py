"""What heads attend to: patterns as a labelled array, and what uniform attention would be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from interp import results
from interp._verbs import verb
from interp.engine.trust import prove_sites
from interp.experiment import check_model
from interp.models import Anatomy, Model, anatomy, logits
from interp.places import hook_name

_ROWS = 8  # prompts at once


@verb
def attention(
    model: Model,
    tokens: Int[Tensor, "prompt pos"] | Int[Tensor, "pos"] | str,
    *,
    layer: int | Sequence[int] | None = None,
    batch_size: int | None = None,
) -> xr.Dataset:
    """Attention patterns of every head: `value` [prompt, layer, head, dst, src], each row summing to 1.

    tokens: a prompt as text, or token ids of equal length. layer: one, several, or all.
    Cost: one forward a prompt. Raises ValueError for a layer that is not there, ids outside the vocabulary,
    and a model whose pattern hooks are not in its path.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> patterns = interp.heads.attention(model, "When Mary and John went to the store", layer=0)
        >>> patterns["value"].dims, bool((patterns["value"].sum("src") - 1).max() < 1e-5)
        (('prompt', 'layer', 'head', 'dst', 'src'), True)
    """
    facts = anatomy(model)
    check_model(model, facts)
    rows = model.to_tokens(tokens) if isinstance(tokens, str) else torch.as_tensor(tokens)
    rows = rows[None] if rows.ndim == 1 else rows
    _check_tokens(rows, facts)
    layers = _layers(layer, facts)
    patterns = np.concatenate([each.cpu().numpy() for each in batches(model, rows, layers, batch_size)])
    positions = np.arange(rows.shape[1])
    coords: dict[str, Any] = {
        "prompt": np.arange(len(rows)),
        "layer": layers,
        "head": np.arange(facts.n_heads),
        "dst": positions,
        "src": positions,
        "head_name": head_names(layers, facts),
    }
    if model.tokenizer is not None:
        words = np.array([[model.tokenizer.decode([i]) for i in row] for row in rows.tolist()], dtype=object)
        coords |= {"dst_token": (("prompt", "dst"), words), "src_token": (("prompt", "src"), words)}
    attrs = results.provenance(
        method="attention", site="pattern", model=facts.name, n_prompts=len(rows),
        convention="value = attention from position dst to position src",
    )  # fmt: skip
    dims = ("prompt", "layer", "head", "dst", "src")
    return results.dataset({"value": (dims, patterns)}, coords, attrs)


def batches(
    model: Model, rows: Int[Tensor, "prompt pos"], layers: Sequence[int], batch_size: int | None
) -> Iterator[Float[Tensor, "prompt layer head dst src"]]:
    """Batches of patterns [prompt, layer, head, dst, src]."""
    rows = rows.to(anatomy(model).device)
    prove_sites(model, rows[:1], ("pattern",))
    with torch.inference_mode():
        for batch in rows.split(batch_size or _ROWS):
            kept: dict[int, Tensor] = {}
            hooks = [(hook_name("pattern", layer), partial(_keep, kept, layer)) for layer in layers]
            with model.hooks(fwd_hooks=hooks):
                logits(model, batch)
            yield torch.stack([kept[layer] for layer in layers], 1).double()


def _keep(kept: dict[int, Tensor], layer: int, tensor: Tensor, hook: Any) -> Tensor:
    kept[layer] = tensor.detach()
    return tensor


def uniform(facts: Anatomy, layer: int, n_pos: int) -> Float[np.ndarray, "dst src"]:
    """The pattern of a head that attends alike to all that it sees."""
    gap = np.arange(n_pos)[:, None] - np.arange(n_pos)
    seen = gap >= 0 if facts.causal else np.ones_like(gap, dtype=bool)
    if (window := facts.windows[layer]) is not None:
        seen &= gap < window
    return seen / seen.sum(1, keepdims=True)


def _layers(layer: int | Sequence[int] | None, facts: Anatomy) -> list[int]:
    layers = (
        list(range(facts.n_layers)) if layer is None else [layer] if isinstance(layer, int) else list(layer)
    )
    outside = [each for each in layers if not 0 <= each < facts.n_layers]
    if outside or not layers:
        raise ValueError(
            f"layer {outside or layers} is not there: the model has layers 0 to {facts.n_layers - 1}."
        )
    return layers


def _check_tokens(rows: Tensor, facts: Anatomy) -> None:
    if rows.ndim != 2 or not rows.numel():
        raise ValueError(
            f"tokens have shape {list(rows.shape)}; give [pos] or [prompt, pos] with a token at least."
        )
    if not 0 <= int(rows.min()) <= int(rows.max()) < facts.d_vocab:
        raise ValueError(
            f"token ids {int(rows.min())} to {int(rows.max())}: the vocabulary has 0 to {facts.d_vocab - 1}."
        )
    if rows.shape[1] > facts.n_ctx:
        raise ValueError(f"prompts have {rows.shape[1]} tokens, the model's context is {facts.n_ctx}.")


def head_names(layers: Sequence[int], facts: Anatomy) -> tuple[tuple[str, str], np.ndarray]:
    names = [[f"L{layer}H{head}" for head in range(facts.n_heads)] for layer in layers]
    return ("layer", "head"), np.array(names, dtype=object)
