"""What a found subspace is compared with, on the same pairs and with as many directions.

Nulls, which would find a variable that is not there:
random          directions drawn at random, of the featuriser's own kind.
norm_matched    the same, made to move every activation as far as the subspace does.
shuffled        the same search for answers that were permuted, one permutation for each value of the source.
random_model    the same search in the same architecture with weights drawn anew.

Bases without a search, which may find what is there: pca, mean_difference (between the variable's values).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from interp.models import Model
from interp.subspaces._pairs import Pairs
from interp.subspaces._search import components, featuriser, fit, principal
from interp.subspaces._stage import Exchange, Stage
from interp.subspaces._subspace import Subspace

NULLS = ("random", "norm_matched", "shuffled", "random_model")
CONTROLS = (*NULLS, "pca", "mean_difference")


@dataclass(frozen=True)
class Settings:
    """Those of a search, checked. rank: None where the featuriser finds it."""

    rank: int | None
    featuriser: str
    l1: float
    controls: tuple[str, ...]
    steps: int | None
    lr: float
    seed: int

    def fit(
        self, stage: Stage, train: Pairs, stop: Pairs, tick: Callable[[int], object]
    ) -> tuple[Subspace, tuple[float, ...]]:
        kind = featuriser(self.featuriser, stage, self.rank, self.l1, self.seed)
        return fit(kind, stage, train, stop, self.steps, self.lr, self.seed, tick)


def control(
    name: str,
    settings: Settings,
    stage: Stage,
    parts: dict[str, Pairs],
    subspace: Subspace,
    tick: Callable[[int], object],
) -> Exchange:
    """What a control exchanges; all but random_model, which is of another model."""
    generator = torch.Generator().manual_seed(settings.seed + 1)
    if name == "shuffled":
        train, stop = (shuffled(parts[part], generator) for part in ("train", "stop"))
        return settings.fit(stage, train, stop, tick)[0].exchange
    if name in ("pca", "mean_difference"):
        rows = stage.values.flatten(0, -2).double()
        basis = components(rows) if name == "pca" else principal(_class_means(stage, parts["train"]))
        kept = basis[:, : subspace.rank].to(stage.values)
        return Subspace(kept, stage.where, name).exchange
    kind = featuriser(settings.featuriser, stage, settings.rank, settings.l1, settings.seed)
    random = kind.random(subspace.rank, generator)
    return random.exchange if name == "random" else _as_far(random, subspace)


def random_model(
    settings: Settings, stage: Stage, parts: dict[str, Pairs], tick: Callable[[int], object]
) -> dict[str, Tensor]:
    """The search in the same architecture with weights drawn anew: `Stage.right` of the test pairs there."""
    with weights_drawn_anew(stage.model, settings.seed):
        other = replace(stage)  # nothing that was kept of the model's own runs
        found, _ = settings.fit(other, parts["train"], parts["stop"], tick)
        return other.right(parts["test"], found.exchange)


@contextmanager
def weights_drawn_anew(model: Model, seed: int) -> Iterator[None]:
    """Every weight drawn from a normal of its tensor's own mean and deviation; afterwards all are as before.

    So it is a model of the same architecture and scale (gains of norms are near 1) that has learnt nothing.
    In place, since a bridge cannot be copied: its parts refer to one another.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = list(model.parameters())
    kept = [weight.detach().clone() for weight in weights]
    try:
        for weight, own in zip(weights, kept):
            spread, mean = own.double().std(correction=0), own.double().mean()
            noise = torch.randn(own.shape, generator=generator, dtype=torch.float64).to(own.device)
            _set(weight, mean + noise * spread)
        yield
    finally:
        for weight, own in zip(weights, kept):
            _set(weight, own)


def _set(weight: Tensor, values: Tensor) -> None:
    with torch.inference_mode(weight.is_inference()), torch.no_grad():
        weight.copy_(values)


def shuffled(pairs: Pairs, generator: torch.Generator) -> Pairs:
    """The pairs with other expected answers: one permutation of the choices for each source's value."""
    values = pairs.task.variables[pairs.variable].values[pairs.source]
    target, n = pairs.target, len(pairs.choices)
    moved = target.clone()
    for value in values.unique().tolist():
        mine = values == value
        moved[mine] = torch.randperm(n, generator=generator)[target[mine]]
    return replace(pairs, expected=pairs.choices[moved])


def _class_means(stage: Stage, train: Pairs) -> Tensor:
    """The mean at each value of the variable, less their mean: [value, width]."""
    rows = torch.cat((train.own, train.source)).unique()
    values = stage.task.variables[train.variable].values[rows]
    kept = stage.values[rows.to(stage.values.device)].double().mean(1)
    means = torch.stack([kept[(values == each).to(kept.device)].mean(0) for each in values.unique().tolist()])
    return means - means.mean(0)


def _as_far(random: Subspace, subspace: Subspace) -> Exchange:
    """The random exchange, made to move every activation as far as the subspace's does."""

    def exchange(own: Tensor, source: Tensor) -> Tensor:
        step = random.exchange(own, source) - own
        wanted = (subspace.exchange(own, source) - own).norm(dim=-1, keepdim=True)
        return own + step * wanted / step.norm(dim=-1, keepdim=True).clamp(min=1e-12)

    return exchange
