"""`mixed`: the last layer's logits mixed with what early layers say (VISTA, 2502.03628).

p = softmax((1 − γ) l_L + γ mean of l_l over the layers in E), l_l the logit lens of what layer l writes to
the stream. γ = 0 is the model. Where early layers know something that later ones suppress, its rank rises
with γ; where they only know frequencies, everything falls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp import results
from interp._activations import activations
from interp._verbs import verb
from interp.lens import _readout as R
from interp.models import Model, anatomy
from interp.models.places import Layers, places
from interp.places import Place
from interp.positions import AnyPositions, require_one
from interp.prompts import read


@verb
def mixed(
    model: Model,
    prompts: Any,
    targets: Any = None,
    *,
    gammas: Sequence[float] = (0.0, 0.25, 0.5),
    layer: Layers = None,
    pos: AnyPositions = "last",
    top: int = 5,
    mask: Tensor | None = None,
    batch_size: int | None = None,
    engine: str = "auto",
) -> xr.Dataset:
    """What the model would say with early layers' logits mixed in.

    targets: tokens to follow, by default a task's answers, or what the model says. gammas: shares of the
    early layers. layer: those layers (their outputs), by default the lower half. pos: one position a prompt.

    Returns a Dataset with dims prompt, gamma and target or place: `value`, log probability in nats, `rank`,
    `top_id`, `top_token`; `kl` [prompt, gamma] = KL(model ‖ mixture). Cost: one forward of each prompt.
    Raises ValueError before it for shares outside 0 to 1 and for several positions. The model is left as
    found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> found = interp.lens.mixed(model, interp.tasks.ioi(model, n=4, seed=0))
        >>> found["value"].dims, float(found["kl"].sel(gamma=0.0).max()) < 1e-6
        (('prompt', 'gamma', 'target'), True)
    """
    facts = anatomy(model)
    if not len(gammas) or not all(0 <= gamma <= 1 for gamma in gammas):
        raise ValueError(f"gammas is {list(gammas)}; give shares from 0 to 1.")
    R.check_top(top, model)
    early = places(facts, range(max(1, facts.n_layers // 2)) if layer is None else layer, "resid_post")
    end = Place("resid_post", facts.n_layers - 1)
    data = read(model, prompts, mask)
    require_one(pos, data)
    answers = prompts.answers[:, :1] if hasattr(prompts, "answers") else None
    ids = R.followed(model, answers if targets is None else targets, len(data))
    readout = R.readout_of(model)
    kept = activations(
        model, data, list(dict.fromkeys((*early, end))), pos, batch_size=batch_size, engine=engine
    )
    arrays = _mixtures(readout, kept[end], [kept[place] for place in early], ids, gammas, top)
    dims = {"kl": ("prompt", "gamma"), "target_id": ("prompt", "target")}
    dims |= {"value": ("prompt", "gamma", "target"), "rank": ("prompt", "gamma", "target")}
    variables: dict[str, Any] = {
        name: (dims.get(name, ("prompt", "gamma", "place")), values) for name, values in arrays.items()
    }
    variables["top_token"] = (("prompt", "gamma", "place"), R.names(model, arrays["top_id"]))
    attrs = results.provenance(
        method="mixed layers", site="resid_post", model=facts.name, n_prompts=len(data), unit="nats",
        layers=", ".join(str(place.layer) for place in early), data=data.data_hash(),
        convention="value = log probability of the target in the mixture",
    )  # fmt: skip
    coords = {"prompt": np.arange(len(data)), "gamma": [float(gamma) for gamma in gammas]}
    return results.dataset(variables, coords, attrs)


@torch.no_grad()
def _mixtures(
    readout: R.Readout,
    end: Float[Tensor, "prompt d_model"],
    early: list[Float[Tensor, "prompt d_model"]],
    ids: Tensor | None,
    gammas: Sequence[float],
    top: int,
) -> dict[str, np.ndarray]:
    """What each mixture says of the targets and of the vocabulary, a few prompts' logits at once."""
    columns: dict[str, list[Tensor]] = {name: [] for name in ("value", "rank", "top_id", "kl", "target_id")}
    for part in R.chunks(len(end)):
        last = readout.logits(end[part])
        low = torch.stack([readout.logits(state[part]) for state in early]).mean(0)
        chosen = last.argmax(-1, keepdim=True) if ids is None else ids.to(last.device)[part]
        rows = [((1 - gamma) * last + gamma * low).log_softmax(-1) for gamma in gammas]
        columns["value"].append(torch.stack([out.gather(1, chosen) for out in rows], 1))
        columns["rank"].append(torch.stack([R.ranks(out, chosen) for out in rows], 1))
        columns["top_id"].append(torch.stack([out.topk(top).indices for out in rows], 1))
        model_says = last.log_softmax(-1)
        columns["kl"].append(torch.stack([R.divergence(model_says, out) for out in rows], 1))
        columns["target_id"].append(chosen)
    return {name: torch.cat(parts).cpu().numpy() for name, parts in columns.items()}
