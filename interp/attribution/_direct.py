"""Direct logit attribution: what every component writes straight into the logit difference.

1. Run the prompts; keep at the position of the answer what every component writes to the stream.
2. Freeze the scale of the final norm at its value in this run. The norm is then linear, and so is the way
   from the stream to the logits.
3. Each component's write times that map is its share. Shares and biases add up to the logit difference.

This is the relevance of the final stream with its norm frozen (the LN-rule): the special case of relevance
that is an identity and not an estimate. It sees the direct path only, not what later components make of a
write.

Elhage et al. 2021 (a mathematical framework), nostalgebraist 2020 (logit lens).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp import results
from interp._verbs import verb
from interp.attribution.rules import check_hooks
from interp.engine.trust import require_readout
from interp.experiment import check_model, check_task
from interp.models import Anatomy, Model, anatomy, attentions, attn_out_norm, final_norm, logits
from interp.models.parts import Attention, Norm, beside
from interp.places import hook_name
from interp.tasks import LogitDiff, Task

Hooks = Sequence[tuple[str, Callable[..., Tensor]]]
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}  # norms of transformers compute in float32
_HALF = 8  # units of rounding of half precision, in which each part was rounded when it was written


@verb
def direct(
    model: Model, task: Task, *, run: str = "clean", heads: bool = True, batch_size: int | None = None
) -> xr.Dataset:
    """Share of every component in the logit difference of a run.

    run: "clean" or "corrupt". heads: attention head by head, else one component a layer. batch_size: prompts
    at once, 32 by default.

    Returns a Dataset: `value` [prompt, component] in logits, positive where the component favours the answer;
    `raw` [prompt], the logit difference (mean of the answers' logits minus mean of the wrong answers'), which
    is the sum over components. Components: "embed" (token and position), "L0H0"... and "L0.b_O" (attention's
    bias), or "L0.attn_out" for both, "MLP0"..., and "bias" (of the final norm and the unembedding). `layer`
    and `head` are coordinates along them, -1 where there is none. Under an output soft cap the logits are
    those before it.

    Cost: one forward for every prompt. Raises ValueError for a compiled model, and where the components do
    not add up: the model then has a step between stream and logits that is not known here.

    Example:
        >>> from interp.attribution import direct
        >>> model = interp.load("tiny-ioi")
        >>> shares = direct(model, interp.tasks.ioi(model, n=4))
        >>> shares["value"].dims
        ('prompt', 'component')
        >>> bool(abs(shares["value"].sum("component") - shares["raw"]).max() < 1e-3)
        True
    """
    facts = anatomy(model)
    check_hooks(model)
    check_model(model, facts)
    check_task(task, facts, model)
    require_difference(task)
    if run not in ("clean", "corrupt"):
        raise ValueError(f"run {run!r} is not 'clean' or 'corrupt'.")
    if run == "corrupt" and not task.has_corrupt:
        raise ValueError("the task has no corrupt prompts. Use run='clean'.")
    require_width(model, facts)
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give at least 1, or None for 32.")
    with torch.no_grad():
        parts = [
            shares_of(model, facts, task[rows.tolist()], run, heads)
            for rows in torch.arange(len(task)).split(batch_size or 32)
        ]
    columns = zip(*((part.values, part.total) for part in parts))
    values, totals = (torch.cat(column).double().cpu().numpy() for column in columns)
    return _dataset(facts, task, run, heads, values, totals)


def require_width(model: Model, facts: Anatomy) -> None:
    """ValueError where the unembedding reads another width than the stream has."""
    if model.W_U.shape[0] != facts.d_model:
        raise ValueError(
            f"{facts.name} maps its stream of {facts.d_model} to {model.W_U.shape[0]} dimensions before the "
            "unembedding, a step that is not known here. Use interp.attribute."
        )


def require_difference(task: Task) -> None:
    """ValueError for a task without a logit difference at one position a prompt."""
    if task.reads is not None or bool((task.wrongs < 0).all()):
        raise ValueError(
            "direct attribution reads the answers against wrong ones at one position a prompt; this task has "
            "several positions, or no wrong answers. Build it with one position and wrong=."
        )


@dataclass(frozen=True, eq=False)
class Shares:
    """What components write into the logit difference of some prompts, and what the final norm divides by."""

    values: Float[Tensor, "prompt component"]
    total: Float[Tensor, "prompt"]
    scale: Float[Tensor, "prompt 1"]  # ones without a norm
    toward: Float[Tensor, "prompt d_model"]  # the logit difference by the normed stream
    norm: Norm | None

    def of_write(self, write: Float[Tensor, "prompt d_model"]) -> Float[Tensor, "prompt"]:
        """The share that a write to the stream has, by this run's scale."""
        out = write
        if self.norm is not None:
            out = _centred(self.norm, write) / self.scale
            out = out if self.norm.gain is None else out * self.norm.gain
        return (out * self.toward).sum(-1)


