"""Activations of a set of prompts at chosen places and positions.

1. Run the prompts in batches, right-padded, so that padding reaches no real token.
2. At every place, read the chosen positions; the pass stops once the last place has been read. It is made by
   the model's weights where those give its logits (`engine.trust`), else by the model under hooks.
3. Means are summed in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor

from interp import models
from interp._arguments import shown
from interp._verbs import verb, warn
from interp.engine.forward import forward
from interp.engine.trust import own_weights
from interp.models import Model, activation_shape, anatomy, logits
from interp.models.parts import Weights
from interp.models.places import place
from interp.places import Place, hook_name
from interp.positions import AnyPositions, weights
from interp.prompts import Prompts, read
from interp.tasks import vocabulary

_SINK = 20.0  # norms of the first token, in medians of the others: a sink of whole models has 50 and more


class _Enough(Exception):
    """The pass has gone by every place that is wanted."""


@overload
def activations(
    model: Model,
    data: Any,
    sites: str | Place,
    pos: AnyPositions = ...,
    agg: str | None = ...,
    *,
    mask: Tensor | None = ...,
    batch_size: int | None = ...,
    engine: str = ...,
) -> Tensor: ...


@overload
def activations(
    model: Model,
    data: Any,
    sites: Sequence[str] | Sequence[Place],
    pos: AnyPositions = ...,
    agg: str | None = ...,
    *,
    mask: Tensor | None = ...,
    batch_size: int | None = ...,
    engine: str = ...,
) -> dict[Place, Tensor]: ...


@verb
def activations(
    model: Model,
    data: Any,
    sites: str | Place | Sequence[str | Place],
    pos: AnyPositions = "last",
    agg: str | None = None,
    *,
    mask: Tensor | None = None,
    batch_size: int | None = None,
    engine: str = "auto",
) -> Tensor | dict[Place, Tensor]:
    """Activations of `data` (see `prompts.read`) at the places `sites`.

    One place gives one tensor, a sequence of places a dict of them. Each is [prompt, width], where width is
    d_model in the stream, d_head for `L3H2`, d_mlp for `L3.post`; `L3.z` gives [prompt, head, d_head]. With
    pos="all" there is one row for every token, prompt after prompt. agg="mean" averages the rows. pos: see
    `interp.positions`. mask: 1 where a token is real, of padded ids. In float32 or better, detached, on the
    model's device. engine: "fast" runs the model's weights, "reference" the model under hooks; they give the
    same. "auto" takes the first where the weights give the model's logits, and else warns why. A mean over
    positions that is mostly of a first token which is no BOS (an attention sink) is warned of.

    Cost: a forward pass as far as the last place. Raises ValueError for a place that the model does not have,
    a position outside a prompt, no prompts; with engine="fast" where that cannot run. The model is left as
    found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> tuple(interp.activations(model, task, "L1.resid_pre").shape)
        (8, 64)
    """
    if agg not in (None, "mean"):
        raise ValueError(f"agg is {agg!r}; use None for one row a prompt, 'mean' for their mean.")
    facts = anatomy(model)
    size = 32 if batch_size is None else batch_size
    wanted = [place(each, facts) for each in ([sites] if isinstance(sites, (str, Place)) else sites)]
    if not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(f"sites is {shown(sites)}; give one place or several, each once.")
    if any(where.site == "pattern" for where in wanted):
        raise ValueError(
            "'pattern' has no vectors at positions; read the patterns with model.run_with_cache."
        )
    prompts = read(model, data, mask)
    weight = weights(pos, prompts)
    with torch.inference_mode(False), torch.no_grad():  # tensors of inference mode could not enter a graph
        chosen = engine_for(model, [prompts], wanted, engine)
        found = _collected(model, prompts, wanted, weight, (pos == "all", agg), size, chosen)
    return found[wanted[0]] if isinstance(sites, (str, Place)) else found


def one_row(pos: Any) -> None:
    """ValueError for pos="all", which gives a row for every token, where rows are to be prompts."""
    if isinstance(pos, str) and pos == "all":
        raise ValueError("pos is 'all', a row for every token; this needs one row a prompt, as 'mean' gives.")


def engine_for(model: Model, sides: Sequence[Prompts], wanted: Sequence[Place], engine: str) -> str:
    """ "fast" or "reference", for the places in several sets of prompts: decided, and told of, once."""
    ends = [(side, int(end(side.lengths))) for side in sides for end in (Tensor.argmax, Tensor.argmin)]
    rows = [side.tokens[row, : int(side.lengths[row])] for side, row in ends]
    parts = own_weights(
        model,
        torch.nn.utils.rnn.pad_sequence(rows, batch_first=True),
        torch.tensor([len(row) for row in rows]),
        sites=tuple({where.site for where in wanted}),
        engine=engine,
        instead=f"{sum(map(len, sides)):,} prompts through the model and its hooks",
    )
    return "reference" if parts is None else "fast"


def _collected(
    model: Model,
    prompts: Prompts,
    wanted: list[Place],
    weight: Tensor,
    how: tuple[bool, str | None],
    batch_size: int,
    engine: str,
) -> dict[Place, Tensor]:
    rows: dict[Place, list[Tensor]] = {where: [] for where in wanted}
    order = []
    blocks = models.weights(model) if engine == "fast" else None
    facts = anatomy(model)
    padded = facts.causal and facts.rotary_switch is None
    for index, batch in prompts.batches(batch_size, padded=padded):
        order.append(index)
        kept = _one_pass(model, batch, wanted, blocks)
        if len(order) == 1 and not (how[0] and how[1] is None):
            _tell_of_sink(model, batch, kept, weight[index])
        for where in wanted:
            rows[where].append(_reduce(kept[where], weight[index], *how))
    return {where: _joined(parts, torch.cat(order), weight, *how) for where, parts in rows.items()}


def _one_pass(
    model: Model, batch: Prompts, wanted: list[Place], parts: Weights | None
) -> dict[Place, Tensor]:
    """Activations [row, pos, ...] at every place, by the weights or else under hooks."""
    kept: dict[Place, Tensor] = {}
    points = dict.fromkeys((where.site, where.layer or 0) for where in wanted)

    def keeper(point: tuple[str, int]) -> Callable[[Tensor], Tensor]:
        def keep(tensor: Tensor) -> Tensor:
            for where in wanted:
                if (where.site, where.layer or 0) == point:
                    kept[where] = _part(tensor, where).to(batch.tokens.device)
            if all(where in kept for where in wanted):
                raise _Enough
            return tensor

        return keep

    try:
        if parts is not None:
            forward(parts, parts.embed(batch.tokens), 0, {point: keeper(point) for point in points})
        else:
            hooks = [(hook_name(*point), _as_hook(model, point, keeper(point))) for point in points]
            with model.hooks(fwd_hooks=hooks):
                logits(model, batch.tokens)
    except _Enough:
        return kept
    missed = next(where for where in wanted if where not in kept)
    raise ValueError(
        f"the forward pass did not go through {hook_name(missed.site, missed.layer)}. Load the model with "
        "eager attention and its hook flags on."
    )


def _as_hook(model: Model, point: tuple[str, int], act: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """A hook; ValueError where its point holds something else than its site's name says."""
    facts = anatomy(model)

    def hook(tensor: Tensor, hook: Any) -> Tensor:
        expected = activation_shape(facts, point[0], tensor.shape[1])
        if tuple(tensor.shape[1:]) != expected:
            raise ValueError(
                f"L{point[1]}.{point[0]} of {facts.name} has shape {list(tensor.shape[1:])} for a prompt, "
                f"and {list(expected)} is what its name says: it is another thing. Use another site."
            )
        return act(tensor)

    return hook


