"""A stress test of features: does "coffee" fire on "coffins", and does steering hold across contexts?

1. The feature is read at a word, in several contexts: of the words that it is said to be of (target), of
   words that look like them (near), of any others. AUROC of target against each kind; 0.5 says that the
   feature does not tell them apart.
2. Variance over target words and contexts: the share between contexts, beside that between words. A feature
   of a word varies with neither.
3. Of a sweep (prompt, layer, coefficient) the shares of the variance of the effect that lie between layers,
   between coefficients, between contexts, and in how these act together: where most lies in contexts, one
   prompt says nothing about the next. Success is the share of prompts in which the effect passes 0.

Ronge, Maier and Eberhardt 2601.03047, derived from its abstract: words, shares and rates are ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp import results
from interp._arguments import whole
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.places import hint
from interp.probes.selectors import auroc
from interp.sae._contexts import encode, require_features
from interp.sae._dictionary import Dictionary
from interp.sae._site import name_of, require, site_name
from interp.tasks import vocabulary


@verb
def near_misses(model: Model, word: str, n: int = 5) -> list[str]:
    """Words of the vocabulary that are spelt most like a word, itself left out; nearest first.

    At most n, and fewer where fewer have three fifths of their letters in common with it (difflib's ratio).
    Spaces around the word do not count. Raises ValueError for a model without a tokenizer, an empty word, and
    n below 1.

    Example:
        >>> from interp import sae
        >>> "Martin" in sae.methods.near_misses(interp.load("tiny-ioi"), "Mary", 8)
        True
    """
    whole("n", n, 1)
    if not vocabulary.has_tokenizer(model):
        raise ValueError(
            "near misses are words, and this model has no tokenizer. Give token ids of your own."
        )
    word = word.strip()
    if not word:
        raise ValueError("word is empty; give a word.")
    return difflib.get_close_matches(word, [each for each in vocabulary.words(model) if each != word], n)


@verb
def stress(
    model: Model,
    dictionary: Dictionary,
    features: Sequence[int],
    contexts: Sequence[str],
    words: Mapping[str, Sequence[str]],
    *,
    batch_size: int | None = None,
) -> xr.Dataset:
    """Features read at words of several kinds, in several contexts (see the steps above).

    contexts: texts with "{}" for the word; what follows the word is not read. words: by kind, the first of
    which is what the features are said to be of ({"target": [...], "near": [...], "other": [...]}).

    Returns a Dataset: `value` [feature, kind], AUROC of the first kind against each other one (NaN for
    itself); `rate` [feature, kind], how often it is on; `mean` [feature, kind], in units of the dictionary;
    `context_share`, `word_share` [feature], of the variance over the first kind's words and contexts, NaN
    where there is none. Cost: a forward of each word in each context as far as the site. Raises ValueError
    for a context without "{}", fewer than two kinds, and features that the dictionary does not have. Ronge
    et al.
    2601.03047 (derived).

    Example:
        >>> import torch
        >>> from interp import sae
        >>> model = interp.load("tiny-ioi")
        >>> both = torch.cat((torch.eye(64), -torch.eye(64)))
        >>> d = sae.Dictionary(both.T, torch.zeros(128), both, torch.zeros(64), place="L1.resid_pre")
        >>> kinds = {"name": ["Mary", "John"], "place": ["store", "park"]}
        >>> found = sae.methods.stress(model, d, [0, 1], ["When {}", "Then {}"], kinds)
        >>> found["value"].dims, found["rate"].shape
        (('feature', 'kind'), (2, 2))
    """
    require(dictionary, model)
    require_features(dictionary, features)
    _require_words(contexts, words)
    tables = _readings(model, dictionary, features, contexts, words, batch_size)
    first, *others = tables.values()
    own = first.flatten(0, 1)
    areas = [
        torch.full((len(features),), float("nan")).double(),
        *(auroc(own, t.flatten(0, 1)) for t in others),
    ]
    shares = variance_shares(first)
    attrs = results.provenance(
        method="sae.stress", model=anatomy(model).name, site=site_name(dictionary),
        n_prompts=sum(each.shape[0] * each.shape[1] for each in tables.values()),
        convention="AUROC of the first kind of words against each other one; 0.5: not told apart",
        dictionary=repr(dictionary),
    )  # fmt: skip
    attrs |= {"metric": "auroc", "unit": "AUROC", "better": "higher"}
    dims = ("feature", "kind")
    stacked = lambda of: np.stack([of(t.flatten(0, 1)) for t in tables.values()], -1)  # noqa: E731
    variables = {
        "value": (dims, torch.stack(areas, -1).numpy()),
        "rate": (dims, stacked(lambda t: (t != 0).double().mean(0).numpy())),
        "mean": (dims, stacked(lambda t: t.mean(0).numpy())),
        "context_share": (("feature",), shares[0].numpy()),
        "word_share": (("feature",), shares[1].numpy()),
    }
    names = np.array([name_of(dictionary, each) for each in features], dtype=object)
    coords = {"feature": names, "index": ("feature", np.array(features)), "kind": list(tables)}
    return results.dataset(variables, coords, attrs)


def _require_words(contexts: Sequence[str], words: Mapping[str, Sequence[str]]) -> None:
    """ValueError for a context without one place for a word, and for fewer than two kinds with words."""
    if wrong := [each for each in contexts if each.count("{}") != 1]:
        raise ValueError(f"{wrong[0]!r} has no place for a word; write {{}} once in each context.")
    if len(words) < 2 or not contexts or not all(len(each) for each in words.values()):
        sizes = {kind: len(each) for kind, each in words.items()}
        raise ValueError(
            f"there are {len(contexts)} contexts and words {sizes}; give two kinds or more, with words."
        )


def _readings(
    model: Model,
    dictionary: Dictionary,
    features: Sequence[int],
    contexts: Sequence[str],
    words: Mapping[str, Sequence[str]],
    batch_size: int | None,
) -> dict[str, Tensor]:
    """Activations [context, word, feature] of each kind of word."""
    tables = {}
    for kind, listed in words.items():
        texts = [context.split("{}")[0] + word for context in contexts for word in listed]
        rows = encode(model, dictionary, texts, pos="last", batch_size=batch_size)[:, list(features)]
        tables[kind] = (
            rows.double().cpu().unflatten(0, (len(contexts), len(listed)))
        )  # [context, word, feature]
    return tables


@verb
def variance_shares(
    values: Float[Tensor, "context word *rest"],
) -> tuple[Float[Tensor, "*rest"], Float[Tensor, "*rest"]]:
    """Shares of the variance over both first dims that lie between contexts, and between words. Pure.

    What is left is how the two act together. NaN where nothing varies.

    Example:
        >>> import torch
        >>> from interp.sae import methods
        >>> values = torch.tensor([[1.0, 1.0], [3.0, 3.0]])
        >>> [float(each) for each in methods.variance_shares(values)]
        [1.0, 0.0]
    """
    x = values.double()
    total = (x - x.mean((0, 1))).square().mean((0, 1))
    between = [x.mean(1 - dim).sub(x.mean((0, 1))).square().mean(0) for dim in (0, 1)]
    nan = torch.full_like(total, float("nan"))
    shares = [torch.where(total > 0, each / total.clamp(min=1e-300), nan) for each in between]
    return shares[0], shares[1]


def _effect(sweep: xr.Dataset, metric: str | None) -> xr.DataArray:
    """The effects of one metric. ValueError for what is no sweep, and for a metric that it does not have."""
    dims = set(sweep["value"].dims) - {"metric"} if "value" in sweep else set()
    if dims != {"prompt", "layer", "coefficient"}:
        raise ValueError(
            f"the result has {'dims ' + ', '.join(sorted(map(str, dims))) if dims else 'no value'}; give a "
            "sweep by prompt, layer and coefficient."
        )
    by_name = "metric" in sweep["value"].dims
    known = [str(name) for name in sweep["metric"].values] if by_name else [str(sweep.attrs.get("metric"))]
    if metric is not None and metric not in known:
        raise ValueError(f"metric is {metric!r}; the sweep has {', '.join(known)}{hint(metric, known)}")
    return sweep["value"].sel(metric=known[0] if metric is None else metric) if by_name else sweep["value"]


@verb
def fragility(sweep: xr.Dataset, metric: str | None = None) -> xr.Dataset:
    """How much of the effect of steering hangs on layer, strength and context, from a result of a sweep.

    sweep: of `steering.sweep`, dims prompt, layer, coefficient. metric: which, where there are several (None:
    the first).

    Returns a Dataset: `value` [source], shares of the variance of the effect between layers, coefficients and
    prompts, and "together" for the rest (they sum to 1; NaN where nothing varies); `success` [layer,
    coefficient], the share of prompts in which the effect is above 0; `spread` [layer, coefficient], its
    standard deviation over prompts. Pure. Raises ValueError for other dims.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> d = interp.steering.mean_difference(model, task.clean[:4], task.clean[4:], layer=1)
        >>> swept = interp.steering.sweep(model, d, task, [0.0, 1.0], progress=False)
        >>> float(interp.sae.methods.fragility(swept)["value"].sum().round(6))
        1.0
    """
    value = _effect(sweep, metric)
    every = value.transpose("prompt", "layer", "coefficient").astype(float)
    centre = every - every.mean()
    total = float((centre**2).mean())
    names = ("layer", "coefficient", "prompt")
    parts = [float((centre.mean([d for d in names if d != name]) ** 2).mean()) for name in names]
    parts = [*parts, total - sum(parts)]
    attrs = {**sweep.attrs, "method": "sae.fragility"}
    attrs["convention"] = "shares of the variance of the effect of steering"
    shares = np.array(parts) / total if total > 0 else np.full(4, np.nan)
    variables = {
        "value": (("source",), shares),
        "success": (("layer", "coefficient"), (every > 0).mean("prompt").values),
        "spread": (("layer", "coefficient"), every.std("prompt").values),
    }
    coords = {"source": [*names, "together"], "layer": every["layer"].values}
    return results.dataset(variables, {**coords, "coefficient": every["coefficient"].values}, attrs)
