"""An experiment: a model, a task, the contrast between two runs, and the budget of the machine.

Every verb that measures puts its arguments down here, once, at its door; from there one object travels.
`Contrast` holds what changes numbers: it goes into provenance and into the identity of a store. `Budget`
holds what never does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from interp import ablation as ablations
from interp import workers as pools
from interp.ablation import Ablation
from interp.engine import memory as engine_memory
from interp.engine.precision import check_precision
from interp.engine.readout import Reads
from interp.engine.runs import Runs
from interp.engine.trust import check_engine
from interp.files import require_place
from interp.models import Anatomy, Model, anatomy, model_fingerprint, require_eval
from interp.tasks import Task
from interp.tasks.metrics import Metric, as_metric

MEMORY = 2 * 2**30  # bytes above the model's own
Metrics = Metric | str | Sequence[Metric | str]


@dataclass(frozen=True, eq=False)
class Contrast:
    """What is compared with what, and in which number. `seed` is None where nothing is drawn.

    source: another model of the same shape, that the run patched in is of; None for the model itself.
    precision: of the products of blocks, where it was lowered on request.
    """

    ablation: Ablation
    direction: str
    metric: tuple[Metric, ...]
    seed: int | None = None
    source: Model | None = None
    precision: str | None = None


@dataclass(frozen=True)
class Budget:
    """How much at once, by which engine, told and kept where. None of it changes a number."""

    memory: int = MEMORY
    batch_size: int | None = None
    engine: str = "auto"
    progress: bool = True
    store: Path | None = None
    workers: int | None = None
    executor: Any = None

    def __post_init__(self) -> None:
        pools.check(self.workers, self.executor)
        if self.workers is not None:
            _whole("workers", self.workers, "a number of processes, or None for this one")
        if self.batch_size is not None:
            _whole("batch_size", self.batch_size, "or None to fill the memory")
        _whole("memory", self.memory, "a number of bytes such as 2 * 2**30")
        check_engine(self.engine)
        if self.store is not None:
            require_place(self.store)

    @property
    def elsewhere(self) -> bool:
        """Whether units are handed to other processes."""
        return self.workers is not None or self.executor is not None

    @property
    def of_a_worker(self) -> Budget:
        """The same in a worker: it tells and keeps nothing, the driver does."""
        return replace(self, progress=False, store=None, workers=None, executor=None)

    @property
    def kept(self) -> str:
        """What of finished units outlasts a failure, in words."""
        return "lost (store= keeps them)" if self.store is None else f"in {self.store}"


@dataclass(frozen=True, eq=False)
class Experiment:
    """Everything that a verb needs to know, checked; no forward pass has been made."""

    model: Model
    task: Task
    facts: Anatomy
    contrast: Contrast
    budget: Budget

    @property
    def metric(self) -> tuple[Metric, ...]:
        return self.contrast.metric

    @property
    def draws(self) -> int:
        return self.contrast.ablation.draws

    @cached_property
    def signs(self) -> np.ndarray:
        """+1 or -1 by metric: what turns patched - base into an effect that is positive when it helps."""
        better = np.array([metric.sign for metric in self.metric])
        takes_away = self.contrast.direction == "noise" and not self.contrast.ablation.adds
        return -better if takes_away else better

    @property
    def room(self) -> engine_memory.Budget:
        """What fits into the memory at once."""
        return engine_memory.Budget(self.facts, self.budget.memory, self.budget.batch_size)

    def runs(self, sites: tuple[str, ...] = ()) -> Runs:
        """Base and source runs of every prompt and draw. Cost: none, but a forward a prompt for `Mean`."""
        contrast = self.contrast
        runs = ablations.make_runs(self.model, self.task, contrast.ablation, contrast.direction, sites)
        return runs if contrast.source is None else replace(runs, two_models=True)

    def reads(self, runs: Runs) -> Reads:
        """What the metrics read of some runs."""
        return Reads(runs, self.metric)

    @cached_property
    def source_attrs(self) -> dict[str, str]:
        """Which model the run patched in is of, where it is another one."""
        source = self.contrast.source
        if source is None:
            return {}
        return {"source_model": anatomy(source).name, "source_fingerprint": model_fingerprint(source)}

    def identity(self) -> dict[str, str]:
        """What must be the same for two runs to be the same: for the identity of a store."""
        seed = self.contrast.seed if self.contrast.seed is not None else self.task.seed
        lowered = {} if self.contrast.precision is None else {"precision": self.contrast.precision}
        told = {
            "model_fingerprint": model_fingerprint(self.model),
            "task_fingerprint": self.task.fingerprint(),
            "ablation": str(self.contrast.ablation),
            "direction": self.contrast.direction,
            "metric": ", ".join(repr(metric) for metric in self.metric),
            "seed": str(seed),
        }
        return self.source_attrs | lowered | told


def prepare(
    model: Model,
    task: Task,
    *,
    ablation: str | Tensor | Ablation = "resample",
    direction: str | None = None,
    metric: Metrics | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    memory: int = MEMORY,
    engine: str = "auto",
    progress: bool = True,
    store: str | Path | None = None,
    workers: int | None = None,
    executor: Any = None,
    natural: str = "denoise",
    source: Model | None = None,
    precision: str | None = None,
) -> Experiment:
    """Check what all verbs take, and put it down. No forward pass.

    natural: the direction that the verb takes by default. source: the model of the run patched in. precision:
    see `engine.precision`. Raises ValueError for anything that does not fit.
    """
    facts = anatomy(model)
    check_model(model, facts)
    check_task(task, facts, model)
    check_precision(precision, facts, engine)
    chosen = ablations.parse(ablation)
    if source is not None:
        check_source(model, facts, source, chosen)
    contrast = Contrast(
        chosen,
        ablations.check_direction(chosen, direction, task, natural, two_models=source is not None),
        check_metric(metric, task.metric),
        seed,
        source,
        precision,
    )
    task.require_metrics(model, contrast.metric)
    path = None if store is None else Path(store)
    budget = Budget(memory, batch_size, engine, progress, path, workers, executor)
    return Experiment(model, task, facts, contrast, budget)


def check_metric(metric: Metrics | None, default: Metric) -> tuple[Metric, ...]:
    """The metrics to measure, the default one for None. Raises ValueError for what is none."""
    if metric is None:
        return (default,)
    given = list(metric) if isinstance(metric, (list, tuple)) else [metric]
    if not given:
        raise ValueError("metric is empty. Give at least one, or leave it out for the task's own.")
    metrics = tuple(as_metric(each) for each in given)
    names = [each.name for each in metrics]
    if len(set(names)) != len(names):
        raise ValueError(f"two metrics share a name: {', '.join(names)}.")
    return metrics


def check_model(model: Model, facts: Anatomy) -> None:
    """Raise ValueError for a compiled model, and one of which some part is in train mode."""
    modules = list(model.modules())
    if any("OptimizedModule" in type(m).__name__ or m._compiled_call_impl is not None for m in modules):
        raise ValueError(
            "the model is compiled (torch.compile), and a compiled graph does not keep to hooks. "
            "Give the model as it was before compiling."
        )
    require_eval(model)


_SHAPE = (
    "n_layers", "n_heads", "n_key_value_heads", "d_model", "d_head", "d_mlp", "d_vocab", "d_vocab_out",
    "attn_only", "parallel", "causal", "device",
)  # fmt: skip


def check_source(model: Model, facts: Anatomy, source: Model, ablation: Ablation) -> None:
    """Raise ValueError unless activations of another model can stand in this one."""
    theirs = anatomy(source)
    check_model(source, theirs)
    for name in _SHAPE:
        ours, other = getattr(facts, name), getattr(theirs, name)
        if ours != other:
            raise ValueError(
                f"source= has {name} {other}, the model {ours}: activations of one have no place in the "
                "other. Give a model of the same shape and device, such as a checkpoint or a tuned copy."
            )
    if missing := sorted(set(facts.sites()) ^ set(theirs.sites())):
        raise ValueError(
            f"source= and the model have different sites: only one of them has {', '.join(missing)}. "
            "Give a model of the same architecture."
        )
    vocabularies = [getattr(each.tokenizer, "get_vocab", dict)() for each in (model, source)]
    if all(vocabularies) and vocabularies[0] != vocabularies[1]:
        raise ValueError(
            "source= has another tokenizer: the same token ids are other words to it. Give a model with the "
            "same vocabulary."
        )
    if not isinstance(ablation, (ablations.Resample, ablations.Gaussian)):
        raise ValueError(
            f"{ablation.kind} ablation puts in no activation of source=, whose run would not matter. Use "
            "ablation='resample' or 'gaussian', or leave source out."
        )


def check_task(task: Task, facts: Anatomy, model: Model) -> None:
    """Raise ValueError for what is not a task, or a task that does not fit the model."""
    if not isinstance(task, Task):
        raise ValueError(
            f"task is {type(task).__name__}, and not a Task. Build one with interp.tasks.ioi(model) and its "
            "like, or interp.Task.from_prompts(model, clean=..., corrupt=..., answer=..., wrong=...)."
        )
    if task.clean.device != facts.device:
        raise ValueError(
            f"the task's tokens are on {task.clean.device} and the model on {facts.device}. "
            "Build the task from this model, or move the model."
        )
    facts.require_one_batch(task.lengths)
    if task.clean.shape[1] > facts.n_ctx:
        raise ValueError(
            f"prompts have {task.clean.shape[1]} tokens, the model's context is {facts.n_ctx}. "
            "Shorten the prompts."
        )
    task.require_vocabulary(model)


def _whole(name: str, value: object, otherwise: str) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}; give a whole number of at least 1, {otherwise}.")
