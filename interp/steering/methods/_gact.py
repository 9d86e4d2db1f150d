"""G-ACT: several vectors, and a probe that chooses one for each prompt (2506.18887).

Steering conceptual bias (in the paper: which programming language a model answers in, its latent bias) by one
mean difference fails where prompts differ in *how* they differ: opposite differences cancel.

1. Differences of pairs, one each: wanted - as it is, at a place.
2. k-means: centroids c_j, the largest cluster first.
3. A linear probe, softmax(W h + b), tells from the prompt as it is which centroid its difference belongs to.
4. Steering: the probe reads the end of the prompt, before the edit; its choice is held while tokens are
   generated; h + alpha c_j.
`refine` goes on training the probe by gradient on prompts whose cluster is known (the paper does so online).

Derived from the abstract. Where the prompts as they are look alike, the probe is at chance: read `accuracy`,
which is on pairs that it was not trained on, beside `chance`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp._activations import activations, one_row
from interp._brief import brief
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.models.places import vector_places
from interp.places import Place
from interp.positions import AnyPositions, Frame, everywhere
from interp.probes.selectors import require_pairs
from interp.probes.splits import joined, token_rows
from interp.prompts import read, read_classes
from interp.steering._direction import Direction, found_on, same_model
from interp.steering._edit_types import Edit
from interp.steering._intervention import Intervention
from interp.steering._optimise import learn
from interp.steering.edits import Made, Number, finite
from interp.steering.estimators import cluster_centres
from interp.steering.methods._guiding import Reader


@dataclass(frozen=True, eq=False)
class _Chosen(Edit):
    """h + alpha times the centroid that the probe chose on the prompt."""

    method: Centroids
    kept: dict[Place, Tensor]
    alpha: float
    __repr__ = brief

    def __call__(self, h: Tensor) -> Tensor:
        raise ValueError("the choice is made on the prompt, so it needs a running pass: use it in steer.")

    def at(self, h: Tensor, frame: Frame) -> Tensor:
        step = self.method.vectors[self.method.choose_rows(self.kept[self.method.place])]
        if len(step) != len(h):
            raise ValueError(f"the prompts were {len(step)} rows, this pass has {len(h)}.")
        return h + self.alpha * step[:, None].to(h)


@dataclass(frozen=True, eq=False)
class Centroids:
    """Vectors [cluster, d] at a place, and the probe that chooses: weight [cluster, d], bias [cluster].

    clusters: of the pairs it was fitted on. accuracy: of the probe on pairs left out, in folds that keep
    equal prompts together; chance: the share of the largest cluster.
    """

    place: Place
    vectors: Float[Tensor, "cluster d"]
    weight: Float[Tensor, "cluster d"]
    bias: Float[Tensor, "cluster"]
    clusters: Int[Tensor, "pair"]
    accuracy: float
    chance: float
    found: Mapping[str, Any]
    __repr__ = brief

    def direction(self, cluster: int) -> Direction:
        """One of the vectors. ValueError for a cluster that there is not."""
        if not 0 <= cluster < len(self.vectors):
            raise ValueError(f"cluster is {cluster}; there are {len(self.vectors)}.")
        return Direction({self.place: self.vectors[cluster]}, method=f"g-act {cluster}", **self.found)

    def choose_rows(self, h: Float[Tensor, "row d"]) -> Int[Tensor, "row"]:
        """The cluster that the probe chooses for activations at the end of prompts."""
        return (h.double() @ self.weight.T.to(h.device) + self.bias.to(h.device)).argmax(1)

    def choose(self, model: Model, prompts: Any) -> Int[Tensor, "prompt"]:
        """The cluster of each prompt. Cost: a pass of each as far as the place."""
        same_model("the probe", self.found["model"], self.found["weights"], model)
        return self.choose_rows(activations(model, prompts, self.place, "last"))

    def steer(self, alpha: Number = 1.0, *, when: AnyPositions = everywhere) -> Made:
        """Each row gets the vector that the probe chooses for its prompt. alpha 0 does nothing."""
        finite("alpha", alpha)
        kept: dict[Place, Tensor] = {}
        model, weights = self.found.get("model"), self.found.get("weights", ())
        chosen = Intervention(
            self.place, _Chosen(self, kept, float(alpha)), when, model=model, weights=weights
        )
        return Intervention(self.place, Reader(kept, self.place)), chosen

    def refine(self, model: Model, prompts: Any, clusters: Any, *, steps: int = 20) -> Centroids:
        """The probe trained further on prompts whose cluster is known; the vectors stay.

        ValueError for another number of clusters than prompts, or one that there is not. Cost: a pass of each
        prompt as far as the place.
        """
        rows, wanted = read(model, prompts), torch.as_tensor(clusters)
        whole = not wanted.is_floating_point() and wanted.dtype != torch.bool
        if (
            wanted.shape != (len(rows),)
            or not whole
            or not bool(((wanted >= 0) & (wanted < len(self.vectors))).all())
        ):
            raise ValueError(
                f"clusters is {list(wanted.shape)} of {wanted.dtype} for {len(rows)} prompts; give "
                f"a whole number each, 0 to {len(self.vectors) - 1}."
            )
        x = activations(model, rows, self.place, "last").double()
        weight, bias = _probe(x, wanted.to(x.device), len(self.vectors), (self.weight, self.bias), steps)
        return replace(self, weight=weight, bias=bias)


@verb
def gact(
    model: Model,
    positive: Any,
    negative: Any,
    k: int = 2,
    *,
    layer: int,
    site: str = "resid_pre",
    pos: AnyPositions = "last",
    seed: int = 0,
    batch_size: int | None = None,
) -> Centroids:
    """k vectors of paired prompts (row i of both: as wanted, as it is), and the probe that chooses.

    pos: where the differences are read; the probe reads the last token of `negative`. Raises ValueError,
    before any pass, for unpaired classes, k outside 1 to the number of pairs. Cost: a forward pass of each
    prompt as far as the layer. The model is left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> from interp.steering import methods
        >>> made = methods.gact(model, task.clean, task.corrupt, 2, layer=1)
        >>> tuple(made.vectors.shape), len(made.steer(1.0))
        ((2, 64), 2)
    """
    one_row(pos)
    (where,) = vector_places(anatomy(model), layer, site)
    up, down = read_classes(model, positive, negative)
    require_pairs(len(up), len(down))
    if not 1 <= k <= len(up):
        raise ValueError(f"k is {k}; give 1 to the number of pairs, {len(up)}.")
    above, below = (
        activations(model, each, where, pos, batch_size=batch_size).double() for each in (up, down)
    )
    centres, cluster = cluster_centres(above - below, k, seed)
    x = below if pos == "last" else activations(model, down, where, "last", batch_size=batch_size).double()
    weight, bias = _probe(x, cluster, k)
    unit = joined([[tuple(row)] for row in token_rows(down)]).to(x.device)
    return Centroids(
        where, centres, weight, bias, cluster, _held_out(x, cluster, k, seed, unit),
        float(torch.bincount(cluster, minlength=k).max() / len(cluster)), found_on(model),
    )  # fmt: skip


def _probe(
    x: Float[Tensor, "row d"],
    cluster: Int[Tensor, "row"],
    k: int,
    start: tuple[Tensor, Tensor] | None = None,
    steps: int = 100,
    l2: float = 1e-2,
) -> tuple[Tensor, Tensor]:
    """Weight and bias of softmax(W h + b), in the activations' units: from zero, or from those given."""
    middle, size = (
        x.mean(0),
        x.std(0).square().mean().sqrt().clamp(min=1e-12) if len(x) > 1 else x.new_ones(()),
    )
    weight = x.new_zeros(k, x.shape[1]) if start is None else start[0].to(x) * size
    bias = x.new_zeros(k) if start is None else start[1].to(x) + start[0].to(x) @ middle
    z = (x - middle) / size

    def loss(free: Mapping[str, Tensor]) -> Tensor:
        out = z @ free["weight"].T + free["bias"]
        return torch.nn.functional.cross_entropy(out, cluster) + l2 * free["weight"].square().sum()

    learnt, _ = learn({"weight": weight, "bias": bias}, loss, steps=steps)
    weight = learnt["weight"] / size
    return weight, learnt["bias"] - weight @ middle


def _held_out(
    x: Float[Tensor, "pair d"],
    cluster: Int[Tensor, "pair"],
    k: int,
    seed: int,
    unit: Int[Tensor, "pair"],
    folds: int = 4,
) -> float:
    """Share of pairs whose cluster a probe trained without their fold tells; NaN with too few prompts.

    unit: the same number for equal prompts, which stay in one fold.
    """
    n, right = int(unit.max()) + 1, 0
    if n < folds:
        return float("nan")
    fold = (torch.randperm(n, generator=torch.Generator().manual_seed(seed)) % folds).to(unit.device)[unit]
    for each in range(folds):
        test, train = fold == each, fold != each
        weight, bias = _probe(x[train], cluster[train], k)
        right += int(((x[test] @ weight.T + bias).argmax(1) == cluster[test]).sum())
    return right / len(x)
