"""What the page knows of a head: where it attends, where its effect sits, and which tokens it writes.

1. Attention of the clean and the corrupt prompts (`interp.heads.attention`), for all heads at once.
2. "value": attention times the norm of what the head writes of a source, ‖v_src W_O‖ (Kobayashi et al.
   2004.10102): a head may attend to a token and move nothing of it. "difference": clean minus corrupt.
3. Effects by position: exact where a result has layers, positions and heads; else estimated by attribution
   patching (AtP), and called an estimate.
4. Top tokens: the head's write where the answer is read, through the final norm with the scale that it has
   there, and the unembedding: what it adds to each logit by the direct path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp import attribution, heads, patching
from interp.attribution._direct import FrozenNorm
from interp.engine.trust import prove_readout, prove_sites
from interp.live._arrays import Packed, pack
from interp.live._maps import Map
from interp.models import Anatomy, Model, anatomy, attentions, final_norm, logits
from interp.models.parts import Attention
from interp.places import hook_name
from interp.plot import _words as words
from interp.plot._theme import visible
from interp.prompts import Prompts, read
from interp.stats._means import metric_facts
from interp.tasks import METRICS, Task, vocabulary

WEIGHTINGS = ("plain", "value", "difference")
TOP = 6  # tokens that are written most, and least
_ROWS = 8  # prompts at once


@dataclass(frozen=True, eq=False)
class Heads:
    """The heads of a model on the prompts of a page; each part is computed at its first use, once."""

    model: Model
    task: Task  # its prompts are those whose attention is shown

    @cached_property
    def facts(self) -> Anatomy:
        return anatomy(self.model)

    @cached_property
    def clean(self) -> Float[np.ndarray, "prompt layer head dst src"]:
        return patterns(self.model, self.task)

    @cached_property
    def corrupt(self) -> Float[np.ndarray, "prompt layer head dst src"]:
        return patterns(self.model, _corrupt(self.task))

    @cached_property
    def norms(self) -> Float[np.ndarray, "prompt layer head src"]:
        return value_norms(self.model, self.task.clean)

    def weightings(self) -> dict[str, str | None]:
        """The weightings, each with why it cannot be had, or None."""
        why = None
        try:
            attentions(self.model)
        except ValueError as error:
            why = str(error)
        lacking = None if self.task.has_corrupt else "the task has no corrupt prompts"
        return {"plain": None, "value": why, "difference": lacking}

    def attention(self, layer: int, head: int, weighting: str) -> dict[str, Any]:
        """The matrix [prompt, dst, src] of a head."""
        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting is {weighting!r}; use {', '.join(WEIGHTINGS)}.")
        if why := self.weightings()[weighting]:
            raise ValueError(f"attention weighted by {weighting} cannot be shown: {why}.")
        values = self.clean[:, layer, head]
        if weighting == "value":
            values = values * self.norms[:, layer, head, None, :]
        if weighting == "difference":
            values = values - self.corrupt[:, layer, head]
        return {"matrix": pack(np.nan_to_num(values), "u1", by="prompt", lower=self.facts.causal)}

    def attention_of(self, text: str, layer: int, head: int, weighting: str) -> dict[str, Any]:
        """The matrix [dst, src] of a head on a new text, and its tokens. One forward, or two."""
        if weighting == "difference":
            raise ValueError("a text of your own has no corrupt prompt, so there is no difference to show.")
        rows = read(self.model, text)
        values = patterns(self.model, rows)[0, layer, head]
        if weighting == "value":
            values = values * value_norms(self.model, rows.tokens)[0, layer, head]
        words = [word(self.model, token) for token in rows.tokens[0].tolist()]
        return {"matrix": pack(values, "f4"), "tokens": words}

    @cached_property
    def tokens(self) -> list[list[list[dict[str, Any]]]] | str:
        """By layer, head and prompt the tokens written most and least; a sentence where there are none."""
        try:
            return top_tokens(self.model, self.task)
        except ValueError as error:
            return str(error)


def _corrupt(task: Task) -> Prompts:
    return Prompts(task.corrupt, task.lengths)


def patterns(model: Model, prompts: Any) -> Float[np.ndarray, "prompt layer head dst src"]:
    """Attention of every head, float32; NaN where a prompt has no such position."""
    return heads.attention(model, prompts)["value"].values.astype(np.float32)


def value_norms(model: Model, tokens: Tensor) -> Float[np.ndarray, "prompt layer head src"]:
    """‖v W_O‖ of every head at every position, by the Gram matrix of W_O."""
    prove_sites(model, tokens[:1], ("v",))
    attns, kept = attentions(model), {}
    out = []
    with torch.inference_mode():
        for batch in tokens.split(_ROWS):
            hooks = [(hook_name("v", layer), partial(_keep, kept, layer)) for layer in range(len(attns))]
            with model.hooks(fwd_hooks=hooks):
                logits(model, batch)
            out.append(torch.stack([_norms(attn, kept[layer]) for layer, attn in enumerate(attns)], 1))
    return torch.cat(out).cpu().numpy().astype(np.float32)


def _norms(attn: Attention, v: Float[Tensor, "prompt pos kv d_head"]) -> Float[Tensor, "prompt head pos"]:
    W_O = attn.W_O.detach().float()  # [head, d_head, d_model]
    wide = v.float().repeat_interleave(len(W_O) // v.shape[2], 2)
    square = torch.einsum("pshd,hde,pshe->phs", wide, W_O @ W_O.transpose(-1, -2), wide)
    return square.clamp(min=0).sqrt()


def _keep(kept: dict[Any, Tensor], key: Any, tensor: Tensor, hook: Any) -> Tensor:
    kept[key] = tensor.detach()
    return tensor


def top_tokens(model: Model, task: Task) -> list[list[list[dict[str, Any]]]]:
    """[layer][head][prompt] → {"up": [[token, logits], ...], "down": ...}.

    Cost: a forward a prompt, and a product with the unembedding for every head and prompt. Raises ValueError
    where the final norm and the unembedding, as they are read, do not give the model's logits.
    """
    prove_readout(model)
    attns, last = attentions(model), anatomy(model).n_layers - 1
    places = [*(("z", layer) for layer in range(last + 1)), ("resid_post", last)]
    with torch.inference_mode():
        kept = _where_read(model, task, places)
        read = FrozenNorm(final_norm(model), kept["resid_post", last])
        W_U = model.W_U.detach().float()
        return [_layer_tokens(model, read, attn, kept["z", layer], W_U) for layer, attn in enumerate(attns)]


def _layer_tokens(
    model: Model, read: Any, attn: Attention, z: Float[Tensor, "prompt head d_head"], W_U: Tensor
) -> list[list[dict[str, Any]]]:
    """[head][prompt] of a layer."""
    by_head = []
    for head, W_O in enumerate(attn.W_O.detach()):
        written = read(z[:, head].float() @ W_O.float()).float() @ W_U  # [prompt, vocab]
        ends = {"up": written.topk(TOP), "down": (-written).topk(TOP)}
        by_head.append([_named(model, ends, prompt) for prompt in range(len(z))])
    return by_head


def _named(model: Model, ends: dict[str, Any], prompt: int) -> dict[str, Any]:
    out = {}
    for way, found in ends.items():
        sign = 1 if way == "up" else -1
        pairs = zip(found.indices[prompt].tolist(), found.values[prompt].tolist())
        out[way] = [[word(model, token), round(sign * value, 3)] for token, value in pairs]
    return out


def word(model: Model, token: int) -> str:
    """A token as the page shows it."""
    return visible(vocabulary.decode(model, [token])) if vocabulary.has_tokenizer(model) else str(token)


def _where_read(model: Model, task: Task, places: Sequence[tuple[str, int]]) -> dict[Any, Tensor]:
    """Activations [prompt, ...] at the last position that is read of each prompt, by place."""
    batches: dict[Any, list[Tensor]] = {place: [] for place in places}
    for tokens, at in zip(task.clean.split(_ROWS), task.last_position.split(_ROWS)):
        kept: dict[Any, Tensor] = {}
        hooks = [(hook_name(*place), partial(_keep, kept, place)) for place in places]
        with model.hooks(fwd_hooks=hooks):
            logits(model, tokens)
        for place in places:
            batches[place].append(kept[place][torch.arange(len(at), device=at.device), at].clone())
    return {place: torch.cat(parts) for place, parts in batches.items()}


def by_position(maps: Sequence[Map], model: Model, task: Task) -> list[tuple[str, xr.Dataset]]:
    """Effects by layer, position and head: those among the results, or else an estimate of them."""
    exact = [each.result for each in maps if each.heads_by_position() is not None]
    if exact:
        return [(words.method(result), result) for result in exact]
    if not task.has_corrupt:
        raise ValueError("effects by position need corrupt prompts, or a result with layer, pos and head.")
    like = next((each.result for each in maps if each.across == "head" and each.by_prompt), None)
    direction = None if like is None else str(like.attrs["direction"])
    options: dict[str, Any] = {"direction": direction if direction in ("denoise", "noise") else None}
    options["metric"] = None if like is None else _known_metrics(like)
    estimate = attribution.attribute(
        model, task, "z", by=("layer", "pos", "head"), method="atp", progress=False, **options
    )
    return [(words.method(estimate), estimate)]


def exact_row(
    model: Model, task: Task, layer: int, head: int, like: tuple[str, str | None]
) -> dict[str, Any]:
    """Exact effects of a head at every position of one prompt. like: metric and direction."""
    metric, direction = like
    if metric not in METRICS and metric != task.metric.name:
        raise ValueError(f"{metric} is a metric of your own, which a page cannot measure by its name.")
    cells = [f"L{layer}H{head}@{pos}" for pos in range(int(task.lengths[0]))]
    chosen = None if metric == task.metric.name else metric
    result = patching.patch(model, task, cells=cells, direction=direction, metric=chosen, progress=False)
    facts = metric_facts(result)[0]
    effects = pack(result["value"].values[0], "f4")
    return {
        "source": words.method(result), "site": "z", "metric": facts.name, "unit": facts.unit,
        "value": effects,
    }  # fmt: skip


def _known_metrics(result: xr.Dataset) -> list[str] | None:
    """The metrics of a result that a name says whole and that have a gradient; None where there is none."""
    names = [facts.name for facts in metric_facts(result)]
    smooth = [name for name in names if name in METRICS and METRICS[name].differentiable]
    return [name for name in smooth if not METRICS[name].flat_at_clean] or None


def position_rows(sources: Sequence[tuple[str, xr.Dataset]], layer: int, head: int) -> list[dict[str, Any]]:
    """Effects of a head by position [prompt, pos], by metric."""
    rows = []
    for method, result in sources:
        for number, facts in enumerate(metric_facts(result)):
            value = result["value"].isel(metric=number) if "metric" in result.dims else result["value"]
            one = value.sel(layer=layer, head=head).transpose("prompt", "pos").values
            packed: Packed = pack(one, "f2", by="prompt")
            names = {"source": method, "site": str(result.attrs["site"]), "metric": facts.name}
            rows.append({**names, "unit": facts.unit, "value": packed})
    return rows
