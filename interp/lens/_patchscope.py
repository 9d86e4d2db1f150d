"""`patchscope`: an activation is put into another prompt, and the model goes on from it.

1. The activation h of a source prompt at one layer and position.
2. Placed at a position of a target prompt, at the same layer or another, as it is or scaled to the norm of
   what stood there. The rest of the target's run is its own.
3. What the model then says at the target's end; beside it the same with a random vector of the norm, and with
   the activation of another source prompt.

A target that asks for repetition ("cat -> cat; 135 -> 135; hello -> hello; ?", read at the last token) makes
the model say what the activation holds. Placed in its own place it changes nothing; at the last layer's
output it is the logit lens. Ghandeharioun et al. 2401.06102.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp import results
from interp._activations import activations
from interp._verbs import verb
from interp.engine.forward import forward
from interp.engine.trust import own_weights
from interp.lens import _readout as R
from interp.models import Model, anatomy, logits
from interp.models.parts import Weights
from interp.models.places import Layers, places
from interp.places import hook_name
from interp.positions import AnyPositions, require_one
from interp.prompts import Prompts, read

IDENTITY = "cat -> cat; 135 -> 135; hello -> hello; ?"
_KINDS = ("source", "random", "shuffled")


@verb
def patchscope(
    model: Model,
    prompts: Any,
    target: Any = IDENTITY,
    targets: Any = None,
    *,
    site: str = "resid_pre",
    layer: Layers = None,
    to_layer: int | None = None,
    pos: AnyPositions = "last",
    at: int = -1,
    norm_matched: bool = False,
    top: int = 5,
    mask: Tensor | None = None,
    seed: int = 0,
    engine: str = "auto",
) -> xr.Dataset:
    """What the model says of an activation that is put into another prompt.

    prompts: the sources. target: the prompt that they are put into. targets: tokens to follow, of all prompts
    or ids [prompt, target], by default what each source prompt says itself. site: "resid_pre" or
    "resid_post". layer: the layers that are read; to_layer: the layer where it is placed, by default the
    same. pos: where it is read; at: where in the target it is placed. norm_matched: scaled to the norm of
    what stood there.

    Returns a Dataset with dims prompt, layer and target or place: `value`, the log probability in nats of the
    target at the target prompt's last position, `rank`; `top_id`, `top_token`, `top_value`; `random`,
    `shuffled` [prompt, layer, target]: `value` with a random vector of that norm, with another prompt's
    activation (NaN for a single prompt). Cost: a forward of the sources, and 3 rows of the target for each
    prompt and layer. Raises ValueError before it for what the model does not have, and for several positions.
    The model is left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4, seed=0)
        >>> found = interp.lens.patchscope(model, task, "Mary gave a book to", layer=[1, 2])
        >>> found["value"].dims
        ('prompt', 'layer', 'target')
    """
    facts = anatomy(model)
    if site not in ("resid_pre", "resid_post"):
        raise ValueError(f"site is {site!r}; an activation is placed at 'resid_pre' or 'resid_post'.")
    R.check_top(top, model)
    chosen = places(facts, layer, site)
    goal = None if to_layer is None else int(places(facts, to_layer, site)[0].layer or 0)
    data, asked = read(model, prompts, mask), read(model, target, what="target")
    length = int(asked.lengths[0])
    if len(asked) != 1 or not -length <= at < length:
        raise ValueError(
            f"at is {at}; target is {len(asked)} prompts, the first of {length} tokens. Give one."
        )
    require_one(pos, data)
    ids = R.followed(model, targets, len(data))
    R.readout_of(model)
    parts = own_weights(
        model, asked.tokens, asked.lengths, sites=(site,), engine=engine,
        instead=f"{len(chosen)} passes through the model and its hooks",
    )  # fmt: skip
    kept = activations(model, data, list(chosen), pos, engine=engine)
    if ids is None:
        ids = _said(model, data, pos, engine)
    generator = torch.Generator().manual_seed(seed)
    columns = []
    with torch.no_grad():
        for place in chosen:
            source, where = kept[place], (site, int(place.layer or 0) if goal is None else goal)
            noise = torch.randn(source.shape, generator=generator, dtype=torch.float64).to(source)
            noise = noise / noise.norm(dim=-1, keepdim=True) * source.norm(dim=-1, keepdim=True)
            rows = torch.cat((source, noise, source.roll(1, 0)))
            columns.append(_placed(model, parts, asked.tokens, where, at % length, rows, norm_matched))
    return _dataset(model, data, [int(place.layer or 0) for place in chosen], ids, columns, top, site, seed)


def _said(model: Model, data: Prompts, pos: AnyPositions, engine: str) -> Tensor:
    """What the model says at the position that is read: [prompt, 1]."""
    facts = anatomy(model)
    end = activations(model, data, f"L{facts.n_layers - 1}.resid_post", pos, engine=engine)
    return torch.cat([R.readout_of(model).logits(rows).argmax(-1) for rows in end.split(R.ROWS)])[:, None]


def _placed(
    model: Model,
    parts: Weights | None,
    target: Tensor,
    where: tuple[str, int],
    at: int,
    rows: Float[Tensor, "row d_model"],
    matched: bool,
) -> Float[Tensor, "row vocab"]:
    """Log probabilities at the target's end, with each row in its place."""

    def put(tensor: Tensor, hook: Any = None) -> Tensor:
        out, new = tensor.clone(), rows.to(tensor)
        if matched:
            new = new / new.norm(dim=-1, keepdim=True) * tensor[:, at].norm(dim=-1, keepdim=True)
        out[:, at] = new
        return out

    tokens = target.expand(len(rows), -1)
    if parts is not None:
        end = forward(parts, parts.embed(tokens), 0, {where: put})[:, -1]
        return R.readout_of(model).logits(end).log_softmax(-1)
    with model.hooks(fwd_hooks=[(hook_name(*where), put)]):
        return R.wide(logits(model, tokens)[:, -1]).log_softmax(-1)


def _dataset(
    model: Model,
    data: Prompts,
    layers: list[int],
    ids: Tensor,
    columns: list[Tensor],
    top: int,
    site: str,
    seed: int,
) -> xr.Dataset:
    n, dims = len(data), ("prompt", "layer", "target")
    ids = ids.to(columns[0].device)
    variables: dict[str, Any] = {}
    for k, name in enumerate(_KINDS):
        value = torch.stack([out[k * n : (k + 1) * n].gather(1, ids) for out in columns], 1)
        variables["value" if name == "source" else name] = (dims, value.double().cpu().numpy())
    if n == 1:
        variables["shuffled"] = (dims, np.full_like(variables["value"][1], np.nan))
    rank = torch.stack([R.ranks(out[:n], ids) for out in columns], 1)
    best = [out[:n].topk(top) for out in columns]
    top_id = torch.stack([each.indices for each in best], 1).cpu().numpy()
    place = ("prompt", "layer", "place")
    variables |= {
        "rank": (dims, rank.cpu().numpy()),
        "top_id": (place, top_id),
        "top_token": (place, R.names(model, top_id)),
        "top_value": (place, torch.stack([each.values for each in best], 1).cpu().numpy()),
        "target_token": (("prompt", "target"), R.names(model, ids.cpu().numpy())),
    }
    attrs = results.provenance(
        method="patchscope", site=site, model=anatomy(model).name, n_prompts=n, unit="nats", seed=seed,
        convention="value = log probability of the target at the end of the prompt that is patched",
    )  # fmt: skip
    return results.dataset(variables, {"prompt": np.arange(n), "layer": layers}, attrs)
