"""Manifold steering: along the curve on which ordered classes lie, not along the chord (2605.05115).

1. Centroids of the classes' activations at a place, in their order (days, months, numbers).
2. PCA of the centroids: k components.
3. A cubic spline through the centroids, at t = 0, 1, 2, ...; periodic, it closes on the first.
4. Steering to t: the part of h in the components becomes the curve's point; what is orthogonal stays.
   The chord between two classes is the straight line between their centroids, in the same components.

On a circle the chord comes nearest to the centre, where no class is, and the curve keeps the radius:
`off_manifold` measures that. `manifold_paths` says what the model answers on both ways, and how far that is
from the classes' own curve of outputs (`_manifold_outputs`, which inverts it too). Derived from the abstract.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp import results
from interp._activations import activations
from interp._brief import brief
from interp._verbs import verb
from interp.models import Model, anatomy, logits
from interp.models.places import vector_places
from interp.places import Place
from interp.positions import AnyPositions, everywhere
from interp.prompts import Prompts, read
from interp.steering._direction import found_on
from interp.steering._edit_types import SubspaceMap
from interp.steering._intervention import Intervention
from interp.steering._steer import steer
from interp.steering.edits import AnyGate, Made, Number, finite
from interp.steering.methods._curve import Curve, bends
from interp.tasks import vocabulary


@dataclass(frozen=True, eq=False)
class Manifold(Curve):
    """A curve through class centroids: `knots` [class, k] in components `basis` [k, d] about `centre` [d].

    explained: the share of the centroids' variance in the components.
    """

    place: Place
    basis: Float[Tensor, "k d"]
    centre: Float[Tensor, "d"]
    explained: float
    found: Mapping[str, Any] = field(default_factory=dict, repr=False)  # the model it was found on
    __repr__ = brief

    def to_point(
        self,
        point: Float[Tensor, "k"],
        strength: Number = 1.0,
        *,
        when: AnyPositions = everywhere,
        gate: AnyGate = None,
    ) -> Made:
        """h with its part in the components at a point; at strength s, so far of the way to it."""
        finite("strength", strength)
        finite("point", point)
        target = self.centre + point.double() @ self.basis
        nothing = torch.zeros(len(self.basis), len(self.basis), dtype=torch.float64)
        edit = SubspaceMap(self.basis, nothing, self.centre, target, strength)
        return (Intervention(self.place, edit, when, gate, **self.found),)

    def steer(
        self, t: Number, strength: Number = 1.0, *, when: AnyPositions = everywhere, gate: AnyGate = None
    ) -> Made:
        """h moved to the curve at t, where class i is at t = i. strength 0 does nothing."""
        return self.to_point(self.curve(float(t)), strength, when=when, gate=gate)


@verb
def manifold(
    model: Model,
    classes: Mapping[str, Any],
    k: int = 2,
    *,
    periodic: bool = False,
    layer: int,
    site: str = "resid_pre",
    pos: AnyPositions = "last",
    batch_size: int | None = None,
) -> Manifold:
    """The curve through the centroids of classes of prompts, in the order given.

    k: components. Raises ValueError, before any pass, for fewer than three classes, or k outside 1 to one
    less than their number. Cost: a forward pass of each prompt as far as the layer.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> from interp.steering import methods
        >>> classes = {name: task.clean[i : i + 2] for i, name in enumerate("abc")}
        >>> curve = methods.manifold(model, classes, 2, layer=1)
        >>> curve.length, len(curve.steer(0.5))
        (2.0, 1)
    """
    (where,) = vector_places(anatomy(model), layer, site)
    if len(classes) < 3 or not 1 <= k < len(classes):
        raise ValueError(
            f"there are {len(classes)} classes and k is {k}; give three or more, and k from 1 to one less."
        )
    prompts = {name: read(model, each, what=f"class {name!r}") for name, each in classes.items()}
    rows = [activations(model, each, where, pos, batch_size=batch_size) for each in prompts.values()]
    centroids = torch.stack([each.double().mean(0) for each in rows]).cpu()
    curve = manifold_of(centroids, list(classes), where, k, periodic=periodic)
    return replace(curve, found=found_on(model))


@verb
def manifold_of(
    centroids: Float[Tensor, "class d"],
    labels: Sequence[str],
    site: str | Place,
    k: int = 2,
    *,
    periodic: bool = False,
) -> Manifold:
    """The curve through given centroids, in float64. Pure. ValueError where they span fewer dimensions.

    Example:
        >>> import torch
        >>> from interp.steering import methods
        >>> angle = torch.arange(7) * 2 * torch.pi / 7
        >>> circle = torch.stack((angle.cos(), angle.sin()), 1).double()
        >>> curve = methods.manifold_of(circle, list("abcdefg"), "L1.resid_pre", periodic=True)
        >>> round(float(curve.curve(3.5).norm()), 2), round(float(curve.chord(0, 3.5, 0.5).norm()), 2)
        (1.0, 0.0)
    """
    from interp.places import parse

    where = parse(site) if isinstance(site, str) else site
    centre = centroids.double().mean(0)
    _, sizes, axes = torch.linalg.svd(centroids.double() - centre, full_matrices=False)
    if (
        len(labels) != len(centroids)
        or not 1 <= k <= len(sizes)
        or float(sizes[k - 1]) <= 1e-9 * float(sizes[0])
    ):
        raise ValueError(
            f"{len(centroids)} centroids with {len(labels)} labels span fewer than {k} dimensions, or the "
            "numbers differ. Give one label a centroid, and a smaller k."
        )
    basis = axes[:k]
    knots = (centroids.double() - centre) @ basis.T
    share = float(sizes[:k].square().sum() / sizes.square().sum())
    return Manifold(tuple(labels), knots, bends(knots, periodic), periodic, where, basis, centre, share)


@verb
def manifold_paths(
    model: Model,
    curve: Manifold,
    prompts: Any,
    answers: Sequence[int],
    start: Number,
    end: Number,
    n: int = 9,
    *,
    when: AnyPositions = everywhere,
    outputs: Curve | None = None,
) -> xr.Dataset:
    """What the model says on the way from t = start to t = end, by the curve and by the chord.

    answers: one token id a class. Variables `curve` and `chord` (prompt, step, class): probabilities of the
    classes among themselves; `mass_curve`, `mass_chord` (prompt, step): their share of all probability;
    `off_curve`, `off_chord` (step): distance from the curve; with outputs=, of `output_curve`, `away_curve`
    and `away_chord` (prompt, step): Hellinger distance of what is said from the nearest point of it, 0 to 1.
    Attributes `visits_curve`, `visits_chord`: the likeliest class along the way, repetitions left out, by the
    mean over prompts. Cost: 2 n forward passes of all prompts at once. Raises ValueError before any pass.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> from interp.steering import methods
        >>> classes = {name: task.clean[i : i + 2] for i, name in enumerate("abc")}
        >>> curve = methods.manifold(model, classes, 2, layer=1)
        >>> out = methods.manifold_paths(model, curve, task.clean, [5, 6, 7], 0, 2, n=3)
        >>> out["curve"].dims
        ('prompt', 'step', 'class')
    """
    rows = read(model, prompts)
    check_path(model, curve, answers, start, end, n, outputs)
    steps = torch.linspace(0, 1, n, dtype=torch.float64)
    points = {"curve": curve.curve(start + (end - start) * steps), "chord": curve.chord(start, end, steps)}
    variables: dict[str, Any] = {}
    visits: dict[str, str] = {}
    for name, path in points.items():
        with torch.no_grad():
            said = [said_at(model, curve, rows, answers, point, when).cpu() for point in path]
        root = torch.stack(said, 1)  # [prompt, step, class + 1]
        mass = root[..., :-1].square()
        share = mass / mass.sum(-1, keepdim=True)
        visits[f"visits_{name}"] = _visited(share, curve.labels)
        variables[name] = (("prompt", "step", "class"), share.numpy())
        variables[f"mass_{name}"] = (("prompt", "step"), mass.sum(-1).numpy())
        variables[f"off_{name}"] = (("step",), curve.off_manifold(path).numpy())
        if outputs is not None:
            away = outputs.off_manifold(root) / 2**0.5
            variables[f"away_{name}"] = (("prompt", "step"), away.numpy())
    attrs = results.provenance(
        method="manifold_paths", convention="probabilities of the classes among themselves, by step",
        model=anatomy(model).name, site=str(curve.place), n_prompts=len(rows),
    )  # fmt: skip
    coords = {
        "prompt": np.arange(len(rows)), "step": steps.numpy(), "class": list(curve.labels),
        "t": ("step", (start + (end - start) * steps).numpy()),
    }  # fmt: skip
    return results.dataset(variables, coords, {**attrs, **visits})


def check_path(
    model: Model,
    curve: Manifold,
    answers: Sequence[int],
    start: Number,
    end: Number,
    n: int,
    outputs: Curve | None,
) -> None:
    """ValueError for what is no way along the curve. No pass."""
    for t in (start, end):
        for each in curve.steer(t):
            each.check(model)
    size = vocabulary.size(model)
    if len(answers) != len(curve.labels) or not all(0 <= each < size for each in answers) or n < 2:
        raise ValueError(
            f"answers is {list(answers)} and n is {n}; give one token id for each of {len(curve.labels)} "
            "classes, and two steps or more."
        )
    if outputs is not None and outputs.knots.shape[1] != len(answers) + 1:
        raise ValueError(
            f"outputs is of {outputs.knots.shape[1] - 1} answers, there are {len(answers)}. Make it with "
            "output_curve from the same answers."
        )


def roots(model: Model, rows: Prompts, answers: Sequence[int]) -> Float[Tensor, "prompt class_1"]:
    """Square roots of the answers' probabilities after each prompt, and of all others' together."""
    anatomy(model).require_one_batch(rows.lengths)
    out = logits(model, rows.tokens)
    last = out[torch.arange(len(rows), device=out.device), rows.lengths - 1].double()
    p = last.softmax(-1)[:, list(answers)]
    rest = (1 - p.sum(-1, keepdim=True)).clamp(min=0)
    return torch.cat([p, rest], -1).clamp(min=1e-30).sqrt()


def said_at(
    model: Model, curve: Manifold, rows: Prompts, answers: Sequence[int], point: Tensor, when: AnyPositions
) -> Float[Tensor, "prompt class_1"]:
    """`roots` with the activations at a point of the curve's components."""
    with steer(model, *curve.to_point(point, when=when), prompt_length=rows.lengths):
        return roots(model, rows, answers)


def _visited(share: Float[Tensor, "prompt step class"], labels: tuple[str, ...]) -> str:
    """The likeliest class along the way, repetitions left out."""
    order = share.mean(0).argmax(-1).tolist()
    return " ".join(labels[c] for i, c in enumerate(order) if not i or c != order[i - 1])
