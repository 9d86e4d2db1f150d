"""A checked request on a model and a task, ready to run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from interp.engine.memory import Budget
from interp.engine.readout import Reads
from interp.engine.runs import Runs
from interp.models import Model, anatomy
from interp.patching import corruption as corruptions
from interp.patching import request as requests
from interp.patching.corruption import Corruption
from interp.patching.request import Request
from interp.tasks import Task
from interp.tasks.metrics import Metric


@dataclass(frozen=True, eq=False)
class Job:
    """Everything a sweep needs, checked; `runs` holds each prompt's draws side by side."""

    model: Model
    task: Task
    request: Request
    metrics: tuple[Metric, ...]
    corruption: Corruption
    direction: str
    runs: Runs
    budget: Budget

    @property
    def reads(self) -> Reads:
        return Reads(self.runs, self.metrics)

    @property
    def draws(self) -> int:
        return self.corruption.draws


def prepare(
    model: Model,
    task: Task,
    site: str | Sequence[str] | None,
    direction: str | None,
    corruption: str | Corruption,
    batch_size: int | None,
    memory: int,
    *,
    by: str | Sequence[str] | None,
    cells: Sequence[str | Sequence[str]] | None,
    window: int,
    neurons: Sequence[int] | None,
    metrics: Metric | Sequence[Metric] | None,
    dry: bool = False,
) -> Job:
    """Check every argument and make the job; no forward pass, but for the means of a mean ablation."""
    facts = anatomy(model)
    requests.check_model(model, facts, task)
    n_pos = task.clean.shape[1]
    if cells is not None and site is None:
        request = requests.list_request(facts, n_pos, cells)
    elif site is not None and cells is None:
        request = requests.grid_request(facts, n_pos, site, by, window, neurons)
    else:
        raise ValueError("give either site= (a grid) or cells= (a list of names), and not both.")
    chosen = requests.check_metrics(metrics, task)
    spoilt = corruptions.parse(corruption)
    direction = corruptions.direction_of(spoilt, direction, task)
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1, or None to fill the memory.")
    if memory < 1:
        raise ValueError(f"memory is {memory} bytes; give a positive number, such as 2 * 2**30.")
    budget = Budget(facts, memory, batch_size)
    sites = () if dry else request.all_sites
    runs = corruptions.make_runs(model, task, spoilt, direction, sites)
    return Job(model, task, request, chosen, spoilt, direction, runs, budget)
