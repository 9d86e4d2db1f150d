"""What a picture says of its numbers: how they were made, of which model, on what and on how many prompts.

A number that was measured is called exact, one that was estimated an estimate; the difference of two results
says that it is one, and whatever is unknown is left out rather than guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import xarray as xr

from interp.places import hint
from interp.stats._means import MetricFacts, is_difference, metric_facts

SHARE = "share of clean − corrupt"
_EXACT = {
    "patch": "exact patching",
    "path_patch": "exact path patching",
    "exact": "exact",
    "evaluate": "exact runs of circuits",
    "curve": "exact runs of circuits",
    "random baseline": "exact runs of random circuits",
}
_ESTIMATES = {
    "atp": "AtP", "atp*": "AtP*", "ig": "integrated gradients", "relp": "RelP", "attnlrp": "AttnLRP",
    "gim": "GIM", "secant": "secant", "eap": "EAP", "eap-ig": "EAP-IG", "eap-gp": "EAP-GP",
}  # fmt: skip
_READOUTS = {"direct": "direct logit attribution", "relevance": "relevance by rules"}
_NOUNS = {
    "direct": "direct effect", "relevance": "relevance", "flow-routes": "share",
    "head scores": "score", "head roles": "score", "copying": "copying score", "telemetry": "sink score",
    "score parts": "share of attention scores", "backup": "change of the direct effect",
}  # fmt: skip
_OF_GAPS = ("effect", "direct effect", "relevance", "share")  # what may be a share of clean − corrupt
_STAND_INS = {
    "zero": "zeros", "mean": "means", "gaussian": "noised embeddings", "constants": "given values",
    "scaled": "scaled values",
}  # fmt: skip


def noun(attrs: Mapping[Any, Any]) -> str:
    """What a value of a result is called: an effect, or what its method gives instead."""
    return _NOUNS.get(str(attrs.get("method")), "effect")


def each_head(result: xr.Dataset) -> str:
    """The title of a map of heads: of what, and of effects at which site, or by way of which receiver."""
    name = noun(result.attrs)
    if name != "effect" or "site" in result.dims:
        scored = name == "score" and "score" in result.coords and result["score"].ndim == 0
        return f"{str(result['score'].item()).replace('_', ' ') + ' ' if scored else ''}{name} of each head"
    if "receivers" in result.attrs:
        way = "each receiver" if "receiver" in result.dims else result.attrs["receivers"]
        return f"{name} of each head by way of {way}"
    return f"{name} of each head ({result.attrs.get('site', 'z')})"


def method(result: xr.Dataset) -> str:
    """How the numbers were made: "exact patching", "RelP estimate", "difference of two results"."""
    if is_difference(result):
        pair = str(result.attrs.get("difference", ""))
        return f"difference: {pair.replace(' - ', ' − ')}" if pair else "difference of two results"
    name = str(result.attrs.get("method", ""))
    known = {**_EXACT, **_READOUTS}.get(name)
    return known or (f"{_estimator(name)} estimate" if is_estimate(result) else name)


def is_estimate(result: xr.Dataset) -> bool:
    """Whether a result holds estimates of effects, by its method's name."""
    return not is_difference(result) and _family(str(result.attrs.get("method", ""))) in _ESTIMATES


def _family(name: str) -> str:
    """`atp*` of `AtpStar(...)`-like or `atp*(qk_fix=False)`-like names."""
    return name.partition("(")[0].strip().lower()


def _estimator(name: str) -> str:
    """The name that papers use, with what was set."""
    _, bracket, options = name.partition("(")
    return _ESTIMATES[_family(name)] + bracket + options


def heading(result: xr.Dataset, words: str) -> str:
    """A title, which says where the effect is an estimate or a difference: `words` begin with "effect"."""
    if is_difference(result):
        return f"Difference in {words}"
    text = f"estimated {words}" if is_estimate(result) else words
    return text[0].upper() + text[1:]


