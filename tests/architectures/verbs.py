"""Every verb on one model, against the oracle: the largest error, the engine that ran, or the refusal.

`check(name)` returns, by verb, a `Cell`. An error is relative to the spread of what is compared.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import zoo
from experts import SITES, Experts
from oracle import Oracle, Throughout64
from torch import Tensor

import interp
from interp import circuits, steering

ANSWER, WRONG = torch.tensor([5, 6, 7]), torch.tensor([8, 9, 10])
QUIET: dict[str, Any] = {"progress": False}


@dataclass(frozen=True)
class Cell:
    """What came of one verb."""

    error: float | None  # None: refused
    note: str  # the engine, or the sentence


@dataclass(frozen=True)
class Case:
    """A model, its task, and the transformers model beside it."""

    model: Any
    task: Any
    oracle: Oracle

    def metric(self, logits: Tensor) -> Tensor:
        """Logit difference at the last position: [prompt]."""
        rows = torch.arange(len(ANSWER))
        return logits[rows, -1, ANSWER] - logits[rows, -1, WRONG]


def case(name: str) -> Case:
    """The family's model, loaded by interp and by transformers."""
    folder, dtype = zoo.folder(name), zoo.dtype_of(name)
    model = interp.load(folder, dtype=dtype)
    interp.models.anatomy(model)  # refuses what has no attention
    clean, corrupt = zoo.prompts()
    task = interp.Task.from_tokens(
        clean=clean.tolist(), corrupt=corrupt.tolist(), answer=ANSWER.tolist(), wrong=WRONG.tolist()
    )
    return Case(model, task, Oracle(folder, dtype))


def check(name: str, verbs: tuple[str, ...] = ()) -> dict[str, Cell]:
    """Every verb of one family; a family that cannot be loaded has the one cell "load"."""
    with warnings.catch_warnings(), torch.no_grad(), Throughout64():
        warnings.simplefilter("ignore")
        try:
            one = case(name)
        except ValueError as refusal:
            return {"load": Cell(None, str(refusal))}
        error = relative(one.model(one.task.clean), one.oracle.logits(one.task.clean))
        cells = {"load": Cell(error, type(one.model).__name__)}
        mixture = any(interp.models.anatomy(one.model).experts)
        for verb, run in VERBS.items():
            if (not verbs or verb in verbs) and (mixture or verb != "experts"):
                cells[verb] = _cell(run, one)
        return cells


def _cell(run: Callable[[Case], tuple[float, str]], one: Case) -> Cell:
    try:
        return Cell(*run(one))
    except ValueError as refusal:
        return Cell(None, str(refusal))
    except Exception as error:  # whatever else is raised is a fault, and has its own cell
        return Cell(float("nan"), f"{type(error).__name__}: {error}")


def relative(ours: Any, theirs: Any) -> float:
    """Largest difference, in spreads (standard deviations) of what is right."""
    ours, theirs = (torch.as_tensor(np.asarray(each)).double() for each in (ours, theirs))
    return float((ours - theirs).abs().max() / theirs.std().clamp(min=1e-3))


def as_metric(found: Any, right: Tensor, base: Tensor) -> float:
    """The error in spreads of the metric: mixtures compute in float32, which rounds logits."""
    base = base.view(-1, *(1,) * (right.ndim - 1))
    return relative(torch.as_tensor(found["value"].values) + base, right + base)


def _patched(one: Case, engine: str) -> tuple[float, str]:
    """Clean into corrupt at every L.resid_pre@pos and every head's z."""
    clean, corrupt = one.task.clean, one.task.corrupt
    stream, heads = one.oracle.inputs(clean)
    base = one.metric(one.oracle.logits(corrupt))
    found = interp.patch(one.model, one.task, "resid_pre", engine=engine, **QUIET)
    right = (
        torch.stack([_at_positions(one, layer, stream[layer]) for layer in range(len(stream))], 1)
        - base[:, None, None]
    )
    worst = relative(found.value.transpose("prompt", "layer", "pos"), right)
    engine = str(found.attrs.get("engine", engine))
    try:
        found = interp.patch(one.model, one.task, "z", engine=engine, **QUIET)
    except ValueError:
        return worst, f"{engine}; no z"
    right = (
        torch.stack([_at_heads(one, layer, heads[layer]) for layer in range(len(heads))], 1)
        - base[:, None, None]
    )
    return max(worst, relative(found.value.transpose("prompt", "layer", "head"), right)), engine


