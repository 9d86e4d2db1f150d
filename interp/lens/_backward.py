"""`backward`: which inputs write a direction, by the gradient, read against the embeddings.

The slope of ⟨u, h⟩ at a place and position, by the stream at an earlier layer: a direction g in which a
change there moves h along u. Read against the embeddings it says which tokens would write u (`top_token`);
its product with the stream that is there is the first-order share of each position (`value`).

At the output of the last layer, with u the gradient of a logit, this is the slope of that logit. Gradients
read by the vocabulary: Katz et al. 2402.12865.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp import results
from interp._verbs import verb
from interp.engine.forward import forward
from interp.engine.trust import own_weights
from interp.lens import _readout as R
from interp.models import Anatomy, Model, anatomy, logits
from interp.models.parts import Weights
from interp.models.places import Layers, places
from interp.places import Place, hook_name
from interp.positions import AnyPositions, weights
from interp.prompts import Prompts, read
from interp.steering import Direction

_STREAM = ("resid_pre", "resid_mid", "resid_post")


@verb
def backward(
    model: Model,
    prompts: Any,
    direction: Direction,
    *,
    layer: Layers = None,
    pos: AnyPositions = "last",
    top: int = 5,
    mask: Tensor | None = None,
    engine: str = "auto",
) -> xr.Dataset:
    """Which tokens, and which positions of the prompts, write a direction at a later place.

    direction: one vector at one place of the stream. layer: where the slope is taken (resid_pre; 0: the
    embeddings), by default every layer up to the place. pos: where the direction is read.

    Returns a Dataset with dims prompt, layer, pos (and place), NaN behind a prompt's end: `value`, slope ·
    the stream there, in units of the direction's (unit) projection; `norm`, the slope's length; `top_id`,
    `top_token`, `top_value`: tokens whose embedding has the largest product with the slope, above the mean
    token's. `raw` [prompt], the projection itself. Cost: a forward and a backward of each prompt. Raises
    ValueError before it for directions of another model or kind, and layers that come after the place. The
    model is left as found.

    Example:
        >>> import torch
        >>> model = interp.load("tiny-ioi")
        >>> d = interp.steering.Direction.from_tensor(torch.ones(64), "L2.resid_pre")
        >>> found = interp.lens.backward(model, interp.tasks.ioi(model, n=2, seed=0), d)
        >>> found["value"].dims
        ('prompt', 'layer', 'pos')
    """
    facts = anatomy(model)
    unit = _vector(model, direction)
    chosen = _earlier(facts, layer, unit.place)
    R.check_top(top, model)
    data = read(model, prompts, mask)
    marks = weights(pos, data)
    wanted = tuple({place.site for place in (*chosen, unit.place)})
    parts = own_weights(
        model, data.tokens, data.lengths, sites=wanted, engine=engine,
        instead=f"{len(data):,} prompts through the model and its hooks",
    )  # fmt: skip
    raw, streams, slopes = _slopes(model, parts, data, chosen, unit.place, unit.vector, marks)
    variables = _shares(data, streams, slopes) | _tokens(model, data, slopes, facts.embed_scale, top)
    variables["raw"] = (("prompt",), raw.double().cpu().numpy())
    attrs = results.provenance(
        method="backward lens", site=str(unit.place), model=facts.name, n_prompts=len(data),
        unit="activation", convention="value = slope of the projection · the stream; positive writes it",
    )  # fmt: skip
    tokens = np.where(data.real.cpu().numpy(), data.tokens.cpu().numpy(), -1)
    coords = {"prompt": np.arange(len(data)), "layer": [int(place.layer or 0) for place in chosen]}
    coords |= {"pos": np.arange(tokens.shape[1]), "token": (("prompt", "pos"), R.names(model, tokens))}
    return results.dataset(variables, coords, attrs)


def _vector(model: Model, direction: Direction) -> Direction:
    """The direction at length 1. ValueError for what is not one vector of the stream."""
    unit = direction.check(model).unit()
    if unit.layout != "vector" or len(unit.places) != 1 or unit.place.site not in _STREAM:
        raise ValueError(
            f"direction is at {', '.join(map(str, unit.places))}; give one vector of the stream."
        )
    return unit


def _earlier(facts: Anatomy, layer: Layers, end: Place) -> tuple[Place, ...]:
    """Where slopes are taken. ValueError for layers after the place that is written."""
    chosen = places(facts, range(int(end.layer or 0) + 1) if layer is None else layer, "resid_pre")
    late = [place for place in chosen if _order(place) > _order(end)]
    if late:
        raise ValueError(f"{late[0]} comes after {end}, and does not write to it. Choose lower layers.")
    return chosen


def _order(place: Place) -> tuple[int, int]:
    return int(place.layer or 0), _STREAM.index(place.site)


def _shares(data: Prompts, streams: list[Tensor], slopes: list[Tensor]) -> dict[str, Any]:
    """`value` and `norm` of each position, NaN behind a prompt's end."""
    real = data.real.cpu().numpy()[:, None]  # [prompt, 1, pos]
    value, norm = (
        torch.stack(rows, 1).double().cpu().numpy()
        for rows in (
            [(slope * stream).sum(-1) for slope, stream in zip(slopes, streams)],
            [slope.norm(dim=-1) for slope in slopes],
        )
    )
    dims = ("prompt", "layer", "pos")
    return {"value": (dims, np.where(real, value, np.nan)), "norm": (dims, np.where(real, norm, np.nan))}


