"""Manifold steering from its other end: the curve of outputs, and activations that follow it (2605.05115).

1. `output_curve`: each class's mean distribution over the answers (and all else, as one more), at its square
   root, where the Euclidean distance is sqrt(2) times Hellinger's; a spline through these, M_y.
2. `invert_outputs`: for points of M_y, the point in the components of a manifold of activations M_h from
   which the model says that, by gradient. It starts on the chord. Where M_h is the model's own manifold, what
   it finds is nearer to M_h than the chord that it started on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp import results
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.positions import AnyPositions, everywhere
from interp.prompts import read
from interp.steering._optimise import learn
from interp.steering.edits import Number
from interp.steering.methods._curve import Curve, bends
from interp.steering.methods._manifold import Manifold, check_path, roots, said_at
from interp.tasks import vocabulary


@verb
def output_curve(
    model: Model, classes: Mapping[str, Any], answers: Sequence[int], *, periodic: bool = False
) -> Curve:
    """The curve through the output distributions of classes of prompts, in the order given.

    answers: one token id a class. A class's knot is the square root of its mean distribution [class + 1]:
    the answers, and all other tokens together. Raises ValueError, before any pass, for fewer than three
    classes, and for answers that are not one token each. Cost: a forward pass of each prompt.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=6, seed=0)
        >>> from interp.steering import methods
        >>> classes = {name: task.clean[i : i + 2] for i, name in enumerate("abc")}
        >>> tuple(methods.output_curve(model, classes, [5, 6, 7]).knots.shape)
        (3, 4)
    """
    size = vocabulary.size(model)
    if len(classes) < 3 or len(answers) != len(classes) or not all(0 <= each < size for each in answers):
        raise ValueError(
            f"there are {len(classes)} classes and answers is {list(answers)}; give three classes or more, "
            f"and a token id of each, from 0 to {size - 1}."
        )
    prompts = [read(model, each, what=f"class {name!r}") for name, each in classes.items()]
    for rows in prompts:
        anatomy(model).require_one_batch(rows.lengths)
    with torch.no_grad():
        means = [roots(model, rows, answers).square().mean(0).sqrt() for rows in prompts]
    knots = torch.stack(means).cpu()
    return Curve(tuple(classes), knots, bends(knots, periodic), periodic)


@verb
def invert_outputs(
    model: Model,
    curve: Manifold,
    outputs: Curve,
    prompts: Any,
    answers: Sequence[int],
    start: Number,
    end: Number,
    n: int = 9,
    *,
    when: AnyPositions = everywhere,
    steps: int = 50,
    lr: Number = 0.05,
) -> xr.Dataset:
    """The activations from which the model says what the curve of outputs says, from t = start to t = end.

    `value` (prompt, step): Hellinger distance from `outputs` at t, 0 to 1, from the points that were learned;
    `chord`, the same from where they started, on the chord. `point` (step, component); `off`, `off_chord`
    (step): their distance from `curve`, in the activations' units; `nearest` (step): the t of `curve` that is
    nearest. lr: in mean distances of the knots from their centre. Raises ValueError before any pass. Cost:
    n (steps + 2) forward and n steps backward passes of all prompts at once.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=6, seed=0)
        >>> from interp.steering import methods
        >>> classes = {name: task.clean[i : i + 2] for i, name in enumerate("abc")}
        >>> curve = methods.manifold(model, classes, 2, layer=1)
        >>> outputs = methods.output_curve(model, classes, [5, 6, 7])
        >>> out = methods.invert_outputs(model, curve, outputs, task, [5, 6, 7], 0, 2, n=3, steps=2)
        >>> out["value"].dims
        ('prompt', 'step')
    """
    rows = read(model, prompts)
    check_path(model, curve, answers, start, end, n, outputs)
    ways = torch.linspace(0, 1, n, dtype=torch.float64)
    t = start + (end - start) * ways
    begun, wanted = curve.chord(start, end, ways), outputs.curve(t)
    scale = float(curve.knots.norm(dim=1).mean())

    def said(point: Tensor) -> Tensor:
        return said_at(model, curve, rows, answers, point, when)

    points = []
    for first, goal in zip(begun, wanted):

        def loss(free: Mapping[str, Tensor], goal: Tensor = goal) -> Tensor:
            out = said(free["point"] * scale)
            return (out - goal.to(out)).square().sum(-1).mean() / 2

        points.append(scale * learn({"point": first / scale}, loss, steps=steps, lr=lr)[0]["point"])
    learned = torch.stack(points)
    off, nearest = curve.nearest(learned)
    with torch.no_grad():
        gaps = [
            torch.stack([(said(p).cpu() - goal).norm(dim=-1) / 2**0.5 for p, goal in zip(path, wanted)], 1)
            for path in (learned, begun)
        ]
    attrs = results.provenance(
        method="invert_outputs", convention="Hellinger distance from the curve of outputs, 0 to 1",
        model=anatomy(model).name, site=str(curve.place), n_prompts=len(rows),
    )  # fmt: skip
    variables = {
        "value": (("prompt", "step"), gaps[0].numpy()), "chord": (("prompt", "step"), gaps[1].numpy()),
        "point": (("step", "component"), learned.numpy()), "off": (("step",), off.numpy()),
        "off_chord": (("step",), curve.off_manifold(begun).numpy()), "nearest": (("step",), nearest.numpy()),
    }  # fmt: skip
    coords = {"prompt": np.arange(len(rows)), "step": ways.numpy(), "t": ("step", t.numpy())}
    return results.dataset(variables, coords, attrs)
