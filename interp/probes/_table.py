"""`table`: sparse, mean-difference and logistic probes side by side, with what they find where there is
nothing.

1. Activations at one position, classes split as in `fit`: equal prompts and groups never cross the split.
2. Coordinates are standardised and ranked by |mean₊ − mean₋|, on the training prompts alone.
3. Probes: the mean difference (nothing is fitted), logistic on all coordinates, on the k first, the first
   alone by its sign, and logistic on k random coordinates, which says what ranking adds.
4. Shuffled labels, *with the ranking in the shuffle*: ranked on the true labels, noise would look like
signal. 5. Control task: labels by a hash of the token that is read. A probe that is as good at those learns
   words by heart; the difference is its selectivity.

Held-out AUROC (ties count half), its standard error by leaving out one unit at a time. Sparse probing:
Gurnee et al. 2305.01610, Kantamneni et al. 2502.16681; control tasks: Hewitt and Liang 1909.03368.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from interp import results
from interp._activations import activations, engine_for
from interp._verbs import verb
from interp.models import Anatomy, Model, anatomy
from interp.models.places import Layers, places
from interp.positions import AnyPositions, require_rows, weights
from interp.probes._fit import labellings, split
from interp.probes._probes import BATCH
from interp.probes._train import logistic
from interp.probes.selectors import auroc
from interp.probes.splits import Groups
from interp.prompts import Mask, Prompts


@verb
def table(
    model: Model,
    positive: Any,
    negative: Any,
    *,
    site: str = "resid_pre",
    layer: Layers = None,
    pos: AnyPositions = "last",
    ks: Sequence[int] = (1, 4, 16),
    held_out: float = 0.3,
    groups: Groups | None = None,
    draws: int = 10,
    l2: float | int = 1e-2,
    mask: Mask = None,
    seed: int = 0,
    batch_size: int | None = None,
    engine: str = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """Probes of several kinds on the same splits, each beside shuffled labels and a control task.

    site: without heads. ks: how many coordinates sparse probes read. The other arguments are those of `fit`.

    Returns a Dataset with dims probe and layer: `value`, the held-out AUROC (chance: 0.5), `se`, its standard
    error over units; `shuffled` [draw, probe, layer]; `control_task`, AUROC for labels by the token that is
    read, NaN where that is one token everywhere; `selectivity`, value − control_task. Probes: "mean
    difference", "logistic", "best coordinate", "k=4" and "random k=4" for every k. Cost: one forward of each
    prompt as far as the last layer, and draws + 2 fits of each probe a layer. Raises ValueError before any
    pass as `fit`, and for k above the width.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> pairs = [(a, b) for a in ("Mary", "Anna") for b in ("John", "Tom", "Paul")]
        >>> up = [f"When {a} and {b} went to the store" for a, b in pairs]
        >>> down = [text.replace("store", "park") for text in up]
        >>> found = interp.probes.table(model, up, down, layer=1, ks=[2], draws=2, progress=False)
        >>> found["value"].dims, found.sizes["probe"]
        (('probe', 'layer'), 5)
    """
    facts = anatomy(model)
    wanted = places(facts, layer, site)
    require_rows(pos)
    _check(facts, site, ks, l2)
    sides = split(model, positive, negative, held_out, seed, groups, mask)
    chosen = engine_for(model, sides.prompts, wanted, engine)
    read = [
        activations(model, side, list(wanted), pos, batch_size=batch_size or BATCH, engine=chosen)
        for side in sides.prompts
    ]
    truth = labellings(sides, draws, seed, facts.device)
    control = _control(sides.prompts, pos, seed)
    names = ["mean difference", "logistic", "best coordinate"]
    names += [f"{kind}k={k}" for kind in ("", "random ") for k in ks]
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("value", "se", "shuffled", "control_task")}
    for place in tqdm(wanted, disable=not progress, desc="probes", unit="layer"):
        seen, fresh = _standard(
            torch.cat([part[place] for part in read[:2]]), torch.cat([part[place] for part in read[2:]])
        )
        for name, numbers in _judged(seen, fresh, truth, sides.units[1], ks, float(l2), seed).items():
            columns[name].append(numbers)
        alone = np.full(len(names), np.nan)
        if control is not None:
            labels = [each.to(seen) for each in control]
            alone = _areas(_scores(seen, fresh, labels[0], ks, float(l2), seed), labels[1])
        columns["control_task"].append(alone)
    dims = ("probe", "layer")
    variables: dict[str, Any] = {
        name: (dims, np.stack(columns[name], -1)) for name in ("value", "se", "control_task")
    }
    variables["shuffled"] = (("draw", *dims), np.stack(columns["shuffled"], -1))
    variables["selectivity"] = (dims, variables["value"][1] - variables["control_task"][1])
    attrs = results.provenance(
        method="probe table", site=site, model=facts.name, seed=seed, unit="AUROC",
        convention="value = AUROC on held-out prompts; chance is 0.5", n_prompts=sum(sides.sizes),
        n_train=truth[0].shape[1], n_held_out=truth[1].shape[1], l2=float(l2), engine=chosen,
    )  # fmt: skip
    coords = {"probe": np.array(names, dtype=object), "layer": [int(place.layer or 0) for place in wanted]}
    return results.dataset(variables, coords, attrs)


def _check(facts: Anatomy, site: str, ks: Sequence[int], l2: float) -> None:
    """ValueError for a site with heads, k that its width does not have and a negative penalty."""
    if facts.width(site) != facts.d_model:
        raise ValueError(f"site is {site!r}; this table reads whole vectors of the stream, not single heads.")
    if not len(ks) or not all(1 <= k <= facts.d_model for k in ks) or len(set(ks)) < len(ks):
        raise ValueError(f"ks is {list(ks)}; give 1 to {facts.d_model}, the width of {site!r}, each once.")
    if not 0 <= l2 < float("inf"):
        raise ValueError(f"l2 is {l2}; give a penalty of 0 or more, such as 1e-2.")


def _judged(
    seen: Float[Tensor, "train d"],
    fresh: Float[Tensor, "test d"],
    truth: tuple[Tensor, Tensor],
    units: Int[Tensor, "test"],
    ks: Sequence[int],
    l2: float,
    seed: int,
) -> dict[str, np.ndarray]:
    """The numbers of one layer, by probe: of the true labels, which come first, and of the shuffled ones."""
    rows = [
        _scores(seen, fresh, labels, ks, l2, seed + n) for n, labels in enumerate(truth[0])
    ]  # [labelling][probe, prompt]
    areas = np.array([_areas(each, labels) for each, labels in zip(rows, truth[1])])
    return {"value": areas[0], "shuffled": areas[1:], "se": _errors(rows[0], truth[1][0], units)}


def _standard(seen: Tensor, fresh: Tensor) -> tuple[Float[Tensor, "train d"], Float[Tensor, "test d"]]:
    """Both in units of the training prompts' deviation, coordinate by coordinate."""
    seen, fresh = seen.double(), fresh.double()
    middle, scale = seen.mean(0), seen.std(0).clamp(min=1e-12)
    return (seen - middle) / scale, (fresh - middle) / scale


