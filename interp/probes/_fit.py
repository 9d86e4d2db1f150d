"""`fit`: a probe at every layer, or every head, held-out accuracy, calibration, and shuffled labels.

1. Activations of both classes at the places (`readings`), one forward pass of each prompt.
2. A share of each class is held out, equal prompts and groups whole (`splits`); a probe is trained on the
   rest (`train`), both classes with the same weight.
3. The same on shuffled labels, `draws` times: shuffled within the training prompts and within the held-out
   ones, whole units at a time. `p_value` counts the draws that do as well, and the probe itself.
4. Probabilities are calibrated on the held-out prompts (`calibration`).

Accuracy is balanced: the mean of the two classes' shares, 0.5 is chance whatever their sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from interp._activations import engine_for
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.models.places import Layers, places
from interp.places import Place
from interp.positions import AnyPositions
from interp.probes import calibration, splits
from interp.probes._probes import BATCH, Probes, Reading, by_head, joined, readings
from interp.probes._train import train
from interp.probes.aggregate import KINDS, scores
from interp.probes.selectors import auroc
from interp.probes.splits import Groups
from interp.prompts import Mask, Prompts, read, read_classes
from interp.results import provenance
from interp.steering._direction import identity


@verb
def fit(
    model: Model,
    positive: Any,
    negative: Any,
    *,
    site: str = "resid_pre",
    layer: Layers = None,
    heads: Sequence[int] | None = None,
    pos: AnyPositions = "last",
    agg: str | None = None,
    query_heads: int = 1,
    held_out: float | tuple[Any, Any] = 0.3,
    groups: Groups | None = None,
    draws: int = 20,
    l2: float | int = 1e-3,
    mask: Mask = None,
    seed: int = 0,
    batch_size: int | None = None,
    engine: str = "auto",
    progress: bool = True,
) -> tuple[xr.Dataset, Probes]:
    """Probes that tell `positive` from `negative` prompts (strings, token ids or a Task each).

    site: with heads (z, q, k, v) there is a probe for each head, else one for each layer; for "resid_pre" of
    all layers (the default) also one of what the last layer writes, at layer n_layers. heads: some of them.
    pos: the position that is read. agg: instead, how the tokens are put together: mean, ema, attention,
    multimax, rolling (see `aggregate`); query_heads: of the last three. held_out: a share, or (positive,
    negative) prompts of their own. groups: (positive, negative) labels of prompts that belong together, such
    as the person that they name; equal prompts do anyway. draws: shuffles of the labels. l2: penalty on the
    weights. mask: 1 where a token is real, of padded ids: a pair (positive, negative), or one for both.
    engine: as in `interp.activations`; the attribute `engine` names it.

    Returns the result, dims (layer) or (layer, head): `accuracy`, `auroc`, `ece_raw` and `ece` (expected
    calibration error before and after scaling; nan where one class has a single held-out unit), `control`
    (draw, ...), `p_value`; and the probes, which score new prompts. Cost: one forward pass of each prompt as
    far as the last layer, and draws + 1 probes a place. Raises ValueError before any pass for what the model
    does not have, an unknown aggregation, fewer than 4 prompts of a class to split, units that do not split.
    Held-out prompts that are training prompts too are left out (`n_held_out` counts those used). The model is
    left as found.

    Example:
    >>> model = interp.load("tiny-ioi")
    >>> pairs = [(a, b) for a in ("Mary", "Anna") for b in ("John", "Tom", "Paul")]
    >>> up = [f"When {a} and {b} went to the store" for a, b in pairs]
    >>> down = [text.replace("store", "park") for text in up]
    >>> result, made = interp.probes.fit(model, up, down, draws=2, progress=False)
    >>> result["accuracy"].dims, len(made.places)
    (('layer',), 4)
    """
    kind, where_read = _how(pos, agg, draws, query_heads)
    _check_penalty(l2)
    facts = anatomy(model)
    wanted = places(facts, layer, site)
    if site == "resid_pre" and layer is None:
        wanted = (*wanted, Place("resid_post", facts.n_layers - 1))
    chosen = _heads(heads, site, facts.heads(site) if by_head(site) else 0)
    sides = split(model, positive, negative, held_out, seed, groups, mask)
    options: dict[str, Any] = {"pos": where_read, "batch_size": batch_size or BATCH}
    options["engine"] = engine_for(model, sides.prompts, wanted, engine)
    read = [readings(model, side, wanted, **options) for side in sides.prompts]
    labels = labellings(sides, draws, seed, facts.device)
    names = [where for where in read[0] if chosen is None or where.head in chosen]
    fitted: dict[Place, dict[str, Any]] = {}
    for where in tqdm(names, disable=not progress, desc="probes", unit="probe"):
        seen = (joined(*(part[where] for part in read[:2])), joined(*(part[where] for part in read[2:])))
        fitted[where] = _one(seen, labels, sides.units[1], (kind, query_heads, float(l2), seed))
    weights = {where: numbers["weights"] for where, numbers in fitted.items()}
    platt = {where: numbers["platt"] for where, numbers in fitted.items()}
    said = f"{kind} over tokens" if agg else f"token {pos}" if isinstance(pos, int) else f"{pos} token"
    sizes = {"n_train": labels[0].shape[1], "n_held_out": labels[1].shape[1], "l2": float(l2)}
    about = provenance(
        method="probe",
        convention="balanced accuracy on held-out prompts; chance is 0.5",
        model=facts.name,
        site=site,
        seed=seed,
        n_prompts=sum(sides.sizes),
        reads=said,
        engine=options["engine"],
        **sizes,
    )
    return _dataset(fitted, about), Probes(weights, kind, where_read, facts.name, platt, identity(model))


def _check_penalty(l2: float) -> None:
    if not 0 <= l2 < float("inf"):
        raise ValueError(f"l2 is {l2}; give a penalty of 0 or more, such as 1e-3.")


def _one(
    seen: tuple[Reading, Reading],
    labels: tuple[Tensor, Tensor],
    units: Tensor,
    how: tuple[str, int, float, int],
) -> dict[str, Any]:
    """The numbers of one place; row 0 of the labels is the truth, the others are shuffled."""
    kind, heads, l2, seed = how
    fitted, fresh = seen
    weights = train(kind, fitted.tokens, fitted.real, labels[0], heads=heads, l2=l2, seed=seed)
    logits = scores(kind, fresh.tokens.double(), fresh.real, weights)  # [labelling, prompt]
    accuracy = _accuracy(logits, labels[1])
    logit, label = logits[0], labels[1][0]
    up, down = logit[label > 0.5], logit[label < 0.5]
    return {
        "weights": type(weights)(weights.v[:1], weights.q[:1], weights.b[:1]),
        "platt": calibration.platt(logit, label),
        "accuracy": accuracy[0],
        "control": accuracy[1:],
        "p_value": (1 + (accuracy[1:] >= accuracy[0]).sum()) / len(accuracy),
        "auroc": float(auroc(up[:, None], down[:, None])[0]),
        "ece_raw": calibration.expected_calibration_error(torch.sigmoid(logit), label),
        "ece": calibration.calibrated_error(logit, label, seed, units),
    }


def _accuracy(found: Tensor, labels: Tensor) -> np.ndarray:
    """Balanced accuracy of every labelling; a score of 0 counts half."""
    right = (torch.sign(found) * (2 * labels - 1) + 1) / 2
    shares = [(right * side).sum(1) / side.sum(1) for side in (labels, 1 - labels)]
    return ((shares[0] + shares[1]) / 2).cpu().numpy()


def _dataset(fitted: dict[Place, dict[str, Any]], about: dict[str, Any]) -> xr.Dataset:
    layers = list(dict.fromkeys(_level(where, fitted) for where in fitted))
    heads = list(dict.fromkeys(where.head for where in fitted))
    several = heads != [None]
    dims = ("layer", "head") if several else ("layer",)
    shape = (len(layers), len(heads)) if several else (len(layers),)
    out = xr.Dataset(coords={"layer": layers} | ({"head": heads} if several else {}))
    for name in ("accuracy", "auroc", "p_value", "ece_raw", "ece"):
        out[name] = (dims, np.array([one[name] for one in fitted.values()], dtype=float).reshape(shape))
    control = np.stack([one["control"] for one in fitted.values()], -1)
    out["control"] = (("draw", *dims), control.reshape(len(control), *shape))
    if several:
        names = np.array([f"L{where.layer}H{where.head}" for where in fitted], dtype=object)
        out = out.assign_coords(head_name=(dims, names.reshape(shape)))
    return out.assign_attrs(about)


def _level(where: Place, fitted: dict[Place, dict[str, Any]]) -> int:
    """The layer that reads there: of the stream after the last one, beside streams before, one more."""
    after = where.site == "resid_post" and any(other.site == "resid_pre" for other in fitted)
    return int(where.layer or 0) + after


def _how(pos: AnyPositions, agg: str | None, draws: int, query_heads: int) -> tuple[str, AnyPositions]:
    """The aggregation, and the positions that are read for it."""
    if agg is not None and agg not in KINDS:
        raise ValueError(f"agg is {agg!r}; use one of {', '.join(KINDS)}, or pos= for one position.")
    if agg is not None and pos != "last":
        raise ValueError(f"agg={agg!r} reads every token, so pos={pos!r} has no place. Give one of the two.")
    if pos == "all":
        raise ValueError("pos='all' gives no score for a prompt; use agg='mean', 'multimax', ...")
    if draws < 1 or query_heads < 1:
        raise ValueError(f"draws is {draws}, query_heads {query_heads}; both must be 1 or more.")
    return (agg or "mean"), ("all" if agg else pos)


def _heads(heads: Sequence[int] | None, site: str, n: int) -> tuple[int, ...] | None:
    if heads is None:
        return None
    if not n:
        raise ValueError(f"{site!r} has no heads; heads= is for z, q, k and v.")
    wrong = [head for head in heads if not 0 <= head < n]
    if wrong or not len(heads):
        raise ValueError(f"heads {list(heads)}: {site!r} has heads 0 to {n - 1}.")
    return tuple(heads)


_LEAST = 4  # prompts of a class, to split it and to calibrate on halves of what is held out


@dataclass(frozen=True, eq=False)
class Sides:
    """Prompts: positive and negative to train on, positive and negative held out; their units by part."""

    prompts: tuple[Prompts, Prompts, Prompts, Prompts]
    units: tuple[Int[Tensor, "train"], Int[Tensor, "test"]]

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many there are of each."""
        return tuple(len(side) for side in self.prompts)


