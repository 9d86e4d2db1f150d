"""Metrics: one number per prompt from the logits of a run.

A metric declares what it reads, so that an engine computes nothing else:
`reads_positions` is "answer" (only the position that predicts the answer) or "all"; `reads_columns` is
"answers" (only the logits of answers and wrong answers) or "vocabulary" (every column).

| metric     | value                                                          | unit        | better |
|------------|----------------------------------------------------------------|-------------|--------|
| LogitDiff  | mean logit of the answers − mean logit of the wrong answers     | logits      | higher |
| Prob       | total probability of the answers                                | probability | higher |
| ProbDiff   | total probability of the answers − that of the wrong answers    | probability | higher |
| LogProb    | log of the total probability of the answers                     | nats        | higher |
| SeqLogProb | log probability of an answer of several tokens, teacher-forced  | nats        | higher |
| KL         | KL(clean ‖ this run) at the answer position; 0 on the clean run | nats        | lower  |
| Rank       | number of tokens strictly above the best answer                 | rank        | lower  |
| Loss       | mean next-token cross-entropy over the prompt's real tokens     | nats        | lower  |
| InContextLoss | that over its second half − that over its first              | nats        | lower  |

Numbers are in the dtype of the reading (float32 or float64) and differentiable in the logits, but for Rank.
Where a task reads several positions a prompt, a metric of the answer position is the mean over them;
`SeqLogProb` is the sum: there the positions are those of the answer's tokens. A name stands for a metric with
its default settings (`METRICS`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp._arguments import shown
from interp._verbs import settings
from interp.places import hint

_APART = (
    1e-3,
    1e-6,
)  # how far rounding may part a prompt's number alone from that among others: of it, of logits


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
    run. `reads_answer`, `reads_wrong`: whether it needs the task's answers, and its wrong ones. `over_reads`:
    what is made of several read-out positions of a prompt, "mean" or "sum".
    """

    name: str
    unit: str
    better: str = "higher"
    reads_positions: str = "answer"
    reads_columns: str = "vocabulary"
    differentiable: bool = True
    flat_at_clean: bool = False
    reads_answer: bool = True
    reads_wrong: bool = False
    over_reads: str = "mean"

    @abstractmethod
    def __call__(self, reading: Reading) -> Float[Tensor, "item"]:
        """The metric of each item of the reading."""

    @property
    def sign(self) -> float:
        """-1 where lower is better, else 1: times a rise, an effect that is positive when it helps."""
        return -1.0 if self.better == "lower" else 1.0

    def problems(self, d_vocab: int, d_vocab_out: int) -> list[str]:
        """Why it cannot be measured on a model with these vocabularies of input and output."""
        return []


@dataclass(frozen=True)
class LogitDiff(Metric):
    """Mean logit of the answers minus mean logit of the wrong answers."""

    name = "logit_diff"
    unit = "logits"
    reads_columns = "answers"
    reads_wrong = True

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
class SeqLogProb(LogProb):
    """Log probability of the whole answer, one read-out position for each of its tokens.

    The answer stands in the prompts (teacher forcing): `Task.from_prompts(..., metric="seq_log_prob")` puts
    it there. Clean and corrupt runs are forced to the same answer.
    """

    name = "seq_log_prob"
    over_reads = "sum"


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
    reads_wrong = True

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
    reads_answer = False

    def __call__(self, reading: Reading) -> Float[Tensor, "item"]:
        clean = reading.clean[:1] if reading.clean.stride(0) == 0 else reading.clean  # one for every item
        clean = clean.log_softmax(-1)
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
    reads_answer = False

    def problems(self, d_vocab: int, d_vocab_out: int) -> list[str]:
        """The next token must be among the outputs."""
        if d_vocab == d_vocab_out:
            return []
        return [
            f"the metric {self.name!r} is the cross-entropy of the next token, but the model reads {d_vocab} "
            f"tokens and gives logits for {d_vocab_out}. Use a metric of the answers, such as LogitDiff()."
        ]

    def __call__(self, reading: Reading) -> Float[Tensor, "item"]:
        nll, steps = _next_token_losses(reading)
        return _mean_where(nll, steps < reading.lengths.unsqueeze(-1))


@dataclass(frozen=True)
class InContextLoss(Loss):
    """Loss over the second half of a prompt minus that over its first: what the first half teaches.

    Of n tokens the second half is the last n // 2; its first token, which nothing announces, is left out. On
    a random sequence and its repeat it is what induction saves, a negative number (Olsson et al. 2209.11895).
    """

    name = "in_context_loss"

    def __call__(self, reading: Reading) -> Float[Tensor, "item"]:
        nll, steps = _next_token_losses(reading)
        lengths = reading.lengths.unsqueeze(-1)
        start = lengths - lengths // 2
        late = _mean_where(nll, (steps > start) & (steps < lengths))
        return late - _mean_where(nll, steps < start)


