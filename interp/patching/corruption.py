"""How the second run is spoilt, or what an ablation puts in its place.

| corruption | second run | direction |
|---|---|---|
| `Tokens()` | the corrupt prompts (symmetric token replacement; Zhang & Nanda 2309.16042) | either |
| `Gaussian(sigma)` | the clean prompts, embeddings with noise (Meng et al. 2202.05262) | either |
| `Zero()` | none: the patch is zero | noise |
| `Mean()` | none: the patch is the mean activation of the corrupt prompts, position by position | noise |
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.engine.runs import Fill, Runs
from interp.models import Model, anatomy, logits
from interp.places import hook_name
from interp.tasks import Task

DIRECTIONS = ("denoise", "noise")


@dataclass(frozen=True)
class Tokens:
    """The task's own corrupt prompts."""

    draws: int = 1


@dataclass(frozen=True)
class Gaussian:
    """Gaussian noise on the clean prompts' token embeddings.

    sigma: standard deviation of the noise, in standard deviations of the embedding matrix (Meng et al.: 3).
    draws: noises per prompt; results are means over draws, and the variance over draws is reported.
    positions: which positions get noise; by default those where the task's corrupt prompts differ.
    Every cell sees the same draws. They depend on the seed and the prompt's own tokens, not on its
    neighbours, so a subset of a task meets the same noise.
    """

    sigma: float = 3.0
    draws: int = 4
    seed: int = 0
    positions: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not (self.sigma > 0 and np.isfinite(self.sigma)):
            raise ValueError(f"sigma is {self.sigma}; it must be a positive number.")
        if self.draws < 1:
            raise ValueError(f"draws is {self.draws}; at least one draw is needed.")


@dataclass(frozen=True)
class Zero:
    """Zero ablation."""

    draws: int = 1


@dataclass(frozen=True)
class Mean:
    """Mean ablation over the corrupt prompts, position by position, padding left out."""

    draws: int = 1


Corruption = Tokens | Gaussian | Zero | Mean
_NAMES = {"tokens": Tokens, "gaussian": Gaussian, "zero": Zero, "mean": Mean}


def parse(corruption: str | Corruption) -> Corruption:
    """A corruption from its name, with default settings."""
    if not isinstance(corruption, str):
        return corruption
    if corruption not in _NAMES:
        raise ValueError(f"corruption {corruption!r} is not one of {', '.join(_NAMES)}.")
    return _NAMES[corruption]()


def direction_of(corruption: Corruption, direction: str | None, task: Task) -> str:
    """The direction to patch in, checked against the corruption and the task."""
    ablates = isinstance(corruption, (Zero, Mean))
    if direction is None:
        direction = "noise" if ablates else "denoise"
    if direction not in DIRECTIONS:
        raise ValueError(f"direction {direction!r} is not one of {', '.join(DIRECTIONS)}.")
    if ablates and direction == "denoise":
        raise ValueError(
            f"{type(corruption).__name__} ablation takes something away from the clean run, so it has no "
            "denoising direction. Use direction='noise'."
        )
    if isinstance(corruption, (Tokens, Mean)) and not task.has_corrupt:
        raise ValueError(
            "the task has no corrupt prompts. Give corrupt= when building it, or use "
            "corruption=Gaussian(positions=...) or 'zero'."
        )
    return direction


def make_runs(
    model: Model, task: Task, corruption: Corruption, direction: str, sites: tuple[str, ...]
) -> Runs:
    """Base and source runs of every prompt and draw (prompt-major).

    Cost: none, except for `Mean`: one forward per prompt.
    """
    device = anatomy(model).device
    move = lambda x: x.to(device)  # noqa: E731
    clean = move(task.clean)
    corrupt = move(task.corrupt) if isinstance(corruption, Tokens) else clean
    if isinstance(corruption, (Zero, Mean)) and task.has_corrupt:
        corrupt = move(task.corrupt)
    parts = [move(t) for t in (task.answers, task.wrongs, task.positions, task.lengths)]
    noise = None
    if isinstance(corruption, Gaussian):
        noise = gaussian_noise(model, task, corruption)
        clean, corrupt, *parts = (t.repeat_interleave(corruption.draws, 0) for t in (clean, corrupt, *parts))
    is_base = direction == "noise"
    base, source = (clean, corrupt) if is_base else (corrupt, clean)
    return Runs(base, source, is_base, *parts, noise=noise, fill=_fill(model, task, corruption, sites))


