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

from interp.models import Model, anatomy
from interp.steering.activations import activations
from interp.steering.direction import Direction
from interp.steering.places import Layers, places
from interp.steering.prompts import read
from interp.steering.read_positions import Positions, weights


def class_means(
    model: Model,
    classes: Mapping[str, Any],
    *,
    layer: Layers = None,
    site: str = "resid_pre",
    head: int | None = None,
    pos: Positions = "last",
    seed: int = 0,
    batch_size: int = 32,
) -> dict[str, Direction]:
    """For each class, its mean activation minus the mean of the other classes' means, by place.

    With two classes these are the mean difference and its negative. Each direction carries that of shuffled
    labels (see `dealt`), drawn by `seed`. Cost: a forward pass of each prompt as far as the last layer.
    Raises ValueError, before it, for fewer than two classes, an empty one, a position outside a prompt.
    """
    if len(classes) < 2:
        raise ValueError(f"class_means needs two classes or more, got {len(classes)}.")
    wanted = places(anatomy(model), layer, site, head)
    data = {name: read(model, prompts, what=f"class {name!r}") for name, prompts in classes.items()}
    for prompts in data.values():
        weights(pos, prompts)
    rows = {n: activations(model, p, wanted, pos, batch_size=batch_size) for n, p in data.items()}
    labels = [name for name, found in rows.items() for _ in range(len(found[wanted[0]]))]
    drawn = dealt(labels, torch.Generator().manual_seed(seed))
    every = {w: torch.cat([found[w].flatten(1) for found in rows.values()]) for w in wanted}
    true, shuffled = ({w: _differences(every[w], each) for w in wanted} for each in (labels, drawn))
    return {
        name: Direction(
            vectors={w: true[w][name] for w in wanted},
            shuffled={w: shuffled[w][name] for w in wanted},
            model=anatomy(model).name,
            method=f"class_means: {name}",
            positions=pos if isinstance(pos, str) else repr(pos),
            norms={w: rows[name][w].flatten(1).double().norm(dim=1).median().item() for w in wanted},
            data=data[name].data_hash(),
            seed=seed,
        )
        for name in classes
    }


def dealt(labels: Sequence[str], generator: torch.Generator) -> list[str]:
    """Shuffled labels of which every class gets its share of the rows of every class.

    Labels drawn freely would by chance go with the old ones, and the control would be a weak treatment.
    """
    order = {name: i for i, name in enumerate(dict.fromkeys(labels))}
    rows: list[int] = torch.randperm(len(labels), generator=generator).tolist()
    rows.sort(key=lambda i: order[labels[i]])  # stable: random within a class
    deck = []
    for name in order:
        n = labels.count(name)
        at = (torch.arange(n) + torch.rand(n, generator=generator)) / n
        deck += [(where, name) for where in at.tolist()]
    found = dict(zip(rows, (name for _, name in sorted(deck))))
    return [found[i] for i in range(len(labels))]


def _differences(rows: Float[Tensor, "row d"], labels: Sequence[str]) -> dict[str, Float[Tensor, "d"]]:
    """Mean of the rows of each class − mean of the other classes' means; summed in float64."""
    means = {
        name: rows[torch.tensor([each == name for each in labels], device=rows.device)].double().mean(0)
        for name in dict.fromkeys(labels)
    }
    total = torch.stack(list(means.values())).sum(0)
    return {name: (mean - (total - mean) / (len(means) - 1)).to(rows.dtype) for name, mean in means.items()}


def kmeans(
    model: Model,
    prompts: Any,
    k: int,
    *,
    layer: int,
    site: str = "resid_pre",
    pos: Positions = "last",
    seed: int = 0,
    batch_size: int = 32,
) -> tuple[tuple[Direction, ...], Int[Tensor, "row"]]:
    """k directions without labels, the largest cluster first, and the cluster of every activation."""
    (where,) = places(anatomy(model), layer, site)
    data = read(model, prompts)
    rows = activations(model, data, [where], pos, batch_size=batch_size)[where].flatten(1)
    centres, cluster = cluster_centres(rows, k, seed)
    made = Direction(
        {where: rows[0]},
        model=anatomy(model).name,
        norms={where: rows.double().norm(dim=1).median().item()},
        data=data.data_hash(),
        positions=str(pos),
        seed=seed,
    )
    middle = rows.double().mean(0)
    vectors = [(centre - middle).to(rows.dtype) for centre in centres]
    named = [replace(made, vectors={where: v}, method=f"kmeans {i} of {k}") for i, v in enumerate(vectors)]
    return tuple(named), cluster


def cluster_centres(
    rows: Float[Tensor, "n d"], k: int, seed: int = 0, steps: int = 100
) -> tuple[Float[Tensor, "k d"], Int[Tensor, "n"]]:
    """Lloyd's algorithm from k-means++ seeds: centres (largest cluster first) and the cluster of each row.

    Raises ValueError unless 1 <= k <= n.
    """
    if not 1 <= k <= len(rows):
        raise ValueError(f"k is {k}; it must be 1 to the number of rows, {len(rows)}.")
    points = rows.double()
    centres = _seeds(points, k, torch.Generator().manual_seed(seed))
    for _ in range(steps):
        cluster = torch.cdist(points, centres).argmin(1)
        members = torch.nn.functional.one_hot(cluster, k).double()  # [n, k]
        count = members.sum(0)[:, None]
        moved = torch.where(count > 0, members.T @ points / count.clamp(min=1), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    cluster = torch.cdist(points, centres).argmin(1)
    order = torch.bincount(cluster, minlength=k).argsort(descending=True, stable=True)
    return centres[order], order.argsort()[cluster]


def _seeds(points: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k-means++: each next seed is drawn in proportion to its squared distance from the others."""
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    for _ in range(k - 1):
        distance = torch.cdist(points, points[chosen]).amin(1).square().cpu()
        weight = distance if float(distance.sum()) > 0 else torch.ones_like(distance)
        chosen.append(int(torch.multinomial(weight, 1, generator=generator)))
    return points[chosen]
