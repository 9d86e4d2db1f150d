"""`pairs`: do two tokens speak of the same thing? A bilinear probe of pairs of activations.

1. Activations h at two positions of each prompt: of a pair that belongs together, and of one that does not.
   Centred, in units of their deviation, on the training prompts.
2. logit = xᵀ W y + b with W = U diag(±1) Uᵀ of low rank, so that it is the same whichever comes first. The
   start and the signs are the largest eigenvectors of Σ (label − mean) (xyᵀ + yxᵀ) / 2; then L-BFGS on mean
   cross-entropy + l2 |U|².
3. The same with labels shuffled within prompts (those of one group alike), and beside both the cosine of x
   and y, where nothing is fitted: what tokens that are alike show without any probe.

The rank from which on nothing is gained says how many dimensions the binding takes. "Is this the same
object?", in text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from interp import results
from interp._activations import activations, engine_for
from interp._verbs import verb
from interp.models import Anatomy, Model, anatomy
from interp.models.places import Layers, places
from interp.positions import weights
from interp.probes import splits
from interp.probes._table import _areas, _errors
from interp.prompts import read

Pair = tuple[Tensor, Tensor]


@verb
def pairs(
    model: Model,
    prompts: Any,
    same: tuple[Any, Any],
    different: tuple[Any, Any],
    *,
    site: str = "resid_pre",
    layer: Layers = None,
    ranks: Sequence[int] = (1, 2, 4),
    held_out: float = 0.3,
    groups: Sequence[Any] | None = None,
    draws: int = 5,
    l2: float | int = 1e-2,
    mask: Tensor | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    engine: str = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """Probes of whether two positions of a prompt belong together, by layer and rank.

    prompts: each has both a pair that belongs together and one that does not. same, different: those pairs,
    two positions each (see `interp.positions`; of a task, names such as ("io", "end")). ranks: of W. groups:
    a label of each prompt; prompts of one group, and equal ones, are on one side of the split, as are a
    Task's mirrored prompts (one is the other's corrupt prompt), which exchange the two pairs. The other
    arguments are those of `probes.table`.

    Returns a Dataset with dims layer and rank: `value`, AUROC on held-out prompts' pairs (chance: 0.5), `se`
    over prompts or groups, `shuffled` [draw, layer, rank], `cosine` [layer], AUROC of the cosine of both
    activations. Where both pairs hold the same tokens, as words do in layer 0, a probe knows them by those:
    look at `cosine` and layer 0 first. Cost: one forward of each prompt as far as the last layer, and draws +
    1 fits a layer and rank. Raises ValueError before any pass for a site with heads, ranks above its width,
    too few prompts. The model is left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=16, seed=0)
        >>> options = {"layer": [0, 2], "ranks": [2], "draws": 1, "progress": False}
        >>> interp.probes.pairs(model, task, ("io", "end"), ("s1", "end"), **options)["value"].dims
        ('layer', 'rank')
    """
    facts = anatomy(model)
    wanted = places(facts, layer, site)
    _check(facts, site, ranks)
    data = read(model, prompts, mask)
    for pos in (*same, *different):
        weights(pos, data)
    if groups is None and hasattr(prompts, "clean"):  # mirrored prompts exchange the two pairs
        groups = results.prompt_units(prompts).tolist()
    labels_of = None if groups is None else (groups, groups)
    unit = splits.units(data, data, labels_of)[: len(data)]
    generator = torch.Generator().manual_seed(seed)
    fresh = _held_out(unit, held_out, generator)
    chosen = engine_for(model, [data], wanted, engine)
    sides = [
        activations(model, data, list(wanted), pos, batch_size=batch_size, engine=chosen)
        for pos in (*same, *different)
    ]
    test, both = torch.cat((fresh, fresh)), torch.cat((unit, unit))
    labels = _labellings(unit, draws, generator)
    columns: dict[str, list[Any]] = {name: [] for name in ("value", "se", "shuffled", "cosine")}
    for place in tqdm(wanted, disable=not progress, desc="pairs", unit="layer"):
        ends = [side[place] for side in sides]
        for name, numbers in _judged(ends, labels, test, both, ranks, float(l2)).items():
            columns[name].append(numbers)
    dims = ("layer", "rank")
    variables: dict[str, Any] = {name: (dims, np.stack(columns[name])) for name in ("value", "se")}
    variables["shuffled"] = (("draw", *dims), np.stack(columns["shuffled"], 1))
    variables["cosine"] = (("layer",), np.array(columns["cosine"]))
    attrs = results.provenance(
        method="pair probe", site=site, model=facts.name, seed=seed, unit="AUROC", n_prompts=len(data),
        convention="value = AUROC on pairs of held-out prompts; chance is 0.5", l2=float(l2), engine=chosen,
        n_held_out=int(fresh.sum()),
    )  # fmt: skip
    coords = {"layer": [int(place.layer or 0) for place in wanted], "rank": list(ranks)}
    return results.dataset(variables, coords, attrs)


def _check(facts: Anatomy, site: str, ranks: Sequence[int]) -> None:
    """ValueError for a site with heads, and for ranks that its width does not have."""
    if facts.width(site) != facts.d_model:
        raise ValueError(f"site is {site!r}; pairs are of whole vectors of the stream, not of single heads.")
    if not len(ranks) or not all(1 <= rank <= facts.d_model for rank in ranks):
        raise ValueError(f"ranks is {list(ranks)}; give 1 to {facts.d_model}, the width of {site!r}.")


def _labellings(unit: Tensor, draws: int, generator: torch.Generator) -> list[Float[Tensor, "row"]]:
    """The true labels of all pairs, then shuffled ones: in some units the two pairs change labels."""
    n = len(unit)
    truth = torch.cat((torch.ones(n), torch.zeros(n))).double()
    turns = (torch.rand(draws, int(unit.max()) + 1, generator=generator) < 0.5)[:, unit]
    return [truth, *(torch.where(torch.cat((turn, turn)), 1 - truth, truth) for turn in turns)]


def _judged(
    ends: Sequence[Float[Tensor, "prompt d"]],
    labels: list[Float[Tensor, "row"]],
    test: Tensor,
    unit: Tensor,
    ranks: Sequence[int],
    l2: float,
) -> dict[str, Any]:
    """The numbers of one layer, by rank. ends: of the pairs that belong together, then of the others."""
    x, y = (torch.cat((ends[i], ends[i + 2])).double() for i in (0, 1))
    seen, new = _scaled((x[~test], y[~test]), (x[test], y[test]))
    each = [label.to(x) for label in labels]
    held = [
        torch.stack([scored(fitted(seen, label[~test], rank, l2), new) for rank in ranks]) for label in each
    ]
    areas = np.array([_areas(out, label[test]) for out, label in zip(held, each)])
    cosine = torch.nn.functional.cosine_similarity(*new, dim=-1)
    return {
        "value": areas[0],
        "shuffled": areas[1:],
        "se": _errors(held[0], each[0][test], unit[test]),
        "cosine": _areas(cosine[None], each[0][test])[0],
    }


def _held_out(unit: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Which prompts are held out, units whole."""
    numbers = unit.unique(return_inverse=True)[1]
    n = int(numbers.max()) + 1
    taken = round(share * n)
    if not 2 <= taken <= n - 2:
        raise ValueError(
            f"held_out is {share} of {n} prompts or groups that differ; two or more must be on either side."
        )
    return torch.isin(numbers, torch.randperm(n, generator=generator)[:taken])