def _scores(
    seen: Tensor, fresh: Tensor, labels: Float[Tensor, "train"], ks: Sequence[int], l2: float, seed: int
) -> Float[Tensor, "probe test"]:
    """The scores of every probe on the held-out prompts, in the order of the table."""
    gap = seen[labels > 0.5].mean(0) - seen[labels < 0.5].mean(0)
    order = gap.abs().argsort(descending=True, stable=True)
    drawn = torch.randperm(len(gap), generator=torch.Generator().manual_seed(seed)).to(order.device)
    out = [fresh @ gap, _logistic(seen, fresh, labels, l2), fresh[:, order[0]] * gap[order[0]].sign()]
    for ranking in (order, drawn):
        out += [_logistic(seen[:, ranking[:k]], fresh[:, ranking[:k]], labels, l2) for k in ks]
    return torch.stack(out)


def _logistic(seen: Tensor, fresh: Tensor, labels: Tensor, l2: float) -> Float[Tensor, "test"]:
    w, b = logistic(seen, labels[None], l2, balanced=True)
    return fresh @ w[0] + b[0]


def _areas(scores: Float[Tensor, "probe test"], labels: Float[Tensor, "test"]) -> np.ndarray:
    """AUROC of each probe; NaN where the held-out prompts are of one class."""
    up, down = scores[:, labels > 0.5], scores[:, labels < 0.5]
    if not up.shape[1] or not down.shape[1]:
        return np.full(len(scores), np.nan)
    return auroc(up.T, down.T).cpu().numpy()


def _errors(scores: Tensor, labels: Tensor, units: Int[Tensor, "test"]) -> np.ndarray:
    """Standard errors by leaving out one unit at a time."""
    units = units.to(labels.device)
    left = [_areas(scores[:, units != unit], labels[units != unit]) for unit in units.unique().tolist()]
    each = np.array(left)
    n = len(each)
    return np.sqrt((n - 1) / n * ((each - each.mean(0)) ** 2).sum(0))


def _control(
    sides: Sequence[Prompts], pos: AnyPositions, seed: int
) -> tuple[Float[Tensor, "train"], Float[Tensor, "test"]] | None:
    """Labels by a hash of the token that is read; None where a part has one label alone."""
    labels = [torch.tensor([_coin(token, seed) for token in _tokens(side, pos)]).double() for side in sides]
    parts = torch.cat(labels[:2]), torch.cat(labels[2:])
    both = all(0 < float(part.mean()) < 1 for part in parts)
    return parts if both else None


def _tokens(side: Prompts, pos: AnyPositions) -> list[int]:
    """The token at the first position that is read of each prompt."""
    at = weights(pos, side).gt(0).long().argmax(1)
    return side.tokens.gather(1, at[:, None].to(side.tokens.device))[:, 0].tolist()


def _coin(token: int, seed: int) -> int:
    return hashlib.sha256(f"{seed} {token}".encode()).digest()[0] % 2
