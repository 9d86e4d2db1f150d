"""Is a score a cause? Ablate the heads that have most of it, against random heads of the same layers.

1. The n heads with the highest score (its mean over prompts), or heads by name.
2. Ablate all of them together on a task's clean prompts; likewise each of at least 50 random sets with as
   many heads of every layer (`patching/_matched.py`).
3. Damage = metric(clean) − metric(ablated), positive where the heads help. Reported is damage of the heads −
   mean damage of the random sets, with its interval over prompts, and the rank of the heads among the sets.

Without a task the prompts are random tokens and their repeat, and the metric is the in-context loss: what
induction is for. A score whose heads do not stand out is a signature and no more.

Olsson et al. 2209.11895.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from interp import stats
from interp._verbs import verb
from interp.ablation import Ablation
from interp.experiment import MEMORY, Metrics, check_model
from interp.heads._scores import first_tokens, repeat_lengths, repeated, token_pool
from interp.heads._top import TOP, top
from interp.models import Model, anatomy
from interp.patching import patch
from interp.patching._matched import DRAWS, matched_sets, places_of
from interp.tasks import InContextLoss, Task


@verb
def load_bearing(
    model: Model,
    task: Task | None,
    heads: xr.Dataset | Sequence[str],
    *,
    score: str | None = None,
    n: int = TOP,
    draws: int = DRAWS,
    ablation: str | Ablation = "resample",
    metric: Metrics | None = None,
    level: float = 0.95,
    seed: int = 0,
    batch_size: int | None = None,
    memory: int = MEMORY,
    engine: str = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """Damage of ablating some heads together, against random heads of the same layers.

    task: what is damaged; None is the in-context loss on 16 random sequences and their repeats.
    heads: a result, of which the `n` highest count (`score` says of which), or heads by name.
    draws: random sets; as many as there are where there are fewer.
    ablation: "resample" (without a task, other random sequences), "mean" (over the same data), "zero".

    Returns a Dataset: `value` [prompt, set], the damage in units of the metric, positive where the heads
    help, set 0 being the heads and the others random; `difference`, `difference_low`, `difference_high`:
    heads − mean of the random sets, with its interval over prompts; `rank` among all sets, 1 the most
    damage; `p`, (1 + random sets at least as damaging) / (1 + random sets). Attribute `heads`: their names.

    Cost: 1 + draws cells on the engine of `interp.patch`. Raises ValueError as `interp.patch`, for unknown
    scores, and where there is no other set like the heads.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8)
        >>> found = interp.heads.load_bearing(model, task, ["L0H0", "L1H1"], draws=5, progress=False)
        >>> found["value"].dims, found["value"].sizes["set"]
        (('prompt', 'set'), 6)
    """
    facts = anatomy(model)
    check_model(model, facts)
    if score is not None and not isinstance(heads, xr.Dataset):
        raise ValueError(f"score is {score!r}, of a result, and heads is a list. Leave one of the two out.")
    if n < 1:
        raise ValueError(f"n is {n}; give a whole number of heads, at least 1.")
    names = top(heads, n, score=score) if isinstance(heads, xr.Dataset) else heads
    task = repeats(model, seed=seed) if task is None else task
    places = places_of(facts, task.clean.shape[1], names)
    random = matched_sets(facts, places, draws, np.random.default_rng(seed))
    effects = patch(
        model, task, cells=[list(map(str, places)), *random], ablation=ablation, direction="noise",
        metric=metric, batch_size=batch_size, memory=memory, engine=engine, progress=progress,
    )  # fmt: skip
    out = effects.rename(cell="set").assign_coords(set=np.arange(1 + len(random)))
    out = out.assign_coords(members=("set", effects["cell"].values))
    out = out.assign_attrs(
        method="load-bearing", site="z", heads=", ".join(map(str, places)), draws=len(random), level=level,
        convention="value = metric(clean) - metric(ablated); positive: the heads help the metric",
    )  # fmt: skip
    return out.assign(_compared(out, level, seed))


def _compared(out: xr.Dataset, level: float, seed: int) -> dict[str, xr.DataArray]:
    """The heads less the mean of the random sets, with its interval; rank and p among the sets."""
    value = out["value"]
    random = value.isel(set=slice(1, None))
    excess = (value.isel(set=0, drop=True) - random.mean("set")).expand_dims(cell=1, axis=1)
    kept = out[["clean", "corrupt"]].assign(value=excess)
    if out.sizes["prompt"] < 2:
        nothing = excess.isel(prompt=0, cell=0, drop=True) * np.nan
        ends = {"difference_low": nothing, "difference_high": nothing}
    else:
        interval = stats.bootstrap(kept, level=level, seed=seed).isel(cell=0, drop=True)
        ends = {f"difference_{name}": interval[name] for name in ("low", "high")}
    means = value.mean("prompt")
    above = (means.isel(set=slice(1, None)) >= means.isel(set=0, drop=True)).sum("set")
    n = random.sizes["set"]
    return {
        "difference": excess.mean("prompt").isel(cell=0, drop=True), **ends,
        "rank": above + 1, "p": (1 + above) / (1 + n),
    }  # fmt: skip


@verb
def repeats(model: Model, n: int = 16, *, length: int | None = None, seed: int = 0) -> Task:
    """A task of random tokens and their repeat: what induction is for. Its metric is the in-context loss.

    n: prompts; the corrupt ones repeat other tokens. length: of what is repeated; by default the longest of
    those that `scores` takes. Raises ValueError for a length that does not fit.

    Example:
        >>> task = interp.heads.repeats(interp.load("tiny-ioi"), n=4, length=6)
        >>> task.clean.shape[0], task.metric.name
        (4, 'in_context_loss')
    """
    if n < 1:
        raise ValueError(f"n is {n}; give 1 prompt or more.")
    facts, pool, bos = anatomy(model), token_pool(model, None), first_tokens(model, None)
    size = max(repeat_lengths(None if length is None else [length], facts, len(pool), len(bos)))
    generator = np.random.default_rng(seed)
    drawn = np.stack([generator.permutation(pool)[:size] for _ in range(2 * n)])
    rows = repeated(bos, drawn).to(facts.device)
    none = torch.full((n,), -1, device=facts.device)
    last = torch.full((n,), rows.shape[1] - 1, device=facts.device)
    return Task(
        clean=rows[:n], corrupt=rows[n:], answer=none, wrong=none, positions=last, lengths=last + 1,
        metric=InContextLoss(), name="repeats", seed=seed,
    )  # fmt: skip
