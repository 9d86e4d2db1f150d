"""Baselines that steering has to beat, and one table of all at the same KL (AxBench, 2501.17148).

`prefixed`: prompting. The same prompts behind a system prompt or solved examples (few-shot).
`rank_one_adapter`: h + r (w . h + b - r . h), r of length 1: LoReFT (2404.03592) of rank 1. It begins as the
identity (w = r, b = 0).
`tuned_bias`: a bias learned at the output of every MLP (or another site), all layers together.
`compare`: every method at the strength at which it changes the next token by the same mean KL(unsteered ‖
steered), controls of directions too; prompting has no strength, so its own KL is stated. Beside control,
detection: the AUROC with which the method's own reading (largest over the tokens) tells the concept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from interp import results
from interp._activations import activations
from interp._arguments import shown
from interp._brief import brief
from interp._verbs import verb
from interp.experiment import Metrics, check_metric, check_task
from interp.models import Model, anatomy, logits
from interp.models.places import Layers, vector_places
from interp.places import Place
from interp.positions import AnyPositions, everywhere, parse
from interp.probes.selectors import auroc
from interp.prompts import Prompts, read_classes
from interp.steering._controls import controls
from interp.steering._direction import Direction, found_on
from interp.steering._intervention import Intervention
from interp.steering._optimise import Objective, first_vectors, learn, optimise
from interp.steering.edits import AnyGate, Made, Number, add, finite
from interp.steering.methods._measure import Steered, measure, signs_of, with_kl
from interp.tasks import Task
from interp.tasks.metrics import KL, Metric

CONVENTION = "effect = metric(under the method) - metric(as it is), turned so that positive is better"
_ROUNDS, _SPAN = 24, (2.0**-8, 2.0**16)


@dataclass(frozen=True, eq=False)
class RankOne:
    """h + strength · r (w · h + b − r · h), with r of length 1. losses: before each step of training."""

    place: Place
    r: Float[Tensor, "d"]
    w: Float[Tensor, "d"]
    b: float
    found: Mapping[str, Any]
    losses: tuple[float, ...] = ()
    __repr__ = brief

    def steer(self, strength: Number = 1.0, *, when: AnyPositions = everywhere, gate: AnyGate = None) -> Made:
        """The adapter as an intervention. strength 0 does nothing, 1 is as it was trained."""
        finite("strength", strength)

        def edit(h: Tensor) -> Tensor:
            return h + strength * (h @ (self.w - self.r).to(h) + self.b).unsqueeze(-1) * self.r.to(h)

        return (
            Intervention(
                self.place, edit, when, gate, model=self.found["model"], weights=self.found["weights"]
            ),
        )

    def read(self, h: Float[Tensor, "*any d"]) -> Float[Tensor, "*any"]:
        """What it reads of activations: w · h + b."""
        return h @ self.w.to(h) + self.b


@verb
def rank_one_adapter(
    model: Model,
    prompts: Any,
    targets: Any = None,
    *,
    layer: int,
    site: str = "resid_pre",
    when: AnyPositions = everywhere,
    suppress: bool = False,
    loss: Callable[[Tensor, Prompts], Tensor] | None = None,
    reward: Callable[[Tensor, Prompts], Tensor] | None = None,
    steps: int = 100,
    lr: Number = 0.05,
    seed: int = 0,
) -> RankOne:
    """A trained adapter of rank 1; arguments as in `steering.optimise`.

    Cost: a pass of the prompts, and `steps` forward and backward passes. The model is left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> from interp.steering import methods
        >>> adapter = methods.rank_one_adapter(model, task.clean, task.answers[:, :1], layer=1, steps=2)
        >>> len(adapter.steer(0.5))
        1
    """
    (where,) = vector_places(anatomy(model), layer, site)
    aim = Objective(model, prompts, targets, None, suppress, loss, reward)
    r = first_vectors(model, [where], None, seed)[str(where)]
    norm = float(activations(model, aim.rows, where, "all").double().norm(dim=1).median().clamp(min=1e-12))
    made_at = parse(when)

    def edit(h: Tensor, free: Mapping[str, Tensor]) -> Tensor:
        unit = free["r"] / free["r"].norm()
        step = h @ free["w"] / norm + free["b"] * norm / 10  # w in units of 1 / norm: it reads a change
        return h + step.unsqueeze(-1) * unit

    def run(free: Mapping[str, Tensor]) -> Tensor:
        return aim.of([Intervention(where, lambda h: edit(h, free), made_at)])

    start = {"r": r, "w": torch.zeros_like(r), "b": torch.full_like(r[0], 1e-3)}
    learnt, losses = learn(start, run, steps=steps, lr=lr)
    unit = learnt["r"] / learnt["r"].norm()
    w, b = unit + learnt["w"] / norm, float(learnt["b"]) * norm / 10
    return RankOne(where, unit, w, b, found_on(model), tuple(losses))


@verb
def tuned_bias(
    model: Model,
    prompts: Any,
    targets: Any = None,
    *,
    layer: Layers = None,
    site: str = "resid_pre",
    suppress: bool = False,
    loss: Callable[[Tensor, Prompts], Tensor] | None = None,
    reward: Callable[[Tensor, Prompts], Tensor] | None = None,
    steps: int = 100,
    lr: Number = 0.01,
) -> Direction:
    """A bias learned at a site of every layer (or some) together, from 0: fine-tuning of the biases alone.

    With `site="mlp_out"` the biases are those of the MLPs; `resid_pre` has that of whatever wrote last.

    `steering.add` puts it in force, `steering.bake` writes it into the model. Arguments and errors as in
    `steering.optimise`. Cost: `steps` forward and backward passes.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> from interp.steering import methods
        >>> site = {"layer": [0, 1], "site": "mlp_out"}
        >>> bias = methods.tuned_bias(model, task.clean, task.answers[:, :1], **site, steps=2)
        >>> [str(where) for where in bias.places]
        ['MLP0', 'MLP1']
    """
    facts = anatomy(model)
    zeros = {where: torch.zeros(facts.width(where.site)) for where in vector_places(facts, layer, site)}
    learnt = optimise(
        model, prompts, targets, layer=layer, site=site, suppress=suppress, loss=loss, reward=reward,
        start=Direction(zeros), steps=steps, lr=lr,
    )  # fmt: skip
    return Direction(
        learnt.vectors, method="tuned_bias", positions=learnt.positions, data=learnt.data, **found_on(model)
    )


@verb
def prefixed(model: Model, task: Task, prefix: Any, after: int = 1) -> Task:
    """The task behind a prefix: a system prompt, or solved examples. Row i answers as row i of `task` does.

    prefix: text (encoded without a beginning token) or token ids. after: how many tokens of each prompt stay
    in front of it, 1 for a beginning token, 0 for none. Spans, labels and read-out positions move along.
    Conversations have their own system prompt: make the task again with it, and give both to `compare`.
    ValueError for an empty prefix. No pass.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4, seed=0)
        >>> from interp.steering import methods
        >>> methods.prefixed(model, task, " Mary", 1).clean.shape[1] - task.clean.shape[1]
        1
    """
    from interp.tasks import vocabulary

    ids = vocabulary.encode(model, prefix, False) if isinstance(prefix, str) else _ids_of(prefix)
    top = vocabulary.size(model)
    if not all(0 <= each < top for each in ids):
        raise ValueError(f"prefix has the token {max(ids, key=abs)}; the model has tokens 0 to {top - 1}.")
    if not ids or not 0 <= after <= int(task.lengths.min()):
        raise ValueError(
            f"the prefix has {len(ids)} tokens and after is {after}; give a token or more, and 0 to "
            f"{int(task.lengths.min())} tokens in front."
        )

    def put(rows: Tensor, new: Any) -> Tensor:
        middle = torch.as_tensor(new).to(rows).expand(len(rows), len(ids))
        return torch.cat([rows[:, :after], middle, rows[:, after:]], 1)

    behind = task.positions >= after
    clean = put(task.clean, ids)
    labels = tuple(vocabulary.decode(model, [each]) for each in ids) if task.labels else ()
    return replace(
        task, clean=clean, corrupt=put(task.corrupt, ids) if task.has_corrupt else clean,
        positions=torch.where(behind, task.positions + len(ids), task.positions),
        lengths=task.lengths + len(ids), name=f"{task.name}, prefixed",
        labels=task.labels and tuple((*row[:after], *labels, *row[after:]) for row in task.labels),
        spans={name: put(span, False) for name, span in task.spans.items()},
    )  # fmt: skip


def _ids_of(given: Any) -> list[int]:
    """Whole numbers in a list or tensor. ValueError for anything else."""
    listed = given.tolist() if isinstance(given, Tensor) else given
    if not isinstance(listed, (list, tuple)) or not all(isinstance(each, int) for each in listed):
        raise ValueError(f"prefix is {shown(given)}; give a text, or a list of token ids.")
    return list(listed)


@verb
def compare(
    model: Model,
    task: Task,
    methods: Mapping[str, Any],
    target_kl: Number,
    *,
    concept: tuple[Any, Any] | None = None,
    when: AnyPositions = everywhere,
    metric: Metrics | None = None,
    seed: int = 0,
    progress: bool = True,
) -> xr.Dataset:
    """`value` (prompt, run[, metric]): the effect of every method at a mean KL of `target_kl` nats.

    methods, by name: a Direction (its random and shuffled controls get rows of their own, at their own
    strength); a function strength -> interventions, such as `adapter.steer`; a RankOne; or a Task, whose row
    i asks row i of `task` another way (prompting), at the KL that it has. `strength`, `kl` (run); both NaN,
    and the effect, where no strength reaches the KL: the attribute `unreached` names those. `auroc` (run),
    with concept=(positive, negative) prompts: of directions and adapters. `clean` (prompt[, metric]).
    `stats.bootstrap` gives intervals. Raises ValueError, before any pass, for a method of another kind or of
    another number of prompts. Cost: about 30 passes of the task for each row of the table.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> d = interp.steering.mean_difference(model, task.clean[:4], task.clean[4:], layer=1)
        >>> from interp.steering import methods
        >>> asked = methods.prefixed(model, task, " Mary", 1)
        >>> table = methods.compare(model, task, {"mean": d, "prompt": asked}, 0.1, progress=False)
        >>> table["run"].values.tolist()
        ['mean', 'mean, random', 'mean, shuffled', 'prompt']
    """
    check_task(task, anatomy(model), model)
    finite("target_kl", target_kl)
    if not target_kl > 0 or not methods:
        raise ValueError(
            f"target_kl is {target_kl}, with {len(methods)} methods; give nats above 0, and one."
        )
    for what in methods.values():
        if isinstance(what, Direction):
            what.require_any().check(model)
        if isinstance(what, Task):
            check_task(what, anatomy(model), model)
    rows = _rows_of(methods, task, when, seed)
    chosen = check_metric(metric, task.metric)
    sides = None if concept is None else read_classes(model, *concept)
    read_of, at_kl = with_kl(chosen)
    runs, signs = Steered(model, task, read_of), signs_of(chosen)
    clean = runs.clean[:, : len(chosen)].cpu()
    columns: dict[str, list[Any]] = {"value": [], "strength": [], "kl": [], "auroc": []}
    for what, act in tqdm(rows.values(), disable=not progress, desc="compare", unit="run"):
        effects, strength, kl = (
            _asked(model, task, what, chosen) if act is None else _at_kl(runs, act, float(target_kl), at_kl)
        )
        columns["value"].append(signs * (effects.cpu()[:, : len(chosen)] - clean))
        columns["strength"].append(strength)
        columns["kl"].append(kl)
        columns["auroc"].append(float("nan") if sides is None else _detection(model, what, *sides))
    unreached = [name for name, kl in zip(rows, columns["kl"]) if np.isnan(kl)]
    variables: dict[str, Any] = {
        "value": (("prompt", "run", "metric"), torch.stack(columns["value"], 1).numpy()),
        "clean": (("prompt", "metric"), clean.numpy()),
        **{name: (("run",), np.array(columns[name])) for name in ("strength", "kl", "auroc")},
    }
    attrs = results.provenance(
        method="compare", convention=CONVENTION, metric=chosen, model=anatomy(model).name, task=task.name,
        task_fingerprint=task.fingerprint(), n_prompts=len(task), seed=seed, target_kl=float(target_kl),
        unreached=", ".join(unreached) or "none",
    )  # fmt: skip
    coords = {"run": list(rows), "metric": [each.name for each in chosen]}
    return results.dataset(variables, coords, attrs, task)


def _rows_of(
    methods: Mapping[str, Any], task: Task, when: AnyPositions, seed: int
) -> dict[str, tuple[Any, Callable[[float], Any] | None]]:
    """What each row of the table is, and its interventions by strength (None: it has no strength)."""
    rows: dict[str, tuple[Any, Callable[[float], Any] | None]] = {}
    for name, what in methods.items():
        if isinstance(what, Task):
            if len(what) != len(task):
                raise ValueError(
                    f"{name!r} has {len(what)} prompts, the task {len(task)}; row i goes with row i."
                )
            rows[name] = (what, None)
        elif isinstance(what, Direction):
            sets: dict[str, Direction] = {name: what} | {
                f"{name}, {kind}": d for kind, (d,) in controls([what], seed).items() if d
            }
            twice = [key for key in sets if key != name and (key in rows or key in methods)]
            if twice:
                raise ValueError(f"there would be two rows {twice[0]!r}; call one of the methods otherwise.")
            rows |= {key: (d, _adder(d, when)) for key, d in sets.items()}
        elif isinstance(what, RankOne) or callable(what):
            rows[name] = (what, what.steer if isinstance(what, RankOne) else what)
        else:
            raise ValueError(
                f"{name!r} is a {type(what).__name__}; give a Direction, a RankOne, a Task, or a function "
                "strength -> interventions."
            )
    return rows


def _adder(direction: Direction, when: AnyPositions) -> Callable[[float], Any]:
    return lambda strength: add(direction, strength, when=when)


def _asked(model: Model, task: Task, other: Task, metric: tuple[Metric, ...]) -> tuple[Tensor, float, float]:
    """Metrics [prompt, metric] of the task asked another way, no strength, and the mean KL to it as it is."""
    values, away = measure(model, other, metric=metric), _kl_between(model, task, other)
    for i, each in enumerate(metric):
        if isinstance(each, KL):  # to the task as it is, not to this one as it is
            values[:, i] = away.to(values)
    return values, float("nan"), float(away.mean())


def _at_kl(
    runs: Steered, act: Callable[[float], Any], target: float, at_kl: int
) -> tuple[Tensor, float, float]:
    """Metrics [prompt, metric], the strength, and the mean KL; NaN where the KL is not reached."""
    low, high = 0.0, _SPAN[0]
    values = runs(*act(high))
    while (reached := float(values[:, at_kl].mean())) < target and high < _SPAN[1]:
        low, high = high, 2 * high
        values = runs(*act(high))
    if not reached >= target:
        return torch.full_like(values, float("nan")), float("nan"), float("nan")
    strength = high
    for _ in range(_ROUNDS):
        if abs(reached - target) <= 0.01 * target:
            break
        strength = (low + high) / 2
        values = runs(*act(strength))
        reached = float(values[:, at_kl].mean())
        low, high = (strength, high) if reached < target else (low, strength)
    return values, strength, reached


def _kl_between(model: Model, task: Task, other: Task) -> Float[Tensor, "prompt"]:
    """KL of the next token at the answer of each prompt, from the task's to the other's."""
    logs = []
    for each in (task, other):
        device = anatomy(model).device
        with torch.no_grad():
            out = logits(model, each.clean.to(device))
        logs.append(out[torch.arange(len(out)), each.last_position.to(device)].double().log_softmax(-1))
    return (logs[0].exp() * (logs[0] - logs[1])).sum(-1)


def _detection(model: Model, what: Any, positive: Prompts, negative: Prompts) -> float:
    """AUROC of the largest reading over the tokens; NaN for what reads nothing."""
    if isinstance(what, RankOne):
        where, weigh = what.place, what.read
    elif isinstance(what, Direction) and what.layout == "vector" and len(what.places) == 1:
        where, weigh = what.place, what.project
    else:
        return float("nan")
    sides = []
    for rows in (positive, negative):
        tokens = weigh(activations(model, rows, where, "all")).split(rows.lengths.tolist())
        sides.append(torch.stack([each.max() for each in tokens])[:, None])
    return float(auroc(*sides)[0])
