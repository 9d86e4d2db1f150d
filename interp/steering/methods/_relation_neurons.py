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

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from interp import results
from interp._verbs import verb
from interp.experiment import Metrics, check_metric, check_task
from interp.models import Model, anatomy
from interp.models.places import Layers
from interp.positions import AnyPositions
from interp.prompts import read
from interp.steering.methods._measure import Steered
from interp.steering.methods._neurons import Neurons, layer_numbers, neuron_activations, top_neurons
from interp.tasks import Task
from interp.tasks.metrics import Metric, Prob

CONVENTION = "effect = metric - metric with the neurons at 0; positive: they help the relation"


@verb
def relation_neurons(
    model: Model,
    relations: Mapping[str, Any],
    n: int,
    *,
    layer: Layers = None,
    pos: AnyPositions = "last",
    batch_size: int | None = None,
) -> dict[str, Neurons]:
    """The n neurons of each relation, best first. relations: prompts or a Task by name, two or more.

    Raises ValueError, before any pass, for fewer than two relations, an empty one, n outside 1 to the number
    of neurons, a layer that the model does not have. Cost: one forward pass of each prompt as far as the last
    layer. The model is left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp.steering import methods
        >>> chosen = methods.relation_neurons(model, {"clean": up, "corrupt": down}, 3)
        >>> len(chosen["clean"])
        3
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


@verb
def average_precision(
    positive: Float[Tensor, "n unit"], negative: Float[Tensor, "m unit"]
) -> Float[Tensor, "unit"]:
    """Mean over positives of the precision at a threshold equal to their value; chance is n / (n + m).

    Equal values share a threshold. Pure, in float64. ValueError for an empty class or unequal widths.

    Example:
        >>> import torch
        >>> up, down = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
        >>> from interp.steering import methods
        >>> tuple(methods.average_precision(up, down).shape)
        (8,)
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


@verb
def interference(
    model: Model,
    tasks: Mapping[str, Task],
    neurons: Mapping[str, Neurons],
    *,
    metric: Metrics | None = None,
    seed: int = 0,
    progress: bool = True,
) -> xr.Dataset:
    """`value` (deactivated, relation[, metric]): mean effect of taking out neurons of a relation.

    `random` is the same for as many random neurons of the same layers, `clean` (relation) the mean metric of
    the model itself. metric: one or several; default the probability of the answers. Cost: a plain pass of
    every task, and two for every set of neurons. Raises ValueError, before any pass, where too few neurons
    are left for a control.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp.steering import methods
        >>> chosen = methods.relation_neurons(model, {"clean": up, "corrupt": down}, 3)
        >>> out = methods.interference(model, {"ioi": task}, chosen, progress=False)
        >>> out["value"].dims
        ('deactivated', 'relation')
    """
    chosen = (Prob(),) if metric is None else check_metric(metric, Prob())
    if not tasks or not neurons:
        raise ValueError(f"{'neurons' if tasks else 'tasks'} is empty; give at least one, by name.")
    for task in tasks.values():
        check_task(task, anatomy(model), model)
    sets = {"value": neurons, "random": {name: each.random(seed) for name, each in neurons.items()}}
    runs = {name: Steered(model, task, chosen) for name, task in tasks.items()}
    clean = [each.clean.mean(0).cpu().numpy() for each in runs.values()]
    variables: dict[str, Any] = {"clean": (("relation", "metric"), np.stack(clean))}
    with tqdm(total=2 * len(neurons), disable=not progress, desc="interference", unit="set") as bar:
        for key, group in sets.items():
            rows = []
            for each in group.values():
                effects = [-one.effect(*each.scale(0.0)).mean(0) for one in runs.values()]
                rows.append(torch.stack(effects).numpy())
                bar.update()
            variables[key] = (("deactivated", "relation", "metric"), np.stack(rows))
    coords = {"deactivated": list(neurons), "relation": list(tasks), "metric": [each.name for each in chosen]}
    return results.dataset(
        variables, coords, _attrs(model, list(tasks.values()), chosen, "interference", seed)
    )


@verb
def cumulativity(
    model: Model,
    task: Task,
    neurons: Neurons,
    counts: Sequence[int],
    *,
    metric: Metrics | None = None,
    seed: int = 0,
    progress: bool = True,
) -> xr.Dataset:
    """`value` (prompt, count[, metric]): effect of taking out the first `count` neurons.

    `random` is the same for as many random neurons, `clean` the metric of the model itself. metric: one or
    several; default the probability of the answers. Cost: a plain pass of the task, and two for each count.
    Raises ValueError, before any pass, for a count outside 0 to the number of neurons.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp.steering import methods
        >>> chosen = methods.relation_neurons(model, {"clean": up, "corrupt": down}, 3)
        >>> curve = methods.cumulativity(model, task, chosen["clean"], [1, 3], progress=False)
        >>> curve["value"].dims
        ('prompt', 'count')
    """
    chosen = (Prob(),) if metric is None else check_metric(metric, Prob())
    if not counts:
        raise ValueError("counts is empty. Give numbers of neurons, such as [1, 3].")
    parts = [neurons.first(count) for count in counts]
    sets = {"value": parts, "random": [part.random(seed) for part in parts]}
    check_task(task, anatomy(model), model)
    runs = Steered(model, task, chosen)
    variables: dict[str, Any] = {"clean": (("prompt", "metric"), runs.clean.cpu().numpy())}
    with tqdm(total=2 * len(parts), disable=not progress, desc="cumulativity", unit="set") as bar:
        for key, group in sets.items():
            effects = []
            for part in group:
                effects.append(-runs.effect(*part.scale(0.0)))
                bar.update()
            variables[key] = (("prompt", "count", "metric"), torch.stack(effects, 1).numpy())
    coords = {"count": list(counts), "metric": [each.name for each in chosen]}
    attrs = _attrs(model, [task], chosen, "cumulativity", seed) | {"neurons": neurons.name}
    return results.dataset(variables, coords, attrs, task)


def _attrs(
    model: Model, tasks: Sequence[Task], metric: tuple[Metric, ...], method: str, seed: int
) -> dict[str, Any]:
    return results.provenance(
        method=method,
        convention=CONVENTION,
        metric=metric,
        model=anatomy(model).name,
        site="post",
        task=", ".join(task.name for task in tasks),
        task_fingerprint=", ".join(task.fingerprint() for task in tasks),
        n_prompts=sum(map(len, tasks)),
        ablation="zero",
        seed=seed,
    )
