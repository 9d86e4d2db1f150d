"""Endogenous steering resistance: does a model come back from steering while it is steered? (2602.06941).

1. `noisy_root`: the strength at which a noisy score (of texts written under steering) is on average a target:
   probabilistic bisection. At the median of the belief, one score; the side that it points to gains weight.
2. `resistance`: prompts are continued unsteered, steered, steered with a part taken out (`without`), and with
   as much of a random part taken out (`control`). A detector of yours says where a text turns back, if it
   does; its rate in each run has a Clopper-Pearson interval.
3. `returns`: a detector by words: the first word of one set after one of the other.

The paper steers latents of a sparse autoencoder, and a judge finds new attempts; it sees them in models of 70
billion parameters, seldom in small ones. A rate of 0 is a finding: its interval says how sure.

`under_shift`: the same vector at the same coefficient on prompts as they are in use (longer, other words).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm.auto import tqdm

from interp import results
from interp._arguments import shown
from interp._verbs import verb
from interp.experiment import Metrics, check_metric, check_task
from interp.models import Model, anatomy
from interp.positions import AnyPositions, everywhere
from interp.prompts import read
from interp.stats._shares import check_level, share_interval
from interp.steering._controls import controls
from interp.steering._direction import Direction
from interp.steering._generate import generate
from interp.steering._intervention import flat
from interp.steering._job import continued
from interp.steering.edits import Number, add, finite
from interp.steering.methods._measure import Steered, signs_of, with_kl
from interp.tasks import Task

Detector = Callable[[Tensor], Tensor]  # new tokens [prompt, pos] -> where a text turns back, -1: nowhere
_CELLS, _TRUST = 1025, 0.7


@verb
def noisy_root(
    score: Callable[[float], float],
    target: Number,
    low: Number,
    high: Number,
    *,
    n: int = 60,
    level: float = 0.95,
) -> tuple[float, tuple[float, float]]:
    """Where a score that rises (or falls) and is noisy passes the target; and an interval of the belief.

    score: of a strength from low to high; called n times, a share or a mean of a batch is better than one
    trial. Which way it runs is read at both ends, three times each. The interval holds `level` of the belief,
    under the assumption that a score points to the right side seven times in ten. Raises ValueError for ends
    that the target does not lie between, and a score that is not finite, with its strength.

    Example:
        >>> from interp.steering import methods
        >>> root, (low, high) = methods.noisy_root(lambda x: x * x, 2.0, 0.0, 4.0)
        >>> abs(root - 2**0.5) < 0.01
        True
    """
    for name, value in (("target", target), ("low", low), ("high", high)):
        finite(name, value)
    if not low < high or n < 1 or not 0 < level < 1:
        raise ValueError(
            f"low is {low}, high {high}, n {n}, level {level}; give low below high, 1 or more, a share."
        )

    def asked(x: float) -> float:
        value = score(x)
        value = float(value) if isinstance(value, (int, float, np.number, Tensor)) else float("nan")
        if not np.isfinite(value):
            raise ValueError(f"the score is {value} at strength {x:.4g}; nothing can be calibrated with it.")
        return value

    ends = [float(np.mean([asked(float(x)) for _ in range(3)])) for x in (low, high)]
    if not min(ends) <= target <= max(ends) or ends[0] == ends[1]:
        raise ValueError(
            f"the score is {ends[0]:.4g} at {low} and {ends[1]:.4g} at {high}: {target} is not between."
        )
    rising = ends[1] > ends[0]
    grid = np.linspace(float(low), float(high), _CELLS)
    belief = np.full(_CELLS, 1 / _CELLS)
    for _ in range(n):
        x = grid[int(np.searchsorted(belief.cumsum(), 0.5))]
        over = (asked(float(x)) > target) == rising  # the root is below x
        belief = belief * np.where((grid <= x) == over, _TRUST, 1 - _TRUST)
        belief /= belief.sum()
    total = belief.cumsum()
    at = [min(int(np.searchsorted(total, q)), _CELLS - 1) for q in (0.5, (1 - level) / 2, (1 + level) / 2)]
    return float(grid[at[0]]), (float(grid[at[1]]), float(grid[at[2]]))


@verb
def returns(back: Sequence[int], away: Sequence[int]) -> Detector:
    """A detector: the first token of `back` that comes after a token of `away`.

    Example:
        >>> import torch
        >>> from interp.steering import methods
        >>> find = methods.returns(back=[1], away=[2])
        >>> find(torch.tensor([[5, 2, 1, 1], [1, 5, 2, 5]])).tolist()
        [2, -1]
    """
    if not back or not away:
        raise ValueError(f"back has {len(back)} tokens, away {len(away)}; give a token or more of each.")

    def find(tokens: Tensor) -> Tensor:
        left = torch.isin(tokens, torch.tensor(list(away), device=tokens.device)).int()
        left = (left.cumsum(1) - left) > 0  # before this token
        came = torch.isin(tokens, torch.tensor(list(back), device=tokens.device)) & left
        return torch.where(came.any(1), came.int().argmax(1), -1)

    return find


@verb
def resistance(
    model: Model,
    prompts: Any,
    steering: Any,  # interventions
    detector: Detector,
    *,
    without: Any = (),
    control: Any = (),
    max_new_tokens: int = 20,
    temperature: Number = 0.0,
    level: float = 0.95,
    seed: int = 0,
    engine: str = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """`at` (prompt, run): where each text turns back, counted in new tokens, -1 for nowhere.

    steering: interventions, as of `steering.add`. without, control: interventions that take out the part
    that is thought to resist, and a random one (`Neurons.random`); runs "without" and "control" are steered
    too, and there where these are given. `rate`, `low`, `high` (run): share of texts that turn back, with a
    Clopper-Pearson interval at `level`. The detector gets the new tokens [prompt, pos]. Raises ValueError for
    a detector that gives anything else than one place in the text a prompt, or -1. Cost: two to four
    generations of all prompts.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> from interp import steering
        >>> d = steering.mean_difference(model, task.clean[:4], task.clean[4:], layer=1)
        >>> find = steering.methods.returns(back=[4], away=[5])
        >>> out = steering.methods.resistance(
        ...     model, task, steering.add(d), find, max_new_tokens=2, progress=False)
        >>> out["run"].values.tolist()
        ['base', 'steered']
    """
    check_level(level)
    if not flat([steering]):
        raise ValueError("steering has no interventions: give some, as steering.add(direction, 4.0).")
    rows = read(model, prompts)
    runs: dict[str, tuple[Any, ...]] = {"base": (), "steered": (steering,)}
    runs |= {name: (steering, part) for name, part in (("without", without), ("control", control)) if part}
    found = []
    for made in tqdm(runs.values(), disable=not progress, desc="resistance", unit="run"):
        whole = generate(
            model,
            rows,
            *made,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            engine=engine,
        )
        at = detector(continued(model, whole, rows, max_new_tokens))
        if (
            not isinstance(at, Tensor)
            or at.shape != (len(rows),)
            or at.is_floating_point()
            or bool((at < -1).any() | (at >= max_new_tokens).any())
        ):
            raise ValueError(
                f"the detector gave {shown(at)}; give a place from 0 to {max_new_tokens - 1}, or -1, for "
                f"each of {len(rows)} prompts."
            )
        found.append(at.cpu().numpy())
    at = np.stack(found, 1)
    rate, (low, high) = (at >= 0).mean(0), share_interval((at >= 0).sum(0), len(rows), level)
    variables = {"at": (("prompt", "run"), at), "rate": (("run",), rate), "low": (("run",), low)}
    variables["high"] = (("run",), high)
    attrs = results.provenance(
        method="resistance", convention="share of texts that turn back", model=anatomy(model).name,
        n_prompts=len(rows), seed=seed, level=level, max_new_tokens=max_new_tokens,
    )  # fmt: skip
    return results.dataset(variables, {"prompt": np.arange(len(rows)), "run": list(runs)}, attrs)


@verb
def under_shift(
    model: Model,
    direction: Direction,
    tasks: Mapping[str, Task],
    coefficient: Number = 1.0,
    *,
    when: AnyPositions = everywhere,
    metric: Metrics | None = None,
    seed: int = 0,
    progress: bool = True,
) -> xr.Dataset:
    """`value` (prompt, condition[, metric]): the effect of one vector at one coefficient in every condition.

    tasks: the same prompts asked in other ways, by name (`prefixed` makes long ones), the first as the vector
    was found. `random` is the same of a random vector of equal norm, `kl` (prompt, condition) the KL in nats
    of the next token, `clean` the metric as it is. Raises ValueError, before any pass, for other numbers of
    prompts. Cost: three passes of each task.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> d = interp.steering.mean_difference(model, task.clean[:4], task.clean[4:], layer=1)
        >>> from interp.steering import methods
        >>> long = methods.prefixed(model, task, " Mary", 1)
        >>> out = methods.under_shift(model, d, {"short": task, "long": long}, progress=False)
        >>> out["value"].dims
        ('prompt', 'condition')
    """
    finite("coefficient", coefficient)
    sizes = {name: len(task) for name, task in tasks.items()}
    if not tasks or len(set(sizes.values())) > 1:
        raise ValueError(f"the conditions have {sizes or 'no'} prompts; give the same prompts in each.")
    first = next(iter(tasks.values()))
    chosen = check_metric(metric, first.metric)
    signs = signs_of(chosen)
    direction.require_any().check(model)
    for task in tasks.values():
        check_task(task, anatomy(model), model)
    (drawn,) = controls([direction], seed)["random"]
    read_of, at_kl = with_kl(chosen)
    columns: dict[str, list[Tensor]] = {"clean": [], "value": [], "random": [], "kl": []}
    for task in tqdm(tasks.values(), disable=not progress, desc="shift", unit="condition"):
        runs, own = Steered(model, task, read_of), slice(len(chosen))
        values = runs(*add(direction, coefficient, when=when)).cpu()
        columns["clean"].append(runs.clean[:, own].cpu())
        columns["value"].append(signs * (values - runs.clean.cpu())[:, own])
        columns["random"].append(runs.effect(*add(drawn, coefficient, when=when))[:, own])
        columns["kl"].append(values[:, at_kl])
    dims = ("prompt", "condition", "metric")
    variables = {
        name: (dims[: each[0].ndim + 1], torch.stack(each, 1).numpy()) for name, each in columns.items()
    }
    attrs = results.provenance(
        method="under_shift", convention="effect = metric(steered) - metric(as it is), positive is better",
        metric=chosen, model=anatomy(model).name, site=", ".join(map(str, direction.places)), task=first.name,
        task_fingerprint=first.fingerprint(), n_prompts=len(first), seed=seed, coefficient=float(coefficient),
    )  # fmt: skip
    coords = {"condition": list(tasks), "metric": [each.name for each in chosen]}
    return results.dataset(variables, coords, attrs, first)
