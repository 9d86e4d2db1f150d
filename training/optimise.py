"""The training loop: AdamW, linear warm-up, cosine decay, copying first and sentences more and more.

Weight decay acts on matrices only. The loss is the mean cross-entropy of sentence targets plus that of
copying targets; the share of copying rows falls over training, so that copying forms early.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from training import network
from training.batches import Batch, copy_batch, text_batch
from training.language import Language


@dataclass(frozen=True)
class Schedule:
    """How long and how fast."""

    steps: int = 3000
    rows: int = 128
    learning_rate: float = 3e-3
    warmup: int = 100
    weight_decay: float = 0.05
    copying_first: float = 0.6  # share of copying rows at the start
    copying_last: float = 0.3  # and at the end

    def rate(self, step: int) -> float:
        """Learning rate at a step."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))

    def copying_rows(self, step: int) -> int:
        """Copying rows in the batch of a step."""
        done = min(1.0, 2 * step / self.steps)
        return round(self.rows * (self.copying_first + (self.copying_last - self.copying_first) * done))


@dataclass(frozen=True, eq=False)
class Trained:
    """Parameters, and the losses of the last steps (mean of a hundred, in nats)."""

    parameters: network.Parameters
    text_loss: float
    copying_loss: float


def loss(logits: Float[Tensor, "row pos vocab"], batch: Batch) -> Float[Tensor, ""]:
    """Weighted mean cross-entropy of the batch's targets, in nats."""
    weight = batch.weight[:, 1:]
    each = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch.tokens[:, 1:].flatten(), reduction="none")
    return (each * weight.flatten()).sum() / weight.sum()


def train(
    language: Language,
    sizes: network.Sizes,
    schedule: Schedule,
    seed: int,
    log: Callable[[str], None],
    every: int = 100,
) -> Trained:
    """Train from scratch; one log line every `every` steps."""
    words = language.vocabulary()
    ids = {word: i for i, word in enumerate(words)}
    rng = random.Random(seed)
    parameters = network.initial(sizes, seed)
    optimiser = _optimiser(parameters, schedule)
    began, losses = time.monotonic(), []
    for step in range(schedule.steps):
        copying = schedule.copying_rows(step)
        text = text_batch(language, ids, rng, schedule.rows - copying, test=False)
        copy = copy_batch(len(words), sizes.n_ctx, rng, copying)
        losses.append(_step(parameters, optimiser, schedule.rate(step), text, copy))
        if step % every == 0 or step == schedule.steps - 1:
            seconds = time.monotonic() - began
            log(f"step {step:5d}  text {losses[-1][0]:.3f}  copying {losses[-1][1]:.3f}  {seconds:.0f} s")
    text_loss, copying_loss = torch.tensor(losses[-100:]).mean(0).tolist()
    final = {name: value.detach() for name, value in parameters.items()}
    return Trained(final, text_loss, copying_loss)


def _optimiser(parameters: network.Parameters, schedule: Schedule) -> torch.optim.AdamW:
    matrices = [value for name, value in parameters.items() if ".W_" in name]
    vectors = [value for name, value in parameters.items() if ".W_" not in name]
    groups = [
        {"params": matrices, "weight_decay": schedule.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.98))


def _step(
    parameters: network.Parameters, optimiser: torch.optim.AdamW, rate: float, text: Batch, copy: Batch
) -> tuple[float, float]:
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    text_loss = loss(network.logits(parameters, text.tokens), text)
    copy_loss = loss(network.logits(parameters, copy.tokens), copy)
    (text_loss + copy_loss).backward()
    torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
    optimiser.step()
    return text_loss.item(), copy_loss.item()
