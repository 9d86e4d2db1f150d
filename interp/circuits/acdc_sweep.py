"""ACDC at several thresholds: a Pareto curve of size against loss.

From the highest threshold down, each circuit guesses the decisions of the next, which saves rows where
thresholds lie close. Every circuit is exactly what `acdc` finds at its threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from interp.circuits.ablation import Ablation
from interp.circuits.acdc import acdc
from interp.circuits.circuit import Circuit
from interp.engine.memory import DEFAULT_BUDGET
from interp.models import Model
from interp.tasks import Task
from interp.tasks.metrics import Metric


def acdc_sweep(
    model: Model,
    task: Task,
    thresholds: Sequence[float | int],
    *,
    ablation: str | Float[Tensor, "constant d_model"] | Ablation = "resample",
    metric: Metric | None = None,
    absolute: bool = False,
    order: str = "late",
    store: str | Path | None = None,
    resume: bool = True,
    memory: int = DEFAULT_BUDGET,
    progress: bool = True,
) -> list[Circuit]:
    """The circuit of each threshold, in the order given.

    store: a folder, with a file for each threshold. The rest is as in `acdc`.
    """
    if not len(thresholds):
        raise ValueError("no threshold given. Give at least one, for example [0.1, 0.03, 0.01].")
    if store is not None and Path(store).is_file():
        raise ValueError(f"{store} is a file. A sweep has a file for each threshold; give a folder.")
    found: dict[float, Circuit] = {}
    guess = None
    for threshold in sorted({float(t) for t in thresholds}, reverse=True):
        options = {"ablation": ablation, "metric": metric, "absolute": absolute, "order": order}
        path = None if store is None else Path(store) / f"{threshold:g}.jsonl"
        guess = found[threshold] = acdc(
            model,
            task,
            threshold,
            guess=guess,
            store=path,
            resume=resume,
            memory=memory,
            progress=progress,
            **options,
        )
    return [found[float(threshold)] for threshold in thresholds]