@settings
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
        return guarded(self.name, self.fn, reading)


def guarded(name: str, fn: Callable[[Reading], Any], reading: Reading) -> Float[Tensor, "item"]:
    """A user's function of a reading, in the reading's dtype.

    Raises ValueError where it writes into the logits, where it gives anything but one real number a prompt,
    and where a prompt's number depends on the other prompts.
    """
    items = reading.logits.shape[0]
    value = _numbers(name, _untouched(name, fn, reading), items)
    for row in (0, items - 1) if items > 1 else ():
        _require_apart(name, fn, reading, value, row)
    return value.to(reading.logits.dtype)


def _untouched(name: str, fn: Callable[[Reading], Any], reading: Reading) -> Any:
    """The function's value; ValueError where it writes into the logits."""
    if reading.logits.is_inference():  # writing there leaves no trace, so it gets copies
        logits, clean = reading.logits.clone(), reading.clean.clone()
        return fn(replace(reading, logits=logits, clean=clean))
    versions = reading.logits._version, reading.clean._version
    value = fn(reading)
    if (reading.logits._version, reading.clean._version) != versions:
        raise ValueError(
            f"metric {name!r} writes into the logits that it reads. Use operations that make a new "
            "tensor (logits - x, not logits -= x), or clone() first."
        )
    return value


def _numbers(name: str, value: Any, items: int) -> Tensor:
    """The value, if it is one real number a prompt."""
    if not isinstance(value, Tensor):
        raise ValueError(
            f"metric {name!r} returned a {type(value).__name__}; "
            f"it must return a tensor of shape {(items,)}, one number per prompt."
        )
    if tuple(value.shape) != (items,):
        raise ValueError(
            f"metric {name!r} returned shape {tuple(value.shape)}; it must return shape {(items,)}, "
            "one number per prompt. Reduce over positions and columns, not over prompts."
        )
    if value.is_complex():
        raise ValueError(f"metric {name!r} returned complex numbers; it must return real ones.")
    return value


def _require_apart(
    name: str, fn: Callable[[Reading], Any], reading: Reading, value: Tensor, row: int
) -> None:
    """A prompt alone has the value that it has among the others."""
    one = Reading(*(getattr(reading, part.name)[row : row + 1] for part in fields(Reading)))
    one = replace(one, logits=one.logits.detach().clone(), clean=one.clean.detach().clone())
    with torch.no_grad():
        alone, among = float(_numbers(name, fn(one), 1)[0]), float(value.detach()[row])
    room = _APART[0] * max(abs(alone), abs(among)) + _APART[1] * max(1.0, float(one.logits.abs().max()))
    if abs(alone - among) > room:
        raise ValueError(
            f"metric {name!r} is {among:.6g} for a prompt among others and {alone:.6g} for the same "
            "prompt alone: it mixes prompts. Make each prompt's number from its own logits only."
        )


METRICS: dict[str, type[Metric]] = {
    str(metric.name): metric
    for metric in (LogitDiff, Prob, ProbDiff, LogProb, SeqLogProb, KL, Rank, Loss, InContextLoss)
}


def as_metric(given: object) -> Metric:
    """A metric as it is, or the one that a name stands for. Raises ValueError for anything else."""
    if isinstance(given, Metric):
        return given
    if isinstance(given, str) and given in METRICS:
        return METRICS[given]()
    if isinstance(given, str):
        raise ValueError(f"metric {given!r} is not one of {', '.join(METRICS)}{hint(given, METRICS)}")
    if isinstance(given, type) and issubclass(given, Metric):
        raise ValueError(f"metric is the class {given.__name__}; give {given.__name__}().")
    function = callable(given) and not isinstance(given, type)
    what = f"the function {getattr(given, '__name__', '?')}" if function else shown(given)
    raise ValueError(
        f"metric: {what} is not a metric. Use interp.tasks.LogitDiff() and its like, or "
        "interp.tasks.Custom(fn, name=...) for a function of your own."
    )


def _next_token_losses(reading: Reading) -> tuple[Float[Tensor, "item step"], Int[Tensor, "step"]]:
    """Cross-entropy of every token but the first, and the positions of these tokens."""
    logits = reading.logits[:, :-1]  # (item, pos - 1, column)
    targets = reading.tokens[:, 1:]  # (item, pos - 1)
    nll = logits.logsumexp(-1) - logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return nll, torch.arange(1, reading.tokens.shape[1], device=targets.device)


def _mean_where(nll: Float[Tensor, "item step"], real: Bool[Tensor, "item step"]) -> Float[Tensor, "item"]:
    return nll.masked_fill(~real, 0.0).sum(-1) / real.sum(-1)


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
