"""`collective`: what the scores of several members say of their group, by how they are put together.

A probe reads each member (an agent's transcript, a document of a user). Whether the *group* has the property
is asked of the members' scores s and activations h:

| way        | of the group                                                                          |
|------------|---------------------------------------------------------------------------------------|
| mean       | mean of s                                                                             |
| max        | the largest s                                                                         |
| gap        | mean of the two largest s − mean of the two smallest                                  |
| statistics | logistic on variance, range, split (largest gap between neighbours in order) and mean |
| cosine     | −mean cosine of the pairs of h                                                        |
| sorted     | h in the order of s, end to end, first principal components, logistic                 |

None depends on the order of the members. Where a part of a group rises and the rest falls, the mean says
nothing and the spread does. Ways of NARCBench, from its description; "split" is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp import results
from interp._arguments import shown
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.places import Place
from interp.probes import splits
from interp.probes._probes import BATCH, Probes, readings
from interp.probes._table import _areas, _errors, _logistic
from interp.probes.aggregate import scores as scores_of
from interp.prompts import Prompts, read

WAYS = ("mean", "max", "gap", "statistics", "cosine", "sorted")
_FITTED = ("statistics", "sorted")


@verb
def collective(
    model: Model,
    positive: Sequence[Any],
    negative: Sequence[Any],
    probes: Probes,
    *,
    components: int = 4,
    held_out: float = 0.3,
    draws: int = 10,
    l2: float | int = 1e-2,
    seed: int = 0,
    batch_size: int | None = None,
    engine: str = "auto",
) -> xr.Dataset:
    """Which way of putting members' scores together tells groups with a property from groups without.

    positive, negative: groups, each the prompts of its members, as many in every group. probes: one, at one
    place, that scores a member; no group's members should have trained it. components: of the principal
    components of "sorted". held_out: the share of groups that the AUROC is of, groups of
    the same members on one side; draws: shuffles of the groups'
    labels. l2: penalty of the two ways that fit.

    Returns a Dataset with dim way: `value`, AUROC on held-out groups (chance: 0.5; below it: turned round),
    `se` over groups (those that share members as one), `shuffled` [draw, way]; `score` [group, member], the
    members' scores in logits, and `label` [group]. Cost: one forward of each member as far as the probe.
    Raises ValueError, before it, for groups of different sizes, fewer than 4 of a class, groups whose shared
    members leave no split, probes of several places or another model. The model is left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> women, men = ("Mary", "Jane", "Anna", "Kate"), ("Paul", "John", "Sam", "Max")
        >>> names = [f"{one} and {other}" for one in women for other in men]
        >>> up, down = ([f"{name} had a {word}" for name in names] for word in ("book", "bag"))
        >>> probe = interp.probes.fit(model, up[12:], down[12:], layer=1, draws=1, progress=False)[1]
        >>> mixed = [[up[i], down[i]] for i in range(4)]
        >>> plain = [[down[i], down[i + 4]] for i in range(4, 8)]
        >>> interp.probes.collective(model, mixed, plain, probe, draws=2)["value"].dims
        ('way',)
    """
    probes.check(model)
    if len(probes.weights) != 1:
        names = ", ".join(map(str, probes.places))
        raise ValueError(f"one probe scores the members, these are at {names}. Choose one with .at(...).")
    groups = [_members_of(group) for group in (*positive, *negative)]
    sizes = (len(positive), len(negative))
    _check(groups, sizes)
    if components < 1:
        raise ValueError(f"components is {components}; give 1 or more.")
    data = read(model, [member for group in groups for member in group], what="members")
    unit = _units(splits.token_rows(data), len(groups))
    generator = torch.Generator().manual_seed(seed)
    fresh = _held_out(unit, sizes, held_out, generator)
    score, rows = _members(model, data, probes, batch_size or BATCH, engine)
    score, rows = (each.unflatten(0, (len(groups), -1)) for each in (score, rows))
    label = torch.tensor([1.0] * sizes[0] + [0.0] * sizes[1], dtype=torch.float64, device=score.device)
    fresh = fresh.to(score.device)
    features = {way: features_of(way, score, rows) for way in WAYS}
    columns = []
    for number in range(draws + 1):
        each = _shuffled(label, fresh, unit, generator) if number else label
        out = torch.stack([_judged(way, features[way], fresh, each, components, float(l2)) for way in WAYS])
        columns.append(_areas(out, each[fresh]))
        if not number:
            errors = _errors(out, each[fresh], unit[fresh.cpu()])
    variables: dict[str, Any] = {"value": (("way",), columns[0]), "se": (("way",), errors)}
    variables["shuffled"] = (("draw", "way"), np.stack(columns[1:]))
    variables["score"] = (("group", "member"), score.cpu().numpy())
    variables["label"] = (("group",), label.cpu().numpy().astype(int))
    attrs = results.provenance(
        method="collective", site=str(probes.places[0]), model=anatomy(model).name, seed=seed, unit="AUROC",
        convention="value = AUROC on held-out groups; chance is 0.5", n_prompts=len(data),
        n_held_out=int(fresh.sum()), l2=float(l2),
    )  # fmt: skip
    return results.dataset(variables, {"way": np.array(WAYS, dtype=object)}, attrs)


def _members_of(group: Any) -> list[Any]:
    """The members of a group. ValueError for what is a prompt itself."""
    listed = [] if isinstance(group, str) or not hasattr(group, "__iter__") else list(group)
    if not listed or any(isinstance(each, int) or getattr(each, "ndim", 1) == 0 for each in listed):
        raise ValueError(f"a group is {shown(group)}; give the prompts of its members, a list.")
    return listed


def _units(rows: list[list[int]], n: int) -> Int[Tensor, "group"]:
    """Groups that share a member, directly or through others, are of one unit."""
    size = len(rows) // n
    return splits.joined([[tuple(row) for row in rows[i * size : (i + 1) * size]] for i in range(n)])


def _held_out(
    unit: Tensor, sizes: tuple[int, int], share: float, generator: torch.Generator
) -> Bool[Tensor, "group"]:
    try:
        return splits.hold_out(unit, sizes, share, generator)
    except ValueError:
        raise ValueError(
            f"the {sizes[0]} and {sizes[1]} groups are {int(unit.max()) + 1} units (groups that share a "
            "member stay together), which do not split so that two groups of each class are on either side. "
            "Give more groups, of members of their own."
        ) from None


def _check(groups: list[list[Any]], sizes: tuple[int, int]) -> None:
    if min(sizes) < 4:
        raise ValueError(f"there are {sizes[0]} and {sizes[1]} groups; 4 or more of each are needed.")
    members = sorted({len(group) for group in groups})
    if members != members[:1] or members[0] < 2:
        raise ValueError(f"groups have {members} members; give each as many, two or more.")


def _shuffled(
    label: Float[Tensor, "group"], fresh: Bool[Tensor, "group"], unit: Tensor, generator: torch.Generator
) -> Float[Tensor, "group"]:
    """Labels shuffled within the held-out groups and within the training ones."""
    out = label.clone()
    for part in (fresh, ~fresh):
        mixed = splits.shuffled(label[part].cpu(), unit[part.cpu()], generator)
        out[part] = mixed.to(label.device)
    return out


def _members(
    model: Model, data: Prompts, probes: Probes, batch_size: int, engine: str
) -> tuple[Float[Tensor, "member"], Float[Tensor, "member d"]]:
    """Each member's score, and its activation: that which is read, the mean of several tokens."""
    (place, weights), *_ = probes.weights.items()
    whole = Place(place.site, place.layer)
    seen = readings(model, data, (whole,), probes.pos, batch_size=batch_size, engine=engine)[place]
    tokens, share = seen.tokens.double(), seen.real.double() / seen.real.sum(1, keepdim=True)
    return scores_of(probes.agg, tokens, seen.real, weights)[0], torch.einsum("ptd,pt->pd", tokens, share)


