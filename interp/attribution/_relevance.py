"""Relevance of the tokens and components of one prompt: which of them the metric comes from.

1. Run the prompt once under relevance rules (RelP's by default), keeping the stream before the first block,
   what every head and MLP writes, and the biases.
2. One backward gives the coefficient of each of them; relevance is the value times its coefficient, summed.

Positive means that it raises the metric. Relevance is conserved under RelP's rules: for a metric that is
linear in the logits,

    metric = Σ_pos tokens + biases,

and the variable `residual` says by how much that fails here (rules switched off, a clamp, a metric that is
not linear). The same relevance passes through heads and MLPs on its way, layer after layer: theirs is not
added to that of the tokens, and not to one another's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from interp import results
from interp._arguments import whole
from interp._verbs import verb
from interp.attribution._by_hooks import Recording, autograd_on, record
from interp.attribution._by_weights import constant, hold
from interp.attribution._tables import Place
from interp.attribution.rules import check_hooks, check_rules, relevance_rules, ruled_weights
from interp.engine.forward import forward, unembed
from interp.engine.trust import slope_weights
from interp.methods import Method, Rules, parse, rules_of
from interp.models import Anatomy, Model, anatomy
from interp.models.parts import Weights
from interp.places import hook_name
from interp.tasks import vocabulary

Logits = Float[Tensor, "pos vocab"]
Target = Callable[[Logits], Tensor] | str | int | tuple[str | int, ...]


@dataclass(frozen=True)
class _Target:
    """What relevance is for: a number from the logits [pos, vocab], in the form of a metric."""

    name: str
    unit: str
    measure: Callable[[Logits], Tensor]
    better: str = "higher"


@verb
def relevance(
    model: Model,
    tokens: Int[Tensor, "pos"] | Int[Tensor, "prompt pos"] | str,
    metric: Target | list[Target],
    *,
    method: str | Method = "relp",
    engine: str = "auto",
) -> xr.Dataset:
    """Relevance of one prompt's tokens and of the model's components for a metric.

    tokens: the prompt, as a string or as token ids. metric: a token (its logit after the prompt), a pair of
    tokens (the first one's logit minus the second's), strings or ids; or a function from the logits [pos,
    vocab] to a number; or a list of these. method: the relevance rules, "relp", "attnlrp", "gim" or a value
    such as `Relp(ah=False)`. engine: "fast" by the model's weights, "reference" through the model itself
    under hooks, "auto" the first where it can; `attrs["engine"]` says which.

    Returns a Dataset in units of the metric: `tokens` [pos], the relevance of the stream before the first
    block, with the coordinate `token`; `value` [component], the relevance of "embed" (all of `tokens`),
    heads "L0H0"..., MLPs "MLP0"... and "biases"; `raw`, the metric itself; `residual`, raw - embed - biases.
    Several metrics add the dim `metric` at the end. Draw them with `plot.tokens(r.token.values, r.tokens)`
    and `plot.bars(r)`.

    Cost: one forward, and one backward for every metric. Raises ValueError for more than one prompt, a word
    that is not one token, a metric without a gradient, and as `relevance_rules` does. RelP: 2508.21258.

    Example:
        >>> from interp.attribution import relevance
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=2)
        >>> found = relevance(model, task.clean[0], int(task.answer[0]))
        >>> found["tokens"].dims, bool(abs(found["residual"]) < 1e-3)
        (('pos',), True)
    """
    facts = anatomy(model)
    check_hooks(model)
    chosen = parse(method)
    rules = rules_of(chosen)
    row = _row(model, facts, tokens)
    targets = [_target(model, facts, each) for each in (metric if isinstance(metric, list) else [metric])]
    if len(targets) == 0:
        raise ValueError("metric is empty. Give a token, a pair of tokens or a function.")
    check_rules(model, rules)
    with torch.inference_mode(False), torch.no_grad():
        sites = ("z",) if facts.attn_only else ("z", "mlp_out")
        weights = slope_weights(model, row, sites=sites, engine=engine)
    with autograd_on(), _recorded(model, weights, facts, row, rules) as (recording, biases):
        raws = [target.measure(recording.logits[0]) for target in targets]
        shares = [_scores(recording, biases, raw, raw is not raws[-1]) for raw in raws]
    attrs = results.provenance(
        method="relevance",
        metric=targets,  # type: ignore[arg-type]
        model=facts.name,
        n_prompts=1,
        convention="relevance = value · coefficient; positive: it raises the metric. tokens and biases "
        "add up to the metric; heads and MLPs carry the same relevance on its way",
        rules=repr(rules),
        engine="reference" if weights is None else "fast",
    )
    return _dataset(model, row, targets, [float(raw.detach()) for raw in raws], shares, attrs)


def _row(model: Model, facts: Anatomy, tokens: Tensor | str) -> Int[Tensor, "1 pos"]:
    if isinstance(tokens, str):
        ids = vocabulary.encode(model, tokens)
        tokens = torch.tensor(ids, device=facts.device, dtype=torch.long)
    row = tokens if tokens.ndim == 2 else tokens[None]
    if row.shape[0] != 1 or row.shape[1] == 0:
        raise ValueError(
            f"relevance takes one prompt; tokens have shape {tuple(tokens.shape)}. Give one row."
        )
    vocabulary.require_ids(model, row)
    return row.to(facts.device)


def _target(model: Model, facts: Anatomy, metric: Target) -> _Target:
    if callable(metric) and not isinstance(metric, type):
        return _Target(getattr(metric, "__name__", "custom"), "none", _checked(metric))
    words = metric if isinstance(metric, tuple) else (metric,)
    if len(words) not in (1, 2):
        raise ValueError(f"metric has {len(words)} tokens; give one, or a pair (answer, wrong).")
    ids = [_token(model, facts, word) for word in words]

    def difference(logits: Logits) -> Tensor:
        last = logits[-1]
        return last[ids[0]] - last[ids[1]] if len(ids) == 2 else last[ids[0]]

    return _Target(" minus ".join(f"logit of {word!r}" for word in words), "logits", difference)


def _checked(metric: Callable[[Logits], Tensor]) -> Callable[[Logits], Tensor]:
    def measure(logits: Logits) -> Tensor:
        value = metric(logits)
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
            raise ValueError(
                "the metric must be one number with a gradient in the logits; it returned "
                f"{tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}. "
                "Counts and argmax have none."
            )
        return value.reshape(())

    return measure


def _token(model: Model, facts: Anatomy, word: Any) -> int:
    if isinstance(word, str):
        found = vocabulary.continuation(model, word)
        if found is None:
            raise ValueError(f"{word!r} is not one token of this model (a leading space often is missing).")
        return found
    number = whole("metric: a token", word)
    if not 0 <= number < facts.d_vocab_out:
        raise ValueError(f"token {number} is not one of the model's {facts.d_vocab_out}.")
    return number


@contextmanager
def _recorded(
    model: Model, weights: Weights | None, facts: Anatomy, row: Tensor, rules: Rules
) -> Iterator[tuple[Recording, list[Tensor]]]:
    """One pass with its graph, by the weights or through the model, and the biases that are leaves of it."""
    if weights is None:
        biases = _biases(model)
        with _differentiable(biases), relevance_rules(model, rules):
            cut = [(hook_name("resid_pre", 0), _cut)]
            names = {key: hook_name(*place) for key, place in _places(facts).items()}
            yield record(model, row, names, before=cut), biases
        return
    parts, tensors = ruled_weights(constant(weights), rules, facts.act_fn), {}
    biases = [
        bias.requires_grad_(True) for bias in _added((parts.blocks, parts.final_norm, {"b_U": parts.b_U}))
    ]
    taps = {place: partial(hold, tensors, key) for key, place in _places(facts).items()}
    with torch.no_grad():
        x = weights.embed(row)
    stream = forward(parts, x.detach().requires_grad_(True), taps=taps, fused=True)
    yield Recording(unembed(parts, stream[0])[None], tensors, {key: key for key in tensors}), biases


def _added(part: Any) -> Iterator[Tensor]:
    """The biases of parts of a model."""
    if isinstance(part, tuple):
        yield from (bias for each in part for bias in _added(each))
    elif part is not None:
        own = (
            part if isinstance(part, dict) else {each.name: getattr(part, each.name) for each in fields(part)}
        )
        for name, value in own.items():
            if isinstance(value, Tensor) and (name == "bias" or name.startswith("b_")):
                yield value
            elif is_dataclass(value) and not isinstance(value, type):
                yield from _added(value)


def _cut(stream: Tensor, hook: Any) -> Tensor:
    """The stream before the first block, cut off from the embedding: biases before it belong to `tokens`."""
    return stream.detach()


def _places(facts: Anatomy) -> dict[str, Place]:
    """Where the parts that relevance is given to are read."""
    places: dict[str, Place] = {"embed": ("resid_pre", 0)}
    for layer in range(facts.n_layers):
        places[f"L{layer}"] = ("z", layer)
        if not facts.attn_only:
            places[f"MLP{layer}"] = ("mlp_out", layer)
    return places


def _biases(model: Model) -> list[Tensor]:
    """What the model adds: parameters named b, b_..., _b_... or bias, and float buffers (a bridge's b_U)."""
    every = [*model.named_parameters(), *model.named_buffers()]
    named = {id(x): (name.rpartition(".")[2], x) for name, x in every if x.is_floating_point()}
    return [x for last, x in named.values() if last in ("b", "bias") or last.startswith(("b_", "_b_"))]


@contextmanager
def _differentiable(tensors: list[Tensor]) -> Iterator[None]:
    """Frozen ones too; their flags are put back."""
    before = [tensor.requires_grad for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.requires_grad_(True)
        yield
    finally:
        for tensor, flag in zip(tensors, before):
            tensor.requires_grad_(flag)


def _scores(
    recording: Recording, biases: list[Tensor], value: Float[Tensor, ""], again: bool
) -> dict[str, Tensor]:
    """Value times coefficient, in float64: by position for "embed", by head for "L0", else one number.

    again: whether the graph is still needed afterwards.
    """
    names = list(recording.tensors)
    inputs = [*recording.tensors.values(), *biases]
    found = torch.autograd.grad(value, inputs, retain_graph=again, allow_unused=True)
    shares = [_share(x, slope) for x, slope in zip(inputs, found)]
    scores = dict(zip(names, shares))
    out = {"embed": scores.pop("embed").sum((0, 2))}
    for name, share in scores.items():
        out[name] = share.sum() if name.startswith("MLP") else share.sum((0, 1, 3))
    out["biases"] = sum((share.sum() for share in shares[len(names) :]), torch.zeros((), dtype=torch.float64))
    return out


def _share(x: Tensor, slope: Tensor | None) -> Tensor:
    """Nothing depends on some of them (a query's bias under the AH-rule): they have no relevance."""
    x = x.detach().double()
    return torch.zeros_like(x) if slope is None else x * slope.double()


def _by_component(shares: dict[str, Tensor]) -> dict[str, float]:
    """Heads one by one."""
    out: dict[str, float] = {}
    for name, share in shares.items():
        if name.startswith("L") and share.ndim == 1:
            out |= {f"{name}H{head}": float(value) for head, value in enumerate(share)}
        else:
            out[name] = float(share.sum())
    return out


def _dataset(
    model: Model,
    row: Int[Tensor, "1 pos"],
    targets: Sequence[_Target],
    raws: Sequence[float],
    shares: Sequence[dict[str, Tensor]],
    attrs: dict[str, Any],
) -> xr.Dataset:
    by_metric = [_by_component(each) for each in shares]
    value = np.array([list(each.values()) for each in by_metric]).T  # [component, metric]
    tokens = np.stack([each["embed"].cpu().numpy() for each in shares], -1)  # [pos, metric]
    residual = [raw - each["embed"] - each["biases"] for raw, each in zip(raws, by_metric)]
    lengths = torch.tensor([row.shape[1]])
    if vocabulary.has_tokenizer(model):
        labels = vocabulary.strings(model, row.cpu(), lengths)[0]
    else:
        labels = tuple(str(token) for token in row[0].tolist())
    coords = {
        "pos": np.arange(row.shape[1]),
        "token": ("pos", np.array(labels, dtype=object)),
        "component": np.array(list(by_metric[0]), dtype=object),
        "metric": [target.name for target in targets],
    }
    variables = {
        "value": (("component", "metric"), value),
        "tokens": (("pos", "metric"), tokens),
        "raw": (("metric",), np.array(raws)),
        "residual": (("metric",), np.array(residual)),
    }
    return results.dataset(variables, coords, attrs)
