"""ITDA: a dictionary whose features are activations of named tokens, made without training.

1. Go through activations, each divided by its length. Encode one by `k` steps of matching pursuit with the
   atoms so far.
2. Where more than a share `threshold` of its squared length is left, it becomes an atom itself: the unit
   vector, and which token of which prompt it was.
3. The dictionary is these atoms, encoder and decoder alike; its features are steps of matching pursuit.

Atoms are names of tokens, so two models that read the same text can be compared by the atoms that they
needed: the Jaccard index of both sets. A rotation of the stream changes no atom. Leave the beginning token
out (`skip`): its norm and direction are unlike any other.

Leask et al. 2505.17769. Its threshold is a mean over dimensions; ours is a share, d times as large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from interp import results
from interp._activations import activations
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.models.places import place as placed
from interp.places import Place
from interp.probes import splits
from interp.prompts import Prompts, read
from interp.sae._activations import Pursuit, pursue
from interp.sae._dictionary import Dictionary
from interp.steering._direction import identity

_ROWS = 64  # encoded at once


@verb
def itda_fit(
    rows: Float[Tensor, "row d"],
    k: int = 12,
    threshold: float = 0.2,
    limit: int | None = None,
) -> Int[Tensor, "atom"]:
    """Which rows become atoms, in the order in which they come (see the steps above).

    threshold: the share of the squared length that may be left. limit: atoms at most. Pure. Raises ValueError
    for a threshold outside of 0 to 1, no rows, and a row of zeros.

    Example:
        >>> import torch
        >>> from interp.sae import methods
        >>> a, b = torch.eye(2)
        >>> methods.itda_fit(torch.stack([a, 3 * a, b, a + b]), k=2, threshold=0.1).tolist()
        [0, 2]
    """
    _check(k, threshold, limit)
    lengths = rows.norm(dim=1, keepdim=True)
    if not len(rows) or float(lengths.min()) == 0:
        raise ValueError(f"there are {len(rows)} rows, one of length 0; each must have a direction.")
    unit = (rows / lengths).to(torch.promote_types(rows.dtype, torch.float32))
    chosen: list[int] = []
    for start in range(0, len(unit), _ROWS):
        chosen = _added(unit, range(start, min(start + _ROWS, len(unit))), chosen, k, threshold, limit)
    return torch.tensor(chosen)


def _check(k: int, threshold: float, limit: int | None = None) -> None:
    if not 0 < threshold < 1 or k < 1 or (limit is not None and limit < 1):
        raise ValueError(
            f"k is {k}, threshold {threshold}, limit {limit}; k and limit are 1 or more, threshold a share."
        )


def _added(
    unit: Tensor, span: range, chosen: list[int], k: int, threshold: float, limit: int | None
) -> list[int]:
    """The atoms after some rows: each new one may explain the rows after it, which are encoded again."""
    start = span.start
    while start < span.stop and (limit is None or len(chosen) < limit):
        block = unit[start : span.stop]
        left = block.square().sum(1) if not chosen else _left(block, unit[chosen], k)
        bad = (left > threshold).nonzero()[:, 0]
        if not len(bad):
            break
        start += int(bad[0])
        chosen = [*chosen, start]
        start += 1
    return chosen


def _left(unit: Tensor, atoms: Tensor, k: int) -> Float[Tensor, "row"]:
    """Share of the squared length of unit rows that pursuit leaves."""
    return (unit - pursue(unit, atoms, Pursuit(0.0, k)) @ atoms).square().sum(1)


@verb
def itda(
    model: Model,
    place: str,
    data: Any,
    *,
    k: int = 12,
    threshold: float = 0.2,
    skip: int = 1,
    limit: int | None = None,
    mask: Tensor | None = None,
    batch_size: int | None = None,
) -> Dictionary:
    """A dictionary of activations at a place, without training (see the steps above).

    place: "L2.resid_pre", "L1.z" (all heads side by side), or one head's z, "L1H2.z". data: prompts, read in
    their order. k: steps of matching pursuit, features on at most. threshold: the
    share of a squared length that may be left. skip: tokens left out at the start of each prompt. limit:
    atoms.

    Returns a `Dictionary` (matching pursuit, rows at constant norm), which saves in SAELens's format; its
    atoms' [prompt, token] are in `metadata["metadata"]["atoms"]`. Cost: a forward of each prompt as far as
    the place, and k products with all atoms for each token, again after each new one. Raises ValueError for a
    place that the model does not have, and as `itda_fit`. Leask et al. 2505.17769.

    Example:
        >>> from interp import sae
        >>> model = interp.load("tiny-ioi")
        >>> d = sae.methods.itda(model, "L1.resid_pre", interp.tasks.ioi(model, n=4), threshold=0.3)
        >>> d.activation, len(sae.methods.itda_atoms(d)) == d.n_features
        ('matching_pursuit', True)
    """
    _check(k, threshold, limit)
    where = placed(place, anatomy(model))
    prompts = read(model, data, mask)
    if skip < 0 or int(prompts.lengths.min()) <= skip:
        raise ValueError(
            f"skip is {skip}, and the shortest prompt has {int(prompts.lengths.min())} tokens; "
            "one must be left."
        )
    rows = activations(model, prompts, where, "all", batch_size=batch_size).flatten(1)
    prompt = torch.arange(len(prompts)).repeat_interleave(prompts.lengths.cpu())
    token = torch.cat([torch.arange(int(n)) for n in prompts.lengths])
    kept = (token >= skip).nonzero()[:, 0]
    chosen = kept[itda_fit(rows[kept.to(rows.device)], k, threshold, limit)]
    atoms = torch.nn.functional.normalize(rows[chosen.to(rows.device)], dim=1)
    names = torch.stack((prompt[chosen], token[chosen]), 1).tolist()
    return of_atoms(atoms, k, place=where, names=names, threshold=threshold).but(
        model=anatomy(model).name, fingerprint=identity(model)
    )


def of_atoms(
    atoms: Float[Tensor, "atom d"], k: int, *, place: Place, names: Sequence[Any], threshold: float
) -> Dictionary:
    """Unit atoms as a dictionary."""
    zeros = atoms.new_zeros
    return Dictionary(
        atoms.T, zeros(len(atoms)), atoms, zeros(atoms.shape[1]), "matching_pursuit", place,
        pursuit=Pursuit(0.0, k, False), norm="constant_norm_rescale",
        metadata={"metadata": {"atoms": [list(each) for each in names], "itda_threshold": threshold}},
    )  # fmt: skip


@verb
def itda_atoms(dictionary: Dictionary) -> list[tuple[int, int]]:
    """(prompt, token) of every atom. Raises ValueError for a dictionary that is not of ITDA.

    Example:
        >>> from interp import sae
        >>> model = interp.load("tiny-ioi")
        >>> d = sae.methods.itda(model, "L1.resid_pre", interp.tasks.ioi(model, n=4), threshold=0.3)
        >>> sae.methods.itda_atoms(d)[0]
        (0, 1)
    """
    listed = (dictionary.metadata.get("metadata") or {}).get("atoms")
    if not isinstance(listed, list) or len(listed) != dictionary.n_features:
        raise ValueError(f"{dictionary!r} does not say which tokens its features are; make it by itda.")
    return [(int(prompt), int(token)) for prompt, token in listed]


@verb
def itda_jaccard(one: Dictionary, other: Dictionary) -> float:
    """How alike two dictionaries of ITDA are, made on the same text: atoms in common over atoms of either.

    1 for the same atoms, near 0 for unrelated models. Raises ValueError for dictionaries that are not of
    ITDA.

    Example:
        >>> from interp import sae
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4)
        >>> low, high = (sae.methods.itda(model, f"L{n}.resid_pre", task, threshold=0.3) for n in (1, 2))
        >>> sae.methods.itda_jaccard(low, low), 0 < sae.methods.itda_jaccard(low, high) < 1
        (1.0, True)
    """
    first, second = set(itda_atoms(one)), set(itda_atoms(other))
    return len(first & second) / len(first | second)


@verb
def itda_curve(
    model: Model,
    place: str,
    data: Any,
    held_out: Any,
    thresholds: Sequence[float] = (0.1, 0.2, 0.4),
    *,
    k: int = 12,
    skip: int = 1,
    seed: int = 0,
    batch_size: int | None = None,
) -> xr.Dataset:
    """Atoms needed, and variance left on held-out prompts, by threshold.

    Returns a Dataset over `threshold`: `value`, the share of variance left (`fvu` of `sae.report`); `random`,
    that of as many random tokens as atoms, by `seed`; `atoms`, their number. Cost and errors as `itda`, once
    a threshold; also ValueError for prompts that are in both data and held_out.

    Example:
        >>> from interp import sae
        >>> model = interp.load("tiny-ioi")
        >>> train, test = (interp.tasks.ioi(model, n=4, seed=seed) for seed in (0, 1))
        >>> found = sae.methods.itda_curve(model, "L1.resid_pre", train, test, [0.2, 0.5])
        >>> bool(found["atoms"][0] > found["atoms"][1])
        True
    """
    if not len(thresholds):
        raise ValueError("thresholds is empty; give one or more, each a share.")
    for threshold in thresholds:
        _check(k, float(threshold))
    where = placed(place, anatomy(model))
    sides = [read(model, each) for each in (data, held_out)]
    if both := set.intersection(*({tuple(row) for row in splits.token_rows(side)} for side in sides)):
        raise ValueError(
            f"{len(both)} prompts are in data and in held_out; their atoms would be judged on themselves."
        )
    rows = [_tokens(model, side, where, skip, batch_size) for side in sides]
    fresh, values = rows[1].double(), []
    spread = (fresh - fresh.mean(0)).square().sum()
    for threshold in thresholds:
        chosen = itda_fit(rows[0], k, float(threshold))
        drawn = torch.randperm(len(rows[0]), generator=torch.Generator().manual_seed(seed))[: len(chosen)]
        left = []
        for index in (chosen, drawn):
            atoms = torch.nn.functional.normalize(rows[0][index.to(rows[0].device)], dim=1).double()
            d = of_atoms(atoms, k, place=where, names=[(0, 0)] * len(atoms), threshold=float(threshold))
            out = torch.cat([d(part) for part in fresh.split(512)])
            left.append(float((fresh - out).square().sum() / spread))
        values.append((*left, len(chosen)))
    attrs = results.provenance(
        method="itda_curve", model=anatomy(model).name, site=str(where), seed=seed, k=k, skip=skip,
        convention="share of the variance of held-out tokens that is left; lower is better",
        n_prompts=len(sides[1]),
    )  # fmt: skip
    attrs |= {"metric": "fvu", "unit": "share", "better": "lower"}
    columns = np.array(values, dtype=float).T
    variables = {n: (("threshold",), each) for n, each in zip(("value", "random", "atoms"), columns)}
    return results.dataset(variables, {"threshold": [float(each) for each in thresholds]}, attrs)


def _tokens(model: Model, prompts: Prompts, where: Place, skip: int, batch_size: int | None) -> Tensor:
    if skip < 0 or int(prompts.lengths.min()) <= skip:
        raise ValueError(
            f"skip is {skip}, and the shortest prompt has {int(prompts.lengths.min())} tokens; "
            "one must be left."
        )
    token = torch.cat([torch.arange(int(n)) for n in prompts.lengths])
    rows = activations(model, prompts, where, "all", batch_size=batch_size).flatten(1)
    return rows[(token >= skip).to(rows.device)]
