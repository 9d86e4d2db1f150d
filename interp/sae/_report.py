"""How good is a dictionary? What it explains of an activation, what the model loses by it, what it leaves.

Over real tokens, `skip` of them left out at the start of every prompt (the beginning token's norm is so
large that a dictionary which fits it alone looks perfect). x̄ is the mean over the whole sample.

| figure | definition |
|---|---|
| l0 | mean number of features that are not 0 |
| fvu | Σ‖x − x̂‖² / Σ‖x − x̄‖²; explained variance is 1 − fvu |
| cosine, norm_ratio | means of cos(x, x̂) and ‖x̂‖ / ‖x‖ |
| bias | Σ‖x̂‖² / Σ x·x̂; below 1 it shrinks (2404.16014) |
| ce_rise | cross-entropy with x̂ in the place of x, less the model's own, nats a token |
| recovered_zero, recovered_mean | (CE of the ablated site − CE with x̂) / (CE of the ablated site − the
model's) |
| kl | KL(model ‖ with x̂), nats a token |
| dark_linear | share of ε that a linear map of x predicts, on held-out prompts (2410.14670) |
| dark_norm | share of the variance of ‖ε‖² that a linear map of x predicts, on held-out prompts |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp import results
from interp._activations import activations
from interp._verbs import verb, warn
from interp.models import Model, anatomy, logits
from interp.models.hook_points import patch_hooks
from interp.places import Place, hook_name
from interp.prompts import Prompts, read
from interp.sae._dictionary import Dictionary
from interp.sae._site import read_norm, read_sites, require, site_name
from interp.steering._generate import no_next_tokens

DENSE = 0.1  # firing rate above which a feature is dense
_RESAMPLES = 1000
_RIDGE = 1e-3  # of the mean of the Gram matrix's diagonal


@verb
def report(
    model: Model,
    dictionary: Dictionary,
    data: Any,
    *,
    skip: int = 1,
    mask: Tensor | None = None,
    level: float = 0.95,
    seed: int = 0,
    batch_size: int | None = None,
) -> xr.Dataset:
    """Figures of a dictionary on prompts (see the table above), with intervals over prompts.

    data: prompts (`prompts.read`), or a task. skip: tokens left out at the start of each, as they are.

    Returns a Dataset: `estimate`, `low`, `high` [figure]; `rate` [feature], the share of tokens on which a
    feature is on; `ce` [prompt, run], nats a token, of the runs model, dictionary, zero, mean. attrs:
    `n_tokens`; `dead` and `dense`, how many features are on for no token, for more than a tenth;
    `unseen_below`, the rate that as many tokens do not exclude (3 / n). Recovered is NaN where ablation
    costs nothing; all figures of cross-entropy are, with a warning, where the model foretells no tokens (a
    classifier, attention that goes both ways).

    Cost: five forwards a prompt. Raises ValueError for a dictionary that does not fit the model, and
    prompts that are no longer than `skip` + 1.

    Example:
        >>> import torch
        >>> from interp import sae
        >>> model = interp.load("tiny-ioi")
        >>> both = torch.cat((torch.eye(64), -torch.eye(64)))
        >>> d = sae.Dictionary(both.T, torch.zeros(128), both, torch.zeros(64), place="L1.resid_pre")
        >>> found = sae.report(model, d, interp.tasks.ioi(model, n=4))
        >>> names = ["fvu", "ce_rise", "recovered_mean"]
        >>> [round(float(found["estimate"].sel(figure=each)), 3) + 0.0 for each in names]
        [0.0, 0.0, 1.0]
    """
    require(dictionary, model)
    prompts = _prompts(model, data, mask, skip)
    if (why := no_next_tokens(model, taught=True)) is not None:
        warn(f"{why} Figures of cross-entropy are NaN.")
    with torch.no_grad():
        sample = _sample(model, dictionary, prompts, skip, batch_size)
        sums = _sums(dictionary, sample)
        ce, kl = _losses(model, dictionary, prompts, sample, skip, batch_size or 32)
    sums |= {"ce": ce, "kl": kl}
    every = np.arange(len(prompts))
    rng = np.random.default_rng(seed)
    draws = [_figures(sums, rng.choice(every, len(every))) for _ in range(_RESAMPLES)]
    point = _figures(sums, every)
    ends = {
        name: np.nanquantile([d[name] for d in draws], [(1 - level) / 2, (1 + level) / 2])
        for name in point
        if not np.isnan(point[name])
    }
    dark = _dark(sample, rng)
    names = [*point, *dark]
    low, high = ([ends[n][side] if n in ends else np.nan for n in names] for side in (0, 1))
    rate = sums["rate"]
    attrs = results.provenance(
        method="sae.report", site=site_name(dictionary), model=anatomy(model).name, n_prompts=len(prompts),
        seed=seed, convention="figures of a dictionary; lower is better for fvu, ce_rise and kl", level=level,
        skip=skip, n_tokens=len(sample.x), dead=int((rate == 0).sum()), dense=int((rate > DENSE).sum()),
        unseen_below=3 / len(sample.x), dictionary=repr(dictionary), n_features=dictionary.n_features,
    )  # fmt: skip
    attrs |= {"metric": "figures of a dictionary", "unit": "nats, and shares", "better": "see convention"}
    per_token = ce / sums["n_next"][:, None]
    variables = {
        "ce": (("prompt", "run"), per_token),
        "estimate": (("figure",), np.array([{**point, **dark}[name] for name in names])),
        "low": (("figure",), np.array(low)),
        "high": (("figure",), np.array(high)),
        "rate": (("feature",), rate),
    }
    coords = {"run": ["model", "dictionary", "zero", "mean"], "figure": names, "prompt": every}
    return results.dataset(variables, coords, attrs)


def _prompts(model: Model, data: Any, mask: Tensor | None, skip: int) -> Prompts:
    """The prompts. ValueError where `skip` leaves none of two tokens."""
    prompts = read(model, data, mask)
    shortest = int(prompts.lengths.min())
    if skip < 0 or shortest < skip + 2:
        raise ValueError(f"skip is {skip}, and the shortest prompt has {shortest} tokens; it needs skip + 2.")
    return prompts


@verb
def check(
    model: Model, dictionary: Dictionary, data: Any, *, skip: int = 1, mask: Tensor | None = None
) -> float:
    """Whether a dictionary belongs where it is said to: the share of variance that it leaves (FVU).

    Warns, with the likely causes, above 1: it then explains less than the mean would (another basis, a
    scale that is missing, a site off by one, the beginning token). Cost: a forward a prompt. Raises
    ValueError for a dictionary that does not fit the model.

    Example:
        >>> import torch
        >>> from interp import sae
        >>> model = interp.load("tiny-ioi")
        >>> both = torch.cat((torch.eye(64), -torch.eye(64)))
        >>> d = sae.Dictionary(both.T, torch.zeros(128), both, torch.zeros(64), place="L1.resid_pre")
        >>> round(sae.check(model, d, interp.tasks.ioi(model, n=4)), 3)
        0.0
    """
    require(dictionary, model)
    prompts = _prompts(model, data, mask, skip)
    with torch.no_grad():
        sums = _sums(dictionary, _sample(model, dictionary, prompts, skip, None))
    fvu = float(sums["sse"].sum() / sums["sst"].sum())
    if not fvu <= 1:
        warn(
            f"the dictionary leaves {fvu:.3g} of the variance of {site_name(dictionary)}, more than a "
            "constant would. "
            "Likely: another basis (a model with folded norms), a scale of the input that is missing, a "
            "site off by "
            f"one, or tokens that it never saw (skip={skip} at the start of each prompt are left out)."
        )
    return fvu


@dataclass(frozen=True, eq=False)
class _Sample:
    """Tokens of all prompts: what is read and what is written, and whose they are."""

    x: Float[Tensor, "token d"]
    y: Float[Tensor, "token d_out"]
    prompt: np.ndarray  # [token]
    n_prompts: int
    written: Float[Tensor, "token d_out"]  # x̂


def _sample(
    model: Model, dictionary: Dictionary, prompts: Prompts, skip: int, batch_size: int | None
) -> _Sample:
    ends = [Place(*end) for end in read_sites(dictionary, model)]
    kept = activations(model, prompts, list(dict.fromkeys(ends)), "all", batch_size=batch_size)
    lengths = prompts.lengths.cpu()
    pos = torch.cat([torch.arange(int(n)) for n in lengths])
    some = (pos >= skip).nonzero()[:, 0]
    prompt = torch.arange(len(lengths)).repeat_interleave(lengths)[some]
    x, y = (kept[end].flatten(1)[some.to(kept[end].device)] for end in ends)
    norm = read_norm(dictionary, model)
    x = x if norm is None else norm(x)
    written = torch.cat([dictionary(part) for part in x.split(512)])
    return _Sample(x, y, prompt.numpy(), len(lengths), written)


def _sums(d: Dictionary, sample: _Sample) -> dict[str, np.ndarray]:
    """Sums of every prompt, float64, and the rate of every feature."""
    y, out = sample.y.double(), sample.written.double()
    on = [d.encode(part) != 0 for part in sample.x.split(512)]
    by_token = {
        "n": torch.ones(len(y)),
        "sse": (y - out).square().sum(1),
        "sst": (y - y.mean(0)).square().sum(1),
        "l0": torch.cat([part.sum(1) for part in on]),
        "cosine": torch.nn.functional.cosine_similarity(y, out, dim=1),
        "ratio": out.norm(dim=1) / y.norm(dim=1),
        "out2": out.square().sum(1),
        "dot": (y * out).sum(1),
    }
    sums = {
        name: np.bincount(sample.prompt, each.double().cpu().numpy(), sample.n_prompts)
        for name, each in by_token.items()
    }
    rate = torch.stack([part.double().sum(0) for part in on]).sum(0) / len(y)
    return sums | {"rate": rate.cpu().numpy(), "n_next": np.maximum(sums["n"] - 1, 1)}


def _losses(
    model: Model, d: Dictionary, prompts: Prompts, sample: _Sample, skip: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of next-token cross-entropy of four runs [prompt, run], and of KL [prompt], in nats."""
    mean, place = sample.y.mean(0), read_sites(d, model)[1]
    ce, kl = np.zeros((len(prompts), 4)), np.zeros(len(prompts))
    foretold = no_next_tokens(model, taught=True) is None
    for start in range(0, len(prompts), size):
        rows = np.arange(start, min(start + size, len(prompts)))
        tokens = prompts.tokens[start : start + size]
        lengths = prompts.lengths[start : start + size].to(tokens.device)
        pos = torch.arange(tokens.shape[1], device=tokens.device)[None]
        real = (pos >= skip) & (pos < lengths[:, None])  # [prompt, pos]
        counted = real[:, :-1] & real[:, 1:]
        flat = torch.as_tensor(np.isin(sample.prompt, rows))
        puts: list[Callable[[Tensor], Tensor]] = [
            lambda h, new=sample.written[flat]: new,
            lambda h: torch.zeros_like(h),
            lambda h: mean.expand_as(h),
        ]
        own = logits(model, tokens).float().log_softmax(-1)
        runs = [own, *(_replaced(model, place, tokens, real, put) for put in puts)]
        for number, out in enumerate(runs if foretold else ()):
            taken = out[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0].double()
            ce[rows, number] = -(taken * counted).sum(1).cpu().numpy()
        gap = (own.exp() * (own - runs[1])).sum(-1).double()[:, :-1]
        kl[rows] = (gap * counted).sum(1).cpu().numpy()
    return ce if foretold else np.full_like(ce, np.nan), kl


