"""`sweep`: what steering does, and what it breaks, over layers, coefficients and prompts.

1. Run the clean prompts once and keep the stream before each steered layer.
2. For every layer, run all coefficients of all prompts from there, side by side in the batch (`Suffix`). Only
   the logits that the metrics read are computed.
3. The same with the controls: a random direction, and the direction of shuffled labels, of equal norm.

The values are those of a whole forward pass under hooks. A model that the engine cannot run, or whose clean
logits it does not reproduce, is run whole under hooks instead (`Whole`).

`value` is an effect, metric(steered) - metric(unsteered), with the sign turned where lower is better:
positive is better by the metric. `raw` is the metric of the steered run, `clean` that of the unsteered one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from interp import experiment as experiments
from interp import results
from interp._arguments import shown
from interp._verbs import verb
from interp.engine.memory import Budget
from interp.engine.readout import Reads
from interp.experiment import MEMORY, Metrics
from interp.models import Model, anatomy
from interp.positions import AnyPositions, everywhere
from interp.steering._controls import controls
from interp.steering._direction import Direction
from interp.steering._job import Intervene, Job, Judge, Work, by_layer
from interp.steering._runs import Question, question_of
from interp.steering.edits import finite
from interp.tasks.metrics import Loss

_CONVENTION = "effect = metric(steered) - metric(unsteered); positive: better by the metric"


@verb
def sweep(
    model: Model,
    directions: Direction | Sequence[Direction],
    prompts: Any,
    coefficients: Any,  # numbers
    *,
    answer: Int[Tensor, "prompt"] | Int[Tensor, "prompt k"] | None = None,
    wrong: Int[Tensor, "prompt"] | Int[Tensor, "prompt k"] | None = None,
    intervene: Intervene | None = None,
    when: AnyPositions = everywhere,
    mask: Tensor | None = None,
    neutral: Any = None,
    judges: Mapping[str, Judge] | None = None,
    max_new_tokens: int = 20,
    with_controls: bool = True,
    metric: Metrics | None = None,
    seed: int = 0,
    memory: int = MEMORY,
    store: str | Path | None = None,
    workers: int | None = None,
    executor: Any = None,
    engine: str = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """Effects of steering: `value` (prompt, layer, coefficient[, metric]), positive is better by the metric.

    directions: one for each layer, or one with several places. prompts: a Task, whose answers and positions
    the metrics read; or prompts (see `interp.prompts.read`; `mask` for padded ids), with `answer` and `wrong`
    token ids, read at the last token. metric: one or several; default: the task's own or entropy, and KL from
    the unsteered run. intervene: (direction, coefficient) -> interventions; default: add the vector times the
    coefficient. neutral: prompts of neutral text, for `neutral_loss` (layer, coefficient, neutral_prompt) in
    nats a token. memory: bytes above the model's own; where the prompts do not fit, blocks of them take turns
    (texts for judges are not bounded). judges: functions of the tokens generated [prompt, pos] (0 and after
    the end of a text, see `generate`) to numbers [prompt], a variable each (prompt, layer, coefficient).

    `raw` is the metric of the steered run, `clean` (prompt[, metric]) that of the unsteered one. `random` and
    `shuffled` are the effects of a random direction and that of shuffled labels, of equal norm; NaN where an
    extracted direction has no such control. Coordinate `in_norms` (layer, coefficient) is the length of what
    is added, in median norms of the stream there. engine: "fast" runs the model's weights, "reference" the
    model under hooks; "auto" takes the first where the weights give the model's logits, and else warns why;
    the attribute `engine` names it. Cost: a pass of each prompt, then one for each coefficient and direction
    from the steered layer on. store, workers, executor: as in `interp.patch`; a unit is a direction, and
    neutral texts and judges stay here. Raises ValueError before any pass. The model is left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> d = interp.steering.mean_difference(model, task.clean[:4], task.clean[4:], layer=1)
        >>> result = interp.steering.sweep(model, d, task, [0.0, 1.0], progress=False)
        >>> result["value"].dims, result["metric"].values.tolist()
        (('prompt', 'layer', 'coefficient', 'metric'), ['logit_diff', 'kl'])
    """
    steps = _steps(coefficients)
    parts = by_layer(model, directions, steps)
    question = question_of(model, prompts, mask, answer, wrong, metric)
    texts = None if neutral is None else question_of(model, neutral, None, None, None, Loss())
    sets: dict[str, list[Direction | None]] = {"raw": list(parts)}
    sets |= controls(parts, seed) if with_controls else {}
    job = Job(model, parts, steps, intervene, when)
    job.check(question.rows)
    total = len(parts) * len(steps) * len(question.reads.runs) * len(sets)
    path = None if store is None else Path(store)
    asked = experiments.Budget(memory, store=path, workers=workers, executor=executor)
    budget = Budget(anatomy(model), memory)
    with tqdm(total=total, disable=not progress, desc="sweep", unit="run") as bar:
        if asked.elsewhere or path is not None:
            given = (prompts, mask, answer, wrong, metric)
            work = Work(parts, steps, intervene, when, sets, given, engine, memory)
            measured, clean, engine = work.measured(model, question, asked, bar.update)
        else:
            measured, clean, engine = job.all_sets(question, sets, engine, budget, bar.update)
    variables: dict[str, Any] = {
        **_effects(question.reads, measured, clean),
        "clean": (("prompt", "metric"), clean),
    }
    if texts is not None:
        raw: dict[str, list[Direction | None]] = {"raw": list(parts)}
        losses, _, _ = job.all_sets(texts, raw, engine, budget, lambda n: None)
        variables["neutral_loss"] = (("layer", "coefficient", "neutral_prompt"), losses["raw"][..., 0])
    for name, judge in (judges or {}).items():
        variables[name] = (
            ("prompt", "layer", "coefficient"),
            job.judged(question.rows, judge, max_new_tokens, engine),
        )
    return _dataset(job, question, variables, seed, "reference" if engine == "reference" else "fast")


def _effects(reads: Reads, measured: Mapping[str, np.ndarray], clean: np.ndarray) -> dict[str, Any]:
    """The raw metrics, and every set as effects: arrays [prompt, layer, coefficient, metric]."""
    signs = np.array([1.0 if metric.better == "higher" else -1.0 for metric in reads.metrics])
    turned = {name: array.transpose(2, 0, 1, 3) for name, array in measured.items()}
    named = {
        "value" if name == "raw" else name: signs * (array - clean[:, None, None])
        for name, array in turned.items()
    }
    dims = ("prompt", "layer", "coefficient", "metric")
    return {name: (dims, array) for name, array in {**named, "raw": turned["raw"]}.items()}


def _steps(coefficients: Any) -> list[float]:
    """Coefficients as numbers. ValueError for anything else."""
    if (
        isinstance(coefficients, (str, bytes))
        or not hasattr(coefficients, "__iter__")
        or (getattr(coefficients, "shape", None) == ())
    ):
        raise ValueError(f"coefficients is {coefficients!r}; give numbers, as in [-1.0, 0.0, 1.0].")
    for each in coefficients:
        finite("coefficients", each)
    steps = [float(each) for each in coefficients]
    if not steps:
        raise ValueError("coefficients is empty. Give at least one; 0 is the unsteered run.")
    if len(set(steps)) < len(steps):
        raise ValueError(f"coefficients is {shown(coefficients)}, with one twice; give each once.")
    return steps


def _dataset(job: Job, question: Question, variables: dict[str, Any], seed: int, engine: str) -> xr.Dataset:
    parts, steps, task = job.parts, np.array(job.steps, dtype=float), question.task
    norms = np.array([part.norms.get(part.place, float("nan")) for part in parts])
    lengths = np.array([part.vector.double().norm().item() for part in parts])
    coords = {
        "prompt": np.arange(len(question.rows)),
        "layer": [part.layer for part in parts],
        "coefficient": steps,
        "metric": [metric.name for metric in question.reads.metrics],
        "in_norms": (
            ("layer", "coefficient"),
            lengths[:, None] * steps / np.where(norms > 0, norms, np.nan)[:, None],
        ),
        "place": ("layer", np.array([str(part.place) for part in parts], dtype=object)),
    }
    attrs = results.provenance(
        method="sweep",
        convention=_CONVENTION,
        metric=question.reads.metrics,
        model=anatomy(job.model).name,
        site=", ".join(dict.fromkeys(part.site for part in parts)),
        task="none" if task is None else task.name,
        task_fingerprint="none" if task is None else task.fingerprint(),
        n_prompts=len(question.rows),
        seed=seed,
        direction_method=", ".join(dict.fromkeys(part.method for part in parts)),
        when=repr(job.when),
        engine=engine,
    )
    return results.dataset(variables, coords, attrs, task)