def _at_positions(one: Case, layer: int, source: Tensor) -> Tensor:
    """Metrics of corrupt runs with the clean input of a layer at one position: [prompt, pos]."""
    n, n_pos = source.shape[:2]
    chosen = torch.eye(n_pos, dtype=torch.bool).repeat_interleave(n, 0)[..., None]  # [pos · prompt, pos, 1]
    return _with_parts(one, one.oracle.layers[layer], chosen, source, one.task.corrupt, n_pos)


def _at_heads(one: Case, layer: int, source: Tensor, tokens: Tensor | None = None) -> Tensor:
    """Metrics of runs with one head's z of another run: [prompt, head]."""
    n_heads = one.oracle.n_heads
    of = torch.arange(source.shape[-1]) // (source.shape[-1] // n_heads)
    chosen = (of == torch.arange(n_heads)[:, None]).repeat_interleave(source.shape[0], 0)
    chosen = chosen.view(-1, *[1] * (source.ndim - 2), source.shape[-1])  # [head · prompt, 1, head · d_head]
    tokens = one.task.corrupt if tokens is None else tokens
    return _with_parts(one, one.oracle.outputs[layer], chosen, source, tokens, n_heads)


def _with_parts(one: Case, module: Any, chosen: Tensor, source: Tensor, tokens: Tensor, times: int) -> Tensor:
    """Metrics of `times` runs in one batch, in each of which another part of a module's input is replaced."""
    rows = source.repeat(times, *[1] * (source.ndim - 1))
    logits = one.oracle.with_input(
        module, lambda x: torch.where(chosen, rows.view_as(x), x), tokens.repeat(times, 1)
    )
    return torch.stack([one.metric(each) for each in logits.unflatten(0, (times, -1))], 1)


def _attribute(one: Case) -> tuple[float, str]:
    """AtP at every head's z: the slope at the corrupt run times clean minus corrupt."""
    (_, clean), (_, corrupt) = one.oracle.inputs(one.task.clean), one.oracle.inputs(one.task.corrupt)
    _, slopes = one.oracle.slopes(one.task.corrupt, one.metric)
    right = [one.oracle.heads_of(s * (a - b)).sum((1, 3)) for s, a, b in zip(slopes, clean, corrupt)]
    found = interp.attribute(one.model, one.task, "z", **QUIET)
    return relative(found.value.transpose("prompt", "layer", "head"), torch.stack(right, 1)), "gradients"


def _score_edges(one: Case) -> tuple[float, str]:
    """Edges out of the input sum to the attribution of L0.resid_pre, noise."""
    (clean, _), (corrupt, _) = one.oracle.inputs(one.task.clean), one.oracle.inputs(one.task.corrupt)
    slopes, _ = one.oracle.slopes(one.task.clean, one.metric)
    right = -(slopes[0] * (corrupt[0] - clean[0])).sum((1, 2))
    found = circuits.score_edges(one.model, one.task, method="eap", **QUIET)
    return relative(found.value.sel(writer="input").sum("reader"), right), "gradients"


