"""`tuned` and `jacobian`: fit a translator for every layer.

Tuned lens (Belrose et al. 2303.08112), in closed form: ridge regression of what the last stream has that the
layer has not, h_L − h, on h − its mean. λ is relative to the mean diagonal of the Gram matrix, and chosen for
each layer by KL(model ‖ lens) on prompts that the fit did not see. The first tokens (`skip`) are left out:
they are sinks, whose norms are a hundred times the others'.

Jacobian lens (Gurnee et al. 2026): J_l = mean over prompts of (1/|V|) Σ_{t∈V} Σ_{t′∈V, t′≥t}
∂h_{L,t′}/∂h_{l,t}, V the positions from `skip` on but the last. One backward pass gives a row of all J_l for
as many rows as there are copies of the prompt in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from interp._activations import activations
from interp._verbs import verb, warn
from interp.engine.forward import forward
from interp.engine.trust import own_weights
from interp.lens import _readout as R
from interp.lens._translators import JacobianLens, TunedLens, of_model
from interp.models import Model, anatomy, logits
from interp.models.parts import Weights
from interp.models.places import Layers, places
from interp.places import Place, hook_name
from interp.prompts import Prompts, read

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)


@verb
def tuned(
    model: Model,
    prompts: Any,
    *,
    layer: Layers = None,
    ridges: Sequence[float] = RIDGES,
    skip: int = 1,
    held_out: float = 0.2,
    mask: Tensor | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    engine: str = "auto",
    progress: bool = True,
) -> TunedLens:
    """A tuned lens: for each layer the affine map from its stream to the last one, in closed form.

    prompts: texts like those that it is to read, some thousand tokens at least. ridges: penalties to choose
    from. skip: first tokens of each prompt that the fit does not see (sinks). held_out: share of the prompts
    that choose the penalty, drawn by `seed`.

    Returns a `TunedLens`; its `facts` hold, by layer, the penalty and the held-out KL in nats beside that of
    the logit lens and of the mean shift alone (`kl`, `kl_logit`, `kl_shift`). Cost: one forward of each
    prompt, a system of d_model and (penalties + 2) unembeddings of the held-out tokens a layer. Raises
    ValueError for fewer than 2 prompts, and where no token is left. The model is left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=16, seed=0)
        >>> fitted = interp.lens.tuned(model, task, progress=False)
        >>> sorted(fitted.matrices), fitted.facts["kl"]["1"] < fitted.facts["kl_logit"]["1"]
        ([0, 1, 2], True)
    """
    facts = anatomy(model)
    if not ridges or not all(0 < ridge < float("inf") for ridge in ridges):
        raise ValueError(f"ridges is {list(ridges)}; give finite penalties above 0, such as {list(RIDGES)}.")
    data = read(model, prompts, mask)
    test = _held_out(data, held_out, skip, seed)
    readout = R.readout_of(model)
    wanted, end = places(facts, layer, "resid_pre"), Place("resid_post", facts.n_layers - 1)
    kept = activations(model, data, [*wanted, end], "all", batch_size=batch_size, engine=engine)
    prompt, pos = data.real.nonzero().unbind(1)  # of every token
    use = pos >= skip
    fresh = test.to(prompt.device)[prompt] & use
    train = ~test.to(prompt.device)[prompt] & use
    last = kept[end]
    said = [readout.logits(rows).log_softmax(-1) for rows in last[fresh].detach().split(R.ROWS)]
    fitted: dict[int, tuple[Tensor, Tensor]] = {}
    about: dict[str, dict[str, float]] = {"ridge": {}, "kl": {}, "kl_logit": {}, "kl_shift": {}}
    with torch.no_grad():
        for place in tqdm(wanted, disable=not progress, desc="tuned lens", unit="layer"):
            n, rows = int(place.layer or 0), kept[place]
            A, b, numbers = _ridge(readout, (rows[train], last[train]), rows[fresh], said, ridges)
            fitted[n] = A, b
            for name, value in numbers.items():
                about[name][str(n)] = value
    sizes = {"n_train": int(train.sum()), "n_held_out": int(fresh.sum()), "skip": skip, "seed": seed}
    lens = TunedLens(
        {n: A for n, (A, _) in fitted.items()}, facts.n_layers, None, (),
        {**about, **sizes, "data": data.data_hash()}, {n: b for n, (_, b) in fitted.items()},
    )  # fmt: skip
    return of_model(lens, model)


def _held_out(data: Prompts, share: float, skip: int, seed: int) -> Tensor:
    """Which prompts choose the penalty."""
    if skip < 0:
        raise ValueError(f"skip is {skip}; give 0 or more.")
    longer = (data.lengths > skip).nonzero().flatten().cpu()
    if len(longer) < 2:
        raise ValueError(
            f"{len(longer)} prompts have tokens behind the first {skip}; one is needed to fit and another to "
            "choose the penalty. Give more prompts."
        )
    n = min(max(1, round(share * len(longer))), len(longer) - 1)
    order = torch.randperm(len(longer), generator=torch.Generator().manual_seed(seed))
    test = torch.zeros(len(data), dtype=torch.bool)
    test[longer[order[:n]]] = True
    return test


def _ridge(
    readout: R.Readout,
    seen: tuple[Tensor, Tensor],
    fresh: Tensor,
    said: Sequence[Tensor],
    ridges: Sequence[float],
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """A, b and what they cost on held-out tokens; of all penalties the best."""
    x, gap = seen[0].double(), (seen[1] - seen[0]).double()
    middle, shift = x.mean(0), gap.mean(0)
    gram = (x - middle).T @ (x - middle)
    cross = (x - middle).T @ (gap - shift)
    level = gram.diagonal().mean().clamp(min=1e-30)

    def kl(move: Callable[[Tensor], Tensor]) -> float:
        parts = [
            R.divergence(end, readout.logits(move(rows)).log_softmax(-1))
            for rows, end in zip(fresh.split(R.ROWS), said)
        ]
        return float(torch.cat(parts).mean())

    best: tuple[float, float, Tensor, Tensor] | None = None
    for ridge in ridges:
        system = gram + ridge * level * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        A = torch.linalg.solve(system, cross)
        b = shift - middle @ A
        A, b = A.to(fresh), b.to(fresh)
        loss = kl(lambda rows, A=A, b=b: rows + rows @ A + b)
        if best is None or loss < best[0]:
            best = loss, float(ridge), A, b
    loss, ridge, A, b = best or (0.0, 0.0, cross, shift)
    moved = shift.to(fresh)
    costs = {"kl": loss, "kl_logit": kl(lambda rows: rows), "kl_shift": kl(lambda rows: rows + moved)}
    return A, b, {"ridge": ridge, **costs}


@verb
def jacobian(
    model: Model,
    prompts: Any,
    *,
    layer: Layers = None,
    skip: int = 16,
    length: int = 128,
    mask: Tensor | None = None,
    batch_size: int | None = None,
    engine: str = "auto",
    progress: bool = True,
) -> JacobianLens:
    """A Jacobian lens: for each layer the mean slope of the last stream by the layer's output.

    A slope is that of the last stream's sum over positions: what a position does to later ones too, and to
    earlier ones where attention goes both ways.

    prompts: texts like those that it is to read; about 100 of 128 tokens suffice. skip: first positions that
    are left out (sinks). length: tokens of a prompt that are used at most. batch_size: rows of a Jacobian at
    once, 32 by default: copies of the prompt in a batch. Prompts that are too short are left out, with a
    warning.

    Returns a `JacobianLens` of every layer but the last, deterministic. Cost: one forward and d_model /
    batch_size backwards of `batch_size` copies of each prompt, all layers at once. Raises ValueError where no
    prompt is long enough. The model is left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> fitted = interp.lens.jacobian(model, interp.tasks.ioi(model, n=2), skip=2, progress=False)
        >>> tuple(fitted.matrices[0].shape)
        (64, 64)
    """
    facts = anatomy(model)
    if skip < 0 or length < 2:
        raise ValueError(f"skip is {skip}, length {length}; give 0 or more, and 2 or more tokens.")
    data = read(model, prompts, mask)
    layers = [int(place.layer or 0) for place in places(facts, layer, "resid_post")]
    layers = sorted(each for each in layers if each < facts.n_layers - 1)
    if not layers:
        raise ValueError(f"layer is {layer}; the last layer's stream is read as it is. Give lower layers.")
    rows = [(tokens[: min(int(n), length)]) for tokens, n in zip(data.tokens, data.lengths)]
    long = [row for row in rows if len(row) > skip + 1]
    if not long:
        raise ValueError(
            f"no prompt has more than skip + 1 = {skip + 1} tokens, so nothing is left to average. Give "
            "longer prompts, or a smaller skip=."
        )
    if len(long) < len(rows):
        warn(f"{len(rows) - len(long)} of {len(rows)} prompts have no more than {skip + 1} tokens: left out.")
    R.readout_of(model)
    parts = own_weights(
        model, data.tokens, data.lengths, sites=("resid_post",), engine=engine,
        instead=f"{len(long):,} passes through the model and its hooks",
    )  # fmt: skip
    total = {each: torch.zeros(facts.d_model, facts.d_model, dtype=torch.float64) for each in layers}
    for tokens in tqdm(long, disable=not progress, desc="Jacobian lens", unit="prompt"):
        for each, J in _of_prompt(model, parts, tokens, layers, skip, batch_size or 32).items():
            total[each] += J.double().cpu()
    kept = torch.float64 if facts.dtype == torch.float64 else torch.float32
    matrices = {each: (J / len(long)).to(kept) for each, J in total.items()}
    about = {"n_prompts": len(long), "skip": skip, "length": length, "data": data.data_hash()}
    return of_model(JacobianLens(matrices, facts.n_layers, None, (), about), model)


def _of_prompt(
    model: Model, parts: Weights | None, tokens: Int[Tensor, "pos"], layers: list[int], skip: int, copies: int
) -> dict[int, Float[Tensor, "d_model d_model"]]:
    """J_l of one prompt: cotangents are one-hot in a dimension, at every position that counts."""
    d_model, last = model.cfg.d_model, model.cfg.n_layers - 1
    copies = min(copies, d_model)
    counted = slice(skip, len(tokens) - 1)
    with torch.inference_mode(False), torch.enable_grad():
        kept = streams(model, parts, tokens.clone().expand(copies, -1), [*layers, last])
        end = kept[last]
        out = {each: torch.zeros(d_model, d_model, dtype=end.dtype, device=end.device) for each in layers}
        for start in range(0, d_model, copies):
            n = min(copies, d_model - start)
            cotangent, index = torch.zeros_like(end), torch.arange(n)
            cotangent[index, counted, start + index] = 1.0
            slopes = torch.autograd.grad(
                end, [kept[each] for each in layers], cotangent, retain_graph=start + n < d_model
            )
            for each, slope in zip(layers, slopes):
                out[each][start : start + n] = slope[:n, counted].mean(1)
    return {each: R.wide(J.detach()) for each, J in out.items()}


def streams(
    model: Model, parts: Weights | None, tokens: Int[Tensor, "row pos"], layers: Sequence[int]
) -> dict[int, Tensor]:
    """The stream after some layers [row, pos, d_model], the first of them a leaf that slopes are taken at."""
    kept: dict[int, Tensor] = {}
    root = min(layers)

    def keep(layer: int, tensor: Tensor) -> Tensor:
        kept[layer] = tensor.detach().requires_grad_() if layer == root else tensor.view_as(tensor)
        return kept[layer]

    if parts is not None:
        taps = {("resid_post", n): (lambda tensor, n=n: keep(n, tensor)) for n in layers}
        forward(parts, parts.embed(tokens), 0, taps)
    else:
        hooks = [(hook_name("resid_post", n), lambda tensor, hook, n=n: keep(n, tensor)) for n in layers]
        with model.hooks(fwd_hooks=hooks):
            logits(model, tokens)
    return kept
