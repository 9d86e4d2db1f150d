"""What stands in for an activation, or for what a cut edge carries.

| ablation          | name         | what stands in                                        | direction |
|-------------------|--------------|-------------------------------------------------------|-----------|
| `Resample()`      | `"resample"` | the other run's own value (clean and corrupt prompts) | either    |
| `Gaussian(sigma)` | `"gaussian"` | the value under noise on the embeddings               | either    |
| `Zero()`          | `"zero"`     | nothing                                               | noise     |
| `Mean(over)`      | `"mean"`     | the mean over prompts, position by position           | noise     |
| `Scaled(alpha)`   |              | its own value times alpha; not for circuits           | noise     |
| `Constants(c)`    | a tensor     | a constant of each writer; circuits only              | noise     |
| `Optimal(values)` |              | the constant that spoils least, `optimal_ablation`    | noise     |

Symmetric token replacement: Zhang & Nanda 2309.16042. Noise: Meng et al. 2202.05262. Constants (optimal
ablation): Li & Janson 2409.09951.

`direction="denoise"` runs the corrupt prompts and brings in the clean run (sufficient?); `"noise"` runs the
clean prompts and brings in what stands above (necessary?).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp._arguments import shown
from interp._verbs import settings
from interp.engine.runs import Fill, Runs
from interp.models import Model, anatomy, expert_points, logits
from interp.places import hint, hook_name
from interp.tasks import Task

DIRECTIONS = ("denoise", "noise")
_PROMPTS_AT_ONCE = 32  # of the passes that take means


class _Settings:
    """What all ablations answer. `kind` is the name; `draws` the runs of each prompt; `adds` whether it makes
    the clean run's activation stronger, where the others take it away: then effects turn their sign."""

    kind: str = ""
    draws: int = 1
    adds: bool = False

    def __str__(self) -> str:
        return self.kind


@dataclass(frozen=True)
class Resample(_Settings):
    """The task's own clean and corrupt prompts."""

    kind = "resample"


@settings
@dataclass(frozen=True)
class Gaussian(_Settings):
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
    kind = "gaussian"

    def __post_init__(self) -> None:
        if not (self.sigma > 0 and np.isfinite(self.sigma)):
            raise ValueError(f"sigma is {self.sigma}; it must be a positive number.")
        if self.draws < 1:
            raise ValueError(f"draws is {self.draws}; at least one draw is needed.")

    def __str__(self) -> str:
        where = "" if self.positions is None else f", positions={self.positions}"
        return f"gaussian(sigma={self.sigma}, draws={self.draws}, seed={self.seed}{where})"


@dataclass(frozen=True)
class Zero(_Settings):
    """Zero ablation."""

    kind = "zero"


@settings
@dataclass(frozen=True, eq=False)
class Mean(_Settings):
    """Mean ablation.

    over: token ids [row, pos] whose mean stands in, position by position where they are as long as the
        task's prompts, else one mean over all of their positions. By default the task's corrupt prompts, or
        its clean ones where it has no others, with padding left out.
    """

    over: Int[Tensor, "row pos"] | None = None
    kind = "mean"

    def __str__(self) -> str:
        return "mean" if self.over is None else f"mean(over={list(self.over.shape)} {_digest(self.over)})"


