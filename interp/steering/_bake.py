"""`bake`: interventions folded into a model's weights and biases; `undo` puts the old ones back.

A site that a layer writes linearly can carry any affine edit h A + c: W becomes W A, b becomes b A + c.

| site             | weights                                    |
|------------------|--------------------------------------------|
| attn_out, L3H2   | W_O, b_O                                   |
| mlp_out, post    | W_out, b_out                               |
| resid_pre of L0  | W_pos and W_E, or W_E alone                 |
| other streams    | additions only: the bias of what wrote last |

No d × d matrix is made: edits act on the rows of the weights, in float64, and are rounded once to the
weights' dtype.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from interp._verbs import verb
from interp.engine.compare import departure
from interp.engine.trust import short_row
from interp.models import Model, anatomy, layer_with_same_weight, logits
from interp.models.places import width
from interp.places import Place
from interp.steering._edit_types import Ablate, Add, Affine, Clamp, Edit, ScaleUnits, SetUnits
from interp.steering._intervention import Intervention, flat
from interp.steering._steer import steer

_WITHIN = {torch.float64: 1e-6, torch.float32: 1e-4}  # of the spread of the logits: weights round too
_OF_EFFECT = 1e-3  # and of what the edits change: norms of transformers compute in float32
_SYMMETRIC = (Add, Ablate, Affine, Clamp, ScaleUnits, SetUnits)  # linear parts that are their own transpose


@dataclass(eq=False)
class Baked:
    """Weights as they were. `undo()`, or the end of a `with` block, puts them back bit for bit."""

    saved: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def undo(self) -> None:
        """Put the weights back. A second call does nothing."""
        with torch.no_grad():
            for target, old in reversed(self.saved):
                target.copy_(old)
        self.saved.clear()

    def __enter__(self) -> Baked:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()

    def write(self, target: Tensor, value: Tensor) -> None:
        """Overwrite a weight, keeping what was there."""
        with torch.no_grad():
            self.saved.append((target, target.detach().clone()))
            target.copy_(value)


@verb
def bake(model: Model, *interventions: Any) -> Baked:
    """Change the model's own weights so that it runs steered, without hooks, until `undo`.

        with steering.bake(model, steering.ablate(direction.spread(steering.writers(facts)))):
            model(tokens)

    This is the one function that changes a model. Raises ValueError, before any change, for an edit that
    depends on position, row or gate, that is not affine, or whose place no weight writes; and, with the
    weights put back, where the model does not then run as it does under `steer`. Cost: the edits, on the rows
    of the weights once, and three forwards of a short row; afterwards none.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> from interp import steering
        >>> d = steering.mean_difference(model, task.clean[:4], task.clean[4:], layer=1)
        >>> with steering.bake(model, steering.add(d, 2.0)):
        ...     logits = model(task.clean)
        >>> logits.shape[0]
        8
    """
    checked = [each.check(model) for each in flat(interventions)]
    plans = [_plan(model, each) for each in checked]
    row = short_row(model)
    with torch.no_grad():
        plain = logits(model, row)[0]
        with steer(model, *checked):
            steered = logits(model, row)[0]
    baked = Baked()
    try:
        draft = _Draft()
        for plan, each in zip(plans, checked):
            _apply(draft, plan, each, _zero(model, each).double())
        draft.put_into(baked)
        with torch.no_grad():
            gap, effect = departure(logits(model, row)[0], steered), departure(plain, steered)
        if not gap <= _WITHIN.get(steered.dtype, 0.3) + _OF_EFFECT * effect:
            raise ValueError(
                f"baked into the weights of {anatomy(model).name} the edits do not do what they do under "
                f"hooks (logits differ by {gap:.2g} of their spread). Use steer."
            )
    except BaseException:
        baked.undo()
        raise
    return baked


@dataclass(frozen=True, eq=False)
class _Plan:
    """rows: weights written at the place. bias: what is added there. before: the weight that reads it."""

    rows: tuple[Tensor, ...] = ()
    bias: Tensor | None = None
    before: Tensor | None = None
    shift_only: bool = False
    shift: Tensor | None = None  # one weight whose rows all take the offset, where there is no bias


def _plan(model: Model, each: Intervention) -> _Plan:
    edit = each.edit
    if not each.when.always or each.gate is not None:
        raise ValueError(f"the edit at {each.site} depends on position or on a gate: it cannot be baked.")
    if not isinstance(edit, Edit) or type(edit).at is not Edit.at or edit.n_rows is not None:
        raise ValueError(f"the edit at {each.site} depends on position or row: it cannot be baked.")
    zero = _zero(model, each)
    if edit.linear(zero) is None:
        raise ValueError(f"{type(edit).__name__} at {each.site} is not affine: it cannot be baked.")
    plan = _weights(model, each.place)
    if plan.before is not None or (plan.rows and each.place.site != "resid_pre"):
        require_own_weight(model, each.place)
    shifts = bool((edit.offset(zero) != 0).any())
    if plan.bias is None and plan.shift is None and shifts:
        raise ValueError(
            f"nothing writes a bias at {each.site} in this model, which the edit needs. Use steer."
        )
    if plan.shift_only and not isinstance(edit, Add):
        raise ValueError(
            f"{type(edit).__name__} at {each.site} cannot be baked: several layers write there. Bake it at "
            "every writer: steering.ablate(direction.spread(steering.writers(anatomy(model))))."
        )
    if plan.before is not None and not isinstance(edit, _SYMMETRIC):
        raise ValueError(f"{type(edit).__name__} at {each.site} cannot be baked; use attn_out or mlp_out.")
    for target in (*plan.rows, plan.bias, plan.before, plan.shift):
        if target is not None:
            _require_writable(model, each.place, target)
    return plan


def _require_writable(model: Model, where: Place, target: Tensor) -> None:
    """ValueError for a weight into which no edit can be written."""
    if not target.is_floating_point():
        raise _quantised(where, target.dtype)
    if not _is_live(model, target):
        raise ValueError(f"the weights at {where} are not this model's own storage: they cannot be edited.")


def _quantised(where: Place, kind: Any) -> ValueError:
    return ValueError(
        f"the weights at {where} are quantised ({kind}): an edit cannot be written into them. Load the model "
        "in float32 or bfloat16."
    )


def _part(module: Any, name: str, where: Place) -> Tensor | None:
    """A weight or bias of attention or of an MLP, None without; ValueError where it is no plain tensor."""
    try:
        found = getattr(module, name, None)
    except NotImplementedError as error:  # what a bridge says of packed numbers
        raise _quantised(where, name) from error
    if found is not None and not isinstance(found, Tensor):
        raise _quantised(where, type(found).__name__)
    return found


def _weights(model: Model, where: Place) -> _Plan:
    facts = anatomy(model)
    layer = where.layer or 0
    if facts.post_norm:
        raise ValueError(
            "this model norms what its layers write, so nothing can be baked into them. Use steer."
        )
    block = model.blocks[layer]
    if where.site in ("mlp_out", "post") and _part(block.mlp, "W_out", where) is None:
        raise ValueError(
            f"the MLP of layer {layer} has no output matrix of its own (a mixture of experts has several), "
            f"so nothing can be baked at {where}. Use steer."
        )
    if where.site == "resid_pre":
        return _embedding(model) if layer == 0 else _bias_of(model, layer - 1, where, last=True)
    if where.site in ("resid_post", "resid_mid"):
        return _bias_of(model, layer, where, last=where.site == "resid_post")
    if where.site in ("attn_out", "z"):
        W, b = (_part(block.attn, name, where) for name in ("W_O", "b_O"))
    elif where.site == "mlp_out" or (where.site == "post" and where.neuron is None):
        W, b = (_part(block.mlp, name, where) for name in ("W_out", "b_out"))
    else:
        W, b = None, None
    if W is not None:
        return _Plan((W,), b) if where.site in ("attn_out", "mlp_out") else _Plan((), b, before=W)
    raise ValueError(f"{where} cannot be baked: no weight writes it linearly. Use steer.")


def writer(model: Model, where: Place) -> Tensor:
    """The model's own weight of a head's output [d_head, d_model], or of an MLP's [d_mlp, d_model]."""
    plan = _weights(model, where)
    weight = plan.before if plan.before is not None else plan.rows[0]
    _require_writable(model, where, weight)
    return weight if where.head is None else weight[where.head]


