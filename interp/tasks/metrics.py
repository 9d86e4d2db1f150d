"""Metrics: one number per prompt from the logits of a run.

A metric declares what it reads, so that an engine computes nothing else:
`reads_positions` is "answer" (only the position that predicts the answer) or "all"; `reads_columns` is
"answers" (only the logits of answers and wrong answers) or "vocabulary" (every column).

| metric    | value                                                          | unit        | better |
|-----------|----------------------------------------------------------------|-------------|--------|
| LogitDiff | mean logit of the answers − mean logit of the wrong answers     | logits      | higher |
| Prob      | total probability of the answers                                | probability | higher |
| ProbDiff  | total probability of the answers − that of the wrong answers    | probability | higher |
| LogProb   | log of the total probability of the answers                     | nats        | higher |
| KL        | KL(clean ‖ this run) at the answer position; 0 on the clean run | nats        | lower  |
| Rank      | number of tokens strictly above the best answer                 | rank        | lower  |
| Loss      | mean next-token cross-entropy over the prompt's real tokens     | nats        | lower  |

Numbers are in the dtype of the reading (float32 or float64) and differentiable in the logits, but for Rank.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Reading:
    """What a metric sees of a run. `answer` and `wrong` are column indices into `logits`; −1 is padding."""

    logits: Float[Tensor, "item column"] | Float[Tensor, "item pos column"]
    clean: Float[Tensor, "item column"] | Float[Tensor, "item pos column"]
    answer: Int[Tensor, "item k"]
    wrong: Int[Tensor, "item j"]
    tokens: Int[Tensor, "item pos"]
    lengths: Int[Tensor, "item"]


class Metric(ABC):
    """A number per prompt, with its unit, its good direction and what it reads of the logits.

    `differentiable`: whether it has a gradient in the logits. `flat_at_clean`: whether that is 0 at the clean
    run.
    """

    name: str
    unit: str
    better: str = "higher"
    reads_positions: str = "answer"
    reads_columns: str = "vocabulary"
    differentiable: bool = True
    flat_at_clean: bool = False

    @abstractmethod
    def __call__(self, reading: Reading) -> Float[Tensor, "item"]:
        """The metric of each item of the reading."""


@dataclass(frozen=True)
class LogitDiff(Metric):
    """Mean logit of the answers minus mean logit of the wrong answers."""

    name = "logit_diff"
    unit = "logits"
    reads_columns = "answers"

    def __call__(self, reading: Reading) -> Float[Tensor, "item"]:
        return _masked_mean(reading.logits, reading.answer) - _masked_mean(reading.logits, reading.wrong)


@dataclass(frozen=True)
class LogProb(Metric):
    """Log of the total probability of the answers."""

    name = "log_prob"
    unit = "nats"

    def __call__(self, reading: Reading) -> Float[Tensor, "item"]:
        return _log_mass(reading.logits, reading.answer)


@dataclass(frozen=True)
class Prob(Metric):
    """Total probability of the answers."""

    name = "prob"
    unit = "probability"

    def __call__(self, reading: Reading) -> Float[Tensor, "item"]:
        return _log_mass(reading.logits, reading.answer).exp()


@dataclass(frozen=True)
class ProbDiff(Metric):
    """Total probability of the answers minus that of the wrong answers (Hanna et al. 2023, greater-than)."""

    name = "prob_diff"
    unit = "probability"

    def __call__(self, reading: Reading) -> Float[Tensor, "item"]:
        right, wrong = _log_mass(reading.logits, reading.answer), _log_mass(reading.logits, reading.wrong)
        return right.exp() - wrong.exp()


@dataclass(frozen=True)
class KL(Metric):
    """KL(clean ‖ this run) of the next-token distribution at the answer position."""

    name = "kl"
    unit = "nats"
    better = "lower"
    flat_at_clean = True

    def __call__(self, reading: Reading) -> Float[Tensor, "item"]:
        clean = reading.clean.log_softmax(-1)
        return (clean.exp() * (clean - reading.logits.log_softmax(-1))).sum(-1)


@dataclass(frozen=True)
class Rank(Metric):
    """Number of tokens with a logit strictly above the best answer's; 0 when an answer is on top."""

    name = "rank"
    unit = "rank"
    better = "lower"
    differentiable = False

    def __call__(self, reading: Reading) -> Float[Tensor, "item"]:
        values, real = _columns(reading.logits, reading.answer)
        best = values.masked_fill(~real, -torch.inf).amax(-1, keepdim=True)
        return (reading.logits > best).sum(-1).to(reading.logits.dtype)