def _replaced(
    model: Model, place: tuple[str, int], tokens: Tensor, real: Tensor, put: Callable[[Tensor], Tensor]
) -> Tensor:
    """Log-probabilities with the site replaced at the positions that count."""
    kept: dict[str, Tensor] = {}

    def keep(tensor: Tensor, hook: Any) -> Tensor:
        kept["site"] = tensor
        return tensor

    with model.hooks(fwd_hooks=[(hook_name(*place), keep)]):
        logits(model, tokens)
    source = kept["site"].clone()
    rows = source[real].flatten(1)
    source[real] = put(rows).reshape(source[real].shape).to(source)
    with model.hooks(fwd_hooks=patch_hooks(model, *place, (slice(None),), source)):
        return logits(model, tokens).float().log_softmax(-1)


def _figures(sums: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, float]:
    """The figures of some prompts: ratios of sums."""
    total = {name: each[rows].sum(0) for name, each in sums.items() if name != "rate"}
    n, ce = total["n"], total["ce"] / total["n_next"]
    model, ours, zero, mean = ce
    share = lambda base: float((base - ours) / (base - model)) if base > model else float("nan")  # noqa: E731
    return {
        "l0": float(total["l0"] / n),
        "fvu": float(total["sse"] / total["sst"]),
        "cosine": float(total["cosine"] / n),
        "norm_ratio": float(total["ratio"] / n),
        "bias": float(total["out2"] / total["dot"]),
        "ce_rise": float(ours - model),
        "recovered_zero": share(zero),
        "recovered_mean": share(mean),
        "kl": float(total["kl"] / total["n_next"]),
    }


