"""Relation-specific neurons, and what taking them out does to each relation (2502.17355).

1. Score of a neuron for a relation: the average precision with which its activation tells prompts of the
   relation from those of all others. Chance is the share of the relation's prompts.
2. The n highest are the relation's neurons. Deactivating them means setting them to 0.
3. `interference` measures every relation with the neurons of every relation out, `cumulativity` one relation
   with more and more of its neurons out; both beside as many random neurons of the same layers.

Sign: effect = metric without intervention - metric with it (turned round for metrics where lower is better):
positive where the neurons help the relation, negative where they stood in its way (the paper's interference).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp.models import Model, anatomy
from interp.models.places import Layers
from interp.positions import AnyPositions
from interp.prompts import read
from interp.steering.methods._neurons import Neurons, layer_numbers, measure, neuron_activations, top_neurons
from interp.tasks import Task
from interp.tasks.metrics import Metric, Prob

CONVENTION = "effect = metric - metric with the neurons at 0; positive: they help the relation"


def relation_neurons(
    model: Model,
    relations: Mapping[str, Any],
    n: int,
    *,
    layer: Layers = None,
    pos: AnyPositions = "last",
    batch_size: int = 32,
) -> dict[str, Neurons]:
    """The n neurons of each relation, best first. relations: prompts or a Task by name, two or more.

    Raises ValueError, before any pass, for fewer than two relations, an empty one, n outside 1 to the number
    of neurons, a layer that the model does not have. Cost: one forward pass of each prompt as far as the last
    layer. The model is left as found.
    """
    layers = layer_numbers(model, layer)
    total = len(layers) * anatomy(model).d_mlp
    if len(relations) < 2 or not 1 <= n <= total:
        raise ValueError(
            f"got {len(relations)} relations and n = {n}; give two relations or more and 1 <= n <= {total}."
        )
    prompts = {name: read(model, each, what=f"relation {name!r}") for name, each in relations.items()}
    options: dict[str, Any] = {"layer": layers, "pos": pos, "batch_size": batch_size}
    rows = {name: neuron_activations(model, each, **options) for name, each in prompts.items()}
    found = {}
    for name, own in rows.items():
        others = torch.cat([each for other, each in rows.items() if other != name])
        scores = average_precision(own.flatten(1), others.flatten(1)).view(own.shape[1:])
        found[name] = top_neurons(scores, n, layers, name)
    return found


def average_precision(
    positive: Float[Tensor, "n unit"], negative: Float[Tensor, "m unit"]
) -> Float[Tensor, "unit"]:
    """Mean over positives of the precision at a threshold equal to their value; chance is n / (n + m).

    Equal values share a threshold. Pure, in float64. ValueError for an empty class or unequal widths.
    """
    if not len(positive) or not len(negative):
        raise ValueError(
            f"the classes have {len(positive)} and {len(negative)} rows; give one or more of each."
        )
    if positive.shape[1] != negative.shape[1]:
        raise ValueError(
            f"the classes have {positive.shape[1]} and {negative.shape[1]} units; give the same."
        )
    up, down = (side.double().T.sort(-1).values.contiguous() for side in (positive, negative))
    right = up.shape[1] - torch.searchsorted(up, up)  # positives at or above each positive's value
    wrong = down.shape[1] - torch.searchsorted(down, up)
    return (right / (right + wrong).double()).mean(-1)


def interference(
    model: Model,
    tasks: Mapping[str, Task],
    neurons: Mapping[str, Neurons],
    *,
    metric: Metric | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """`value` (deactivated, relation): mean effect of taking out the neurons of one relation on each task.

    `random` is the same for as many random neurons of the same layers, `base` (relation) the mean metric of
    the model itself. metric: default the probability of the answers. Cost: four forward passes of every task
    for every set of neurons. Raises ValueError, before any pass, where too few neurons are left for a
    control.
    """
    chosen = Prob() if metric is None else metric
    sets = {"value": neurons, "random": {name: each.random(seed) for name, each in neurons.items()}}
    base = {name: measure(model, task, metric=chosen).mean().item() for name, task in tasks.items()}
    out = xr.Dataset(
        {"base": ("relation", list(base.values()))},
        coords={"deactivated": list(neurons), "relation": list(tasks)},
        attrs=_attrs(model, chosen, "interference", seed),
    )
    for key, group in sets.items():
        rows = [
            [_effect(model, task, each, chosen).mean().item() for task in tasks.values()]
            for each in group.values()
        ]
        out[key] = (("deactivated", "relation"), rows)
    return out


def cumulativity(
    model: Model,
    task: Task,
    neurons: Neurons,
    counts: Sequence[int],
    *,
    metric: Metric | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """`value` (count, prompt): effect of taking out the first `count` neurons; `random` the same for a
    control.

    Cost: four forward passes of the task for each count. Raises ValueError, before any pass, for a count
    outside 0 to the number of neurons.
    """
    chosen = Prob() if metric is None else metric
    parts = [neurons.first(count) for count in counts]
    sets = {"value": parts, "random": [part.random(seed) for part in parts]}
    found = {
        key: torch.stack([_effect(model, task, part, chosen) for part in group]).cpu().numpy()
        for key, group in sets.items()
    }
    return xr.Dataset(
        {key: (("count", "prompt"), rows) for key, rows in found.items()},
        coords={"count": list(counts), "prompt": range(len(task))},
        attrs=_attrs(model, chosen, "cumulativity", seed) | {"neurons": neurons.name},
    )


def _effect(model: Model, task: Task, neurons: Neurons, metric: Metric) -> Float[Tensor, "prompt"]:
    sign = -1.0 if metric.better == "lower" else 1.0
    plain = measure(model, task, metric=metric)
    return sign * (plain - measure(model, task, *neurons.scale(0.0), metric=metric))


def _attrs(model: Model, metric: Metric, method: str, seed: int) -> dict[str, Any]:
    facts = {"metric": metric.name, "unit": metric.unit, "better": metric.better, "seed": seed}
    return {"method": method, "model": anatomy(model).name, **facts, "convention": CONVENTION}
