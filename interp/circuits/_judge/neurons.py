"""Faithfulness of MLP neurons by size: keep the best n of all layers, replace all others, by exact patching.

1. Rank the neurons by their mean effect (of `interp.attribute` or `interp.patch` at site `post`): signed and
   absolute.
2. For each size run the clean prompts with every other neuron's activation replaced; attention is untouched.
3. Faithfulness is that of circuits, (m(C) − m(∅)) / (m(M) − m(∅)), where ∅ has every neuron replaced. The
   areas under the curves are CPR and CMD, over the share of neurons.

Neurons have no edges of their own here: what is asked is which of them the MLPs need, all heads in place.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from tqdm import tqdm

from interp import experiment as experiments
from interp import results
from interp._verbs import verb
from interp.ablation import Ablation
from interp.circuits._judge.curves import areas, check_sizes
from interp.circuits._judge.faithfulness import faithfulness
from interp.circuits._judge.overlap import SIZES
from interp.circuits._run.batch import Measured, metric_coord
from interp.circuits._select import RANKINGS
from interp.engine.reference import Hooks, Reference
from interp.engine.trust import choose
from interp.experiment import Experiment, Metrics
from interp.models import Model
from interp.models.hook_points import patch_hooks
from interp.tasks import Task

_PROMPTS = 32  # at once
_CONVENTION = "effect = metric(neurons kept) - metric(every neuron replaced); positive: they help the metric"


@verb
def neuron_curve(
    model: Model,
    task: Task,
    effects: xr.Dataset,
    *,
    sizes: Sequence[float | int] = SIZES,
    ablation: str | Ablation = "resample",
    metric: Metrics | None = None,
    level: float = 0.95,
    seed: int = 0,
    progress: bool = True,
) -> xr.Dataset:
    """Faithfulness of the best MLP neurons, by size and ranking, with all others replaced at once.

    effects: of `interp.attribute(model, task, "post", ("layer", "neuron"))` or `interp.patch`, on other
    prompts if possible. sizes: shares of all neurons, above 0, at most 1. ablation: what the others carry, in
    the clean run; metric: one or several, the task's own by default. level, seed: of the intervals.

    Returns a Dataset, dims prompt, ranking, size (and metric, if there are several): `faithfulness`, `low`,
    `high`, `mean_of_ratios`, `neurons` (how many are kept), and by prompt `value`, the effect, `raw`, the
    metric, `clean` and `empty`. Attributes cpr and cmd, of the first metric.

    Cost: a forward of the model itself for each size, ranking and prompt. Raises ValueError before the first
    forward pass for effects of other places or of another model, several metrics in them, and sizes out of
    range.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4)
        >>> effects = interp.attribute(model, task, "post", ("layer", "neuron"), direction="noise",
        ...                            progress=False)
        >>> curve = interp.circuits.neuron_curve(model, task, effects, sizes=[0.1, 1.0], progress=False)
        >>> curve["faithfulness"].dims, round(float(curve["faithfulness"][0, -1]), 3)
        (('ranking', 'size'), 1.0)
    """
    shares = check_sizes(sizes)
    experiment = experiments.prepare(
        model, task, ablation=ablation, direction="noise", metric=metric, seed=seed, progress=progress
    )
    if experiment.draws > 1:
        raise ValueError(
            "the neurons that are not kept carry one other run, and noise has several draws. Use "
            "ablation='resample', 'mean' or 'zero'."
        )
    means = _means(effects, experiment)
    counts = [max(1, round(float(share) * means.size)) for share in shares]
    orders = [np.argsort(-each.ravel(), kind="stable") for each in (means, np.abs(means))]
    cut = [order[n:] for order in orders for n in counts]
    with torch.inference_mode():
        measured = _measured(experiment, [np.arange(means.size), *cut], means.shape[1])
    dims, grid = ("ranking", "size"), (len(RANKINGS), len(shares))
    ratios = faithfulness(measured, experiment, level=level, seed=seed)
    variables = measured.variables(experiment, dims, grid)
    variables |= {name: ((*dims, "metric"), ratio.reshape(*grid, -1)) for name, ratio in ratios.items()}
    variables["neurons"] = (dims, np.array(counts * len(RANKINGS)).reshape(grid))
    true = np.array(counts * len(RANKINGS)).reshape(grid) / means.size
    area = areas(ratios["faithfulness"][:, 0].reshape(grid), shares, true)
    attrs = results.attrs(
        experiment, method="neuron curve", site="post", convention=_CONVENTION, granularity="neurons",
        level=level, n_neurons=means.size, scores=str(effects.attrs.get("method", "")),
        cpr=area["cpr"], cmd=area["cmd"],
    )  # fmt: skip
    coords = {"ranking": list(RANKINGS), "size": shares, **metric_coord(experiment)}
    return results.dataset(variables, coords, attrs, task)


def _means(effects: xr.Dataset, experiment: Experiment) -> Float[np.ndarray, "layer neuron"]:
    """Mean effects."""
    facts = experiment.facts
    if reason := facts.lacks("post"):
        raise ValueError(f"there are no neurons to keep: {reason}.")
    value = effects["value"] if isinstance(effects, xr.Dataset) and "value" in effects else None
    dims = set() if value is None else set(value.dims) - {"prompt"}
    if value is None or dims != {"layer", "neuron"}:
        raise ValueError(
            f"the effects have dims {sorted(map(str, dims))}; they need layer and neuron, and prompt or not. "
            "Use interp.attribute(model, task, 'post', ('layer', 'neuron')), and one metric with .sel()."
        )
    mean = (value.mean("prompt") if "prompt" in value.dims else value).transpose("layer", "neuron")
    wanted = (facts.n_layers, facts.d_mlp)
    if mean.shape != wanted:
        raise ValueError(
            f"the effects are of {mean.shape[0]} layers and {mean.shape[1]} neurons, the model has "
            f"{wanted[0]} and {wanted[1]}. Give effects of all neurons of this model."
        )
    if np.isnan(mean.values).any():
        raise ValueError("some effects are NaN, and NaN has no rank. Give effects without gaps.")
    return mean.values.astype(float)


def _measured(experiment: Experiment, cut: list[np.ndarray], d_mlp: int) -> Measured:
    """The metrics with some neurons replaced, by flat index; the first of the lists has all of them."""
    model, task, runs = experiment.model, experiment.task, experiment.runs(("post",))
    choose(model, runs, ("post",), len(cut), "reference")  # proves the hook points
    raw = np.empty((len(task), len(cut), len(experiment.metric)))
    whole = np.empty((len(task), len(experiment.metric)))
    total, quiet = len(task) * len(cut), not experiment.budget.progress
    with tqdm(total=total, disable=quiet, desc="neurons", unit="run") as bar:
        for first in range(0, len(task), _PROMPTS):
            block = slice(first, first + _PROMPTS)
            prepared = Reference(model, runs.take(block), ("post",), experiment.metric)
            whole[block] = prepared.base
            for number, neurons in enumerate(cut):
                raw[block, number] = prepared.under(_hooks(prepared, neurons, d_mlp))
                bar.update(len(prepared.base))
    return Measured(raw[:, 1:], whole, raw[:, 0])


def _hooks(prepared: Reference, neurons: np.ndarray, d_mlp: int) -> Hooks:
    """Hooks that replace the neurons, layer by layer."""
    out: Hooks = []
    for layer in np.unique(neurons // d_mlp).tolist():
        mine = torch.from_numpy(neurons[neurons // d_mlp == layer] % d_mlp).to(prepared.runs.base.device)
        where = (slice(None), slice(None), mine)
        out += patch_hooks(prepared.model, "post", layer, where, prepared.source_activations["post", layer])
    return out