def features_of(
    way: str, score: Float[Tensor, "group member"], rows: Float[Tensor, "group member d"]
) -> Float[Tensor, "group feature"]:
    """What a way makes of the members of each group, the same in whatever order they come."""
    order = score.argsort(dim=1, descending=True, stable=True)
    ranked = score.gather(1, order)
    if way == "mean":
        return score.mean(1, keepdim=True)
    if way == "max":
        return ranked[:, :1]
    if way == "gap":
        return (ranked[:, :2].mean(1) - ranked[:, -2:].mean(1))[:, None]
    if way == "statistics":
        spread, split = ranked[:, 0] - ranked[:, -1], (ranked[:, :-1] - ranked[:, 1:]).amax(1)
        return torch.stack((score.var(1), spread, split, score.mean(1)), 1)
    if way == "cosine":
        unit = rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-30)
        n = unit.shape[1]
        total = unit.sum(1).square().sum(-1) - unit.square().sum((1, 2))  # over ordered pairs
        return -(total / (n * (n - 1)))[:, None]
    return rows.gather(1, order[..., None].expand_as(rows)).flatten(1)


def _judged(
    way: str, features: Tensor, fresh: Tensor, labels: Tensor, components: int, l2: float
) -> Float[Tensor, "held_out"]:
    """Scores of the held-out groups; what is fitted, on the others."""
    seen, new = features[~fresh], features[fresh]
    if way not in _FITTED:
        return new[:, 0]
    middle = seen.mean(0)
    seen, new = seen - middle, new - middle
    if way == "sorted":
        axes = torch.linalg.svd(seen, full_matrices=False)[2][: min(components, len(seen) - 1)]
        seen, new = seen @ axes.T, new @ axes.T
    scale = seen.std(0).clamp(min=1e-12)
    return _logistic(seen / scale, new / scale, labels[~fresh], l2)
