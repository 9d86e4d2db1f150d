"""Harmfulness and refusal at two positions, and a guard that reads the first (Zhao et al., 2507.11878).

Whether a request is harmful is read at the last token of the instruction; whether it will be refused at the
last token of the whole prompt, after the tokens of the chat template.

1. `harm_and_refusal`: mean differences, harmful − harmless at the end of the instruction, refused − accepted
   at the end of the prompt. Harmful requests that are answered (in a game, say) tell the two apart.
2. `cross_effects`: each direction is added and every task measured, a table of directions × tasks. A task
   that asks for a judgement of the request after an answer is the paper's reply inversion.
3. `latent_guard`: a prompt's mean cosine with the mean of the harmful class minus that with the mean of the
   harmless, over layers, at the end of the instruction. Above 0: harmful, whether or not it is refused.

Sign: towards harmful, towards refused. Units: directions have those of the activations; the guard's score is
a difference of cosines, -2 to 2; effects have the unit of the task's metric.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
from interp.models import Model, anatomy
from interp.models.places import Layers, vector_places
from interp.places import Place
from interp.positions import AnyPositions, everywhere, weights
from interp.prompts import Prompts, read
from interp.steering._direction import Direction, found_on, same_model
from interp.steering._sweep import sweep
from interp.steering.edits import finite
from interp.steering.extract import mean_difference
from interp.tasks import Task


@dataclass(frozen=True, eq=False)
class LatentGuard:
    """Mean activations of two classes by place, [d] each, and the position at which prompts are read."""

    harmful: Mapping[Place, Tensor]
    harmless: Mapping[Place, Tensor]
    pos: AnyPositions
    model: str | None
    weights: tuple[float, ...] = field(default=(), repr=False)  # as of a Direction
    __repr__ = brief

    def score(self, model: Model, prompts: Any, *, batch_size: int | None = None) -> Float[Tensor, "prompt"]:
        """Mean over places of cos(h, harmful mean) − cos(h, harmless mean). Above 0: harmful.

        Cost: one forward pass of each prompt as far as the last place. Raises ValueError, before any pass,
        for another model, and for a prompt without the position.
        """
        same_model("the guard", self.model, self.weights, model, free="guard, model=None")
        rows = activations(model, prompts, list(self.harmful), self.pos, batch_size=batch_size)
        return torch.stack(
            [_cosine(rows[w], self.harmful[w]) - _cosine(rows[w], self.harmless[w]) for w in self.harmful]
        ).mean(0)


@verb
def latent_guard(
    model: Model,
    harmful: Any,
    harmless: Any,
    *,
    instruction_end: AnyPositions,
    layer: Layers = None,
    site: str = "resid_pre",
    batch_size: int | None = None,
) -> LatentGuard:
    """A classifier of prompts by the nearer class mean, in cosine, at the end of the instruction.

    instruction_end: a position, as `positions.before(ids)` for the token before a marker of the template.
    harmful, harmless: prompts in the template. layer: the mean over all is taken, as in the paper.

    Cost: one forward pass of each prompt as far as the last layer. Raises ValueError, before any pass, for an
    empty class, a position outside a prompt or naming several rows, a place that the model does not have.
    Paper: 2507.11878.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp.steering import methods
        >>> guard = methods.latent_guard(model, up, down, instruction_end=-1, layer=1)
        >>> type(guard).__name__
        'LatentGuard'
    """
    wanted = vector_places(anatomy(model), layer, site)
    sides = _read(model, {"harmful": (harmful, instruction_end), "harmless": (harmless, instruction_end)})
    means = [
        activations(model, side, wanted, instruction_end, "mean", batch_size=batch_size)
        for side in sides.values()
    ]
    return LatentGuard(means[0], means[1], instruction_end, **found_on(model))


@verb
def harm_and_refusal(
    model: Model,
    harmful: Any,
    harmless: Any,
    refused: Any = None,
    accepted: Any = None,
    *,
    instruction_end: AnyPositions,
    prompt_end: AnyPositions = "last",
    layer: Layers = None,
    site: str = "resid_pre",
    seed: int = 0,
    batch_size: int | None = None,
) -> tuple[Direction, Direction]:
    """Harmfulness, at the end of the instruction, and refusal, at the end of the prompt: [d] at each layer.

    refused, accepted: prompts for the second; by default the harmful and the harmless ones, which confounds
    the two where every harmful request is refused. `harm.cosine(refusal)` compares them layer by layer.

    Cost: one forward pass of each prompt for each direction. Raises ValueError, before any pass, for an empty
    class, a position outside a prompt, one of refused and accepted without the other, a place that the model
    does not have. Paper: 2507.11878.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp.steering import methods
        >>> pair = methods.harm_and_refusal(
        ...     model, up, down, up, down, instruction_end=-3, prompt_end=-1, layer=1)
        >>> len(pair)
        2
    """
    if (refused is None) != (accepted is None):
        raise ValueError("refused and accepted go together: give both, or neither.")
    second = (harmful, harmless) if refused is None else (refused, accepted)
    vector_places(anatomy(model), layer, site)
    sides = {"harmful": (harmful, instruction_end), "harmless": (harmless, instruction_end)}
    sides |= {"refused": (second[0], prompt_end), "accepted": (second[1], prompt_end)}
    data = _read(model, sides)
    options: dict[str, Any] = {"layer": layer, "site": site, "seed": seed, "batch_size": batch_size}
    harm = mean_difference(model, data["harmful"], data["harmless"], pos=instruction_end, **options)
    return harm, mean_difference(model, data["refused"], data["accepted"], pos=prompt_end, **options)


@verb
def cross_effects(
    model: Model,
    directions: Mapping[str, Direction],
    tasks: Mapping[str, Task],
    coefficient: float | int = 1.0,
    *,
    when: Mapping[str, AnyPositions] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> xr.Dataset:
    """`value`, `random`, `shuffled` (direction, task): mean effect of adding each direction on each task.

    The effect is metric(steered) − metric(unsteered), positive is better by the task's metric. Directions
    have one place each. when: the positions of each direction (default: all). The controls have equal norm.

    Cost: for each cell three passes of the task's prompts from the layer on. Raises ValueError, before any
    pass, for no directions or tasks, a coefficient that is not finite, a name in `when` of no direction.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp.steering import methods
        >>> d = interp.steering.mean_difference(model, up, down, layer=1)
        >>> table = methods.cross_effects(model, {"d": d}, {"ioi": task}, progress=False)
        >>> table["value"].dims
        ('direction', 'task')
    """
    finite("coefficient", coefficient)
    unknown = set(when or {}) - set(directions)
    if not directions or not tasks or unknown:
        raise ValueError(
            f"directions {list(directions)}, tasks {list(tasks)}, when {list(when or {})}: give at least one "
            "of each, and positions for these directions only."
        )
    for direction in directions.values():
        direction.check(model).place  # noqa: B018  (ValueError where there are several)
    out = {name: np.full((len(directions), len(tasks)), np.nan) for name in ("value", "random", "shuffled")}
    for i, (name, direction) in enumerate(directions.items()):
        for j, task in enumerate(tasks.values()):
            swept = sweep(
                model, direction, task, [coefficient], metric=task.metric, seed=seed, progress=progress,
                when=(when or {}).get(name, everywhere),
            )  # fmt: skip
            for part in set(out) & set(swept.data_vars):
                out[part][i, j] = float(swept[part].mean())
    said = [task.metric for task in tasks.values()]
    attrs = results.provenance(
        method="cross_effects",
        convention="mean of metric(steered) - metric(unsteered); positive: better by the task's metric",
        metric=list({metric.name: metric for metric in said}.values()),
        model=anatomy(model).name,
        site=", ".join(dict.fromkeys(direction.site for direction in directions.values())),
        task=", ".join(task.name for task in tasks.values()),
        task_fingerprint=", ".join(task.fingerprint() for task in tasks.values()),
        n_prompts=sum(map(len, tasks.values())),
        seed=seed,
        coefficient=float(coefficient),
    )
    variables = {name: (("direction", "task"), table) for name, table in out.items()}
    return results.dataset(variables, {"direction": list(directions), "task": list(tasks)}, attrs)


def _read(model: Model, sides: Mapping[str, tuple[Any, AnyPositions]]) -> dict[str, Prompts]:
    """Prompts of every class, their positions checked. No forward pass."""
    found = {name: read(model, data, what=name) for name, (data, _) in sides.items()}
    for name, (_, pos) in sides.items():
        if pos == "all":
            raise ValueError(f"{name}: the position is 'all'; give one position of each prompt.")
        weights(pos, found[name])
    return found


def _cosine(rows: Float[Tensor, "prompt d"], mean: Float[Tensor, "d"]) -> Float[Tensor, "prompt"]:
    return torch.cosine_similarity(rows.flatten(1).double(), mean.flatten().double()[None], dim=1)
