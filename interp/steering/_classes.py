"""Directions for several classes: style vectors, and directions without labels.

`class_means` (style vectors, Konen et al. 2024, 2402.01618): the mean of a class minus that of all others.
`kmeans`: the centres of clusters of activations minus their common mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp._activations import activations
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.models.places import Layers, vector_places
from interp.places import Place
from interp.positions import AnyPositions, weights
from interp.prompts import read
from interp.steering._direction import Direction, found_on
from interp.steering.estimators import cluster_centres, dealt


@verb
def class_means(
    model: Model,
    classes: Mapping[str, Any],
    *,
    layer: Layers = None,
    site: str = "resid_pre",
    head: int | None = None,
    pos: AnyPositions = "last",
    mask: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> dict[str, Direction]:
    """For each class, its mean activation minus the mean of the other classes' means, by place.

    With two classes these are the mean difference and its negative. Each direction carries that of shuffled
    labels (see `dealt`), drawn by `seed`. Cost: a forward pass of each prompt as far as the last layer.
    mask: by class, True where a token is real. Raises ValueError, before the pass, for fewer than two
    classes, an empty one, a position outside a prompt.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> classes = {"first": task.clean[:4], "rest": task.clean[4:]}
        >>> sorted(interp.steering.extract.class_means(model, classes, layer=2))
        ['first', 'rest']
    """
    if len(classes) < 2:
        raise ValueError(f"class_means needs two classes or more, got {len(classes)}.")
    wanted = vector_places(anatomy(model), layer, site, head)
    data = {
        name: read(model, prompts, (mask or {}).get(name), what=f"class {name!r}")
        for name, prompts in classes.items()
    }
    for prompts in data.values():
        weights(pos, prompts)
    rows = {n: activations(model, p, wanted, pos, batch_size=batch_size) for n, p in data.items()}
    labels = [name for name, found in rows.items() for _ in range(len(found[wanted[0]]))]
    drawn = dealt(labels, torch.Generator().manual_seed(seed))
    every = {w: torch.cat([found[w].flatten(1) for found in rows.values()]) for w in wanted}
    true = {w: _differences(every[w], labels) for w in wanted}
    shuffled = {} if drawn is None else {w: _differences(every[w], drawn) for w in wanted}
    norms = {
        name: {w: found[w].flatten(1).double().norm(dim=1).median().item() for w in wanted}
        for name, found in rows.items()
    }
    return {
        name: Direction(
            vectors=without_rounding({w: true[w][name] for w in wanted}, norms[name], f"class_means: {name}"),
            shuffled={w: found[name] for w, found in shuffled.items()},
            **found_on(model),
            method=f"class_means: {name}",
            positions=pos if isinstance(pos, str) else repr(pos),
            norms=norms[name],
            data=data[name].data_hash(),
            seed=seed,
        )
        for name in classes
    }


def without_rounding(
    vectors: Mapping[Place, Tensor], norms: Mapping[Place, float], method: str
) -> dict[Place, Tensor]:
    """The differences of classes, with what is rounding alone set to 0; ValueError where that is all of them.

    norms: the median norm of an activation there.
    """
    zero = [
        w for w, v in vectors.items() if float(v.double().norm()) <= 16 * torch.finfo(v.dtype).eps * norms[w]
    ]
    if len(zero) == len(vectors):
        raise ValueError(
            f"{method}: the classes have the same activations at {', '.join(map(str, zero))}, so there is no "
            "direction. Read another layer or position, or give prompts that differ there."
        )
    return {where: torch.zeros_like(v) if where in zero else v for where, v in vectors.items()}


def _differences(rows: Float[Tensor, "row d"], labels: Sequence[str]) -> dict[str, Float[Tensor, "d"]]:
    """Mean of the rows of each class − mean of the other classes' means; summed in float64."""
    means = {
        name: rows[torch.tensor([each == name for each in labels], device=rows.device)].double().mean(0)
        for name in dict.fromkeys(labels)
    }
    total = torch.stack(list(means.values())).sum(0)
    return {name: (mean - (total - mean) / (len(means) - 1)).to(rows.dtype) for name, mean in means.items()}


@verb
def kmeans(
    model: Model,
    prompts: Any,
    k: int,
    *,
    layer: int,
    site: str = "resid_pre",
    head: int | None = None,
    pos: AnyPositions = "last",
    mask: Tensor | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> tuple[tuple[Direction, ...], Int[Tensor, "row"]]:
    """k directions without labels, the largest cluster first, and the cluster of every activation.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> directions, cluster = interp.steering.extract.kmeans(model, task.clean, 2, layer=1)
        >>> len(directions), tuple(cluster.shape)
        (2, (8,))
    """
    if k < 1:
        raise ValueError(f"k is {k}; give the number of clusters, at least 1.")
    (where,) = vector_places(anatomy(model), layer, site, head)
    data = read(model, prompts, mask)
    rows = activations(model, data, [where], pos, batch_size=batch_size)[where].flatten(1)
    centres, cluster = cluster_centres(rows, k, seed)
    made = Direction(
        {where: rows[0]},
        **found_on(model),
        norms={where: rows.double().norm(dim=1).median().item()},
        data=data.data_hash(),
        positions=str(pos),
        seed=seed,
    )
    middle = rows.double().mean(0)
    vectors = [(centre - middle).to(rows.dtype) for centre in centres]
    named = [replace(made, vectors={where: v}, method=f"kmeans {i} of {k}") for i, v in enumerate(vectors)]
    return tuple(named), cluster
