"""EAST: the direction along which the model is undecided (2406.00244).

1. x_i: activations of prompts that ask for a decision; H_i: the entropy of what the model would decide.
2. u = sum_i (H_i / sum H) x_i - mean(x): the mean weighted by entropy, less the plain mean. It is the
   covariance of activation and entropy, divided by the mean entropy.
3. Add beta u: above 0 towards indecision, below 0 towards confidence.

Without the plain mean, u would be the mean activation above all: of x = x_0 + H w it finds x_0, not w. The
centring is derived (the abstract speaks of an entropy-weighted combination). Any number a prompt has can
stand for the entropy: u is then its regression direction.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp._activations import activations, one_row
from interp._arguments import shown
from interp._verbs import verb
from interp.models import Model, anatomy, logits
from interp.models.places import Layers, vector_places
from interp.positions import AnyPositions
from interp.prompts import Prompts, read
from interp.steering._direction import Direction, found_on
from interp.tasks import vocabulary


@verb
def east(
    model: Model,
    prompts: Any,
    *,
    entropy: Float[Tensor, "prompt"] | None = None,
    among: Any = None,  # token ids that are decisions; None: all
    layer: Layers = None,
    site: str = "resid_pre",
    pos: AnyPositions = "last",
    seed: int = 0,
    batch_size: int | None = None,
) -> Direction:
    """Adding it raises the entropy of the decision; its length is that of step 2 above.

    entropy: one number of 0 or more a prompt, such as that of sampled actions; by default the entropy in nats
    of the model's next token after each prompt, `among` the ids of the decisions where given. The shuffled
    control deals the entropies to other prompts. Raises ValueError, before any pass, for fewer than two
    prompts, entropies that are not finite, negative or all equal (then there is no direction). Cost: a
    forward pass of each prompt as far as the last place; without `entropy` one more, whole. The model is left
    as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> from interp.steering import methods
        >>> d = methods.east(model, task.clean, layer=1)
        >>> d.method, tuple(d.vector.shape)
        ('east', (64,))
    """
    rows = read(model, prompts)
    one_row(pos)
    where = vector_places(anatomy(model), layer, site)
    if len(rows) < 2:
        raise ValueError(f"east needs two prompts or more, got {len(rows)}.")
    if isinstance(among, str) or not all(isinstance(each, (int, Tensor)) for each in _listed(among)):
        raise ValueError(f"among is {shown(among)}; give a list of token ids.")
    size = 32 if batch_size is None else batch_size
    values = _entropies(model, rows, among, size) if entropy is None else entropy.double()
    _require_spread(values, len(rows))
    found = activations(model, rows, list(where), pos, batch_size=batch_size)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    dealt = values[order.to(values.device)]
    norms = {w: x.flatten(1).double().norm(dim=1).median().item() for w, x in found.items()}
    return Direction(
        {w: covariance_direction(x, values).to(x) for w, x in found.items()},
        shuffled={w: covariance_direction(x, dealt).to(x) for w, x in found.items()},
        method="east", positions=pos if isinstance(pos, str) else repr(pos), norms=norms,
        data=rows.data_hash(), seed=seed, **found_on(model),
    )  # fmt: skip


@verb
def covariance_direction(
    activations: Float[Tensor, "prompt d"], values: Float[Tensor, "prompt"]
) -> Float[Tensor, "d"]:
    """Mean of the activations weighted by the values, less their plain mean, in float64. Pure.

    Example:
        >>> import torch
        >>> from interp.steering import methods
        >>> rows, values = torch.tensor([[1.0, 5.0], [3.0, 5.0]]), torch.tensor([0.0, 1.0])
        >>> methods.covariance_direction(rows, values).tolist()
        [1.0, 0.0]
    """
    _require_spread(values, len(activations))
    x, share = activations.flatten(1).double(), values.to(activations.device).double()
    return (share / share.sum()) @ x - x.mean(0)


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, (list, tuple, Tensor)) else [] if given is None else [None]


def _require_spread(values: Tensor, n: int) -> None:
    if values.shape != (n,) or not bool(torch.isfinite(values).all()) or bool((values < 0).any()):
        raise ValueError(
            f"entropy is {list(values.shape)} for {n} prompts; give one finite number of 0 or more each."
        )
    if float(values.max() - values.min()) <= 1e-12 * float(values.max().clamp(min=1e-300)):
        raise ValueError(
            f"all {n} entropies are {float(values[0]):.4g}: nothing varies with them, so there is no "
            "direction. Give prompts of which some are harder."
        )


def _entropies(model: Model, rows: Prompts, among: Any, size: int) -> Float[Tensor, "prompt"]:
    """Entropy in nats of the next token after each prompt, of the given ids alone where there are some."""
    top = vocabulary.size(model)
    ids = None if among is None else torch.as_tensor(among)
    if ids is not None and (
        ids.ndim != 1
        or ids.dtype != torch.long
        or len(ids) < 2
        or int(ids.min()) < 0
        or int(ids.max()) >= top
    ):
        raise ValueError(f"among is {ids.tolist()}; give two token ids or more, from 0 to {top - 1}.")
    out = torch.zeros(len(rows), dtype=torch.float64, device=rows.tokens.device)
    for index, batch in rows.batches(size):
        with torch.no_grad():
            whole = logits(model, batch.tokens)
        last = whole[torch.arange(len(index), device=whole.device), batch.lengths - 1].double()
        log = (last if ids is None else last[:, ids.to(last.device)]).log_softmax(-1)
        out[index] = torch.special.entr(log.exp()).sum(-1)
    bad = out.isnan().nonzero()
    if len(bad):
        raise ValueError(
            f"the logits after prompt {int(bad[0, 0])} are not finite. Load the model in float32."
        )
    return out