@settings
@dataclass(frozen=True)
class Scaled(_Settings):
    """The clean run's own value times alpha: 0 takes it away, 2 makes it twice as strong.

    Effects keep their meaning, positive helps: metric(clean) - metric(scaled) for alpha below 1, and
    metric(scaled) - metric(clean) above.
    """

    alpha: float
    kind = "scaled"

    def __post_init__(self) -> None:
        if not np.isfinite(self.alpha) or self.alpha == 1:
            raise ValueError(f"alpha is {self.alpha}; it must be a finite number other than 1.")

    @property
    def adds(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.alpha > 1

    def __str__(self) -> str:
        return f"scaled({self.alpha:g})"


@settings
@dataclass(frozen=True, eq=False)
class Constants(_Settings):
    """A constant for each writer of a circuit's graph: [writer, d_model]."""

    tensor: Float[Tensor, "writer d_model"]
    kind = "constants"

    def __str__(self) -> str:
        return f"constants({list(self.tensor.shape)} {_digest(self.tensor)})"


@dataclass(frozen=True, eq=False)
class Optimal(_Settings):
    """Constants of activations, one for each head, MLP or stream; `interp.optimal_ablation` learns them.

    values: by (site, layer) the constant, [head, d_head] at `z` and [d_model] elsewhere, the same at all
        positions. losses: by (site, layer) the expected loss of each cell under this constant, under the mean
        and under zero, [3, cell].
    """

    values: Mapping[tuple[str, int], Float[Tensor, "..."]]
    losses: Mapping[tuple[str, int], Float[Tensor, "3 cell"]] = field(default_factory=dict)
    kind = "optimal"

    def __str__(self) -> str:
        sites = ", ".join(dict.fromkeys(site for site, _ in self.values))
        return f"optimal({sites} {_digest(torch.cat([each.flatten() for each in self.values.values()]))})"

    def require(self, places: Iterable[tuple[str, int]], use: str) -> None:
        """Raise ValueError for a place that has no constant."""
        missing = [place for place in places if place not in self.values]
        if missing:
            known = ", ".join(dict.fromkeys(site for site, _ in self.values))
            sites = tuple(dict.fromkeys(site for site, _ in missing))
            raise ValueError(
                f"the optimal constants are of {known}, and {use} needs those of {', '.join(sites)} in layer "
                f"{missing[0][1]}. Learn them too: interp.optimal_ablation(model, task, {sites!r})."
            )


Ablation = Resample | Gaussian | Zero | Mean | Scaled | Constants | Optimal
_BY_NAME: dict[str, type[Resample | Gaussian | Zero | Mean]] = {
    "resample": Resample,
    "gaussian": Gaussian,
    "zero": Zero,
    "mean": Mean,
}


def parse(ablation: str | Tensor | Ablation) -> Ablation:
    """An ablation from its name, with default settings; from a tensor of constants; or itself."""
    if isinstance(ablation, Ablation):
        return ablation
    if isinstance(ablation, Tensor):
        return Constants(ablation)
    if isinstance(ablation, str) and ablation in _BY_NAME:
        return _BY_NAME[ablation]()
    if isinstance(ablation, type) and issubclass(ablation, _Settings):
        raise ValueError(f"ablation is the class {ablation.__name__}; give {ablation.__name__}().")
    end = hint(ablation, _BY_NAME) if isinstance(ablation, str) else "."
    raise ValueError(
        f"ablation {shown(ablation)} is not one of {', '.join(_BY_NAME)}, nor a settings object such as "
        f"Gaussian(sigma=3.0), nor a tensor [writer, d_model]{end}"
    )


def check_direction(
    ablation: Ablation, direction: str | None, task: Task, natural: str, *, two_models: bool = False
) -> str:
    """The direction to patch in, `natural` by default. Raises ValueError where it does not fit.

    two_models: the two runs are of different models, and may be of the same prompts.
    """
    takes_away = isinstance(ablation, (Zero, Mean, Scaled, Constants, Optimal))
    if direction is None:
        direction = "noise" if takes_away else natural
    if direction not in DIRECTIONS:
        raise ValueError(f"direction {direction!r} is not one of {', '.join(DIRECTIONS)}.")
    if takes_away and direction == "denoise":
        raise ValueError(
            f"{ablation.kind} ablation changes the clean run without another one, so it has no "
            "denoising direction. Use direction='noise'."
        )
    if two_models:
        return direction
    if isinstance(ablation, Resample) and not task.has_corrupt:
        raise ValueError(
            "the task has no corrupt prompts. Give corrupt= when building it, or use "
            "ablation=Gaussian(positions=...), 'mean' or 'zero'."
        )
    same = task.same_pairs() if isinstance(ablation, Resample) else []
    if same:
        raise ValueError(same[0])
    return direction


def make_runs(model: Model, task: Task, ablation: Ablation, direction: str, sites: tuple[str, ...]) -> Runs:
    """Base and source runs of every prompt and draw (prompt-major).

    Cost: none, except for `Mean`: one forward per prompt.
    """
    device = anatomy(model).device
    clean = task.clean.to(device)
    corrupt = clean if isinstance(ablation, (Gaussian, Scaled)) else task.corrupt.to(device)
    parts = [part.to(device) for part in (task.answers, task.wrongs, task.last_position, task.lengths)]
    reads = None if task.reads is None else task.reads.to(device)
    spans = torch.stack([*task.spans.values()], 1).to(device) if task.spans else None  # [prompt, span, pos]
    noise = None
    if isinstance(ablation, Gaussian):
        noise = gaussian_noise(model, task, ablation)
        clean, corrupt, *parts = (t.repeat_interleave(ablation.draws, 0) for t in (clean, corrupt, *parts))
        reads, spans = (
            each if each is None else each.repeat_interleave(ablation.draws, 0) for each in (reads, spans)
        )
    is_base = direction == "noise"
    base, source = (clean, corrupt) if is_base else (corrupt, clean)
    fill = _fill(model, task, ablation, sites)
    return Runs(base, source, is_base, *parts, noise=noise, fill=fill, reads=reads, spans=spans)


def gaussian_noise(model: Model, task: Task, ablation: Gaussian) -> Float[Tensor, "row pos d_model"]:
    """The noise of every prompt and draw: [prompt draw, pos, d_model]."""
    where = _noisy_positions(task, ablation)  # [prompt, pos]
    embedding = model.W_E
    scale = ablation.sigma * float(embedding.float().std()) * anatomy(model).embed_scale
    shape = (ablation.draws, task.clean.shape[1], embedding.shape[1])
    draws = []
    for number in range(len(task)):
        own = task.clean[number].tolist() + task.corrupt[number].tolist()
        seed = np.random.SeedSequence((ablation.seed, *own)).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(seed))
        draws.append(torch.randn(shape, generator=generator) * scale * where[number][None, :, None])
    return torch.cat(draws).to(embedding.device, embedding.dtype)


