"""Train probes on the tokens of prompts, one for each of several labellings of the same prompts.

1. Logistic regression on the mean token of each prompt (`logistic`), exact, by Newton's method. For "mean"
   that is all. It minimises mean cross-entropy + l2 |w|² in units where the rows have variance 1: the
   objective of `steering.logistic_probe`. Labels are 0 or 1, or shares between them. w lies in the span of
   the rows, so that no system is larger than the number of rows.
2. For the other aggregations, start there, with q near 0 and the values shared among the heads. Those that
   take a maximum have a second start: ridge regression of the labels on single tokens (`_by_token`), which
   gives a token that all prompts share no score. Each with the scale and bias of least loss (`_scaled`); the
   better one is taken, for each labelling: a maximum that is reached at a token of all prompts says the same
   of all of them, and has no slope that would lead away from there. Minimise
   mean cross-entropy + l2 (|v|² + |q|²), full batch, in float64, in units where tokens have variance 1.
   By Adam with a falling step: a maximum over tokens has kinks, on which line searches stop. The best of the
   iterates is kept, for each labelling by itself; labellings do not influence one another.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.probes.aggregate import KINDS, Weights, scores

_RATE = 0.05  # the first step of Adam
_NOISE = 0.1  # of the start of q and of the values of the heads, by coordinate, over √d


def train(
    kind: str,
    tokens: Float[Tensor, "prompt pos d"],
    real: Bool[Tensor, "prompt pos"],
    labels: Float[Tensor, "fit prompt"],
    *,
    heads: int = 1,
    l2: float = 1e-3,
    steps: int = 200,
    seed: int = 0,
) -> Weights:
    """Weights on the raw tokens. labels: 1 for the positive class. heads: of attention, multimax, rolling."""
    if kind not in KINDS:
        raise ValueError(f"the aggregation is {kind!r}; use one of {', '.join(KINDS)}.")
    if steps < 1:
        raise ValueError(f"steps is {steps}; it must be 1 or more.")
    tokens, labels = tokens.double(), labels.double()
    middle = tokens[real].mean(0)
    scale = tokens[real].std(0).square().mean().sqrt().clamp(min=1e-12)
    scaled = (tokens - middle) / scale
    share = real.to(scaled) / real.sum(1, keepdim=True)
    w, b = logistic(torch.einsum("ptd,pt->pd", scaled, share), labels, l2, balanced=True)
    if kind == "mean":
        return _raw(Weights(w[..., None], torch.zeros_like(w)[..., None], b), middle, scale)
    start = _start(w, b, 1 if kind == "ema" else heads, seed)
    if kind != "attention":
        starts = start, _start(_by_token(scaled, share, labels, l2), b, start.v.shape[2], seed)
        start = _better(kind, scaled, real, labels, starts, l2)
    return _raw(_minimised(kind, scaled, real, labels, start, l2, steps), middle, scale)


def _start(w: Tensor, b: Tensor, heads: int, seed: int) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    shape = (*w.shape[1:], heads)
    noise = [
        (_NOISE / w.shape[1] ** 0.5 * torch.randn(shape, generator=generator, dtype=w.dtype)).to(w.device)
        for _ in range(2)
    ]
    v = w[..., None] / heads + (noise[0] if heads > 1 else torch.zeros_like(noise[0]))
    return Weights(v, noise[1].expand_as(v), b)


def _by_token(tokens: Tensor, share: Tensor, labels: Tensor, l2: float) -> Float[Tensor, "fit d"]:
    """Ridge regression of a prompt's label on each of its tokens, every prompt with the same weight."""
    weighted = tokens * share[..., None]
    gram = torch.einsum("ptd,pte->de", weighted, tokens) / len(tokens)
    goal = labels - labels.mean(1, keepdim=True)
    slope = torch.einsum("fp,ptd->df", goal, weighted) / len(tokens)
    return torch.linalg.solve(gram + max(l2, 1e-6) * torch.eye(len(gram)).to(gram), slope).T


def _better(
    kind: str, tokens: Tensor, real: Tensor, labels: Tensor, starts: tuple[Weights, ...], l2: float
) -> Weights:
    """Of the starts, the one with the least loss, for each labelling."""
    starts = tuple(_scaled(kind, tokens, real, labels, start, l2) for start in starts)
    losses = torch.stack([_loss(kind, tokens, real, labels, start, l2) for start in starts])
    best, fits = losses.argmin(0), torch.arange(len(labels), device=labels.device)
    v, q, b = (torch.stack([getattr(start, part) for start in starts])[best, fits] for part in "vqb")
    return Weights(v, q, b)


def _scaled(kind: str, tokens: Tensor, real: Tensor, labels: Tensor, start: Weights, l2: float) -> Weights:
    """The start with the factor a > 0 on its values, and the bias, that have the least loss.

    Scores grow with v as they are, so that this is logistic regression on one number a prompt. A labelling
    whose scores are all alike, or turn out the wrong way round, stays as it is.
    """
    found = scores(kind, tokens, real, start) - start.b[:, None]  # [fit, prompt]
    factors, biases = torch.ones_like(start.b), start.b.clone()
    for n, row in enumerate(found):
        spread = float(row.var())
        if spread > 1e-12:
            penalty = l2 * float(start.v[n].square().sum()) / spread  # of a, in the units of `logistic`
            a, b = logistic(row[:, None], labels[n : n + 1], penalty, balanced=True)
            if float(a) > 0:
                factors[n], biases[n] = a[0, 0], b[0]
    return Weights(start.v * factors[:, None, None], start.q, biases)