def _run(one: Case) -> tuple[float, str]:
    """The whole circuit, none of it, and each head's edges out of it (that is its z of the corrupt run)."""
    graph = circuits.Graph.of(one.model)
    masks = graph.allowed.expand(2 + len(one.oracle.layers) * one.oracle.n_heads, -1, -1).clone()
    masks[1] = False
    right = [one.metric(one.oracle.logits(tokens)) for tokens in (one.task.clean, one.task.corrupt)]
    _, heads = one.oracle.inputs(one.task.corrupt)
    for layer, source in enumerate(heads):
        for head, value in enumerate(_at_heads(one, layer, source, one.task.clean).unbind(1)):
            masks[len(right), list(graph.writers).index(f"a{layer}.h{head}")] = False
            right.append(value)
    found = circuits.run(one.model, one.task, masks, **QUIET)
    raw = found.raw.transpose("circuit", "prompt") if hasattr(found, "raw") else found
    return relative(raw, torch.stack(right)), "fast"


def _activations(one: Case) -> tuple[float, str]:
    """The stream before every block at the last position."""
    names = [f"L{layer}.resid_pre" for layer in range(len(one.oracle.layers))]
    found = steering.activations(one.model, one.task.clean, names)
    stream, _ = one.oracle.inputs(one.task.clean)
    pairs = zip(found.values(), stream)
    return max(relative(ours.reshape(len(right), -1), right[:, -1]) for ours, right in pairs), "fast or hooks"


def _generate(one: Case) -> tuple[float, str]:
    """Six tokens, greedily, as transformers' own `generate` without a cache; the share that differs."""
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "use_cache": False}
    options |= {"pad_token_id": 2}
    right = one.oracle.model.generate(
        one.task.clean, attention_mask=torch.ones_like(one.task.clean), **options
    )
    found = steering.generate(one.model, one.task.clean, max_new_tokens=6, stop=())
    return float((torch.as_tensor(found) != right).double().mean()), "tokens"


def _bake(one: Case) -> tuple[float, str]:
    """A direction taken out of what attention of block 1 writes, in the weights."""
    vector = torch.linspace(-1, 2, one.model.cfg.d_model).to(one.model.W_E.dtype)
    unit = vector / vector.norm()
    edit = steering.ablate(steering.Direction.from_tensor(unit, "attn_out", 1))
    with steering.bake(one.model, edit):
        found = one.model(one.task.clean)
    output = one.oracle.outputs[1]
    handle = output.register_forward_hook(lambda _, args, out: out - (out @ unit)[..., None] * unit)
    right = one.oracle.logits(one.task.clean)
    handle.remove()
    return relative(found, right), "weights"


def _direct(one: Case) -> tuple[float, str]:
    """Direct effects of all parts sum to the logit difference, before a soft cap of the logits."""
    found = interp.attribution.direct(one.model, one.task)
    return relative(found.value.sum("component"), uncapped(one)), "weights"


def uncapped(one: Case) -> Tensor:
    """The metric of the clean run before a soft cap of the logits."""
    logits = one.oracle.logits(one.task.clean)
    cap = getattr(one.oracle.model.config, "final_logit_softcapping", None)
    return one.metric(logits if cap is None else cap * torch.atanh(logits / cap))


def _experts(one: Case) -> tuple[float, str]:
    """Patches and AtP of every expert's weight, and of what every expert adds."""
    base, experts, worst = one.metric(one.oracle.logits(one.task.corrupt)), Experts(one), []
    layers = list(experts.modules)
    for site in SITES:
        patched, estimated = (
            verb(one.model, one.task, site, **QUIET).sel(layer=layers)
            for verb in (interp.patch, interp.attribute)
        )
        right = [
            torch.stack([of(site, layer) for layer in layers], 1)
            for of in (experts.effects, experts.estimated)
        ]
        worst += [as_metric(patched, right[0], base), relative(estimated["value"], right[1])]
    return max(worst), "hooks"


VERBS: dict[str, Callable[[Case], tuple[float, str]]] = {
    "patch": lambda one: _patched(one, "auto"),
    "patch, reference": lambda one: _patched(one, "reference"),
    "attribute": _attribute,
    "score_edges": _score_edges,
    "circuits.run": _run,
    "activations": _activations,
    "generate": _generate,
    "bake": _bake,
    "direct": _direct,
    "experts": _experts,
}
