"""Roles of heads where a prompt names positions: name movers, negative movers, inhibition.

With p[q, k] the attention at the position `end` (where the answer is read), and the positions io (the name
that is the answer), s1 and s2 (the two mentions of the other name):

| score        | formula                     | a head that looks at neither gives |
|--------------|-----------------------------|------------------------------------|
| `name_mover` | p[end, io] − p[end, s1]     | 0                                  |
| `inhibition` | p[end, s2]                  |                                    |
| `to_io`      | p[end, io]                  |                                    |
| `to_s1`      | p[end, s1]                  |                                    |

Copying (Wang et al.): the stream after layer 0 at io (before it, for heads of layer 0), through the head's
norm, W_V, W_O, the final norm and the unembedding: does the token rank among the five highest? With the sign
turned, does the head suppress it? A random head does either on 5 of V tokens.

A role is attention × sign of copying × direct effect, never one of them: on SmolLM2 the head with the largest
direct effect looks at s2 and copies negatively. And a role is a signature; what the head does to the queries
of name movers is for `interp.path_patch` to say.

Wang et al. 2022 (2211.00593); McDougall et al. 2023 on negative heads (2310.04625).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp import attribution, results
from interp._activations import activations
from interp._verbs import verb
from interp.engine import block as B
from interp.experiment import check_model, check_task
from interp.heads import _patterns
from interp.heads._composition import readable_weights
from interp.heads._patterns import head_names
from interp.models import Anatomy, Model, anatomy
from interp.models.parts import Block, Weights
from interp.positions import AnyPositions, weights
from interp.prompts import Prompts, read
from interp.tasks import Task

ROLES = ("name_mover", "inhibition", "to_io", "to_s1")
TOP = 5
_AT_ONCE = 16  # prompts whose logits over the vocabulary are held at once, a layer's heads each


@verb
def roles(
    model: Model,
    task: Task,
    *,
    io: AnyPositions = "io",
    s1: AnyPositions = "s1",
    s2: AnyPositions = "s2",
    end: AnyPositions = "end",
    batch_size: int | None = None,
) -> xr.Dataset:
    """What each head looks at from the end of the clean prompts, and what it does with what it finds there.

    io, s1, s2, end: positions (see `interp.positions`): names of the task's spans, indices, functions. Of
        several positions attention is added up; `end` is one, and the token that is copied is the first of
        io.

    Returns a Dataset: `value` [prompt, score, layer, head], the table above; `copies` and `suppresses`
    [prompt, layer, head], 1 or 0; `direct` [prompt, layer, head], the head's direct effect on the logit
    difference in logits, NaN for tasks that have none (the attribute `direct` says why). Intervals are those
    of `stats.bootstrap`. `chance`: the share of tokens that a random head copies.
    Cost: three forwards a prompt. Raises ValueError for positions that a prompt does not have, and for models
    whose weights cannot be read.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> found = interp.heads.roles(model, interp.tasks.ioi(model, n=4))
        >>> found["value"].dims
        ('prompt', 'score', 'layer', 'head')
    """
    facts = anatomy(model)
    check_model(model, facts)
    check_task(task, facts, model)
    parts, prompts = readable_weights(model), read(model, task)
    given = {"io": io, "s1": s1, "s2": s2, "end": end}
    masks = {name: weights(where, prompts) > 0 for name, where in given.items()}
    if bool((masks["end"].sum(1) != 1).any()):
        raise ValueError("end must be one position of each prompt: the one where the answer is read.")
    looks = _looks(model, facts, prompts.tokens, masks, batch_size)
    copies, suppresses = _copies(model, parts, prompts, masks["io"])
    attrs = results.provenance(
        method="head roles", site="pattern", model=facts.name, n_prompts=len(task), task=task.name,
        task_fingerprint=task.fingerprint(), seed=-1 if task.seed is None else task.seed,
        unit="share of attention",
        convention="value = attention from the end of the clean prompt to the named positions",
        data="task", chance=TOP / facts.d_vocab_out,
        positions=", ".join(f"{name} {where}" for name, where in given.items()),
    )  # fmt: skip
    direct = _direct(model, facts, task, attrs, batch_size)
    by_head = ("prompt", "layer", "head")
    variables: dict[str, Any] = {"value": (("prompt", "score", "layer", "head"), looks)}
    for name, column in (("copies", copies), ("suppresses", suppresses), ("direct", direct)):
        variables[name] = (by_head, column)
    coords = {"score": list(ROLES), "layer": np.arange(facts.n_layers), "head": np.arange(facts.n_heads)}
    coords["head_name"] = head_names(range(facts.n_layers), facts)
    return results.dataset(variables, coords, attrs, task)


def _looks(
    model: Model,
    facts: Anatomy,
    tokens: Int[Tensor, "prompt pos"],
    masks: dict[str, Bool[Tensor, "prompt pos"]],
    batch_size: int | None,
) -> Float[np.ndarray, "prompt score layer head"]:
    ends, out, start = masks["end"].int().argmax(1), [], 0
    for patterns in _patterns.batches(model, tokens, range(facts.n_layers), batch_size):
        rows = slice(start, start + len(patterns))
        start = rows.stop
        seen = patterns[torch.arange(len(patterns)), :, :, ends[rows]]  # [prompt, layer, head, src]
        io, s1, s2 = (
            torch.einsum("plhk,pk->plh", seen, masks[name][rows].to(seen)) for name in ("io", "s1", "s2")
        )
        out.append(torch.stack((io - s1, s2, io, s1), 1).cpu().numpy())
    return np.concatenate(out)


def _copies(
    model: Model, parts: Weights, prompts: Prompts, io: Bool[Tensor, "prompt pos"]
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each head raises, and whether it lowers, the token at io to the top: [prompt, layer, head]."""
    at = io.int().argmax(1)
    own = prompts.tokens[torch.arange(len(prompts)), at]
    places = ["L0.resid_pre", "L0.resid_post"]
    streams = list(activations(model, prompts, places, pos=lambda ids, lengths: at).values())
    ranks = []
    with torch.inference_mode():
        for layer, block in enumerate(parts.blocks):
            x = B.normed(block.attn_norm, streams[min(layer, 1)].to(parts.W_E.dtype))
            batches = zip(x.split(_AT_ONCE), own.split(_AT_ONCE))
            ranks.append(torch.cat([_ranks(parts, block, rows, ids) for rows, ids in batches], 1))
    copies, suppresses = (torch.stack(ranks, -1) < TOP).double().cpu().numpy()  # [prompt, head, layer]
    return copies.transpose(0, 2, 1), suppresses.transpose(0, 2, 1)


