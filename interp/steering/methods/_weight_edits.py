"""Weight edits of low rank, with undo: a vector, a redirection or a link written into heads and MLPs.

Steer2Edit (derived from the authors' code): a vector v becomes rank-1 edits of the parts that write it.
1. Read z of every head and the activation of every neuron at the last token of both classes;
   x = (mean of positive + mean of negative) / 2.
2. Head: g = cos(v, x W_O). Neuron i: g = cos(v, x_i w_out_i), of which only the sign of x_i matters.
3. lambda = sign(g) max(|g| - rho alpha, 0) / (rho (1 - alpha)): an elastic net. rho alpha at or above 1 edits
   nothing.
4. Head: W_O += lambda k v^T with k along W_O v. Neuron: w_out += lambda sign(w_out . v) v. Both push to +v.

STAMP (in RePAIR; derived from the abstract): X rows are activations of an MLP's neurons, Y what it is to
write there: the target for prompts to forget, what it writes now for prompts to retain. W += X^+ (Y - X W).

ROME: of all W with k W = v*, the one nearest to the old in the norm of C, the second moment of keys:
dW = C^-1 k (v* - k W)^T / (k^T C^-1 k).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp._activations import activations
from interp._brief import brief
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.models.places import place
from interp.places import Place
from interp.positions import AnyPositions
from interp.prompts import read, read_classes
from interp.steering._bake import Baked, require_own_weight, writer
from interp.steering._direction import Direction, found_on, same_model
from interp.steering.edits import Number, finite


@dataclass(frozen=True, eq=False)
class WeightEdits:
    """Changes of output matrices, by place: `L1H2` [d_head, d_model] of W_O, `L1.mlp_out` [d_mlp, d_model].

    scores: what the method says of each part. errors: how well the new weights do what they are to do.
    `2 * edits` is twice the change; `apply` writes them, and its `undo` puts back the old bits.
    """

    changes: Mapping[Place, Tensor]
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    found: Mapping[str, Any] = field(default_factory=dict, repr=False)  # the model they were found on
    __repr__ = brief

    def __len__(self) -> int:
        return len(self.changes)

    def __mul__(self, factor: Number) -> WeightEdits:
        finite("factor", factor)
        return replace(self, changes={w: factor * c for w, c in self.changes.items()}, errors={})

    __rmul__ = __mul__

    def apply(self, model: Model) -> Baked:
        """Write the changes into the model's weights until `undo`, or to the end of a `with` block.

        Raises ValueError, before any change, for a weight that is shared, quantised or of another shape, and
        for edits that were found on another model.
        """
        name, weights = self.found.get("model"), self.found.get("weights", ())
        same_model("the set of weight edits", name, weights, model, free="edits, found={}")
        targets = {where: editable(model, where) for where in self.changes}
        for where, change in self.changes.items():
            if change.shape != targets[where].shape:
                seen = f"{list(change.shape)}, the weight {list(targets[where].shape)}"
                raise ValueError(f"the change at {where} is {seen}: it was made for another model.")
        baked = Baked()
        for where, change in self.changes.items():
            target = targets[where]
            baked.write(target, (target.detach().double() + change.to(target.device).double()).to(target))
        return baked


def editable(model: Model, where: Place) -> Tensor:
    """The output matrix at a head or at `mlp_out`; ValueError where a change would do something else."""
    weight = writer(model, where)
    require_own_weight(model, where)
    return weight


@verb
def steer2edit(
    model: Model,
    direction: Direction,
    positive: Any,
    negative: Any,
    rho: float = 0.5,
    alpha: float = 0.5,
    *,
    pos: AnyPositions = "last",
    batch_size: int | None = None,
) -> WeightEdits:
    """A vector turned into rank-1 edits of the heads and neurons that write it, in every layer.

    direction: one vector of the stream [d_model]; only its direction counts. rho above 0: the larger, the
    smaller the edits; alpha in [0, 1): the larger, the fewer. `scores` holds g, `heads` [layer, head] and
    `neurons` [layer, neuron], cosines. Raises ValueError, before any pass, for rho or alpha out of range, a
    direction that is not of the stream, and weights that cannot be edited. Cost: one forward of each prompt.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> from interp import steering
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> d = steering.mean_difference(model, up, down, layer=1)
        >>> edits = steering.methods.steer2edit(model, d, up, down, rho=0.5, alpha=0.5)
        >>> with edits.apply(model):
        ...     logits = model(task.clean)
        >>> tuple(edits.scores["heads"].shape) == (model.cfg.n_layers, model.cfg.n_heads)
        True
    """
    finite("rho", rho)
    finite("alpha", alpha)
    if rho <= 0 or not 0 <= alpha < 1:
        raise ValueError(f"rho is {rho} and alpha is {alpha}; use rho above 0 and alpha from 0 to below 1.")
    facts = anatomy(model)
    v = direction.require_any().check(model).vector.double()
    if v.shape != (facts.d_model,):
        raise ValueError(
            f"the direction at {direction.place} is {list(v.shape)}; give one [{facts.d_model}]."
        )
    v = (v / v.norm()).to(facts.device)
    layers = range(facts.n_layers)
    heads = [place(f"L{layer}H{head}", facts) for layer in layers for head in range(facts.n_heads)]
    blocks = [] if facts.attn_only else [place(f"L{layer}.mlp_out", facts) for layer in layers]
    weights = {where: editable(model, where).detach().double() for where in (*heads, *blocks)}
    posts = [place(f"L{layer}.post", facts) for layer in layers] if blocks else []
    prompts = read_classes(model, positive, negative)
    sides = [activations(model, p, [*heads, *posts], pos, "mean", batch_size=batch_size) for p in prompts]
    mean = {where: torch.stack([side[where].double() for side in sides]).mean(0) for where in sides[0]}
    read_at = {**dict(zip(heads, heads)), **dict(zip(blocks, posts))}
    scores, changes = {}, {}
    for where, W in weights.items():
        g, change = _rank_one(W, mean[read_at[where]], v, rho, alpha, where.head is not None)
        scores[where] = g.to(v.device)
        changes |= {where: change} if bool((change != 0).any()) else {}
    by_head = torch.stack([scores[where] for where in heads]).reshape(facts.n_layers, facts.n_heads)
    by_neuron = {"neurons": torch.stack([scores[where] for where in blocks])} if blocks else {}
    return WeightEdits(changes, {"heads": by_head} | by_neuron, found=found_on(model))


def _rank_one(W: Tensor, x: Tensor, v: Tensor, rho: float, alpha: float, head: bool) -> tuple[Tensor, Tensor]:
    """g (one for a head, one a neuron) and the change of W, from the mean activation x before it."""
    x, v = x.to(W.device), v.to(W.device)
    g = _cosine(x @ W if head else x[:, None] * W, v)
    size, key = g.sign() * (g.abs() - rho * alpha).clamp_min(0) / (rho * (1 - alpha)), W @ v
    return g, torch.outer(size * (key / key.norm().clamp_min(1e-30) if head else key.sign()), v)


@verb
def redirect(
    model: Model,
    layer: int,
    forget: Any,
    target: Float[Tensor, "d_model"],
    retain: Any,
    *,
    rank: int | None = None,
    pos: AnyPositions = "last",
    batch_size: int | None = None,
) -> WeightEdits:
    """STAMP: the MLP of a layer writes `target` for prompts to forget, and what it wrote for the others.

    target: [d_model], as the MLP writes it (`activations(..., "L1.mlp_out")`). rank: keep so many singular
    vectors of the change. `errors` has `forget` and `retain`: root mean square, in units of that of what is
    to be written. Exact while there are fewer prompts than neurons. Raises ValueError, before any pass, for a
    target of another width, a rank below 1, and a weight that cannot be edited. Cost: one forward a prompt.

    Example:
        >>> from interp import steering
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> say = interp.activations(model, task.clean[:1], "L1.mlp_out")[0]
        >>> edits = steering.methods.redirect(model, 1, task.clean[1:3], say, task.clean[3:])
        >>> edits.errors["forget"] < 1e-4 and edits.errors["retain"] < 1e-4
        True
    """
    facts = anatomy(model)
    where, W, bias = _matrix(model, layer)
    _check_vector("target", target, facts.d_model)
    if rank is not None and rank < 1:
        raise ValueError(f"rank is {rank}; use 1 or more, or None for a change of full rank.")
    prompts = [read(model, forget, what="forget"), read(model, retain, what="retain")]
    at = place(f"L{layer}.post", facts)
    gone, kept = (activations(model, each, at, pos, batch_size=batch_size).double() for each in prompts)
    X = torch.cat([gone, kept])  # [row, d_mlp]
    wanted = target.to(W).expand(len(gone), -1)
    Y = torch.cat([wanted - bias, kept @ W])
    change = torch.linalg.pinv(X) @ (Y - X @ W)
    if rank is not None:
        U, S, V = torch.linalg.svd(change, full_matrices=False)
        change = U[:, :rank] * S[:rank] @ V[:rank]
    errors = {
        "forget": _error(gone @ (W + change) + bias, wanted),
        "retain": _error(kept @ change, kept @ W + bias, 0),
    }
    return WeightEdits({where: change}, errors=errors, found=found_on(model))


@verb
def link(
    model: Model,
    layer: int,
    subject: Any,
    value: Float[Tensor, "d_model"],
    text: Any,
    *,
    ridge: float = 1e-4,
    pos: AnyPositions = "last",
    batch_size: int | None = None,
) -> WeightEdits:
    """ROME: the MLP of a layer writes `value` at the subject's mean key, with the least change on `text`.

    subject: prompts that end in it (or pos). text: prompts whose keys, at all positions, make C; ridge: what
    is added to C, in units of its mean diagonal. `errors` has `link` (of the norm of value) and `text`: the
    root mean square of what changes there, of what the MLP writes. Raises ValueError, before any pass, for a
    value of another width, ridge at or below 0, a weight that cannot be edited. Cost: one forward a prompt.
    Paper: ROME, 2202.05262.

    Example:
        >>> from interp import steering
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> say = interp.activations(model, task.clean[:1], "L1.mlp_out")[0]
        >>> edits = steering.methods.link(model, 1, task.clean[1:3], say, task.clean[3:])
        >>> edits.errors["link"] < 1e-4
        True
    """
    facts = anatomy(model)
    where, W, bias = _matrix(model, layer)
    _check_vector("value", value, facts.d_model)
    finite("ridge", ridge)
    if ridge <= 0:
        raise ValueError(f"ridge is {ridge}; use a number above 0.")
    prompts, at = (
        [read(model, subject, what="subject"), read(model, text, what="text")],
        place(f"L{layer}.post", facts),
    )
    key = activations(model, prompts[0], at, pos, batch_size=batch_size).double().mean(0)
    keys = activations(model, prompts[1], at, "all", batch_size=batch_size).double()
    C = keys.T @ keys / len(keys)
    C += ridge * C.diagonal().mean() * torch.eye(len(C), dtype=C.dtype, device=C.device)
    u = torch.linalg.solve(C, key)
    change = torch.outer(u, value.to(W) - bias - key @ W) / (key @ u)
    wrote = key @ (W + change) + bias
    errors = {"link": _error(wrote, value.to(W)), "text": _error(keys @ change, keys @ W + bias, 0)}
    return WeightEdits({where: change}, errors=errors, found=found_on(model))


def _matrix(model: Model, layer: int) -> tuple[Place, Tensor, Tensor]:
    """Place, weight [d_mlp, d_model] and bias [d_model] of an MLP's output, in float64."""
    where = place(f"L{layer}.mlp_out", anatomy(model))
    W = editable(model, where).detach().double()
    bias = getattr(model.blocks[where.layer or 0].mlp, "b_out", None)
    return where, W, W.new_zeros(W.shape[-1]) if bias is None else bias.detach().double()


def _check_vector(name: str, vector: Tensor, width: int) -> None:
    if vector.shape != (width,) or not bool(vector.isfinite().all()):
        raise ValueError(f"{name} is {list(vector.shape)}; give a finite vector of {width}.")


def _cosine(rows: Tensor, v: Tensor) -> Tensor:
    return rows @ v / rows.norm(dim=-1).clamp_min(1e-30)


def _error(wrote: Tensor, of: Tensor, target: Tensor | int | None = None) -> float:
    """Root mean square distance from `target` (None: from `of`), in units of that of `of`."""
    gap = wrote - (of if target is None else target)
    return float(gap.square().mean().sqrt() / of.square().mean().sqrt().clamp_min(1e-30))