def _dark(sample: _Sample, rng: np.random.Generator) -> dict[str, float]:
    """What a linear map of x predicts of ε and of its squared norm, on the half of prompts that it did not
    see."""
    chosen = rng.permutation(sample.n_prompts)[: sample.n_prompts // 2]
    fitted = torch.as_tensor(np.isin(sample.prompt, chosen))
    x, error = sample.x.double(), (sample.y - sample.written).double()
    if int(fitted.sum()) < 2 * x.shape[1] or bool(fitted.all()) or float(error.abs().max()) == 0:
        return {"dark_linear": float("nan"), "dark_norm": float("nan")}
    targets = {"dark_linear": error, "dark_norm": error.square().sum(1, keepdim=True)}
    return {name: _held_out(x, target, fitted) for name, target in targets.items()}


def _held_out(x: Tensor, target: Tensor, fitted: Tensor) -> float:
    """R² of a ridge on the rows that were not fitted."""
    centre, level = x[fitted].mean(0), target[fitted].mean(0)
    a, b = x[fitted] - centre, target[fitted] - level
    gram = a.T @ a
    gram = gram + _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    W = torch.linalg.solve(gram, a.T @ b)
    seen, wanted = (x[~fitted] - centre) @ W + level, target[~fitted]
    left = (wanted - seen).square().sum() / (wanted - wanted.mean(0)).square().sum()
    return float(1 - left)
