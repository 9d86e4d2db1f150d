"""`cascade`: a cheap probe decides where it is sure, and the model itself is asked about the rest.

1. Two thresholds on the probe's score, from prompts that no fit saw (`thresholds`): above the upper one
   negatives are rare (`rate` of them), below the lower one positives are. Between them the probe is not sure.
2. Those prompts are put to the model as a question; its verdict is the sign of a margin of logits.
3. What that is worth, beside the probe alone, the model asked about everything, and as many prompts asked
   that are drawn by lot: if the cascade is no better than that, the probe does not know where it errs.

Costs are in forwards: a probe at layer 1 of 4 needs a quarter of one. A score that is not finite is unsure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from interp import results
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.probes._probes import Probes
from interp.probes._question import Question
from interp.probes.thresholds import threshold
from interp.prompts import Mask, Prompts, read_classes
from interp.stats._shares import check_level, share_interval

_WAYS = ("probe", "cascade", "random", "verdict")


@verb
def cascade(
    model: Model,
    positive: Any,
    negative: Any,
    probes: Probes,
    question: Question,
    *,
    calibrate: tuple[Any, Any],
    rate: float = 0.05,
    everything: bool = True,
    mask: Mask = None,
    level: float = 0.95,
    batch_size: int | None = None,
    engine: str = "auto",
) -> xr.Dataset:
    """A cheap probe where it is sure, else the model's own verdict: how often asked, how right, how dear.

    positive, negative: prompts to decide. probes: one, at one place (`probes.at(place)`). question: what the
    model is asked, whose margin above 0 says positive. calibrate: (positive, negative) prompts that no fit
    saw, for the thresholds. rate: the share of negatives that the probe may call positive by itself, and of
    positives that it may call negative. everything: ask about all prompts too, which the comparison needs;
    False costs only what the cascade does.

    Returns a Dataset with dims prompt (the positives first) and way ("probe", its calibrated sign; "cascade";
    "random", as many asked, drawn by lot, in expectation; "verdict", all asked): `value` [way], the share of
    prompts that is right, its Clopper-Pearson interval `low`, `high` (NaN for "random"), `cost` [way],
    forwards a prompt, `asked` [way], the share of prompts asked; by prompt `score` (logits of the probe),
    `unsure`, `verdict` (logits, NaN where it was not asked), `decision`, `label`. Cost: `cost` of the
    cascade, of all with everything=True, and the probe on the calibration prompts. Raises ValueError for
    probes of several places or another model, and too few calibration prompts for the rate. The model is left
    as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> names = [f"{a} and {b} had a" for a in ("Mary", "Tom", "Anna") for b in ("Paul", "John", "Kate")]
        >>> up, down = ([f"{name} {word}" for name in names] for word in ("book", "bag"))
        >>> probe = interp.probes.fit(model, up[:4], down[:4], layer=1, draws=1, progress=False)[1]
        >>> ask = interp.probes.Question(" book", " bag")
        >>> parts = {"calibrate": (up[4:8], down[4:8]), "rate": 0.2}
        >>> found = interp.probes.cascade(model, up[8:], down[8:], probe, ask, **parts)
        >>> found["cost"].sel(way=["probe", "verdict"]).values.round(2).tolist()
        [0.33, 1.0]
    """
    check_level(level)
    _single(model, probes)
    up, down = read_classes(model, positive, negative, mask)
    _enough(calibrate, rate)
    known = read_classes(model, *calibrate)
    options: dict[str, Any] = {"batch_size": batch_size, "engine": engine}
    low, high = _band(model, probes, known, rate, options)
    score = np.concatenate([_scored(model, probes, side, options) for side in (up, down)])
    label = np.repeat([True, False], [len(up), len(down)])
    unsure = ~np.isfinite(score) | ((score >= low) & (score <= high))
    asked = np.ones_like(unsure) if everything else unsure
    verdict = np.concatenate(
        [
            _asked(model, side, rows, question, engine)
            for side, rows in ((up, asked[label]), (down, asked[~label]))
        ]
    )
    alone = np.where(np.isfinite(score), score > (low + high) / 2, True)
    decision = np.where(unsure, verdict > 0, alone)
    right = {"probe": alone == label, "cascade": decision == label, "verdict": (verdict > 0) == label}
    numbers = _by_way(right, everything, float(unsure.mean()), _depth(model, probes), level)
    variables: dict[str, Any] = {name: (("way",), np.array(each)) for name, each in numbers.items()}
    by_prompt = {"score": score, "unsure": unsure, "verdict": np.where(asked, verdict, np.nan)}
    by_prompt |= {"decision": decision, "label": label}
    variables |= {name: (("prompt",), values) for name, values in by_prompt.items()}
    attrs = results.provenance(
        method="cascade", site=str(probes.places[0]), model=anatomy(model).name, n_prompts=len(label),
        unit="share", convention="value = share of prompts whose decision is right", level=level,
        rate=rate, threshold_low=low, threshold_high=high, question=f"{question.yes!r} or {question.no!r}",
    )  # fmt: skip
    coords = {"prompt": np.arange(len(label)), "way": np.array(_WAYS, dtype=object)}
    return results.dataset(variables, coords, attrs)


def _single(model: Model, probes: Probes) -> None:
    """ValueError for probes of another model or of several places."""
    probes.check(model)
    if len(probes.weights) != 1:
        names = ", ".join(map(str, probes.places))
        raise ValueError(f"a cascade has one cheap probe, these are at {names}. Choose one with .at(...).")


def _enough(calibrate: tuple[Any, Any], rate: float) -> None:
    """ValueError, before any pass, for a rate that so few prompts cannot keep."""
    for side in calibrate:
        n = len(side) if hasattr(side, "__len__") and not isinstance(side, str) else 1
        threshold(np.arange(float(n)), rate)


def _band(
    model: Model, probes: Probes, known: tuple[Prompts, Prompts], rate: float, options: dict[str, Any]
) -> tuple[float, float]:
    """Scores below and above which the probe decides; one number twice where the classes lie apart."""
    up, down = known
    high = threshold(_scored(model, probes, down, options), rate).value
    low = -threshold(-_scored(model, probes, up, options), rate).value
    middle = (low + high) / 2
    return (low, high) if low <= high else (middle, middle)


def _scored(model: Model, probes: Probes, side: Prompts, options: dict[str, Any]) -> np.ndarray:
    return probes.score(model, side, **options)["logit"].values[0]


def _asked(model: Model, side: Prompts, rows: np.ndarray, question: Question, engine: str) -> np.ndarray:
    """Verdicts of the rows that are asked, NaN of the others."""
    from torch import from_numpy

    out = np.full(len(side), np.nan)
    if rows.any():
        index: Tensor = from_numpy(rows.nonzero()[0])
        out[rows] = question(model, side[index], engine=engine).cpu().numpy()
    return out


def _by_way(
    right: dict[str, np.ndarray], everything: bool, share: float, depth: float, level: float
) -> dict[str, list[float]]:
    """Accuracy, interval, forwards a prompt and share of prompts asked, each in the order of the ways."""
    numbers: dict[str, list[float]] = {name: [] for name in ("value", "low", "high", "cost", "asked")}
    for way in _WAYS:
        part = {"probe": 0.0, "verdict": 1.0}.get(way, share)
        for name, number in zip(numbers, _numbers(way, right, everything, share, level)):
            numbers[name].append(number)
        numbers["cost"].append(part + depth * (way != "verdict"))
        numbers["asked"].append(part)
    return numbers


def _numbers(
    way: str, right: dict[str, np.ndarray], everything: bool, share: float, level: float
) -> tuple[float, float, float]:
    """Accuracy with its interval."""
    if way in ("random", "verdict") and not everything:
        return np.nan, np.nan, np.nan
    if way == "random":
        return share * right["verdict"].mean() + (1 - share) * right["probe"].mean(), np.nan, np.nan
    hits = right[way]
    low, high = share_interval(hits.sum(), len(hits), level)
    return float(hits.mean()), float(low), float(high)


def _depth(model: Model, probes: Probes) -> float:
    """The share of the layers that run before the probe has what it reads."""
    place = probes.places[0]
    return (int(place.layer or 0) + (place.site != "resid_pre")) / anatomy(model).n_layers