def _ranks(
    parts: Weights, block: Block, x: Float[Tensor, "prompt d_model"], own: Int[Tensor, "prompt"]
) -> Int[Tensor, "sign prompt head"]:
    """How many tokens stand above the prompt's own in what each head writes, and in its negative.

    The final norm and the unembedding are linear in the sign but for what they add of themselves (`at_zero`),
    so that one product gives both.
    """
    attn = block.attn
    v = B.value(attn, B.project(attn.W_V, attn.b_V, x))  # [prompt, kv head, d_head]
    v = v.repeat_interleave(attn.W_O.shape[0] // v.shape[1], 1)
    write = B.normed(block.attn_out_norm, torch.einsum("phd,hdm->phm", v, attn.W_O))
    logits, at_zero = _uncapped(parts, write), 2 * _uncapped(parts, torch.zeros_like(write[:1, :1]))
    at = own[:, None, None].expand(-1, logits.shape[1], 1)
    above = (logits > logits.gather(-1, at)).sum(-1)
    logits = logits - at_zero
    return torch.stack([above, (logits < logits.gather(-1, at)).sum(-1)])


def _uncapped(parts: Weights, write: Float[Tensor, "prompt head d_model"]) -> Tensor:
    """Logits before a cap, which leaves ranks: [prompt, head, token]."""
    out = B.normed(parts.final_norm, write.flatten(0, 1)) @ parts.W_U
    return (out if parts.b_U is None else out + parts.b_U).unflatten(0, write.shape[:2])


def _direct(
    model: Model, facts: Anatomy, task: Task, attrs: dict, batch_size: int | None
) -> Float[np.ndarray, "prompt layer head"]:
    try:
        shares = attribution.direct(model, task, batch_size=batch_size)
    except ValueError as error:
        attrs["direct"] = f"not measured: {error}"
        return np.full((len(task), facts.n_layers, facts.n_heads), np.nan)
    by_head = shares["value"].values[:, shares["head"].values >= 0]
    return by_head.reshape(len(task), facts.n_layers, facts.n_heads)