def _scaled(seen: Pair, new: Pair) -> tuple[Pair, Pair]:
    """Both centred and in units of the training activations' deviation, one number for all coordinates."""
    both = torch.cat(seen)
    middle = both.mean(0)
    scale = (both - middle).square().mean().sqrt().clamp(min=1e-12)
    one, other = (tuple((each - middle) / scale for each in pair) for pair in (seen, new))
    return (one[0], one[1]), (other[0], other[1])


def fitted(
    pair: Pair, labels: Float[Tensor, "row"], rank: int, l2: float
) -> tuple[Float[Tensor, "d rank"], Float[Tensor, "rank"], Float[Tensor, ""]]:
    """U, the signs and the bias of a symmetric bilinear probe, in float64."""
    x, y = pair
    gap = (labels - labels.mean())[:, None]
    product = (x * gap).T @ y / len(x)
    level, basis = torch.linalg.eigh((product + product.T) / 2)
    order = level.abs().argsort(descending=True)[:rank]
    sign = level[order].sign()
    spread = ((x @ basis[:, order]) * (y @ basis[:, order])).std(0).clamp(min=1e-12)
    with torch.inference_mode(False), torch.enable_grad():
        x, y, labels, sign = (each.detach().clone() for each in (x, y, labels, sign))
        U = (basis[:, order] / spread.sqrt()).detach().clone().requires_grad_()
        b = torch.zeros((), dtype=x.dtype, device=x.device, requires_grad=True)
        optimiser = torch.optim.LBFGS([U, b], max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimiser.zero_grad()
            out = scored((U, sign, b), (x, y))
            total = torch.nn.functional.binary_cross_entropy_with_logits(out, labels) + l2 * U.square().sum()
            total.backward()
            return total

        optimiser.step(loss)  # type: ignore[arg-type]
    return U.detach(), sign, b.detach()


def scored(probe: tuple[Tensor, Tensor, Tensor], pair: Pair) -> Float[Tensor, "row"]:
    """xᵀ U diag(sign) Uᵀ y + b."""
    U, sign, b = probe
    return ((pair[0] @ U) * (pair[1] @ U)) @ sign + b