def subject(result: xr.Dataset) -> str:
    """The model and the task."""
    model, task = (_known(result.attrs.get(name)) for name in ("model", "task"))
    return f"{model} on {task}" if model and task else model or task


def prompts(result: xr.Dataset, n: int | None = None) -> str:
    """Over how many prompts: also where a mean over them was taken, and where one of them was chosen."""
    if "prompt" in result.coords and result["prompt"].ndim == 0:
        return f"prompt {result['prompt'].item()} alone"
    count = result.sizes.get("prompt", n if n is not None else result.attrs.get("n_prompts"))
    return "" if count is None else f"{count} prompt{'s' if int(count) != 1 else ''}"


def direction(attrs: Mapping[Any, Any]) -> str:
    """The direction, and what it puts where."""
    way = _known(attrs.get("direction"))
    kind = str(attrs.get("ablation", attrs.get("corruption", ""))).partition("(")[0].strip().lower()
    stand_in = _STAND_INS.get(kind, "corrupt")
    if way == "denoise":
        into = "corrupt" if stand_in == "corrupt" else f"a run with {stand_in}"
        return f"denoise: clean patched into {into}"
    return f"noise: {stand_in} patched into clean" if way == "noise" else way


def subtitle(
    result: xr.Dataset,
    facts: MetricFacts | None = None,
    normalised: bool | None = None,
    interval: Mapping[Any, Any] | None = None,
) -> str:
    """Everything that a figure of effects says below its title.

    facts: the metric that is drawn. normalised: whether its values are shares of clean − corrupt; None: it
    does not matter. interval: the attributes of intervals that are drawn.
    """
    facts = metric_facts(result)[0] if facts is None and metric_facts(result) else facts
    parts = [method(result), subject(result), direction(result.attrs), prompts(result)]
    window = int(result.attrs.get("window", 1))
    parts += [f"{window} layers at once"] if window > 1 else []
    error = result.attrs.get("precision_error")
    parts += [] if error is None else [str(result.attrs["precision"]).partition(":")[0] + f", ±{error:.1g}"]
    parts += [] if facts is None else [metric(facts)]
    if normalised is not None and noun(result.attrs) in _OF_GAPS:
        scale = "normalised: 0 unpatched, 1 the whole of clean − corrupt"
        parts.append(scale if normalised else "not normalised")
    return " · ".join(part for part in [*parts, intervals(interval or {})] if part)


def metric(facts: MetricFacts) -> str:
    """The metric and its unit; the unit alone of what is no metric."""
    if facts.name in ("", "none"):
        return facts.unit if facts.unit != "none" else ""
    return f"{facts.name} ({facts.unit})" if facts.unit and facts.unit != facts.name else facts.name


def intervals(attrs: Mapping[Any, Any]) -> str:
    """Of which level intervals are, and over what."""
    if "level" not in attrs:
        return ""
    unit = str(attrs.get("resampled", "prompt"))
    plural = "groups of prompts" if unit in ("template", "unit") else f"{unit}s"  # pairs, or templates
    counted = f"{attrs.get('n_resampled', '')} {plural}".strip()
    return f"{100 * float(attrs['level']):.4g} % intervals over {counted}"


def _known(value: Any) -> str:
    return "" if value is None or str(value) == "none" else str(value)


def one_metric(result: xr.Dataset, name: str | None) -> tuple[xr.Dataset, MetricFacts]:
    """The result for one metric, and what is known of it. ValueError where the choice is open or unknown."""
    known = [facts.name for facts in metric_facts(result)]
    if name is not None and name not in known:
        raise ValueError(f"metric is {name!r}, but the result has {', '.join(known)}.{hint(name, known)}")
    if "metric" not in result.dims:
        return result, metric_facts(result)[0]
    if name is None and result.sizes["metric"] > 1:
        raise ValueError(f"the result has {len(known)} metrics: {', '.join(known)}. Choose one with metric=.")
    chosen = result.sel(metric=name or known[0])
    return chosen, metric_facts(chosen)[0]
