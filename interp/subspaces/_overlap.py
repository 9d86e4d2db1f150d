"""How much two sets of activations share a subspace, what strengthening it does, and how spread a set is.

`overlap`: the first k principal directions of each set, ‖U_aᵀ U_b‖² / k: 1 for the same span, 0 for
orthogonal ones, k/d for random ones. Beside it random spans, and two halves of one set, which share all that
can be shared: an overlap far above k/d says little where all text of a model shares it.

`amplification`: h + α P h while tasks are run, beside random subspaces of the rank. A subspace is of one task
alone if it moves that task and no other ("Safety Subspaces are Not Linearly Distinct", 2505.14185).

`nuclear_norm`: Σ of singular values of the normalised rows, over their number: 1 for orthogonal rows, 1/√n
for equal ones. Its approximation, the sum of the largest column norms, needs no decomposition; over all
columns it is never below the exact one (Matrix Nuclear-Norm, 2410.10672).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from interp import results
from interp._verbs import verb
from interp.experiment import Metrics, check_metric, check_task
from interp.models import Model, anatomy
from interp.subspaces._subspace import Subspace, spot
from interp.tasks import Task


@verb
def overlap(
    a: Float[Tensor, "n width"],
    b: Float[Tensor, "m other"],
    ks: Sequence[int] = (1, 2, 4, 8),
    *,
    centred: bool = True,
    draws: int = 20,
    seed: int = 0,
) -> xr.Dataset:
    """How much of the first k principal directions two sets of activations share, for several k.

    a, b: activations [row, width] (`interp.activations`). centred: each set about its own mean; False keeps
    the mean, which then is most of the first direction. draws: random spans, and splits of a set in halves.

    Returns a Dataset with dim k: `value` = ‖U_aᵀ U_b‖² / k, `chance` = k/d, `random` [draw, k], of two random
    spans, `within` [draw, k], of two halves of one set (the one, then the other, in turn; NaN where a half
    spans less), and `angle` [k, place], the principal angles in degrees, smallest first, NaN beyond k. No
    forward pass. Raises ValueError for other widths, k above what the halves can span or the rows do, rows
    that are not finite.

    Example:
        >>> import torch
        >>> rows = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
        >>> float(interp.subspaces.overlap(rows, rows, ks=[2], draws=2)["value"][0].round(6))
        1.0
    """
    _comparable(a, b, ks, centred)
    generator = torch.Generator().manual_seed(seed)
    sets = [each.detach().double() for each in (a, b)]
    top, width = max(ks), a.shape[1]
    noise = max(float(torch.finfo(each.dtype).eps) if each.is_floating_point() else 0.0 for each in (a, b))
    bases = [_principal(rows, top, centred, noise) for rows in sets]
    _spanned(bases, ks)
    spans = [[_drawn(width, top, generator, sets[0]) for _ in range(2)] for _ in range(draws)]
    random = [[shared(U, V, k) for k in ks] for U, V in spans]
    within = []
    for number in range(draws):
        rows = sets[number % 2]
        order = torch.randperm(len(rows), generator=generator).to(rows.device)
        halves = [_principal(rows[part], top, centred, noise) for part in order.chunk(2)]
        within.append([shared(halves[0], halves[1], k) for k in ks])
    variables: dict[str, Any] = {
        "value": (("k",), np.array([shared(bases[0], bases[1], k) for k in ks])),
        "chance": (("k",), np.array(ks) / width), "random": (("draw", "k"), np.array(random)),
        "within": (("draw", "k"), np.array(within)), "angle": (("k", "place"), _angles(bases, ks)),
    }  # fmt: skip
    attrs = results.provenance(
        method="subspace overlap", unit="share", seed=seed, n_prompts=len(a) + len(b), width=width,
        convention="value = share of a span of k principal directions that lies in that of the other set",
    )  # fmt: skip
    return results.dataset(variables, {"k": list(ks)}, attrs)


def _comparable(a: Tensor, b: Tensor, ks: Sequence[int], centred: bool) -> None:
    """ValueError for other widths, k above what the halves can span, and values that are not finite."""
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"the activations have widths {a.shape[1]} and {b.shape[1]}; give those of one site."
        )
    most = min(len(a) // 2 - centred, len(b) // 2 - centred, a.shape[1])
    if not len(ks) or len(set(ks)) < len(ks) or not all(1 <= k <= most for k in ks):
        raise ValueError(
            f"ks is {list(ks)}; give 1 to {most}: {len(a)} and {len(b)} rows, halved, of width {a.shape[1]}."
        )
    if not bool(a.isfinite().all() and b.isfinite().all()):
        raise ValueError("the activations have values that are not finite.")


def _spanned(bases: list[Float[Tensor, "d top"]], ks: Sequence[int]) -> None:
    """ValueError where the rows of a set span less than the largest k."""
    for name, basis in zip("ab", bases):
        if (rank := int(basis[0].isfinite().sum())) < max(ks):
            raise ValueError(
                f"ks is {list(ks)}, and the rows of {name} span {rank} dimensions: the next directions would "
                "be rounding. Give smaller ks, or rows that differ more."
            )


def _angles(bases: list[Float[Tensor, "d top"]], ks: Sequence[int]) -> Float[np.ndarray, "k place"]:
    """Principal angles in degrees, smallest first, NaN beyond k."""
    angles = np.full((len(ks), max(ks)), np.nan)
    for i, k in enumerate(ks):
        cosines = torch.linalg.svdvals(bases[0][:, :k].T @ bases[1][:, :k]).clamp(max=1)
        angles[i, :k] = torch.rad2deg(cosines.arccos()).cpu().numpy()
    return angles


def _drawn(width: int, k: int, generator: torch.Generator, like: Tensor) -> Float[Tensor, "d k"]:
    return torch.linalg.qr(torch.randn(width, k, dtype=torch.float64, generator=generator))[0].to(like)


def _principal(rows: Float[Tensor, "n d"], k: int, centred: bool, noise: float) -> Float[Tensor, "d k"]:
    """The first directions, NaN where what is left is rounding. noise: of a number, as a share of it."""
    _, sizes, basis = torch.linalg.svd(rows - rows.mean(0) if centred else rows, full_matrices=False)
    basis[int((sizes > rows.norm() * max(noise, 1e-14)).sum()) :] = float("nan")
    return basis[:k].T


def shared(U: Float[Tensor, "d top"], V: Float[Tensor, "d top"], k: int) -> float:
    """‖UᵀV‖² / k of the first k columns."""
    return float((U[:, :k].T @ V[:, :k]).square().sum() / k)


@verb
def amplification(
    model: Model,
    tasks: Mapping[str, Task],
    subspace: Subspace,
    strengths: Sequence[float] = (-1.0, -0.5, 0.0, 0.5, 1.0),
    *,
    metric: Metrics | None = None,
    draws: int = 5,
    seed: int = 0,
    progress: bool = True,
) -> xr.Dataset:
    """What h + α P h does to several tasks, P the projection on a subspace, beside random ones of its rank.

    tasks: by name, such as one that the subspace is meant for and one that it should not touch. subspace: in
    the stream, a head or a layer's neurons; strengths: α, by which its part is strengthened at every position
    (−1 takes it out, 0 is the model). metric: of all tasks, by default each one's own.

    Returns a Dataset with dims task and strength: `value`, the mean change of the metric (positive helps),
    `se` over prompts, `random` [draw, task, strength], and `clean` [task]. Cost: draws + 1 forwards of each
    prompt and strength. Raises ValueError before any pass for a subspace that the model cannot have. The
    model is left as found.

    Example:
        >>> import torch
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4, seed=0)
        >>> part = interp.subspaces.Subspace(torch.eye(64)[:, :2], "L1.resid_pre")
        >>> options = {"draws": 1, "progress": False}
        >>> found = interp.subspaces.amplification(model, {"ioi": task}, part, [0.0, 1.0], **options)
        >>> float(abs(found["value"].sel(strength=0.0)).max()) < 1e-4
        True
    """
    from interp.steering import Direction, ablate
    from interp.steering.methods._measure import Steered

    where = spot(subspace.place, anatomy(model))
    _check(subspace, tasks, strengths, metric)
    metrics = {name: check_metric(metric, task.metric)[0] for name, task in tasks.items()}
    basis = subspace.basis.detach().double()
    generator = torch.Generator().manual_seed(seed)
    width, k = basis.shape
    spans = [basis, *(_drawn(width, k, generator, basis) for _ in range(draws))]
    for task in tasks.values():
        check_task(task, anatomy(model), model)
    runs = {name: Steered(model, task, [metrics[name]]) for name, task in tasks.items()}
    size = (len(spans), len(tasks), len(strengths))
    value, se = np.zeros(size), np.zeros(size)
    bar = tqdm(total=int(np.prod(size)), disable=not progress, desc="amplification", unit="run")
    for s, span in enumerate(spans):
        direction = Direction({where: span.T}, layout="basis")
        for t, of_task in enumerate(runs.values()):
            for a, strength in enumerate(strengths):
                made = ablate(direction, -float(strength))
                change = of_task.effect(made)[:, 0]
                value[s, t, a] = float(change.mean())
                se[s, t, a] = float(change.std() / len(change) ** 0.5) if len(change) > 1 else np.nan
                bar.update()
    bar.close()
    dims = ("task", "strength")
    variables: dict[str, Any] = {"value": (dims, value[0]), "se": (dims, se[0])}
    variables["random"] = (("draw", *dims), value[1:])
    variables["clean"] = (("task",), np.array([float(each.clean.mean()) for each in runs.values()]))
    attrs = results.provenance(
        method="amplification", site=str(where), model=anatomy(model).name, seed=seed, rank=subspace.rank,
        metric=list({each.name: each for each in metrics.values()}.values()),
        convention="value = change of the metric by h + strength · P h; positive: it helps the metric",
        n_prompts=sum(len(task) for task in tasks.values()),
    )  # fmt: skip
    coords = {"task": np.array(list(tasks), dtype=object), "strength": [float(each) for each in strengths]}
    return results.dataset(variables, coords, attrs)


def _check(
    subspace: Subspace, tasks: Mapping[str, Task], strengths: Sequence[float], metric: Metrics | None
) -> None:
    """ValueError for a bent subspace, several metrics, no task, and strengths that are none or repeated."""
    if subspace.flow is not None:
        raise ValueError("the subspace is bent by a flow; amplification takes a linear one.")
    if isinstance(metric, (list, tuple)) or not len(tasks) or not len(strengths):
        raise ValueError("give one metric, and one or more tasks and strengths.")
    if len(set(strengths)) < len(strengths):
        raise ValueError(f"strengths is {list(strengths)}; give each once.")


@verb
def nuclear_norm(
    rows: Float[Tensor, "*batch n d"], *, exact: bool = False, top: int | None = None
) -> Float[Tensor, "*batch"]:
    """How spread rows are: the nuclear norm of the rows at length 1, divided by their number.

    rows: activations of one text [token, width], or of several [text, token, width]. exact: by singular
    values; else the sum of the `top` largest norms of the columns (default: min(n, d)), which for top = d is
    an upper bound. Equal rows give 1/√n, orthogonal ones 1 (exact). Float64. Raises ValueError for rows of
    length 0 and a top outside 1 to d.

    Example:
        >>> import torch
        >>> float(interp.subspaces.nuclear_norm(torch.eye(4), exact=True))
        1.0
    """
    if rows.ndim < 2 or not rows.numel() or not bool((rows.norm(dim=-1) > 0).all()):
        raise ValueError(f"rows has shape {list(rows.shape)}; give [n, d] of rows that are not 0.")
    n, d = rows.shape[-2:]
    if top is not None and not 1 <= top <= d:
        raise ValueError(f"top is {top}; give 1 to {d}, the width.")
    unit = rows.double() / rows.double().norm(dim=-1, keepdim=True)
    if exact:
        return torch.linalg.svdvals(unit).sum(-1) / n
    columns = unit.norm(dim=-2)
    return columns.topk(min(n, d) if top is None else top, dim=-1).values.sum(-1) / n
