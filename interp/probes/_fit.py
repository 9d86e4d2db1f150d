"""`fit`: a probe at every layer, or every head, held-out accuracy, calibration, and shuffled labels.

1. Activations of both classes at the places (`readings`), one forward pass of each prompt.
2. A share of each class is held out; a probe is trained on the rest (`train`).
3. The same on shuffled labels, `draws` times: shuffled within the training prompts and within the held-out
   ones, so that the classes stay as large. `p_value` counts the draws that do as well, and the probe itself.
4. Probabilities are calibrated on the held-out prompts (`calibration`).

Accuracy is balanced: the mean of the two classes' shares, 0.5 is chance whatever their sizes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from interp.models import Model, anatomy
from interp.models.places import Layers, places
from interp.places import Place
from interp.positions import AnyPositions
from interp.probes import calibration
from interp.probes._probes import Probes, Reading, by_head, joined, readings
from interp.probes._train import train
from interp.probes.aggregate import KINDS, scores
from interp.probes.selectors import auroc
from interp.prompts import Prompts, read
from interp.results import versions


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
    draws: int = 20,
    l2: float | int = 1e-3,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool = False,
) -> tuple[xr.Dataset, Probes]:
    """Probes that tell `positive` from `negative` prompts (strings, token ids or a Task each).

    site: with heads (z, q, k, v) there is a probe for each head, else one for each layer. heads: some of
    them. pos: the position that is read. agg: instead, how the tokens are put together: mean, ema,
    attention, multimax, rolling (see `aggregate`); query_heads: of the last three. held_out: a share, or
    (positive, negative) prompts of their own. draws: shuffles of the labels. l2: penalty on the weights.

    Returns the result, dims (layer) or (layer, head): `accuracy`, `auroc`, `ece_raw` and `ece` (expected
    calibration error before and after scaling), `control` (draw, ...), `p_value`; and the probes, which
    score new prompts. Raises ValueError before any pass for what the model does not have, an unknown
    aggregation, fewer than 4 prompts of a class to split. The model is left as found.
    """
    kind, where_read = _how(pos, agg, draws, query_heads)
    facts = anatomy(model)
    wanted = places(facts, layer, site)
    chosen = _heads(heads, site, facts.heads(site) if by_head(site) else 0)
    sides = split(model, positive, negative, held_out, seed)
    options: dict[str, Any] = {"pos": where_read, "batch_size": batch_size}
    read = [readings(model, side, wanted, **options) for side in sides.prompts]
    train_labels, test_labels = labellings(sides, draws, seed, facts.device)
    found: dict[Place, dict[str, Any]] = {}
    names = [where for where in read[0] if chosen is None or where.head in chosen]
    for where in tqdm(names, disable=not progress, desc="probes", unit="probe"):
        seen = (joined(*(part[where] for part in read[:2])), joined(*(part[where] for part in read[2:])))
        trained = (kind, query_heads, float(l2), seed)
        found[where] = _one(seen, train_labels, test_labels, trained)
    made = {where: one["weights"] for where, one in found.items()}
    probes = Probes(made, kind, where_read, facts.name, {where: one["platt"] for where, one in found.items()})
    said = f"{kind} over tokens" if agg else f"token {pos}" if isinstance(pos, int) else f"{pos} token"
    about = {"site": site, "reads": said, "model": facts.name, "seed": seed}
    sizes = {"n_train": train_labels.shape[1], "n_held_out": test_labels.shape[1], "l2": float(l2)}
    return _dataset(found, {**about, **sizes}), probes


def _one(
    seen: tuple[Reading, Reading], train_labels: Tensor, test_labels: Tensor, how: tuple[str, int, float, int]
) -> dict[str, Any]:
    """The numbers of one place; row 0 of the labels is the truth, the others are shuffled."""
    kind, heads, l2, seed = how
    fitted, fresh = seen
    weights = train(kind, fitted.tokens, fitted.real, train_labels, heads=heads, l2=l2, seed=seed)
    found = scores(kind, fresh.tokens.double(), fresh.real, weights)  # [labelling, prompt]
    accuracy = _accuracy(found, test_labels)
    logit, label = found[0], test_labels[0]
    up, down = logit[label > 0.5], logit[label < 0.5]
    return {
        "weights": type(weights)(weights.v[:1], weights.q[:1], weights.b[:1]),
        "platt": calibration.platt(logit, label),
        "accuracy": accuracy[0],
        "control": accuracy[1:],
        "p_value": (1 + (accuracy[1:] >= accuracy[0]).sum()) / len(accuracy),
        "auroc": float(auroc(up[:, None], down[:, None])[0]),
        "ece_raw": calibration.expected_calibration_error(torch.sigmoid(logit), label),
        "ece": calibration.calibrated_error(logit, label, seed),
    }


def _accuracy(found: Tensor, labels: Tensor) -> np.ndarray:
    """Balanced accuracy of every labelling; a score of 0 counts half."""
    right = (torch.sign(found) * (2 * labels - 1) + 1) / 2
    shares = [(right * side).sum(1) / side.sum(1) for side in (labels, 1 - labels)]
    return ((shares[0] + shares[1]) / 2).cpu().numpy()


def _dataset(found: dict[Place, dict[str, Any]], about: dict[str, Any]) -> xr.Dataset:
    layers = list(dict.fromkeys(where.layer for where in found))
    heads = list(dict.fromkeys(where.head for where in found))
    several = heads != [None]
    dims = ("layer", "head") if several else ("layer",)
    shape = (len(layers), len(heads)) if several else (len(layers),)
    out = xr.Dataset(coords={"layer": layers} | ({"head": heads} if several else {}))
    for name in ("accuracy", "auroc", "p_value", "ece_raw", "ece"):
        out[name] = (dims, np.array([one[name] for one in found.values()], dtype=float).reshape(shape))
    control = np.stack([one["control"] for one in found.values()], -1)
    out["control"] = (("draw", *dims), control.reshape(len(control), *shape))
    if several:
        names = np.array([f"L{where.layer}H{where.head}" for where in found], dtype=object)
        out = out.assign_coords(head_name=(dims, names.reshape(shape)))
    attrs = {"method": "probe", **about, "versions": json.dumps(versions())}
    return out.assign_attrs(attrs, convention="balanced accuracy on held-out prompts; chance is 0.5")


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
    """Prompts: positive and negative to train on, positive and negative held out."""

    prompts: tuple[Prompts, Prompts, Prompts, Prompts]

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many there are of each."""
        return tuple(len(side) for side in self.prompts)


