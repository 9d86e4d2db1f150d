"""Learnt steering: one training loop for vectors, gates, or any parameters of interventions.

`optimise` learns a vector that makes given continuations likely (Dunefsky & Cohan 2025, 2502.18862), or one
for any loss or reward (as in Small Vectors, Big Effects, 2509.06608; its reinforcement learning on sampled
text is left out: a reward here is a differentiable function of logits):

1. Start from a small random vector at each layer (by `seed`), or a given direction.
2. Add it; the loss is the mean of −log P(target) (promotion) or −log(1 − P(target)) (suppression) over the
   tokens of each continuation, or yours, or minus the mean of your rewards.
3. Adam on the vectors alone; after each step the norm of each is cut to `max_norm`.
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
from interp.models.places import Layers, places, width
from interp.places import Place
from interp.positions import AnyPositions, everywhere, parse
from interp.prompts import Prompts, read
from interp.steering._direction import Direction, found_on
from interp.steering._edit_types import Add
from interp.steering._generate import require_next_tokens
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
        for step in range(steps):
            value = loss(free)
            if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
                raise ValueError(f"loss gave {shown(value)}; give one number with a gradient.")
            if not bool(torch.isfinite(value)):
                raise ValueError(
                    f"the loss is {value.item()} at step {step} of {steps}: nothing can be learnt from it. "
                    "Choose a loss or reward that stays finite, or a smaller lr."
                )
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
    targets: Any = None,
    *,
    layer: Layers,
    site: str = "resid_pre",
    when: AnyPositions = everywhere,
    mask: Tensor | None = None,
    suppress: bool = False,
    loss: Callable[[Tensor, Prompts], Tensor] | None = None,
    reward: Callable[[Tensor, Prompts], Tensor] | None = None,
    start: Direction | None = None,
    max_norm: float | int | None = None,
    steps: int = 100,
    lr: float | int = 0.05,
    seed: int = 0,
) -> Direction:
    """A vector that makes each prompt's target likely (or, with `suppress`, unlikely) when added once.

    targets: continuations, one for each prompt (strings encoded without a beginning token, or rows of ids).
    Or give a loss (logits [prompt, pos, vocab], prompts) -> a number that is to fall, or a reward -> one
    number a prompt whose mean is to rise; both differentiable, of the prompts with their targets if there are
    some. layer: several learn one vector each, together; vectors learnt apart add up as directions do.
    Positions in `when` count from the prompt's start; the prompt is without its target. Raises ValueError for
    none or several of the three, a max_norm of 0 or less and, with the step, for a loss or reward that is not
    finite. Cost: `steps` forward and backward passes. The model is left as found; its parameters get no
    gradient.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> d = interp.steering.optimise(model, task.clean, task.answers[:, :1], layer=1, steps=2)
        >>> d.method
        'optimise'
    """
    facts = anatomy(model)
    wanted = places(facts, layer, site)
    if max_norm is not None and not 0 < max_norm < float("inf"):
        raise ValueError(f"max_norm is {max_norm}; give a length above 0, or None for any.")
    aim = Objective(model, prompts, targets, mask, suppress, loss, reward)
    made_at = parse(when)
    first = first_vectors(model, wanted, start, seed)

    def run(free: Mapping[str, Tensor]) -> Tensor:
        made = [Intervention(where, Add(free[str(where)]), made_at) for where in wanted]
        return aim.of(made)

    def cut(free: Mapping[str, Tensor]) -> None:
        if max_norm is not None:
            for vector in free.values():
                vector.mul_((max_norm / vector.norm()).clamp(max=1.0))

    learnt, _ = learn(first, run, steps=steps, lr=lr, after=cut)
    return Direction(
        {where: learnt[str(where)] for where in wanted}, method="optimise", positions=repr(made_at),
        seed=seed, data=aim.whole.data_hash(), **found_on(model),
    )  # fmt: skip


def first_vectors(
    model: Model, wanted: Sequence[Place], start: Direction | None, seed: int
) -> dict[str, Tensor]:
    """Where training starts, by the name of each place: unit vectors drawn by the seed, or those given."""
    facts, given = anatomy(model), torch.Generator().manual_seed(seed)
    dtype = torch.float64 if facts.dtype == torch.float64 else torch.float32
    if start is not None:
        return {str(w): start.check(model).at(*wanted).vectors[w].to(facts.device, dtype) for w in wanted}
    drawn = {w: torch.randn(width(w, facts), generator=given, dtype=torch.float64) for w in wanted}
    return {str(where): (v / v.norm()).to(facts.device, dtype) for where, v in drawn.items()}


class Objective:
    """What training is to lower: a number of a steered pass over the prompts, read and checked once."""

    def __init__(
        self,
        model: Model,
        prompts: Any,
        targets: Any = None,
        mask: Tensor | None = None,
        suppress: bool = False,
        loss: Callable[[Tensor, Prompts], Tensor] | None = None,
        reward: Callable[[Tensor, Prompts], Tensor] | None = None,
    ) -> None:
        if (loss is not None and reward is not None) or (targets is None and loss is None and reward is None):
            raise ValueError("give targets=, loss= or reward=: one thing that training is to reach.")
        self.model, self.suppress, self.loss, self.reward = model, suppress, loss, reward
        self.rows = read(model, prompts, mask)
        self.whole, self.target, self.n_runs = self.rows, self.rows.real, 0
        if targets is not None:
            require_next_tokens(model, "Give loss= or reward= of its logits, not targets=.", taught=True)
            self.whole, self.target = _joined(model, self.rows, targets)
        anatomy(model).require_one_batch(self.whole.lengths)

    def of(self, made: Sequence[Intervention]) -> Tensor:
        """The loss under these interventions, with its gradient."""
        with steer(self.model, *made, prompt_length=self.rows.lengths):
            out = logits(self.model, self.whole.tokens)
        self.n_runs += 1
        if self.loss is not None:
            return self.loss(out, self.whole)
        if self.reward is not None:
            return -self._rewards(self.reward(out, self.whole)).mean()
        log = out.float().log_softmax(-1)
        picked = log[:, :-1].gather(-1, self.whole.tokens[:, 1:, None])[..., 0]  # [prompt, pos - 1]
        wanted = picked[self.target[:, 1:]]
        return -torch.log1p(-wanted.exp().clamp(max=1 - 1e-6)).mean() if self.suppress else -wanted.mean()

    def _rewards(self, rewards: Any) -> Tensor:
        """ValueError for what is not one finite number a prompt, with a gradient."""
        n = len(self.whole)
        if not isinstance(rewards, Tensor) or rewards.shape != (n,) or not rewards.requires_grad:
            raise ValueError(
                f"reward gave {shown(rewards)} for {n} prompts; give [{n}] numbers, made of the logits."
            )
        bad = (~torch.isfinite(rewards)).nonzero()
        if len(bad):
            prompt = int(bad[0, 0])
            raise ValueError(
                f"the reward of prompt {prompt} is {rewards[prompt].item()} at step {self.n_runs - 1}: it "
                "cannot be learnt from. Choose a reward that stays finite, or a smaller lr."
            )
        return rewards


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
