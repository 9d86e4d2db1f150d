"""Units of a work with circuits, here or in other processes (`interp.workers`).

A unit is anything small that a measure knows what to do with: a block of prompts, a set of masks. One process
measures the same units in order, so that numbers are the same wherever they are run.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from interp import workers
from interp.circuits._run.job import Job
from interp.experiment import Budget, Contrast, Experiment
from interp.models import Model, anatomy
from interp.tasks import Task

_Unit = TypeVar("_Unit")
Measure = Callable[[Job, Any], Any]  # a function of a module; what it returns goes back to the driver


@dataclass(frozen=True, eq=False)
class CircuitJob:
    """A work with circuits, without its model."""

    task: Task
    contrast: Contrast
    budget: Budget
    measure: Measure

    def start(self, models: Sequence[Model]) -> Callable[[Any], Any]:
        """The job in a worker, once its model has passed the trust check there too."""
        (model,) = models
        job = Job.of(Experiment(model, self.task, anatomy(model), self.contrast, self.budget))
        return lambda unit: self.measure(job, unit)


def packed(experiment: Experiment, measure: Measure) -> workers.Parcel | None:
    """What goes to workers, None where the work stays here. Raises ValueError for what cannot go; no pass."""
    if not experiment.budget.elsewhere:
        return None
    work = CircuitJob(experiment.task, experiment.contrast, experiment.budget.of_a_worker, measure)
    return workers.pack(work, [experiment.model], workers.metrics_of(experiment.metric, experiment.task))


def measured(
    job: Job, parcel: workers.Parcel | None, measure: Measure, units: Sequence[_Unit]
) -> Generator[tuple[_Unit, Any], None, None]:
    """Each unit with what was measured: here in order, elsewhere as they come."""
    if parcel is None:
        for unit in units:
            yield unit, measure(job, unit)
    else:
        budget = job.experiment.budget
        yield from workers.measured(parcel, units, budget.workers, budget.executor, budget.kept)


def handed(
    experiment: Experiment, measure: Measure, units: Sequence[_Unit]
) -> Generator[tuple[_Unit, Any], None, None]:
    """Units that only workers measure: the driver makes no pass."""
    budget, parcel = experiment.budget, packed(experiment, measure)
    if parcel is not None:
        yield from workers.measured(parcel, units, budget.workers, budget.executor, budget.kept)