def _tell_of_sink(
    model: Model, batch: Prompts, kept: dict[Place, Tensor], weight: Float[Tensor, "row pos"]
) -> None:
    """Warn, once, of a mean over positions that is mostly the first token, where that is no BOS."""
    meaned = (weight[:, 0] > 0) & ((weight > 0).sum(1) > 1)
    bos = vocabulary.bos(model)
    if not bool(meaned.any()) or (bos is not None and bool((batch.tokens[:, 0] == bos).all())):
        return
    rest = batch.real.clone()
    rest[:, 0] = False
    for where, tensor in kept.items():
        norm = tensor.double().norm(dim=-1)  # [row, pos]
        if where.site.startswith("resid") and bool(rest.any()):
            first, others = float(norm[meaned, 0].median()), float(norm[rest].median())
            if first > _SINK * others:
                warn(
                    f"the first token's activations at {where} have a norm of {first:.4g}, "
                    f"{first / max(others, 1e-30):.0f} times the others': a mean over positions is mostly of "
                    "it, and tells prompts apart by their first words. Leave it out: "
                    "pos=positions.window(1, None)."
                )
                return


def _part(tensor: Tensor, where: Place) -> Tensor:
    tensor = tensor if where.head is None else tensor[:, :, where.head]
    tensor = tensor if where.neuron is None else tensor[..., where.neuron, None]
    return tensor.detach()


def _reduce(kept: Tensor, weight: Tensor, every: bool, agg: str | None) -> Tensor:
    """[prompt, pos, ...] -> [row, ...], or the float64 sum over rows."""
    weight = weight[:, : kept.shape[1]]
    if every:
        return kept[weight > 0].double().sum(0) if agg else _wide(kept[weight > 0])
    if int((weight > 0).sum()) == len(weight):  # one position a prompt: no arithmetic, exact
        out = kept[torch.arange(len(weight), device=kept.device), weight.argmax(1)]
        return out.double().sum(0) if agg else _wide(out)
    out = torch.einsum("np,np...->n...", weight, kept.double())
    return out.sum(0) if agg else out.to(_dtype(kept))


def _joined(parts: list[Tensor], order: Tensor, weight: Tensor, every: bool, agg: str | None) -> Tensor:
    """Batches put together, rows in the order of the prompts."""
    if agg:
        rows = weight.sum() if every else len(weight)
        return torch.stack(parts).sum(0) / rows
    rows = torch.cat(parts)
    if every:
        prompt = torch.arange(len(weight), device=order.device)[order].repeat_interleave(
            (weight > 0).sum(1)[order]
        )
        return rows[prompt.argsort(stable=True)]
    return torch.empty_like(rows).index_copy_(0, order, rows)


def _wide(tensor: Float[Tensor, "..."]) -> Tensor:
    return tensor.to(_dtype(tensor))


def _dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
