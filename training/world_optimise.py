"""The training loop of tiny-world: Muon for the matrices of the blocks, AdamW for the rest.

Linear warm-up, a constant rate, and a linear decay to 0 over the last part. Every batch holds documents and
random words that repeat; the loss is their weighted mean cross-entropy.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp.tasks.world import World, vocabulary
from training import network, world_batches
from training.batches import Batch
from training.muon import Muon


@dataclass(frozen=True)
class Schedule:
    """How long and how fast."""

    steps: int = 3400
    rows: int = 136
    copying_rows: int = 24
    muon_rate: float = 3e-3
    adam_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup: int = 100
    decay: float = 0.8  # share of the steps over which the rate falls to 0

    def factor(self, step: int) -> float:
        """The rate at a step, as a share of the full one."""
        left = (self.steps - step) / (self.decay * self.steps)
        return min(1.0, (step + 1) / self.warmup, left)


def sizes() -> network.Sizes:
    """4 layers of 8 heads, width 128."""
    return network.Sizes(
        d_vocab=len(vocabulary()), n_layers=4, d_model=128, n_heads=8, d_head=16, d_mlp=512, n_ctx=64
    )


def loss(logits: Float[Tensor, "row pos vocab"], batch: Batch, total: float) -> Float[Tensor, ""]:
    """Weighted sum of the cross-entropy of the batch's targets over the total weight, in nats."""
    weight, wanted = batch.weight[:, 1:], batch.targets[:, 1:]
    each = F.cross_entropy(logits[:, :-1][wanted], batch.tokens[:, 1:][wanted], reduction="none")
    return (each * weight[wanted]).sum() / total


def train(
    schedule: Schedule,
    shape: network.Sizes,
    seed: int,
    log: Callable[[int, float, network.Parameters], None],
) -> network.Parameters:
    """Train from scratch; `log` gets the step, its loss and the parameters after every step."""
    words, world = vocabulary(), World()
    ids = {word: i for i, word in enumerate(words)}
    rng, parameters = random.Random(seed), network.initial(shape, seed)
    optimisers = _optimisers(parameters, schedule)
    for step in range(schedule.steps):
        batches = world_batches.document_batches(world, ids, rng, schedule.rows)
        batches.append(world_batches.copying(len(words), shape.n_ctx, rng, schedule.copying_rows))
        log(step, _step(parameters, optimisers, schedule.factor(step), batches), parameters)
    return {name: value.detach() for name, value in parameters.items()}


def progress(every: int) -> Callable[[int, float, network.Parameters], None]:
    """A log that prints the mean loss of every so many steps."""
    began, losses = time.monotonic(), []

    def log(step: int, value: float, parameters: network.Parameters) -> None:
        losses.append(value)
        if (step + 1) % every == 0:
            mean, seconds = sum(losses[-every:]) / every, time.monotonic() - began
            print(f"step {step + 1:5d}  loss {mean:.4f}  {seconds:.0f} s", flush=True)

    return log


def _optimisers(
    parameters: network.Parameters, schedule: Schedule
) -> list[tuple[torch.optim.Optimizer, float]]:
    inside = [value for name, value in parameters.items() if name.startswith("blocks.") and ".W_" in name]
    embeddings = [
        value for name, value in parameters.items() if not name.startswith("blocks.") and ".W_" in name
    ]
    vectors = [value for name, value in parameters.items() if ".W_" not in name]
    muon = Muon(inside, lr=schedule.muon_rate, weight_decay=schedule.weight_decay)
    groups = [
        {"params": embeddings, "weight_decay": schedule.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=schedule.adam_rate, betas=(0.9, 0.98))
    return [(muon, schedule.muon_rate), (adam, schedule.adam_rate)]


def _step(
    parameters: network.Parameters,
    optimisers: list[tuple[torch.optim.Optimizer, float]],
    factor: float,
    batches: list[Batch],
) -> float:
    total, summed = sum(float(batch.weight[:, 1:].sum()) for batch in batches), 0.0
    for batch in batches:
        part = loss(network.logits(parameters, batch.tokens), batch, total)
        part.backward()
        summed += float(part.detach())
    torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
    for optimiser, rate in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = rate * factor
        optimiser.step()
        optimiser.zero_grad()
    return summed
