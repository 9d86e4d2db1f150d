"""A supervised dictionary, and what it makes of another one: approximation, control, interpretability.

1. Attributes with known values (the name, the order, ...) give vectors u(a = v) = E[h | a = v] − E[h] at one
   place and position: x̂ = E[h] + Σ_a u(a = a(x)). No dictionary knows the attributes better.
2. Approximation: the metric with x̂ in the place of x, from 0 (the mean activation) to 1 (the model's own).
3. Control: every attribute is changed from its clean to its corrupt value, x − u(v) + u(v'), or, of a
   dictionary, the `k` features with the largest difference are; from 0 (nothing changed) to 1 (as with the
   corrupt activation itself).
4. Interpretability: for every value the feature with the best F1, chosen on every other prompt and measured
   on the rest; the mean over values. A supervised feature is on where (x − E[h]) · u / |u|² is above one
   half.

Beside it a supervised dictionary of shuffled labels, and a rotated copy of the dictionary that is judged.
Makelov, Lange and Nanda 2405.08366, derived from its abstract: the three scales are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp import results
from interp._activations import activations
from interp._brief import brief
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.places import Place
from interp.positions import AnyPositions, require_one
from interp.prompts import read
from interp.sae._dictionary import Dictionary
from interp.sae._site import require, site_name
from interp.steering import Intervention
from interp.steering._edit_types import Add
from interp.steering.methods import measure
from interp.tasks import Task

SCORES = ("approximation", "control", "interpretability")
_ROWS = 32


@dataclass(frozen=True, eq=False)
class Supervised:
    """Mean [d], and a vector [d] for every value of every attribute."""

    mean: Float[Tensor, "d"]
    vectors: Mapping[str, Mapping[Any, Float[Tensor, "d"]]]
    __repr__ = brief

    def reconstruct(self, labels: Mapping[str, Sequence[Any]]) -> Float[Tensor, "row d"]:
        """Mean + Σ u of the values of each row; a value that was never seen adds nothing."""
        zero = torch.zeros_like(self.mean)
        parts = [torch.stack([self.vectors[a].get(v, zero) for v in values]) for a, values in labels.items()]
        return self.mean + torch.stack(parts).sum(0)


@verb
def supervised_dict(
    activations: Float[Tensor, "row d"], attributes: Mapping[str, Sequence[str | int]]
) -> Supervised:
    """Vectors of attributes: E[h | value] − E[h], in float64. Pure.

    attributes: a value for each row, by attribute. Raises ValueError for none, or another number of values.

    Example:
        >>> import torch
        >>> from interp.sae import methods
        >>> x = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
        >>> methods.supervised_dict(x, {"size": ["small", "large"]}).vectors["size"]["large"].tolist()
        [1.0, 0.0]
    """
    if not attributes or any(len(values) != len(activations) for values in attributes.values()):
        sizes = {name: len(values) for name, values in attributes.items()}
        raise ValueError(f"attributes has {sizes} values for {len(activations)} rows; give one a row.")
    x = activations.double()
    mean = x.mean(0)
    vectors = {
        name: {
            v: x[torch.tensor([each == v for each in values])].mean(0) - mean for v in dict.fromkeys(values)
        }
        for name, values in attributes.items()
    }
    return Supervised(mean, vectors)


@verb
def principled(
    model: Model,
    task: Task,
    dictionary: Dictionary,
    attributes: Mapping[str, tuple[Any, Any]],
    *,
    k: int = 8,
    pos: AnyPositions = "last",
    seed: int = 0,
    batch_size: int | None = None,
) -> xr.Dataset:
    """Approximation, control and interpretability of a dictionary, beside a supervised one and two controls.

    attributes: by name (values of the clean prompts, values of the corrupt ones), a value for each prompt. k:
    features that control may change. pos: one token of each prompt, at which x is read and put.

    Returns a Dataset: `value` [dictionary, score], 0 for what knows nothing and 1 for the best there is (both
    can be passed); dictionaries "supervised", "dictionary", "shuffled" (the supervised one of shuffled
    labels), "rotated" (the dictionary turned at random). Cost: two forwards of each prompt as far as the
    site, and nine more. Raises ValueError for a transcoder, attributes of another length, and where the mean
    activation, or the corrupt one, changes the metric by nothing. Makelov et al. 2405.08366 (derived).

    Example:
        >>> import torch
        >>> from interp import sae
        >>> model = interp.load("tiny-ioi")
        >>> both = torch.cat((torch.eye(64), -torch.eye(64)))
        >>> d = sae.Dictionary(both.T, torch.zeros(128), both, torch.zeros(64), place="L2.resid_post")
        >>> task = interp.tasks.ioi(model, n=16)
        >>> answer = {"answer": (task.answers[:, 0].tolist(), task.wrongs[:, 0].tolist())}
        >>> found = sae.methods.principled(model, task, d, answer, k=128)["value"]
        >>> found.sel(dictionary="dictionary")[:2].round(3).values.tolist()
        [1.0, 1.0]
    """
    where = require(dictionary, model)
    if dictionary.is_transcoder:
        raise ValueError(
            "a transcoder writes another site than it reads: there is no x to put x̂ in place of."
        )
    _check(attributes, len(task), k)
    require_one(pos, read(model, task))
    x, other = (
        activations(model, each, where, pos, batch_size=batch_size).flatten(1).double()
        for each in (task, task.swap())
    )
    labels = [{name: list(pair[side]) for name, pair in attributes.items()} for side in (0, 1)]
    order = np.random.default_rng(seed).permutation(len(task)).tolist()
    mixed = [{name: [values[i] for i in order] for name, values in each.items()} for each in labels]
    codes = {"supervised": (supervised_dict(x, labels[0]), labels)}
    codes |= {"shuffled": (supervised_dict(x, mixed[0]), mixed)}
    learned = {"dictionary": dictionary, "rotated": _rotated(dictionary, seed)}
    runs: dict[str, tuple[Tensor, Tensor]] = {}
    for name, (code, of) in codes.items():
        runs[name] = code.reconstruct(of[0]) - x, code.reconstruct(of[1]) - code.reconstruct(of[0])
    for name, d in learned.items():
        runs[name] = d(x) - x, _moved(d, x, other, k)
    put = _Put(model, task, where, pos)
    own, mean, corrupt = (put(each) for each in (0 * x, x.mean(0) - x, other - x))
    if own in (mean, corrupt):
        raise ValueError(f"at {site_name(dictionary)} the mean or the corrupt activation changes no metric.")
    f1 = {name: _f1(_on_supervised(code, x), labels[0]) for name, (code, _) in codes.items()}
    f1 |= {name: _f1(d.encode(x) != 0, labels[0]) for name, d in learned.items()}
    table = [
        [(put(runs[n][0]) - mean) / (own - mean), (own - put(runs[n][1])) / (own - corrupt), f1[n]]
        for n in ("supervised", "dictionary", "shuffled", "rotated")
    ]
    attrs = results.provenance(
        method="sae.principled", model=anatomy(model).name, site=site_name(dictionary), task=task.name,
        task_fingerprint=task.fingerprint(), n_prompts=len(task), seed=seed, metric=(task.metric,), k=k,
        convention="0: the mean activation, nothing changed; 1: the model's own, the corrupt activation",
        dictionary=repr(dictionary),
    )  # fmt: skip
    coords = {"dictionary": ["supervised", "dictionary", "shuffled", "rotated"], "score": list(SCORES)}
    return results.dataset({"value": (("dictionary", "score"), np.array(table))}, coords, attrs)


def _check(attributes: Mapping[str, tuple[Any, Any]], n: int, k: int) -> None:
    if k < 1:
        raise ValueError(f"k is {k}; control changes one feature or more.")
    for name, pair in attributes.items():
        sizes = [len(values) if isinstance(values, Sized) else 1 for values in pair]
        if sizes != [n, n]:
            raise ValueError(f"{name!r} has {sizes} values; give ({n} clean, {n} corrupt).")


@dataclass(frozen=True, eq=False)
class _Put:
    """The metric with something added to the site at one position of each prompt, mean over prompts."""

    model: Model
    task: Task
    where: Place
    pos: AnyPositions

    def __call__(self, step: Float[Tensor, "prompt d"]) -> float:
        values = []
        for rows in torch.arange(len(self.task)).split(_ROWS):
            part = step[rows.to(step.device)]
            if self.where.site == "z":
                part = part.unflatten(1, (anatomy(self.model).n_heads, -1))
            edit = Intervention(self.where, _by_row(part), self.pos)
            values.append(measure(self.model, self.task[rows.tolist()], edit))
        return float(torch.cat(values).mean())


def _by_row(part: Tensor) -> Any:
    if part.ndim == 2:
        return Add(part)
    return lambda h: h + part[:, None].to(h)  # [row, 1, head, d_head]


def _rotated(d: Dictionary, seed: int) -> Dictionary:
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(d.d, d.d, generator=generator, dtype=torch.float64)).Q.to(d.W_dec)
    return d.but(W_enc=Q @ d.W_enc, W_dec=d.W_dec @ Q.T, fingerprint=None)


def _moved(d: Dictionary, x: Tensor, other: Tensor, k: int) -> Float[Tensor, "row d"]:
    """Σ (φ' − φ) d over the k features that differ most, in length."""
    gap = d.contributions(other) - d.contributions(x)
    chosen = (gap.abs() * d.W_dec.to(gap).norm(dim=1)).topk(min(k, gap.shape[1]), 1).indices
    kept = torch.zeros_like(gap).scatter(1, chosen, gap.gather(1, chosen))
    return kept @ d.W_dec.to(kept)


def _on_supervised(code: Supervised, x: Tensor) -> Tensor:
    vectors = torch.stack([u for values in code.vectors.values() for u in values.values()])
    return (x - code.mean) @ vectors.T / vectors.square().sum(1).clamp(min=1e-30) > 0.5


def _f1(on: Tensor, labels: Mapping[str, Sequence[Any]]) -> float:
    """Mean over values of the F1 of the feature that is best on even rows, measured on odd ones."""
    scores = []
    for values in labels.values():
        for value in dict.fromkeys(values):
            truth = torch.tensor([each == value for each in values], device=on.device)[:, None]
            halves = [_f1_of(on[side::2], truth[side::2]) for side in (0, 1)]
            if bool(truth[::2].any()) and bool(truth[1::2].any()):
                scores.append(float(halves[1][halves[0].argmax()]))
    return float(np.mean(scores)) if scores else float("nan")


def _f1_of(on: Tensor, truth: Tensor) -> Float[Tensor, "feature"]:
    right = (on & truth).sum(0).double()
    return 2 * right / (on.sum(0) + truth.sum()).clamp(min=1)