def _noisy_positions(task: Task, ablation: Gaussian) -> Tensor:
    n_pos = task.clean.shape[1]
    if ablation.positions is None:
        if not task.has_corrupt:
            raise ValueError(
                "the task has no corrupt prompts to tell which positions to spoil. "
                "Give Gaussian(positions=...)."
            )
        return (task.clean != task.corrupt).cpu()
    outside = [p for p in ablation.positions if not 0 <= p < n_pos]
    if outside:
        raise ValueError(f"Gaussian positions {outside} lie outside the prompts of {n_pos} tokens.")
    where = torch.zeros(len(task), n_pos, dtype=torch.bool)
    where[:, list(ablation.positions)] = True
    return where


def _fill(model: Model, task: Task, ablation: Ablation, sites: tuple[str, ...]) -> Fill | None:
    if isinstance(ablation, (Zero, Constants)):
        return _zeros
    if isinstance(ablation, Scaled):
        return partial(_scaled, ablation.alpha)
    if isinstance(ablation, Optimal):
        return partial(_look_up, dict(ablation.values))
    if isinstance(ablation, Mean):
        return partial(_look_up, site_means(model, task, ablation, sites))
    return None


def _zeros(site: str, layer: int, activation: Tensor) -> Tensor:
    return torch.zeros_like(activation)


def _scaled(alpha: float, site: str, layer: int, activation: Tensor) -> Tensor:
    return activation * alpha


def _look_up(means: dict[tuple[str, int], Tensor], site: str, layer: int, activation: Tensor) -> Tensor:
    mean = means.get((site, layer))
    return activation if mean is None else mean.to(activation).expand_as(activation)


def site_means(
    model: Model, task: Task, ablation: Mean, sites: tuple[str, ...]
) -> dict[tuple[str, int], Float[Tensor, "..."]]:
    """The means of every (site, layer) in float64: [pos, ...], or [1, ...] over all positions.

    Patterns [prompt, head, dst, src] have their positions on the axis dst.
    """
    facts = anatomy(model)
    tokens, real, by_position = averaged(task, ablation, facts.device)
    if not by_position and "pattern" in sites:
        raise ValueError(
            f"Mean(over=) has {tokens.shape[1]} tokens a row, the task's prompts {task.clean.shape[1]}: "
            "attention patterns have no mean over prompts of another length. Give prompts of that length."
        )
    sums: dict[tuple[str, int], Tensor] = {}
    places = [(site, layer) for site in sites for layer in facts.layers(site)]
    for rows in torch.arange(len(tokens), device=tokens.device).split(_PROMPTS_AT_ONCE):
        keeping = [(hook_name(*place), partial(_add, sums, place, real[rows])) for place in places]
        with expert_points(model, sites), model.hooks(fwd_hooks=keeping):
            logits(model, tokens[rows])
    counts = real.sum(0).clamp(min=1)  # [pos]
    return {place: _divided(place[0], total, counts, by_position) for place, total in sums.items()}


def averaged(task: Task, ablation: Mean, device: torch.device) -> tuple[Tensor, Tensor, bool]:
    """The prompts that means are taken over, which of their positions are real, and whether these line up."""
    if ablation.over is not None:
        tokens = ablation.over.to(device)
        return tokens, torch.ones_like(tokens, dtype=torch.bool), tokens.shape[1] == task.clean.shape[1]
    tokens, lengths = task.corrupt.to(device), task.lengths.to(device)
    return tokens, torch.arange(tokens.shape[1], device=device)[None] < lengths[:, None], True


def _add(
    sums: dict[tuple[str, int], Tensor], place: tuple[str, int], real: Tensor, tensor: Tensor, hook: Any
) -> Tensor:
    shape = [1] * tensor.ndim
    shape[0], shape[2 if place[0] == "pattern" else 1] = real.shape
    sums[place] = sums.get(place, 0.0) + (tensor.double().to(real.device) * real.view(shape)).sum(0)
    return tensor


def _divided(site: str, total: Tensor, counts: Tensor, by_position: bool) -> Tensor:
    if not by_position:
        return total.sum(0, keepdim=True) / counts.sum()
    shape = (1, -1, 1) if site == "pattern" else (-1,) + (1,) * (total.ndim - 1)
    return total / counts.view(shape)


def _digest(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous()
    values = values.double() if values.is_floating_point() else values
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()[:12]
