"""What heads attend to: patterns as a labelled array, and what uniform attention would be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp import results
from interp._verbs import verb
from interp.engine.trust import prove_sites, require_weights
from interp.experiment import check_model
from interp.models import Anatomy, Model, anatomy, logits
from interp.places import hook_name
from interp.positions import AnyPositions, weights
from interp.prompts import Prompts, read
from interp.tasks import vocabulary
from interp.tasks._spans import named

_ROWS = 8  # prompts at once
_WEIGHTINGS = {"plain": "share of attention", "value": "share of attention × norm of what is written"}


@verb
def attention(
    model: Model,
    prompts: Any,
    *,
    by: str = "pos",
    layer: int | Sequence[int] | None = None,
    dst: AnyPositions | Sequence[AnyPositions] = "all",
    src: AnyPositions | Sequence[AnyPositions] = "all",
    weighting: str = "plain",
    batch_size: int | None = None,
) -> xr.Dataset:
    """Attention of every head: `value` [prompt, layer, head, dst, src].

    prompts: texts, token ids, messages or a task (see `interp.prompts`), of several lengths if need be.
    by: "pos", or "span": from named span to named span of a task (all of them, or the names in dst and src),
        so that prompts of different templates and lengths line up; the mean over a span's queries of the sum
        over a span's keys, NaN where a prompt has not both. Spans may overlap, and leave positions out.
    layer: one, several, or all.
    dst, src: "all" keeps each position, and each row adds up to 1; NaN where a prompt has no such position.
        Else positions of `interp.positions`, such as the name of a span, or a list of them: one entry each,
        the mean over its queries and the sum over its keys ("from the end to each of both names").
    weighting: "plain", or "value": each share times the norm of what the head would write of that token,
        ‖v W_O‖ (Kobayashi et al. 2004.10102). A token that is attended to and has a small vector, such as the
        first one, moves little.

    Cost: one forward a prompt. Raises ValueError for a layer that is not there, prompts that cannot be read,
    positions that a prompt does not have, and a model whose pattern hooks are not in its path; with
    "value" also one whose weights cannot be read.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> patterns = interp.heads.attention(model, "When Mary and John went to the store", layer=0)
        >>> patterns["value"].dims, bool((patterns["value"].sum("src") - 1).max() < 1e-5)
        (('prompt', 'layer', 'head', 'dst', 'src'), True)
        >>> task = interp.tasks.ioi(model, n=4)
        >>> interp.heads.attention(model, task, dst="end", src=["io", "s1", "s2"])["value"].shape
        (4, 3, 4, 1, 3)
        >>> list(interp.heads.attention(model, task, by="span")["src"].values)
        ['io', 's1', 's2', 's1+1', 'end']
    """
    facts = anatomy(model)
    check_model(model, facts)
    data = read(model, prompts)
    facts.require_one_batch(data.lengths)
    if weighting not in _WEIGHTINGS:
        raise ValueError(f"weighting is {weighting!r}; it must be {' or '.join(map(repr, _WEIGHTINGS))}.")
    layers, n = _layers(layer, facts), len(data)
    if by not in ("pos", "span"):
        raise ValueError(f"by is {by!r}; it must be 'pos' or 'span'.")
    make = _Ends.spans if by == "span" else _Ends.of
    ends = {"dst": make(dst, data, mean=True), "src": make(src, data, mean=False)}
    outputs = _outputs(model, data, layers) if weighting == "value" else None
    parts = []
    for patterns in batches(model, data.tokens, layers, batch_size, outputs):
        rows = slice(sum(map(len, parts)), sum(map(len, parts)) + len(patterns))
        seen = ends["dst"].over(patterns.transpose(-1, -2), rows).transpose(-1, -2)
        parts.append(ends["src"].over(seen, rows).cpu().numpy())
    coords: dict[str, Any] = {"prompt": np.arange(n), "layer": layers, "head": np.arange(facts.n_heads)}
    coords["head_name"] = head_names(layers, facts)
    for dim, end in ends.items():
        coords[dim] = end.names
        if end.masks is None and model.tokenizer is not None:
            coords[f"{dim}_token"] = (("prompt", dim), _words(model, data))
    attrs = results.provenance(
        method="attention", site="pattern", model=facts.name, n_prompts=n,
        unit=_WEIGHTINGS[weighting], weighting=weighting,
        convention="value = attention from position dst to position src",
    )  # fmt: skip
    dims = ("prompt", "layer", "head", "dst", "src")
    return results.dataset({"value": (dims, np.concatenate(parts))}, coords, attrs)


@dataclass(frozen=True, eq=False)
class _Ends:
    """One end of attention: every position, or sets of positions with names."""

    names: np.ndarray
    real: Bool[Tensor, "prompt pos"]
    masks: Bool[Tensor, "prompt entry pos"] | None  # None: every position
    mean: bool

    @classmethod
    def of(cls, given: Any, data: Prompts, mean: bool) -> _Ends:
        if isinstance(given, str) and given == "all":
            return cls(np.arange(data.tokens.shape[1]), data.real, None, mean)
        listed = list(given) if isinstance(given, list) else [given]
        if not listed:
            raise ValueError("no positions are given; name one, or leave it out for all.")
        masks = torch.stack([weights(each, data) > 0 for each in listed], 1)
        return cls(np.array([str(each) for each in listed], dtype=object), data.real, masks, mean)

    @classmethod
    def spans(cls, given: Any, data: Prompts, mean: bool) -> _Ends:
        """Named positions, which a prompt may lack."""
        if not data.spans:
            raise ValueError(
                "by is 'span', and the prompts have no named positions. Give a task of a family, or one with "
                "spans=; or by='pos'."
            )
        listed = list(data.spans) if given == "all" else [given] if isinstance(given, str) else list(given)
        if not listed:
            raise ValueError("no spans are given; name one, or leave it out for all.")
        masks = (
            torch.stack([named(data.spans, each) for each in listed], 1).to(data.real.device)
            & data.real[:, None]
        )
        return cls(np.array(listed, dtype=object), data.real, masks, mean)

    def over(self, patterns: Float[Tensor, "prompt layer head other pos"], rows: slice) -> Tensor:
        """The last axis as entries; NaN at positions and spans that a prompt does not have."""
        if self.masks is None:
            return torch.where(self.real[rows][:, None, None, None], patterns, torch.nan)
        counted = self.masks[rows].to(patterns)
        n = counted.sum(-1)[:, None, None, None]  # positions of each entry
        absent = patterns.isnan().all(-1, keepdim=True)  # of the other end
        out = torch.einsum("plhok,pek->plhoe", patterns.nan_to_num(), counted) / (n if self.mean else 1)
        return torch.where((n > 0) & ~absent, out, torch.nan)


def _words(model: Model, data: Prompts) -> np.ndarray:
    """The token at each position of each prompt, "" beyond its end."""
    rows = zip(data.tokens.tolist(), data.lengths.tolist())
    texts = [
        [vocabulary.decode(model, [i]) if pos < length else "" for pos, i in enumerate(row)]
        for row, length in rows
    ]
    return np.array(texts, dtype=object)


def batches(
    model: Model,
    rows: Int[Tensor, "prompt pos"],
    layers: Sequence[int],
    batch_size: int | None,
    outputs: Sequence[Float[Tensor, "head d_head d_model"]] | None = None,
) -> Iterator[Float[Tensor, "prompt layer head dst src"]]:
    """Batches of patterns [prompt, layer, head, dst, src].

    outputs: W_O of each of the layers, for shares times the norm of what is written of each source.
    """
    rows = rows.to(anatomy(model).device)
    sites = ("pattern",) if outputs is None else ("pattern", "v")
    if not _weigh_the_values(model, rows[:1]):
        prove_sites(model, rows[:1], sites)
    with torch.inference_mode():
        for batch in rows.split(batch_size or _ROWS):
            kept: dict[tuple[str, int], Tensor] = {}
            places = [(site, layer) for site in sites for layer in layers]
            hooks = [(hook_name(*place), partial(_keep, kept, place, rows.device)) for place in places]
            with model.hooks(fwd_hooks=hooks):
                logits(model, batch)
            patterns = torch.stack([kept["pattern", layer] for layer in layers], 1).double()
            if outputs is not None:
                norms = [_norms(kept["v", layer], W_O) for layer, W_O in zip(layers, outputs)]
                patterns = patterns * torch.stack(norms, 1)[..., None, :]
            yield patterns


def _weigh_the_values(model: Model, rows: Int[Tensor, "1 pos"]) -> bool:
    """Whether the patterns that are read are those that attention went by: z is the sum of the values that
    they weigh, at every layer.

    So they can be read where a change of them is thrown away (bridges of GPT-J, GPT-Neo, OPT). Cost: one
    forward.
    """
    facts = anatomy(model)
    kept: dict[tuple[str, int], Tensor] = {}
    places = [(site, layer) for site in ("pattern", "v", "z") for layer in range(facts.n_layers)]
    if any(hook_name(*place) not in model.hook_dict for place in places):
        return False
    hooks = [(hook_name(*place), partial(_keep, kept, place, rows.device)) for place in places]
    with torch.inference_mode(), model.hooks(fwd_hooks=hooks):
        logits(model, rows)
    return len(kept) == len(places) and all(_gives_z(kept, layer) for layer in range(facts.n_layers))


def _gives_z(kept: dict[tuple[str, int], Tensor], layer: int) -> bool:
    pattern, v, z = (kept[site, layer] for site in ("pattern", "v", "z"))
    if pattern.ndim != 4 or v.ndim != 4 or pattern.shape[1] % v.shape[2]:
        return False
    values = v.double().repeat_interleave(pattern.shape[1] // v.shape[2], 2)  # (b, src, h, d)
    made = torch.einsum("bhqk,bkhd->bqhd", pattern.double(), values)
    within = 1e-4 if z.dtype.itemsize > 2 else 8 * torch.finfo(z.dtype).eps
    return made.shape == z.shape and bool((made - z).abs().max() <= within * made.abs().max())


def _keep(
    kept: dict[tuple[str, int], Tensor],
    place: tuple[str, int],
    device: torch.device,
    tensor: Tensor,
    hook: Any,
) -> Tensor:
    kept[place] = tensor.detach().to(device)
    return tensor


def _outputs(model: Model, data: Prompts, layers: Sequence[int]) -> list[Tensor]:
    """W_O of each layer."""
    rows = data.tokens.to(anatomy(model).device)
    weights = require_weights(model, rows, data.lengths, sites=("v",), what="attention weighted by values")
    return [weights.blocks[layer].attn.W_O for layer in layers]


def _norms(
    values: Float[Tensor, "prompt pos kv_head d_head"], W_O: Float[Tensor, "head d_head d_model"]
) -> Float[Tensor, "prompt head pos"]:
    """The norm of what each head writes of each position that it attends to alone."""
    vectors = values.double().repeat_interleave(len(W_O) // values.shape[2], 2)
    return torch.einsum("pshd,hdm->pshm", vectors, W_O.double()).norm(dim=-1).transpose(1, 2)


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


def head_names(layers: Sequence[int], facts: Anatomy) -> tuple[tuple[str, str], np.ndarray]:
    names = [[f"L{layer}H{head}" for head in range(facts.n_heads)] for layer in layers]
    return ("layer", "head"), np.array(names, dtype=object)