def _tokens(model: Model, data: Prompts, slopes: list[Tensor], scale: float, top: int) -> dict[str, Any]:
    """The tokens whose embeddings, above the mean one, have the largest products with the slopes."""
    table = R.wide(model.W_E.detach()) * scale
    table = table - table.mean(0)
    best = [(slope.to(table) @ table.T).topk(top) for slope in slopes]
    real = data.real.cpu().numpy()[:, None, :, None]  # [prompt, 1, pos, 1]
    ids = torch.stack([each.indices for each in best], 1).cpu().numpy()
    values = torch.stack([each.values for each in best], 1).double().cpu().numpy()
    dims, ids = ("prompt", "layer", "pos", "place"), np.where(real, ids, -1)
    return {
        "top_id": (dims, ids), "top_token": (dims, R.names(model, ids)),
        "top_value": (dims, np.where(real, values, np.nan)),
    }  # fmt: skip


def _slopes(
    model: Model,
    parts: Weights | None,
    data: Prompts,
    chosen: tuple[Place, ...],
    end: Place,
    vector: Float[Tensor, "d_model"],
    marks: Tensor,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The projection [prompt], streams and slopes [prompt, pos, d_model] at each place."""
    kept: dict[tuple[str, int], Tensor] = {}
    points = dict.fromkeys([*((p.site, int(p.layer or 0)) for p in chosen), (end.site, int(end.layer or 0))])
    first = min(points, key=lambda point: (point[1], _STREAM.index(point[0])))

    def keep(point: tuple[str, int], tensor: Tensor) -> Tensor:
        kept[point] = tensor.detach().requires_grad_() if point == first else tensor.view_as(tensor)
        return kept[point]

    with torch.inference_mode(False), torch.enable_grad():
        if parts is not None:
            taps = {point: (lambda tensor, point=point: keep(point, tensor)) for point in points}
            forward(parts, parts.embed(data.tokens.clone()), 0, taps)
        else:
            hooks = [
                (hook_name(*point), lambda tensor, hook, point=point: keep(point, tensor)) for point in points
            ]
            with model.hooks(fwd_hooks=hooks):
                logits(model, data.tokens.clone())
        h = kept[end.site, int(end.layer or 0)]
        raw = torch.einsum("npd,np,d->n", h, marks.to(h), vector.to(h))
        streams = [kept[place.site, int(place.layer or 0)] for place in chosen]
        slopes = torch.autograd.grad(raw.sum(), streams)
    return raw.detach(), [R.wide(each.detach()) for each in streams], [R.wide(each) for each in slopes]
