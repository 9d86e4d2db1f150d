"""Learnt steering: one training loop for vectors, gates, or any parameters of interventions.

`optimise` learns a vector that makes given continuations likely (Dunefsky & Cohan 2025, 2502.18862):

1. Start from a small random vector (by `seed`), or a given direction.
2. Add it at a layer; the loss is the mean of −log P(target) (promotion) or −log(1 − P(target)) (suppression)
   over the tokens of each continuation.
3. Adam on the vector alone; after each step its norm is cut to `max_norm`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from interp._arguments import shown
from interp._verbs import verb
from interp.models import Model, anatomy, logits
from interp.models.places import places, width
from interp.positions import AnyPositions, everywhere, parse
from interp.prompts import Prompts, read
from interp.steering._direction import Direction, found_on
from interp.steering._edit_types import Add
from interp.steering._intervention import Intervention
from interp.steering._steer import steer


@verb
def learn(
    parameters: Mapping[str, Tensor],
    loss: Callable[[Mapping[str, Tensor]], Tensor],
    *,
    steps: int = 100,
    lr: float | int = 0.05,
    after: Callable[[Mapping[str, Tensor]], None] | None = None,
) -> tuple[dict[str, Tensor], list[float]]:
    """Adam on copies of the parameters: what was learnt, and the loss before each step.

    loss: a function of the parameters, differentiable; build interventions from them inside it and run the
    model under `steer`. after: called on the parameters, without gradient, after each step. The model's own
    parameters get no gradient: only those given here are differentiated.

    Example:
        >>> import torch
        >>> start = {"x": torch.zeros(2)}
        >>> learnt, losses = interp.steering.learn(start, lambda p: (p["x"] - 1).square().sum(), steps=20)
        >>> losses[-1] < losses[0]
        True
    """
    if steps < 1 or not parameters:
        raise ValueError(f"learn needs a parameter and a step or more, got {len(parameters)} and {steps}.")
    if lr <= 0:
        raise ValueError(f"lr is {lr}; give a learning rate above 0.")
    with torch.inference_mode(False), torch.enable_grad():
        free = {name: value.detach().clone().requires_grad_(True) for name, value in parameters.items()}
        optimiser = torch.optim.Adam(free.values(), lr=lr)
        losses = []
        for _ in range(steps):
            value = loss(free)
            if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
                raise ValueError(f"loss gave {shown(value)}; give one number with a gradient.")
            slopes = torch.autograd.grad(value, list(free.values()), allow_unused=True)
            for (name, parameter), slope in zip(free.items(), slopes):
                if slope is None:
                    raise ValueError(f"the loss does not depend on {name!r}: there is nothing to learn.")
                parameter.grad = slope
            optimiser.step()
            losses.append(value.item())
            if after is not None:
                with torch.no_grad():
                    after(free)
    return {name: value.detach() for name, value in free.items()}, losses


@verb
def optimise(
    model: Model,
    prompts: Any,
    targets: Any,
    *,
    layer: int,
    site: str = "resid_pre",
    when: AnyPositions = everywhere,
    mask: Tensor | None = None,
    suppress: bool = False,
    start: Direction | None = None,
    max_norm: float | int | None = None,
    steps: int = 100,
    lr: float | int = 0.05,
    seed: int = 0,
) -> Direction:
    """A vector that makes each prompt's target likely (or, with `suppress`, unlikely) when added once.

    targets: continuations, one for each prompt (strings encoded without a beginning token, or rows of ids).
    Positions in `when` count from the prompt's start; the prompt is without its target. Cost: `steps` forward
    and backward passes. The model is left as found; its parameters get no gradient.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> d = interp.steering.optimise(model, task.clean, task.answers[:, :1], layer=1, steps=2)
        >>> d.method
        'optimise'
    """
    facts = anatomy(model)
    (where,) = places(facts, layer, site)
    rows = read(model, prompts, mask)
    whole, target = _joined(model, rows, targets)
    given = torch.Generator().manual_seed(seed)
    first = torch.randn(width(where, facts), generator=given, dtype=torch.float64)
    first = first / first.norm() if start is None else start.check(model).vectors[where]

    made_at = parse(when)

    def loss(free: Mapping[str, Tensor]) -> Tensor:
        made = Intervention(where, Add(free["vector"]), made_at)
        with steer(model, made, prompt_length=rows.lengths):
            log = logits(model, whole.tokens).float().log_softmax(-1)
        picked = log[:, :-1].gather(-1, whole.tokens[:, 1:, None])[..., 0]  # [prompt, pos - 1]
        wanted = picked[target[:, 1:]]
        return -torch.log1p(-wanted.exp().clamp(max=1 - 1e-6)).mean() if suppress else -wanted.mean()

    def cut(free: Mapping[str, Tensor]) -> None:
        if max_norm is not None:
            vector = free["vector"]
            vector.mul_((max_norm / vector.norm()).clamp(max=1.0))

    dtype = torch.float64 if facts.dtype == torch.float64 else torch.float32
    learnt, _ = learn({"vector": first.to(facts.device, dtype)}, loss, steps=steps, lr=lr, after=cut)
    return Direction(
        {where: learnt["vector"]}, method="optimise", positions=repr(made_at), seed=seed,
        data=whole.data_hash(), **found_on(model),
    )  # fmt: skip


def _joined(model: Model, rows: Prompts, targets: Any) -> tuple[Prompts, Bool[Tensor, "prompt pos"]]:
    """Prompts with their targets behind them, and which columns are targets."""
    from interp.tasks import vocabulary

    if isinstance(targets, Tensor):
        ends = (targets if targets.ndim == 2 else targets[:, None]).tolist()
    elif isinstance(targets, Sequence) and not isinstance(targets, str):
        ends = [vocabulary.encode(model, t, False) if isinstance(t, str) else list(t) for t in targets]
    else:
        raise ValueError(f"targets is a {type(targets).__name__}; give one continuation for each prompt.")
    if len(ends) != len(rows) or not all(ends):
        raise ValueError(
            f"there are {len(ends)} targets for {len(rows)} prompts; give each prompt one token or more."
        )
    ids = [row[:n] + end for row, n, end in zip(rows.tokens.tolist(), rows.lengths.tolist(), ends)]
    whole = read(model, ids, what="prompts with their targets")
    column = torch.arange(whole.tokens.shape[1], device=whole.tokens.device)
    return whole, (column >= rows.lengths[:, None]) & whole.real