def split(model: Model, positive: Any, negative: Any, held_out: float | tuple[Any, Any], seed: int) -> Sides:
    """A share of each class held out, drawn by `seed`; or held-out prompts as they are given."""
    up, down = read(model, positive, what="positive"), read(model, negative, what="negative")
    if isinstance(held_out, tuple):
        fresh = [
            read(model, side, what=f"held_out {name}")
            for side, name in zip(held_out, ("positive", "negative"))
        ]
        if len(fresh) != 2 or min(map(len, fresh)) < 2:
            raise ValueError("held_out needs two prompts or more of each class: (positive, negative).")
        return Sides((up, down, fresh[0], fresh[1]))
    if not 0 < held_out < 1:
        raise ValueError(f"held_out is {held_out}; give a share between 0 and 1, or (positive, negative).")
    generator = torch.Generator().manual_seed(seed)
    parts = [_cut(side, held_out, generator, name) for side, name in ((up, "positive"), (down, "negative"))]
    return Sides((parts[0][0], parts[1][0], parts[0][1], parts[1][1]))


def labellings(
    sides: Sides, draws: int, seed: int, device: torch.device
) -> tuple[Float[Tensor, "fit train"], Float[Tensor, "fit test"]]:
    """Labels of the training and of the held-out prompts: the truth first, then `draws` shuffles of it."""
    generator = torch.Generator().manual_seed(seed + 1)
    sizes, out = sides.sizes, []
    for up, down in (sizes[:2], sizes[2:]):
        truth = torch.cat((torch.ones(up), torch.zeros(down))).double()
        shuffled = [truth[torch.randperm(len(truth), generator=generator)] for _ in range(draws)]
        out.append(torch.stack([truth, *shuffled]).to(device))
    return out[0], out[1]


def _cut(side: Prompts, share: float, generator: torch.Generator, name: str) -> tuple[Prompts, Prompts]:
    n = len(side)
    if n < _LEAST:
        raise ValueError(
            f"the {name} class has {n} prompts; {_LEAST} or more are needed to hold some out. Add more, or "
            "give held_out=(positive, negative)."
        )
    order = torch.randperm(n, generator=generator)
    cut = min(max(2, round(share * n)), n - 2)
    test, rest = order[:cut].sort().values, order[cut:].sort().values
    return _rows(side, rest), _rows(side, test)


def _rows(side: Prompts, rows: Tensor) -> Prompts:
    rows = rows.to(side.tokens.device)
    return Prompts(side.tokens[rows], side.lengths[rows])
