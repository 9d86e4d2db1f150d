"""The story of a circuit, from the logits back: who speaks to the answer, who feeds them, and so on.

1. Receivers are the logits; every writer of the model is a sender. On one half of the prompts keep, for each
   receiver, the senders that are significant over the whole grid (max-|t|), at most k of them by |effect|.
2. The next receivers are the inputs of what was kept and is new: of a head its query, key and value, each
   apart, for a head's story is which of them matters; of an MLP what it reads.
3. Stop at the depth asked for, or where nothing new is kept.
4. Figures come from the other half of the prompts: effects of what was selected are too large on the half
   that selected it.

Wang et al. 2022 (2211.00593) found the circuit for indirect objects in this way, by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr

from interp import results, stats
from interp._verbs import verb
from interp.ablation import Ablation
from interp.circuits import Circuit, Graph
from interp.experiment import MEMORY, Metrics, prepare
from interp.models import Anatomy, Model
from interp.paths._ends import inputs_of
from interp.paths._patch import path_patch
from interp.places import parse
from interp.tasks import Task


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """What `trace_back` found. `str()` is the story; `interp.plot.circuit(trace.circuit)` the picture."""

    effects: (
        xr.Dataset
    )  # value [prompt, cell] on the prompts that did not select; coords step, sender, receiver
    circuit: Circuit  # an edge a path, its score the mean effect
    story: str

    def __str__(self) -> str:
        return self.story

    def __repr__(self) -> str:
        return f"Trace({self.effects.sizes['cell']} paths, {self.circuit!r})"


@verb
def trace_back(
    model: Model,
    task: Task,
    depth: int = 3,
    k: int = 5,
    *,
    freeze: str | Sequence[str] = "heads",
    ablation: str | Ablation = "resample",
    direction: str | None = None,
    metric: Metrics | None = None,
    level: float = 0.95,
    seed: int = 0,
    batch_size: int | None = None,
    memory: int = MEMORY,
    engine: str = "auto",
    progress: bool = True,
) -> Trace:
    """Follow an effect back through the model: the heads that write the answer, those that feed them, ...

    depth: steps back; the first is the senders to the logits. k: senders kept for a receiver, and components
        followed further at each step, by |effect|. freeze: as in `path_patch`.
    level: senders with a family-wise p below 1 - level (sign flips, max-|t| over the step) are kept.
    seed: of the halves, which keep prompts that share a text together. metric: one.
    The others are those of `path_patch`.

    Returns a `Trace`: `effects`, a Dataset with `value` [prompt, cell] from the prompts that did not select,
    in units of the metric, positive helps (`discovery`: the mean on those that did), and along `cell` the
    step, the sender and the receiver; `circuit`, an edge for each path with its mean effect as score;
    `str()`: the story, a line a receiver.

    Cost: one `path_patch` of all writers a step on one half of the prompts, and one of what was kept on the
    other. Raises ValueError for anything wrong with the request, and where a half has so few independent
    prompts that nothing could be significant, before the first forward pass.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=32, seed=0)
        >>> trace = interp.paths.trace_back(model, task, depth=2, k=2, progress=False)
        >>> print(str(trace).splitlines()[1].split(" hears ")[0])
        logits
        >>> trace.effects["value"].dims
        ('prompt', 'cell')
    """
    experiment = prepare(
        model, task, ablation=ablation, direction=direction, metric=metric, batch_size=batch_size,
        memory=memory, engine=engine, progress=progress, seed=seed,
    )  # fmt: skip
    for name, value in (("depth", depth), ("k", k)):
        if value < 1:
            raise ValueError(f"{name} is {value}; give at least 1.")
    if len(experiment.metric) > 1:
        names = ", ".join(each.name for each in experiment.metric)
        raise ValueError(f"trace_back decides by one metric, and got {names}. Give one of them.")
    search, check = halves(task, level, seed)
    options: dict[str, Any] = {
        "freeze": freeze, "ablation": ablation, "direction": direction, "metric": metric,
        "batch_size": batch_size, "memory": memory, "engine": engine, "progress": progress,
    }  # fmt: skip
    found = _search(model, search, experiment.facts, depth, k, level, seed, options)
    if not found:
        raise ValueError(
            f"no sender has a significant effect on the logits at level {level} with {len(search)} prompts. "
            "Give more prompts, or a lower level."
        )
    effects = _effects(model, check, found, options, level=level, seed=seed, depth=depth, k=k)
    circuit = _circuit(model, effects)
    return Trace(effects, circuit, _story(effects, level, seed))


@dataclass(frozen=True)
class Found:
    """A path that was kept: at which step, and its mean effect on the prompts that selected it."""

    step: int
    sender: str
    receiver: str
    effect: float


def halves(task: Task, level: float, seed: int) -> tuple[Task, Task]:
    """The prompts in two halves, those that share a text together. ValueError where either proves nothing."""
    n = int(results.prompt_units(task).max()) + 1
    least = int(np.floor(1 - np.log2(1 - level))) + 1
    if n // 2 < least:
        raise ValueError(
            f"the task has {len(task)} prompts, {n} independent ones (those that share a text count "
            f"once). One half of them finds paths, the other checks them, and fewer than {least} in each can "
            f"prove nothing at level {level}: give {2 * least} or more."
        )
    return task.split(0.5, seed, cluster="unit")


def _search(
    model: Model,
    task: Task,
    facts: Anatomy,
    depth: int,
    k: int,
    level: float,
    seed: int,
    options: dict[str, Any],
) -> list[Found]:
    """The paths that are kept, step by step."""
    found: list[Found] = []
    known: set[str] = set()
    receivers = ["logits"]
    for step in range(depth):
        effects = path_patch(model, task, "all", receivers, **options)
        tested = stats.test(effects, level=level, seed=seed)
        kept = [each for receiver in receivers for each in _kept(tested, step, receiver, k)]
        found += kept
        new = {each.sender: abs(each.effect) for each in sorted(kept, key=lambda e: abs(e.effect))}
        new = {name: size for name, size in new.items() if name not in known and name != "embed"}
        known |= set(new)
        followed = sorted(new, key=lambda name: -new[name])[:k]
        receivers = list(dict.fromkeys(str(part) for name in followed for part in inputs_of(facts, name)))
        if not receivers:
            break
    return found


def _kept(tested: xr.Dataset, step: int, receiver: str, k: int) -> list[Found]:
    """The significant senders of one receiver, at most k by |effect|, the largest first."""
    one = tested.sel(receiver=receiver)
    estimate = np.where(one["significant"].values, one["estimate"].values, np.nan)
    order = np.argsort(-np.nan_to_num(np.abs(estimate), nan=-1.0), kind="stable")[:k]
    names = one["sender"].values
    return [
        Found(step, str(names[i]), receiver, float(estimate[i])) for i in order if np.isfinite(estimate[i])
    ]


def _effects(
    model: Model, task: Task, found: Sequence[Found], options: dict[str, Any], **attrs: float | int
) -> xr.Dataset:
    """The paths that were kept on prompts that did not select them."""
    senders = list(dict.fromkeys(path.sender for path in found))
    receivers = list(dict.fromkeys(path.receiver for path in found))
    grid = path_patch(model, task, senders, receivers, **options)
    at = {
        "sender": xr.DataArray([senders.index(path.sender) for path in found], dims="cell"),
        "receiver": xr.DataArray([receivers.index(path.receiver) for path in found], dims="cell"),
    }
    out = grid.isel(at).transpose("prompt", "cell", ...).drop_vars("reachable")
    names = np.array([f"{path.sender} → {path.receiver}" for path in found], dtype=object)
    out = out.assign_coords(cell=names, step=("cell", np.array([path.step for path in found])))
    out["discovery"] = ("cell", np.array([path.effect for path in found]))
    out.attrs |= {"method": "trace_back", "receivers": ", ".join(receivers), **attrs}
    results.check(out)
    return out


def _circuit(model: Model, effects: xr.Dataset) -> Circuit:
    """An edge for each path; with heads frozen it stands for the direct edge and those by way of MLPs."""
    graph = Graph.of(model)
    mask, scores = torch.zeros_like(graph.allowed), torch.full(graph.allowed.shape, torch.nan)
    means = effects["value"].mean("prompt").values
    for sender, receiver, effect in zip(effects["sender"].values, effects["receiver"].values, means):
        edge = graph.edge(f"{sender}->{receiver}")
        mask[edge], scores[edge] = True, float(effect)
    kept = (
        "model",
        "task",
        "task_fingerprint",
        "metric",
        "direction",
        "ablation",
        "freeze",
        "seed",
        "n_prompts",
    )
    provenance = {"method": "trace_back", **{name: effects.attrs[name] for name in kept}}
    return Circuit(graph, mask, scores, provenance, name=f"of {effects.attrs['task']}, traced back")


def _story(effects: xr.Dataset, level: float, seed: int) -> str:
    """A line a receiver: whom it hears, with the mean effect of each on the prompts that did not select."""
    facts = effects.attrs
    tested = stats.test(effects, level=level, seed=seed)
    gap = abs(float((effects["clean"] - effects["corrupt"]).mean()))
    lines = [
        f"{facts['model']} on {facts['task']}, {facts['direction']}: effects in {facts['unit']} of {gap:.2f} "
        f"between the runs, from {facts['n_prompts']} prompts that did not select the paths."
    ]
    receivers = list(dict.fromkeys(effects["receiver"].values.tolist()))
    for receiver in receivers:
        one = tested.isel(cell=np.flatnonzero(effects["receiver"].values == receiver))
        heard = [
            f"{sender} ({value:+.2f}{'' if sure else ', not confirmed'})".replace("-", "−")
            for sender, value, sure in zip(
                one["sender"].values, one["estimate"].values, one["significant"].values
            )
        ]
        lines.append(f"{receiver} hears {', '.join(heard)}")
    deaf = [each for each in _asked(effects) if each not in receivers]
    lines += [f"No significant sender: {', '.join(deaf)}"] if deaf else []
    return "\n".join(lines)


def _asked(effects: xr.Dataset) -> list[str]:
    """The inputs of the heads on the paths, for those that hear nobody; the last step was not followed."""
    steps = effects["step"].values
    heads = effects["sender"].values[steps < steps.max()].tolist()
    parts = [f"{name}.{part}" for name in heads if parse(name).site == "z" for part in "qkv"]
    return list(dict.fromkeys(parts))