def require_own_weight(model: Model, where: Place) -> None:
    """ValueError where another layer has the very same output matrix."""
    layer = where.layer or 0
    other = layer_with_same_weight(model, layer, "mlp" if where.site in ("mlp_out", "post") else "attn")
    if other is not None:
        raise ValueError(
            f"layers {layer} and {other} share the weight at {where}: an edit of one is an edit of both. Use "
            "steer."
        )


def _bias_of(model: Model, layer: int, where: Place, last: bool) -> _Plan:
    block = model.blocks[layer]
    by_mlp = last and not anatomy(model).attn_only
    bias = _part(block.mlp, "b_out", where) if by_mlp else _part(block.attn, "b_O", where)
    return _Plan(bias=bias, shift_only=True)


def _embedding(model: Model) -> _Plan:
    if getattr(model.cfg, "post_embedding_ln", False):
        raise ValueError("this model norms its embeddings, so nothing can be baked there. Use steer.")
    if model.W_E.untyped_storage().data_ptr() == model.W_U.untyped_storage().data_ptr():
        raise ValueError(
            "this model's embedding is also its unembedding, so nothing can be baked there. Use steer."
        )
    if model.cfg.positional_embedding_type != "standard":
        return _Plan((model.W_E,), shift=model.W_E)
    table = getattr(model.pos_embed, "W_pos", None)
    table = model.pos_embed.weight if table is None else table
    return _Plan((model.W_E, table), shift=table)