def shares_of(model: Model, facts: Anatomy, task: Task, run: str, heads: bool, changes: Hooks = ()) -> Shares:
    """The shares of some prompts, in the model's own run or under hooks that change it."""
    rows = torch.arange(len(task), device=facts.device)
    kept: dict[tuple[str, int], Tensor] = {}
    last = facts.n_layers - 1
    writes = [("mlp_out", layer) for layer in range(last + 1) if not facts.attn_only]
    writes += [("z" if heads else "attn_out", layer) for layer in range(last + 1)]
    writes += [("attn_out", layer) for layer in range(last + 1) if heads]  # what the heads must add up to
    places = [("resid_pre", 0), *writes, ("resid_post", last)]
    hooks = [(hook_name(*place), partial(_keep, kept, place, rows, task.positions)) for place in places]
    with model.hooks(fwd_hooks=[*changes, *hooks]):
        out = logits(model, getattr(task, run))[rows, task.positions]
    if missing := [hook_name(*place) for place in places if place not in kept]:
        raise ValueError(f"{facts.name} does not pass its hook point {missing[0]}. Use interp.attribute.")
    toward, bias = _toward(model, task)
    norm = beside(final_norm(model), facts.device)
    read = FrozenNorm(norm, kept["resid_post", last])
    attns = [beside(each, facts.device) for each in attentions(model)] if heads else []
    columns = [read(kept["resid_pre", 0])[:, None]]
    for layer in range(last + 1):
        if heads:
            by_head = _by_head(model, layer, attns[layer], kept["z", layer])
            whole = kept["attn_out", layer]
            _require_sum(by_head.sum(1), _wide(whole), by_head, f"heads of layer {layer}", whole.dtype)
            columns.append(read(by_head))
        else:
            columns.append(read(kept["attn_out", layer])[:, None])
        if not facts.attn_only:
            columns.append(read(kept["mlp_out", layer])[:, None])
    shares = torch.cat(columns, 1) @ toward[:, :, None]  # [prompt, component, 1]
    if norm is not None and norm.bias is not None:
        bias = bias + toward @ norm.bias.to(toward)
    shares = torch.cat((shares[..., 0], bias[:, None]), 1)
    total = shares.sum(1)
    ends = _difference(_read_out(model, read(kept["resid_post", last])), task)
    require_readout(model, kept["resid_post", last], out)
    _require_sum(total, ends, shares, "all components", out.dtype)
    scale = torch.ones_like(total)[:, None] if norm is None else read.scale
    return Shares(shares, total, scale, toward, norm)


def _keep(
    kept: dict[tuple[str, int], Tensor],
    place: tuple[str, int],
    rows: Tensor,
    positions: Tensor,
    tensor: Tensor,
    hook: Any,
) -> Tensor:
    kept[place] = tensor.to(rows.device)[rows, positions]
    return tensor


def _toward(model: Model, task: Task) -> tuple[Float[Tensor, "prompt d_model"], Float[Tensor, "prompt"]]:
    """The direction of the logit difference in the normed stream, and the unembedding's bias along it."""
    weight = beside(_wide(model.W_U.T), task.clean.device)  # [vocab, d_model]
    b_U = beside(getattr(model, "b_U", None), task.clean.device)
    bias = weight.new_zeros(len(weight)) if b_U is None else _wide(b_U)
    toward, along = weight.new_zeros(len(task), weight.shape[1]), bias.new_zeros(len(task))
    for ids, sign in ((task.answers, 1.0), (task.wrongs, -1.0)):
        real = (ids >= 0).to(weight.dtype) / (ids >= 0).sum(1, keepdim=True)  # [prompt, k]
        toward += sign * (weight[ids.clamp(min=0)] * real[..., None]).sum(1)
        along += sign * (bias[ids.clamp(min=0)] * real).sum(1)
    return toward, along


