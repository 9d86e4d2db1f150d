"""Model-native skills: axes that the model's own activations vary along, ranked by what they do (2604.17614).

1. x_i: the mean activation of each text. No labels.
2. Centred singular vectors of all x_i: an orthogonal basis, each axis at the length of one standard
   deviation of the texts along it. The sign of an axis is that of its largest coordinate, and means nothing.
3. Proxy intervention: each axis is added and taken away, and ranked by what that does to a metric.

Derived from the abstract (the paper selects training data as well; that is left out). A large variance is
not a large effect: read `value` beside `random`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from interp import results
from interp._activations import activations
from interp._brief import brief
from interp._verbs import verb
from interp.experiment import Metrics, check_metric, check_task
from interp.models import Model, anatomy
from interp.models.places import vector_places
from interp.positions import AnyPositions, everywhere
from interp.prompts import read
from interp.steering._controls import controls
from interp.steering._direction import Direction, found_on
from interp.steering.edits import Number, add, finite
from interp.steering.methods._measure import Steered
from interp.tasks import Task

CONVENTION = (
    "effect = half of metric(axis added) - metric(axis taken away), turned so that positive is better"
)


@dataclass(frozen=True, eq=False)
class Skills:
    """Axes, the one of the largest variance first. explained: the share of the variance of each."""

    directions: tuple[Direction, ...]
    explained: Float[Tensor, "axis"]
    __repr__ = brief

    def __len__(self) -> int:
        return len(self.directions)


@verb
def native_skills(
    model: Model,
    texts: Any,
    k: int = 8,
    *,
    layer: int,
    site: str = "resid_pre",
    pos: AnyPositions = "mean",
    batch_size: int | None = None,
) -> Skills:
    """The first k axes of the texts' mean activations at a layer, each one standard deviation long.

    layer: a negative one counts from the last. Raises ValueError, before any pass, for k below 1 or not below
    the number of texts. Cost: a forward pass of each text as far as the layer. The model is left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> from interp.steering import methods
        >>> skills = methods.native_skills(model, task.clean, 2, layer=1)
        >>> len(skills), bool(skills.explained[0] >= skills.explained[1])
        (2, True)
    """
    rows = read(model, texts)
    (where,) = vector_places(anatomy(model), layer, site)
    if not 1 <= k < len(rows):
        raise ValueError(f"k is {k}; give 1 to {len(rows) - 1}, one less than the number of texts.")
    found = activations(model, rows, where, pos, batch_size=batch_size).flatten(1)
    x = found.double() - found.double().mean(0)
    _, sizes, axes = torch.linalg.svd(x, full_matrices=False)
    if k > len(sizes) or float(sizes[k - 1]) <= 1e-9 * float(sizes[0].clamp(min=1e-300)):
        raise ValueError(f"the texts vary in fewer than {k} dimensions at {where}. Ask for fewer axes.")
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    vectors = (signs * axes)[:k] * (sizes[:k, None] / (len(x) - 1) ** 0.5)
    norms = {where: found.double().norm(dim=1).median().item()}
    made = [
        Direction(
            {where: vector.to(found)}, method=f"native_skill {i}", norms=norms, data=rows.data_hash(),
            positions=pos if isinstance(pos, str) else repr(pos), **found_on(model),
        )
        for i, vector in enumerate(vectors)
    ]  # fmt: skip
    return Skills(tuple(made), (sizes[:k].square() / sizes.square().sum()).cpu())


@verb
def rank_skills(
    model: Model,
    skills: Skills,
    task: Task,
    coefficient: Number = 1.0,
    *,
    when: AnyPositions = everywhere,
    metric: Metrics | None = None,
    seed: int = 0,
    progress: bool = True,
) -> xr.Dataset:
    """Proxy interventions: `value` (prompt, axis[, metric]), half the difference between the axis added and
    taken away.

    `random` is the same of random directions as long as each axis, `clean` (prompt[, metric]) the metric of
    the model itself. Coordinate `rank` (axis): 0 is the axis with the largest mean effect of either sign, by
    the first metric. coefficient: in standard deviations. Cost: a plain pass of each prompt, and four
    steered ones for each axis. Raises ValueError, before any pass, for a coefficient that is not finite or 0.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> from interp.steering import methods
        >>> skills = methods.native_skills(model, task.clean, 2, layer=1)
        >>> methods.rank_skills(model, skills, task, progress=False)["value"].dims
        ('prompt', 'axis')
    """
    finite("coefficient", coefficient)
    if coefficient == 0:
        raise ValueError("coefficient is 0: nothing would be added. Give standard deviations, such as 1.0.")
    chosen = check_metric(metric, task.metric)
    check_task(task, anatomy(model), model)
    drawn = [each for each in controls(skills.directions, seed)["random"] if each is not None]
    runs = Steered(model, task, chosen)
    variables: dict[str, Any] = {"clean": (("prompt", "metric"), runs.clean.cpu().numpy())}
    with tqdm(total=2 * len(skills), disable=not progress, desc="skills", unit="axis") as bar:
        for name, directions in (("value", skills.directions), ("random", drawn)):
            effects = []
            for each in directions:
                up, down = (runs.effect(add(each, c, when=when)) for c in (coefficient, -coefficient))
                effects.append((up - down) / 2)
                bar.update()
            variables[name] = (("prompt", "axis", "metric"), torch.stack(effects, 1).numpy())
    size = np.abs(variables["value"][1][..., 0].mean(0))
    coords = {
        "axis": np.arange(len(skills)),
        "rank": ("axis", (-size).argsort(kind="stable").argsort()),
        "explained": ("axis", skills.explained.numpy()),
        "metric": [each.name for each in chosen],
    }
    attrs = results.provenance(
        method="rank_skills", convention=CONVENTION, metric=chosen, model=anatomy(model).name,
        site=skills.directions[0].site, task=task.name, task_fingerprint=task.fingerprint(),
        n_prompts=len(task), seed=seed, coefficient=float(coefficient),
    )  # fmt: skip
    return results.dataset(variables, coords, attrs, task)