@dataclass(frozen=True)
class Loss(Metric):
    """Mean cross-entropy of the clean prompt's next tokens, over its real positions."""

    name = "loss"
    unit = "nats"
    better = "lower"
    reads_positions = "all"

    def __call__(self, reading: Reading) -> Float[Tensor, "item"]:
        logits = reading.logits[:, :-1]  # (item, pos - 1, column)
        targets = reading.tokens[:, 1:]  # (item, pos - 1)
        nll = logits.logsumexp(-1) - logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        steps = torch.arange(1, reading.tokens.shape[1], device=targets.device)
        real = steps < reading.lengths.unsqueeze(-1)
        return nll.masked_fill(~real, 0.0).sum(-1) / real.sum(-1)


@dataclass(frozen=True)
class Custom(Metric):
    """A user's function of a `Reading`. Its name stands for it in fingerprints: rename it when it changes."""

    fn: Callable[[Reading], Any] = field(repr=False)
    name: str = "custom"
    unit: str = "arbitrary"
    better: str = "higher"
    reads_positions: str = "answer"
    reads_columns: str = "vocabulary"

    def __post_init__(self) -> None:
        allowed = {
            "better": ("higher", "lower"),
            "reads_positions": ("answer", "all"),
            "reads_columns": ("answers", "vocabulary"),
        }
        for key, values in allowed.items():
            given = getattr(self, key)
            if given not in values:
                raise ValueError(
                    f"metric {self.name!r}: {key} is {given!r}; it must be {values[0]!r} or {values[1]!r}."
                )

    def __call__(self, reading: Reading) -> Float[Tensor, "item"]:
        value = self.fn(reading)
        wanted = (reading.logits.shape[0],)
        if not isinstance(value, Tensor):
            raise ValueError(
                f"metric {self.name!r} returned a {type(value).__name__}; "
                f"it must return a tensor of shape {wanted}, one number per prompt."
            )
        if tuple(value.shape) != wanted:
            raise ValueError(
                f"metric {self.name!r} returned shape {tuple(value.shape)}; it must return shape {wanted}, "
                "one number per prompt. Reduce over positions and columns, not over prompts."
            )
        return value.to(reading.logits.dtype)


METRICS: dict[str, type[Metric]] = {
    str(metric.name): metric for metric in (LogitDiff, Prob, ProbDiff, LogProb, KL, Rank, Loss)
}


def _columns(
    logits: Float[Tensor, "item column"], index: Int[Tensor, "item k"]
) -> tuple[Float[Tensor, "item k"], Bool[Tensor, "item k"]]:
    """The logits at the given columns, and which of them are real (not −1)."""
    return logits.gather(-1, index.clamp(min=0)), index >= 0


def _masked_mean(logits: Float[Tensor, "item column"], index: Int[Tensor, "item k"]) -> Float[Tensor, "item"]:
    values, real = _columns(logits, index)
    return values.masked_fill(~real, 0.0).sum(-1) / real.sum(-1)


def _log_mass(logits: Float[Tensor, "item column"], index: Int[Tensor, "item k"]) -> Float[Tensor, "item"]:
    """Log of the total probability of the given columns."""
    values, real = _columns(logits, index)
    return values.masked_fill(~real, -torch.inf).logsumexp(-1) - logits.logsumexp(-1)
