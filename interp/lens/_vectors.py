"""`read`: the tokens that vectors of the stream raise and lower; `values`: what the neurons of an MLP say.

A neuron adds its activation times its row of W_out to the stream: by the unembedding, a list of tokens that
it raises (Geva et al. 2203.14680). Rows that say alike are clustered by their centred logits; random rows of
the same lengths are what no meaning looks like.
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
from interp._arguments import shown
from interp._verbs import verb
from interp.lens import _readout as R
from interp.models import Model, anatomy
from interp.models import weights as weights_of
from interp.models.places import place
from interp.places import Place
from interp.tasks import vocabulary


@verb
def read(model: Model, vectors: Any, *, as_: str = "direction", top: int = 10) -> xr.Dataset:
    """The tokens that vectors of the stream raise and lower: of neurons, decoder rows, directions, states.

    vectors: a Direction, a tensor [d_model] or [row, d_model], or names of neurons ("L3N17": what its row of
    W_out writes). as_: "direction", or "state" for whole activations (see `_readout`).

    Returns a Dataset with dims row and place: `value`, the centred logits of the `top` tokens that are raised
    most (log probabilities in nats of a state), `top_id`, `top_token`; `low_value`, `low_id`, `low_token`, of
    those that are lowered most. The model's own scale of the norm is not in a direction: values compare
    tokens with one another. Cost: no forward but that of the proof. Raises ValueError for other widths and
    names.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> interp.lens.read(model, ["L1N3", "L2N0"], top=3)["top_token"].shape
        (2, 3)
    """
    R.check_kind(as_)
    R.check_top(top, model)
    labels, rows = rows_of(model, vectors)
    readout = R.readout_of(model)
    parts: dict[str, list[Tensor]] = {"value": [], "top_id": [], "low_value": [], "low_id": []}
    with torch.no_grad():
        for part in R.chunks(len(rows)):
            out = R.read(readout, rows[part], as_)
            for sign, (value, ids) in ((True, ("value", "top_id")), (False, ("low_value", "low_id"))):
                best = out.topk(top, largest=sign)
                parts[value].append(best.values)
                parts[ids].append(best.indices)
    arrays = {name: torch.cat(each).cpu().numpy() for name, each in parts.items()}
    dims = ("row", "place")
    variables: dict[str, Any] = {name: (dims, values) for name, values in arrays.items()}
    for name in ("top", "low"):
        variables[f"{name}_token"] = (dims, R.names(model, arrays[f"{name}_id"]))
    attrs = results.provenance(
        method="vocabulary", site="weights", model=anatomy(model).name, read_as=as_,
        unit="nats" if as_ == "state" else "logits",
        convention="value = centred logit that the vector adds, per unit of the final norm's scale"
        if as_ == "direction" else "value = log probability of the state",
    )  # fmt: skip
    return results.dataset(variables, {"row": np.array(labels, dtype=object)}, attrs)


def rows_of(model: Model, vectors: Any) -> tuple[list[str], Float[Tensor, "row d_model"]]:
    """Labels and vectors of the stream. ValueError for what is none of this model's."""
    if hasattr(vectors, "vectors"):  # a Direction
        direction = vectors.check(model)
        listed = [(str(place), v) for place, v in direction.vectors.items()]
        rows = [
            (name if v.ndim == 1 else f"{name} {i}", row)
            for name, v in listed
            for i, row in enumerate(v.reshape(-1, v.shape[-1]))
        ]
        return _checked(model, [name for name, _ in rows], torch.stack([row for _, row in rows]))
    if isinstance(vectors, (str, Place)) or (
        isinstance(vectors, Sequence) and len(vectors) and isinstance(vectors[0], (str, Place))
    ):
        return _neurons(model, [vectors] if isinstance(vectors, (str, Place)) else vectors)
    if not isinstance(vectors, (Tensor, np.ndarray)):
        raise ValueError(
            f"vectors is {shown(vectors)}; give a Direction, a tensor [row, d_model], or neurons."
        )
    rows = torch.as_tensor(vectors)
    rows = rows[None] if rows.ndim == 1 else rows
    return _checked(model, [str(i) for i in range(len(rows))], rows)


def _checked(model: Model, labels: list[str], rows: Tensor) -> tuple[list[str], Tensor]:
    d_model = model.cfg.d_model
    if rows.ndim != 2 or rows.shape[1] != d_model or not len(rows) or not rows.is_floating_point():
        raise ValueError(
            f"vectors has shape {tuple(rows.shape)}, {rows.dtype}; the stream has width {d_model}: give "
            f"[row, {d_model}] of floating point numbers."
        )
    if not bool(rows.isfinite().all()):
        raise ValueError("vectors has values that are not finite.")
    return labels, rows.detach().to(vocabulary.device(model))


def _neurons(model: Model, wanted: Sequence[str | Place]) -> tuple[list[str], Tensor]:
    facts = anatomy(model)
    found = [place(each, facts) for each in wanted]
    for each in found:
        if each.neuron is None:
            raise ValueError(
                f"{str(each)!r} is no neuron, and only neurons are vectors by weights alone. What a head or "
                "a layer writes depends on the prompt: interp.lens.logit(model, prompts, site='z')."
            )
    by_layer = {each.layer: value_rows(model, int(each.layer or 0)) for each in found}
    rows = torch.stack([by_layer[each.layer][each.neuron] for each in found])
    return [str(each) for each in found], rows


def value_rows(model: Model, layer: int) -> Float[Tensor, "neuron d_model"]:
    """What each neuron of an MLP writes per unit of activation; by the gain of a norm after it (Gemma 2)."""
    mlp = weights_of(model).blocks[layer].mlp
    if mlp is None:
        raise ValueError(f"layer {layer} of {model.cfg.model_name} has no MLP.")
    rows, norm = R.wide(mlp.W_out.detach()), mlp.out_norm
    if norm is None:
        return rows
    rows = rows - rows.mean(-1, keepdim=True) if norm.centred else rows
    return rows if norm.gain is None else rows * norm.gain.detach()