def _minimised(
    kind: str, tokens: Tensor, real: Tensor, labels: Tensor, start: Weights, l2: float, steps: int
) -> Weights:
    with torch.inference_mode(False), torch.enable_grad():
        parts = [part.detach().clone().requires_grad_() for part in (start.v, start.q, start.b)]
        tokens, labels = tokens.detach().clone(), labels.clone()
        optimiser = torch.optim.Adam(parts, lr=_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, _RATE / 100)
        best = [part.detach().clone() for part in parts]
        least = torch.full_like(start.b, torch.inf)
        for _ in range(steps + 1):
            optimiser.zero_grad()
            loss = _loss(kind, tokens, real, labels, Weights(parts[0], parts[1], parts[2]), l2)  # [fit]
            loss.sum().backward()
            better = loss.detach() < least
            least = torch.where(better, loss.detach(), least)
            for kept, part in zip(best, parts):
                kept[better] = part.detach()[better]
            optimiser.step()
            schedule.step()
    return Weights(best[0], best[1], best[2])


def _loss(
    kind: str, tokens: Tensor, real: Tensor, labels: Tensor, weights: Weights, l2: float
) -> Float[Tensor, "fit"]:
    found = scores(kind, tokens, real, weights)
    cross = (class_weights(labels) * (torch.nn.functional.softplus(found) - labels * found)).mean(1)
    return cross + l2 * (weights.v.square().sum((1, 2)) + weights.q.square().sum((1, 2)))


def _raw(weights: Weights, middle: Tensor, scale: Tensor) -> Weights:
    """The same probes on tokens that are not scaled. A constant in a_t changes no attention."""
    v = weights.v / scale
    return Weights(v, weights.q / scale, weights.b - torch.einsum("fdh,d->f", v, middle))


_STEPS, _HALVINGS, _ENOUGH = 50, 30, 1e-10
_MOST = 2**24  # numbers in the largest intermediate


def logistic(
    rows: Float[Tensor, "row d"],
    labels: Float[Tensor, "fit row"],
    l2: float = 1e-3,
    *,
    balanced: bool = False,
) -> tuple[Float[Tensor, "fit d"], Float[Tensor, "fit"]]:
    """Weights and biases on the raw rows: sigmoid(w · row + b) = P(label 1). In float64.

    balanced: both classes have the same weight, whatever their sizes.
    """
    rows = rows.double()
    middle, scale = rows.mean(0), rows.std(0).square().mean().sqrt().clamp(min=1e-12)
    scaled = (rows - middle) / scale
    basis = torch.linalg.svd(scaled, full_matrices=False)[2] if rows.shape[1] > len(rows) else None
    design = scaled if basis is None else scaled @ basis.T  # [row, r]
    size = max(1, _MOST // (len(design) * (design.shape[1] + 1)))
    share = class_weights(labels.double()) if balanced else torch.ones_like(labels, dtype=torch.float64)
    pairs = zip(labels.double().split(size), share.split(size))
    parts = [_newton(design, part, weight, l2) for part, weight in pairs]
    w = torch.cat([part[:, :-1] for part in parts])
    w = (w if basis is None else w @ basis) / scale
    return w, torch.cat([part[:, -1] for part in parts]) - w @ middle


def class_weights(labels: Float[Tensor, "fit row"]) -> Float[Tensor, "fit row"]:
    """What gives both classes of each labelling the same weight; 1 on the average."""
    up = labels.mean(1, keepdim=True).clamp(1e-12, 1 - 1e-12)
    return labels / (2 * up) + (1 - labels) / (2 * (1 - up))


def _newton(design: Tensor, labels: Tensor, share: Tensor, l2: float) -> Float[Tensor, "fit r1"]:
    """Weights and, last, bias of every labelling."""
    x = torch.cat((design, torch.ones_like(design[:, :1])), 1)  # [row, r + 1]
    penalty = torch.full_like(x[0], l2)
    penalty[-1] = 0.0
    beta = torch.zeros((len(labels), x.shape[1]), dtype=x.dtype, device=x.device)
    eye = 1e-12 * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    for _ in range(_STEPS):
        p = torch.sigmoid(beta @ x.T)  # [fit, row]
        slope = (share * (p - labels)) @ x / len(x) + 2 * penalty * beta
        weight = share * p * (1 - p) / len(x)
        curve = (x.T * weight[:, None]) @ x + torch.diag(2 * penalty) + eye  # [fit, r + 1, r + 1]
        step = torch.linalg.solve(curve, slope)
        new = _halved(x, (labels, share), penalty, beta, step)
        moved = float((new - beta).abs().max())
        beta = new
        if moved < _ENOUGH:
            break
    return beta


def _halved(x: Tensor, labels: tuple[Tensor, Tensor], penalty: Tensor, beta: Tensor, step: Tensor) -> Tensor:
    """beta − share · step, the share halved until the loss of the labelling does not rise."""
    before = _penalised(x, labels, penalty, beta)
    share = torch.ones_like(before)
    for _ in range(_HALVINGS):
        new = beta - share[:, None] * step
        worse = _penalised(x, labels, penalty, new) > before + 1e-12
        if not bool(worse.any()):
            return new
        share = torch.where(worse, share / 2, share)
    return torch.where(worse[:, None], beta, new)


def _penalised(
    x: Tensor, labels: tuple[Tensor, Tensor], penalty: Tensor, beta: Tensor
) -> Float[Tensor, "fit"]:
    """labels: with the weight of each row."""
    logit = beta @ x.T
    cross = labels[1] * (torch.nn.functional.softplus(logit) - labels[0] * logit)
    return cross.mean(1) + (penalty * beta.square()).sum(1)