def split(
    model: Model,
    positive: Any,
    negative: Any,
    held_out: float | tuple[Any, Any],
    seed: int,
    groups: Groups | None = None,
    mask: Mask = None,
) -> Sides:
    """A share of each class held out, drawn by `seed`, units whole; or held-out prompts as they are given."""
    up, down = read_classes(model, positive, negative, mask)
    unit = splits.units(up, down, groups)
    if isinstance(held_out, tuple):
        return _given(model, (up, down), held_out, unit)
    for side, name in ((up, "positive"), (down, "negative")):
        if len(side) < _LEAST:
            raise ValueError(
                f"the {name} class has {len(side)} prompts; {_LEAST} or more are needed to hold some out. "
                "Add more, or give held_out=(positive, negative)."
            )
    test = splits.hold_out(unit, (len(up), len(down)), held_out, torch.Generator().manual_seed(seed))
    parts, fresh = (
        [side[mask.nonzero().flatten().to(side.tokens.device)] for side, mask in _by_side((up, down), rows)]
        for rows in (~test, test)
    )
    return Sides((parts[0], parts[1], fresh[0], fresh[1]), (unit[~test], unit[test]))


def _by_side(sides: tuple[Prompts, Prompts], mask: Tensor) -> Iterator[tuple[Prompts, Tensor]]:
    yield from zip(sides, mask.split([len(side) for side in sides]))