def _by_head(model: Model, layer: int, attn: Attention, z: Float[Tensor, "prompt head d_head"]) -> Tensor:
    """What every head writes to the stream, then the attention's bias: [prompt, head + 1, d_model]."""
    norm = beside(attn_out_norm(model, model.blocks[layer]), z.device)
    writes = torch.einsum("phd,hdm->phm", _wide(z), _wide(attn.W_O))
    bias = writes.new_zeros(writes.shape[2]) if attn.b_O is None else _wide(attn.b_O)
    writes = torch.cat((writes, bias.expand(len(z), 1, -1)), 1)
    if norm is None:
        return writes
    out = FrozenNorm(norm, writes.sum(1))(writes)
    if norm.bias is not None:
        out[:, -1] += norm.bias
    return out


class FrozenNorm:
    """A norm with its scale held at the value it has for one stream [prompt, d_model]; without its bias."""

    def __init__(self, norm: Norm | None, stream: Tensor) -> None:
        self.norm = norm
        if norm is not None:
            x = _centred(norm, _wide(stream))
            self.scale = (x.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()  # [prompt, 1]

    def __call__(self, write: Tensor) -> Tensor:
        """write [prompt, ..., d_model]."""
        write = _wide(write)
        if self.norm is None:
            return write
        scale = self.scale if write.ndim == 2 else self.scale[:, None]
        out = _centred(self.norm, write) / scale
        return out if self.norm.gain is None else out * self.norm.gain


def _centred(norm: Norm, x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True) if norm.centred else x


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _difference(out: Float[Tensor, "prompt vocab"], task: Task) -> Float[Tensor, "prompt"]:
    """Of the answers' and the wrong answers' mean logits."""
    means = []
    for ids in (task.answers, task.wrongs):
        values = _wide(out).gather(1, ids.clamp(min=0)).masked_fill(ids < 0, 0.0)
        means.append(values.sum(1) / (ids >= 0).sum(1))
    return means[0] - means[1]


def _read_out(model: Model, stream: Float[Tensor, "prompt d_model"]) -> Float[Tensor, "prompt vocab"]:
    """Logits, before a soft cap, of a stream that the frozen norm has scaled."""
    norm, b_U = final_norm(model), getattr(model, "b_U", None)
    stream = stream if norm is None or norm.bias is None else stream + norm.bias.to(stream)
    out = stream @ _wide(model.W_U).to(stream)
    return out if b_U is None else out + b_U.to(out)


def _require_sum(total: Tensor, whole: Tensor, parts: Tensor, what: str, dtype: torch.dtype) -> None:
    """Parts must add up to what the model itself has, in the precision that it runs in."""
    gap = float((total - whole).abs().max())
    allowed = _TOLERANCE.get(dtype, _HALF * torch.finfo(dtype).eps)
    if not gap <= allowed * (1 + float(parts.abs().max())):
        raise ValueError(
            f"{what} do not add up (they are off by {gap:.2g}): the model has a step between its parts and "
            "the logits that is not known here. Use interp.attribute."
        )


def _names(facts: Anatomy, heads: bool) -> list[tuple[str, int, int]]:
    """(name, layer, head) of every component, in order."""
    out = [("embed", -1, -1)]
    for layer in range(facts.n_layers):
        if heads:
            out += [(f"L{layer}H{head}", layer, head) for head in range(facts.n_heads)]
        out.append((f"L{layer}.b_O" if heads else f"L{layer}.attn_out", layer, -1))
        if not facts.attn_only:
            out.append((f"MLP{layer}", layer, -1))
    return [*out, ("bias", -1, -1)]


def _dataset(
    facts: Anatomy, task: Task, run: str, heads: bool, values: np.ndarray, totals: np.ndarray
) -> xr.Dataset:
    names, layers, numbers = zip(*_names(facts, heads))
    attrs = results.provenance(
        method="direct",
        metric=(LogitDiff(),),
        model=facts.name,
        site="resid_post",
        task=task.name,
        task_fingerprint=task.fingerprint(),
        n_prompts=len(task),
        seed=-1 if task.seed is None else task.seed,
        convention="share of the logit difference through the final norm frozen at its value in this run; "
        "positive: the component favours the answer",
        run=run,
        **results.precision(facts.dtype),
    )
    coords = {
        "component": np.array(names, dtype=object),
        "layer": ("component", np.array(layers)),
        "head": ("component", np.array(numbers)),
    }
    variables = {"value": (("prompt", "component"), values), "raw": (("prompt",), totals)}
    return results.dataset(variables, coords, attrs, task)
