"""Can a model report its projection on a direction, and move it? Neurofeedback, with its controls.

Report. Sentences get labels by the quantiles of their own projection (`quantile_labels`). A prompt shows some
of them with their labels and ends with a sentence whose label is asked: the accuracy of the likeliest label,
by number of examples, beside the same with the labels of the examples shuffled. What shuffled labels still
give is not read off the activations.

Control. Prompts ask for a high and for a low value; the effect is d = (mean projection up − down) / pooled
standard deviation, beside d along random directions, which also differ between two sets of prompts.

Ji-An et al. 2505.13763 (language models are capable of metacognitive monitoring and control), from its text.
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
from interp._activations import activations, one_row
from interp._verbs import verb
from interp.lens._readout import token_ids
from interp.models import Model, anatomy
from interp.positions import AnyPositions
from interp.probes._question import answer_logits
from interp.prompts import read
from interp.stats._shares import check_level, share_interval
from interp.steering._direction import Direction


@verb
def quantile_labels(values: Float[Tensor, "n"], levels: int = 2) -> Int[Tensor, "n"]:
    """Labels 0 to levels − 1 by the quantiles of the values: each has the same number, to one.

    Raises ValueError for fewer values than levels, fewer than 2 levels, values that are not finite.

    Example:
        >>> import torch
        >>> from interp.steering import methods
        >>> methods.quantile_labels(torch.tensor([0.3, -1.0, 2.0, 0.1])).tolist()
        [1, 0, 1, 0]
    """
    if not 2 <= levels <= len(values) or not bool(values.isfinite().all()):
        raise ValueError(f"there are {len(values)} values for {levels} levels; give more, all finite.")
    rank = values.double().argsort(stable=True).argsort(stable=True)
    return rank * levels // len(values)


@verb
def report(
    model: Model,
    sentences: Sequence[str],
    direction: Direction,
    labels: Sequence[str] = (" low", " high"),
    *,
    mark: str = " Score:",
    end: str = "\n",
    shots: Sequence[int] = (4, 8, 16),
    queries: int = 32,
    pos: AnyPositions = "mean",
    level: float = 0.95,
    seed: int = 0,
    engine: str = "auto",
) -> xr.Dataset:
    """How well a model says, from examples, where sentences lie along a direction of its own activations.

    sentences: texts; each one's label is the quantile of its projection at the direction's place, averaged
    over `pos`. labels: one token each, from low to high. A prompt is `sentence + mark + label + end` for each
    example, then a sentence and the mark. queries: prompts for each number of shots.

    Returns a Dataset with dims query and shots: `value` [shots], the accuracy, its Clopper-Pearson interval
    `low`, `high`, `shuffled`, the accuracy with the examples' labels shuffled; `predicted`,
    `predicted_shuffled`, `label` [query, shots]; `projection` [sentence]; attribute `chance`. Cost: a forward
    of each sentence, and two of queries · shots prompts. Raises ValueError, before the prompts run, for
    labels that are no single tokens, fewer than 2 shots, more than other sentences. Give each sentence once:
    one that comes twice may be shown with its label when it is asked. The model is left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> from interp.steering import methods
        >>> names = ("Mary", "Tom", "Anna", "Paul", "John", "Kate")
        >>> texts = [f"{name} had a {word}" for name in names for word in ("book", "bag")]
        >>> d = interp.steering.mean_difference(model, texts[::2], texts[1::2], layer=1)
        >>> options = {"mark": " and", "end": " and ", "shots": [2], "queries": 4}
        >>> found = methods.report(model, texts, d, (" book", " bag"), **options)
        >>> found["value"].dims
        ('shots',)
    """
    check_level(level)
    one_row(pos)
    direction.check(model)._single_vector()
    ids = token_ids(model, list(labels), "labels")
    _require_examples(ids, labels, sentences, shots, queries)
    rows = activations(model, list(sentences), str(direction.place), pos, engine=engine).double()
    projection = rows @ direction.unit().vector.to(rows)
    truth = quantile_labels(projection, len(ids)).tolist()
    rng = np.random.default_rng(seed)
    columns: dict[str, list[Any]] = {name: [] for name in ("label", "predicted", "predicted_shuffled")}
    for n in shots:
        asked = rng.permutation(np.arange(queries) % len(sentences))
        texts: dict[str, list[str]] = {"predicted": [], "predicted_shuffled": []}
        for query in asked:
            shown = rng.permutation(np.delete(np.arange(len(sentences)), query))[:n]
            true = [truth[i] for i in shown]
            for name, given in (("predicted", true), ("predicted_shuffled", rng.permutation(true))):
                parts = [f"{sentences[i]}{mark}{labels[k]}{end}" for i, k in zip(shown, given)]
                texts[name].append("".join(parts) + f"{sentences[query]}{mark}")
        columns["label"].append([truth[i] for i in asked])
        for name, prompts in texts.items():
            logits = answer_logits(model, read(model, prompts), ids, [], engine)
            columns[name].append(logits.argmax(-1).cpu().numpy())
    by = {name: np.stack(each, 1) for name, each in columns.items()}  # [query, shots]
    variables = _accuracies(by, level)
    variables["projection"] = (("sentence",), projection.cpu().numpy())
    attrs = results.provenance(
        method="metacognitive report", site=str(direction.place), model=anatomy(model).name, unit="share",
        convention="value = share of queries whose likeliest label is the true one", chance=1 / len(ids),
        n_prompts=len(sentences), seed=seed, level=level,
    )  # fmt: skip
    return results.dataset(variables, {"shots": list(shots)}, attrs)


def _require_examples(
    ids: Sequence[int], labels: Sequence[str], sentences: Sequence[str], shots: Sequence[int], queries: int
) -> None:
    """ValueError for labels that are not different, and for numbers of examples or queries out of range."""
    if len(set(ids)) < len(ids) or len(ids) < 2:
        raise ValueError(f"labels is {list(labels)}; give two or more different tokens, from low to high.")
    if not len(shots) or not all(2 <= n < len(sentences) for n in shots):
        raise ValueError(
            f"shots is {list(shots)}; give 2 to {len(sentences) - 1}, the other sentences: the label of one "
            "example cannot be shuffled."
        )
    if queries < 1:
        raise ValueError(f"queries is {queries}; ask 1 or more.")


def _accuracies(by: dict[str, np.ndarray], level: float) -> dict[str, Any]:
    """Answers [query, shots], the accuracy by shots with its interval, and that of shuffled labels."""
    queries = len(by["label"])
    right = (by["predicted"] == by["label"]).sum(0)
    low, high = share_interval(right, queries, level)
    variables: dict[str, Any] = {name: (("query", "shots"), values) for name, values in by.items()}
    variables |= {"value": (("shots",), right / queries)}
    variables["shuffled"] = (("shots",), (by["predicted_shuffled"] == by["label"]).mean(0))
    return variables | {"low": (("shots",), low), "high": (("shots",), high)}


@verb
def control_effect(
    model: Model,
    up: Any,
    down: Any,
    direction: Direction,
    *,
    pos: AnyPositions = "last",
    draws: int = 100,
    level: float = 0.95,
    seed: int = 0,
    batch_size: int | None = None,
    engine: str = "auto",
) -> xr.Dataset:
    """How far prompts that ask for a high value move the projection from prompts that ask for a low one.

    up, down: prompts, with the words that ask. direction: at one place or several. pos: where the projection
    is read, averaged over several. draws: random directions of the same place.

    Returns a Dataset with dim place: `value`, d = (mean up − mean down) / pooled standard deviation, its
    interval `low`, `high` (normal, independent prompts), `mean_up`, `mean_down`, `random` [draw, place], d
    along random directions, and `p_value`, how often those are as large in size. Cost: one forward of each
    prompt. Raises ValueError before it for fewer than two prompts a side, another model's direction.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> from interp.steering import methods
        >>> up, down = ([f"{a} had a {b}" for a in ("Mary", "Tom", "Anna")] for b in ("book", "bag"))
        >>> d = interp.steering.mean_difference(model, up, down, layer=1)
        >>> float(methods.control_effect(model, up, down, d)["value"][0]) > 1
        True
    """
    check_level(level)
    one_row(pos)
    for part in direction.check(model).split():
        part._single_vector()
    units = direction.unit().vectors
    sides = [read(model, side, what=what) for side, what in ((up, "up"), (down, "down"))]
    n, m = (len(side) for side in sides)
    if min(n, m) < 2:
        raise ValueError(f"there are {n} and {m} prompts; two or more of each have a spread.")
    places = list(direction.places)
    kept = [activations(model, side, places, pos, batch_size=batch_size, engine=engine) for side in sides]
    generator = torch.Generator().manual_seed(seed)
    columns: dict[str, list[Any]] = {name: [] for name in ("value", "mean_up", "mean_down", "random")}
    for place in places:
        rows = [each[place].double() for each in kept]
        axis = units[place].to(rows[0])
        drawn = torch.randn(draws, len(axis), generator=generator, dtype=torch.float64).to(rows[0])
        axes = torch.cat((axis[None], drawn))
        one, other = (each @ axes.T for each in rows)  # [prompt, axis]; a length does not matter to d
        d = effect_size(one, other)
        columns["value"].append(float(d[0]))
        columns["random"].append(d[1:].cpu().numpy())
        columns["mean_up"].append(float(one[:, 0].mean()))
        columns["mean_down"].append(float(other[:, 0].mean()))
    variables = _effects(columns, n, m, level)
    names = np.array([str(place) for place in places], dtype=object)
    attrs = results.provenance(
        method="metacognitive control", site=", ".join(names), model=anatomy(model).name, n_prompts=n + m,
        unit="standard deviations", convention="value = (mean projection up − down) / pooled deviation",
        seed=seed, level=level,
    )  # fmt: skip
    return results.dataset(variables, {"place": names}, attrs)


def effect_size(one: Float[Tensor, "n axis"], other: Float[Tensor, "m axis"]) -> Float[Tensor, "axis"]:
    """Cohen's d of each axis."""
    n, m = len(one), len(other)
    pooled = ((n - 1) * one.var(0) + (m - 1) * other.var(0)) / (n + m - 2)
    return (one.mean(0) - other.mean(0)) / pooled.sqrt().clamp(min=1e-30)


def _effects(columns: dict[str, list[Any]], n: int, m: int, level: float) -> dict[str, Any]:
    """The variables by place, of n prompts up and m down: with the interval of d, and p by random ones."""
    from scipy.stats import norm

    value, random = np.array(columns["value"]), np.stack(columns["random"], 1)  # [place], [draw, place]
    error = np.sqrt((n + m) / (n * m) + value**2 / (2 * (n + m))) * norm.ppf((1 + level) / 2)
    by_place = {name: np.array(columns[name]) for name in ("value", "mean_up", "mean_down")}
    by_place |= {"low": value - error, "high": value + error}
    by_place["p_value"] = (1 + (abs(random) >= abs(value)).sum(0)) / (1 + len(random))
    variables: dict[str, Any] = {name: (("place",), each) for name, each in by_place.items()}
    return variables | {"random": (("draw", "place"), random)}