def _given(model: Model, sides: tuple[Prompts, Prompts], held_out: tuple[Any, Any], unit: Tensor) -> Sides:
    names = ("positive", "negative")
    fresh = [read(model, side, what=f"held_out {name}") for side, name in zip(held_out, names)]
    if len(fresh) != 2 or min(map(len, fresh)) < 2:
        raise ValueError("held_out needs two prompts or more of each class: (positive, negative).")
    known = {tuple(row) for side in sides for row in splits.token_rows(side)}
    kept = [_apart(side, known, name) for side, name in zip(fresh, names)]
    return Sides((*sides, kept[0], kept[1]), (unit, splits.units(kept[0], kept[1])))


def _apart(side: Prompts, known: set[tuple[int, ...]], name: str) -> Prompts:
    """The prompts that are not training prompts too."""
    new = [i for i, row in enumerate(splits.token_rows(side)) if tuple(row) not in known]
    if len(new) == len(side):
        return side
    said = f"{len(side) - len(new)} of {len(side)} prompts of held_out {name} are training prompts too"
    if len(new) < 2:
        raise ValueError(f"{said}, and test nothing; two or more others are needed.")
    return side[torch.tensor(new, device=side.tokens.device)]


def labellings(
    sides: Sides, draws: int, seed: int, device: torch.device
) -> tuple[Float[Tensor, "fit train"], Float[Tensor, "fit test"]]:
    """Labels of the training and of the held-out prompts: the truth first, then `draws` shuffles of it."""
    generator = torch.Generator().manual_seed(seed + 1)
    sizes, out = sides.sizes, []
    for (up, down), unit in zip((sizes[:2], sizes[2:]), sides.units):
        truth = torch.cat((torch.ones(up), torch.zeros(down))).double()
        draw = [splits.shuffled(truth, unit, generator) for _ in range(draws)]
        out.append(torch.stack([truth, *draw]).to(device))
    return out[0], out[1]