class _Draft:
    """New values of weights in float64: several edits of one weight are rounded once, when written."""

    def __init__(self) -> None:
        self.values: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    def read(self, target: Tensor) -> Tensor:
        """The weight as it is so far; not to be changed in place."""
        key = (target.data_ptr(), target.shape, target.stride())
        return self.values[key][1] if key in self.values else target.detach().double()

    def write(self, target: Tensor, value: Tensor) -> None:
        self.values[target.data_ptr(), target.shape, target.stride()] = (target, value)

    def put_into(self, baked: Baked) -> None:
        """Write them into the model."""
        for target, value in self.values.values():
            baked.write(target, value)


def _apply(draft: _Draft, plan: _Plan, each: Intervention, zero: Tensor) -> None:
    edit = each.edit
    if not isinstance(edit, Edit):
        return
    for rows in plan.rows:
        draft.write(rows, _linear(edit, draft.read(rows)))
    if plan.before is not None:
        _apply_before(draft, plan, plan.before, edit, each)
        return
    offset = edit.offset(zero)
    if plan.bias is not None:
        old = draft.read(plan.bias)
        draft.write(plan.bias, (old if plan.shift_only else _linear(edit, old)) + offset.to(old.device))
    elif plan.shift is not None:
        old = draft.read(plan.shift)
        draft.write(plan.shift, old + offset.to(old.device))


def _apply_before(draft: _Draft, plan: _Plan, W: Tensor, edit: Edit, each: Intervention) -> None:
    """h (A) + c, then W: A W, and c W into the bias. A is symmetric: it acts on the columns of W."""
    new = draft.read(W).clone()
    shift = torch.zeros_like(new.reshape(-1, W.shape[-1])[0])
    if W.ndim == 2:  # [neuron, d_model]
        new, shift = _linear(edit, new.T).T, edit.offset(new[:, 0]) @ new
    else:  # [head, d_head, d_model]
        for head in range(len(W)) if each.heads is None else each.heads:
            shift = shift + edit.offset(new[head, :, 0]) @ new[head]
            new[head] = _linear(edit, new[head].T).T
    draft.write(W, new)
    if plan.bias is not None:
        draft.write(plan.bias, draft.read(plan.bias) + shift)


def _linear(edit: Edit, x: Tensor) -> Tensor:
    """The linear part of an edit that is affine, as `_plan` has made sure."""
    out = edit.linear(x)
    return x if out is None else out


def _zero(model: Model, each: Intervention) -> Tensor:
    """Activations of 0 at the place: one vector."""
    facts = anatomy(model)
    return torch.zeros(width(each.place, facts), dtype=facts.dtype, device=facts.device)


def _is_live(model: Model, weight: Tensor) -> bool:
    """Whether writing to the tensor writes to a parameter of the model."""
    where = weight.untyped_storage().data_ptr()
    return any(parameter.untyped_storage().data_ptr() == where for parameter in model.parameters())