def gaussian_noise(model: Model, task: Task, corruption: Gaussian) -> Tensor:
    """The noise of every prompt and draw: [prompt draw, pos, d_model]."""
    where = _noisy_positions(task, corruption)  # [prompt, pos]
    embedding = model.W_E
    scale = corruption.sigma * float(embedding.float().std())
    shape = (corruption.draws, task.clean.shape[1], embedding.shape[1])
    draws = []
    for number in range(len(task)):
        own = task.clean[number].tolist() + task.corrupt[number].tolist()
        seed = np.random.SeedSequence((corruption.seed, *own)).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(seed))
        draws.append(torch.randn(shape, generator=generator) * scale * where[number][None, :, None])
    return torch.cat(draws).to(embedding.device, embedding.dtype)


def _noisy_positions(task: Task, corruption: Gaussian) -> Tensor:
    n_pos = task.clean.shape[1]
    if corruption.positions is None:
        if not task.has_corrupt:
            raise ValueError(
                "the task has no corrupt prompts to tell which positions to spoil. "
                "Give Gaussian(positions=...)."
            )
        return (task.clean != task.corrupt).cpu()
    outside = [p for p in corruption.positions if not 0 <= p < n_pos]
    if outside:
        raise ValueError(f"Gaussian positions {outside} lie outside the prompts of {n_pos} tokens.")
    where = torch.zeros(len(task), n_pos, dtype=torch.bool)
    where[:, list(corruption.positions)] = True
    return where


def _fill(model: Model, task: Task, corruption: Corruption, sites: tuple[str, ...]) -> Fill | None:
    if isinstance(corruption, Zero):
        return _zeros
    if isinstance(corruption, Mean):
        return partial(_look_up, site_means(model, task, sites))
    return None


def _zeros(site: str, layer: int, activation: Tensor) -> Tensor:
    return torch.zeros_like(activation)


def _look_up(means: dict[tuple[str, int], Tensor], site: str, layer: int, activation: Tensor) -> Tensor:
    mean = means.get((site, layer))
    return activation if mean is None else mean.to(activation.dtype).expand_as(activation)


def site_means(
    model: Model, task: Task, sites: tuple[str, ...], batch_size: int = 32
) -> dict[tuple[str, int], Tensor]:
    """Mean of the corrupt prompts at every (site, layer): [pos, ...], float64, padding left out."""
    facts = anatomy(model)
    tokens, lengths = task.corrupt.to(facts.device), task.lengths.to(facts.device)
    real = torch.arange(tokens.shape[1], device=tokens.device)[None] < lengths[:, None]  # [prompt, pos]
    sums: dict[tuple[str, int], Tensor] = {}
    for start in range(0, len(task), batch_size):
        mask = real[start : start + batch_size]

        def keep(tensor: Tensor, hook: Any, place: tuple[str, int], mask: Tensor = mask) -> Tensor:
            axis = 2 if place[0] == "pattern" else 1  # patterns: [prompt, head, dst, src], mean by dst
            shape = [1] * tensor.ndim
            shape[0], shape[axis] = mask.shape
            sums[place] = sums.get(place, 0.0) + (tensor.double() * mask.view(shape)).sum(0)
            return tensor

        places = [(site, layer) for site in sites for layer in range(facts.n_layers)]
        hooks = [(hook_name(*place), partial(keep, place=place)) for place in places]
        with model.hooks(fwd_hooks=hooks):
            logits(model, tokens[start : start + batch_size])
    count = real.sum(0).clamp(min=1)  # [pos]
    shape = {
        place: (1, -1, 1) if place[0] == "pattern" else (-1,) + (1,) * (s.ndim - 1)
        for place, s in sums.items()
    }
    return {place: total / count.view(shape[place]) for place, total in sums.items()}
