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
        direction = vectors.check(model).require_any()
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


@verb
def values(model: Model, layer: int, *, clusters: int = 8, top: int = 5, seed: int = 0) -> xr.Dataset:
    """The neurons of an MLP in clusters by the vocabulary that their output rows raise.

    layer: whose MLP. clusters: how many, by k-means on the rows' centred logits at length 1 (their inner
    products over the whole vocabulary, exactly; no [neuron, vocab] matrix is made).

    Returns a Dataset: `of_neuron` [neuron], the cluster of each, the largest first; by cluster `size`,
    `value`, the mean cosine of its rows with its centre, `top_id`, `top_token` and `top_value` [cluster,
    place] of the centre (cosine-weighted centred logits); `null` [cluster]: `value` of as many clusters of
    random rows, the most cohesive first, which is what no meaning looks like. Cost: no forward but that of
    the proof. Raises ValueError for a layer without neurons and for more clusters than neurons.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> interp.lens.values(model, 1, clusters=4)["top_token"].shape
        (4, 5)
    """
    from interp.steering.estimators import cluster_centres

    R.check_top(top, model)
    if not 0 <= layer < model.cfg.n_layers:
        raise ValueError(f"layer is {layer}; the model has layers 0 to {model.cfg.n_layers - 1}.")
    rows = value_rows(model, layer)
    if not 1 <= clusters <= len(rows):
        raise ValueError(f"clusters is {clusters}; give 1 to {len(rows)}, the number of neurons.")
    readout = R.readout_of(model)
    with torch.no_grad():
        gained = R.wide(readout.gained(rows.to(readout.W_U))).double()
        W = R.wide(readout.W_U).double()
        W = W - W.mean(1, keepdim=True)
        inner = W @ W.T  # of two rows' centred logits
        level, basis = torch.linalg.eigh(inner)
        root = basis * level.clamp(min=0).sqrt()  # [d_model, d_model]
        drawn = torch.randn(gained.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        noise = _unit(drawn.to(gained)) * gained.norm(dim=-1, keepdim=True)
        found = [_cohesion(_unit(part @ root), cluster_centres, clusters, seed) for part in (gained, noise)]
        cluster, cosine = found[0]
        unit = gained / (gained @ root).norm(dim=-1, keepdim=True).clamp(min=1e-30)
        counts = torch.bincount(cluster, minlength=clusters)
        total = torch.zeros(clusters, unit.shape[1], dtype=unit.dtype, device=unit.device)
        centres = total.index_add_(0, cluster, unit) / counts.clamp(min=1)[:, None]
        best = (centres @ W).topk(top)
    null = found[1][1].sort(descending=True).values
    arrays = {"value": cosine, "null": null, "size": counts}
    ids, dims = best.indices.cpu().numpy(), ("cluster", "place")
    variables: dict[str, Any] = {name: (("cluster",), each.cpu().numpy()) for name, each in arrays.items()}
    variables |= {"of_neuron": (("neuron",), cluster.cpu().numpy()), "top_id": (dims, ids)}
    variables |= {"top_token": (dims, R.names(model, ids)), "top_value": (dims, best.values.cpu().numpy())}
    attrs = results.provenance(
        method="value clusters", site="weights", model=anatomy(model).name, unit="cosine", seed=seed,
        convention="value = mean cosine of a cluster's rows with its centre, over the vocabulary",
        layer=layer,
    )  # fmt: skip
    return results.dataset(variables, {"cluster": np.arange(clusters), "neuron": np.arange(len(rows))}, attrs)


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-30)


def _cohesion(points: Tensor, cluster_centres: Any, k: int, seed: int) -> tuple[Tensor, Tensor]:
    """The cluster of each row, and by cluster the mean cosine with its centre."""
    centres, cluster = cluster_centres(points, k, seed)
    cosine = (points * _unit(centres)[cluster]).sum(-1)
    total = torch.zeros(k, dtype=cosine.dtype, device=cosine.device).index_add_(0, cluster, cosine)
    return cluster, total / torch.bincount(cluster, minlength=k).clamp(min=1)
