"""Metrics against values worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from interp.tasks import (
    KL,
    METRICS,
    Custom,
    InContextLoss,
    LogitDiff,
    LogProb,
    Loss,
    Prob,
    ProbDiff,
    Rank,
    Reading,
)

# Probabilities 1/2, 1/4, 1/8, 1/8 and 1/8, 1/8, 1/4, 1/2, up to a constant per row.
LOGITS = torch.tensor([[4.0, 2.0, 1.0, 1.0], [1.0, 1.0, 2.0, 4.0]], dtype=torch.float64).log() + 3.0


def reading(logits: torch.Tensor = LOGITS, **changes: Any) -> Reading:
    fields = {
        "logits": logits,
        "clean": logits,
        "answer": torch.tensor([[1], [2]]),
        "wrong": torch.tensor([[0], [0]]),
        "tokens": torch.tensor([[0, 1, 2], [3, 2, 1]]),
        "lengths": torch.tensor([3, 2]),
    }
    return Reading(**{**fields, **changes})


def close(value: torch.Tensor, *wanted: float) -> None:
    torch.testing.assert_close(value, torch.tensor(wanted, dtype=value.dtype))


def test_logit_difference_of_single_answers() -> None:
    close(LogitDiff()(reading()), -math.log(2), math.log(2))


def test_logit_difference_takes_the_mean_over_real_answers() -> None:
    padded = reading(answer=torch.tensor([[0, 1], [3, -1]]), wrong=torch.tensor([[2, -1, -1], [0, 1, 2]]))
    # (ln 4 + ln 2) / 2 − ln 1 and ln 4 − (ln 1 + ln 1 + ln 2) / 3
    close(LogitDiff()(padded), 1.5 * math.log(2), 2 * math.log(2) - math.log(2) / 3)


def test_probabilities() -> None:
    close(Prob()(reading()), 1 / 4, 1 / 4)
    close(LogProb()(reading()), math.log(1 / 4), math.log(1 / 4))
    close(ProbDiff()(reading()), 1 / 4 - 1 / 2, 1 / 4 - 1 / 8)


def test_probability_of_several_answers_is_their_sum_without_padding() -> None:
    padded = reading(answer=torch.tensor([[0, 1], [3, -1]]))
    close(Prob()(padded), 3 / 4, 1 / 2)
    close(LogProb()(padded), math.log(3 / 4), math.log(1 / 2))


def test_kl_by_hand_and_zero_on_the_clean_run() -> None:
    value = KL()(reading(LOGITS[[1, 0]], clean=LOGITS))
    # Σ p ln(p/q): 1/2 ln 4 + 1/4 ln 2 + 1/8 ln(1/2) + 1/8 ln(1/4) = ln 2 (1 + 1/4 − 1/8 − 1/4)
    close(value, *[0.875 * math.log(2)] * 2)
    assert torch.equal(KL()(reading()), torch.zeros(2, dtype=torch.float64))


def test_kl_is_of_clean_from_this_run_and_not_the_reverse() -> None:
    p, q = LOGITS, torch.tensor([[5.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 5.0]], dtype=torch.float64).log()
    close(KL()(reading(q, clean=p))[:1], 1 / 2 * math.log(4 / 5) + 1 / 4 * math.log(2))
    close(KL()(reading(p, clean=q))[:1], 5 / 8 * math.log(5 / 4) - 1 / 8 * math.log(2))


def test_rank_counts_tokens_strictly_above_the_best_answer() -> None:
    close(Rank()(reading(answer=torch.tensor([[1], [0]]))), 1.0, 2.0)
    close(Rank()(reading(answer=torch.tensor([[2, 0], [1, -1]]))), 0.0, 2.0)


def test_loss_averages_over_real_next_tokens_only() -> None:
    rows = torch.stack([LOGITS[0], LOGITS[1], LOGITS[0]])  # (pos, column)
    value = Loss()(reading(torch.stack([rows, rows]), clean=torch.stack([rows, rows])))
    # row 0 predicts 1 at 1/4 and 2 at 1/4; row 1, of two tokens, predicts 2 at 1/8 and nothing else
    close(value, math.log(4), math.log(8))


def test_in_context_loss_is_that_of_the_second_half_less_that_of_the_first() -> None:
    tokens, lengths = torch.tensor([[0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 2, 0]]), torch.tensor([6, 5])
    logits = torch.randn(2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    nll = -logits.log_softmax(-1)[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]  # of token i + 1 at i
    none = torch.full((2, 1), -1)
    value = InContextLoss()(Reading(logits, logits, none, none, tokens, lengths))
    # 6 tokens: the halves begin at 0 and 3, whose first tokens nothing announces; 5 tokens: at 0 and 3.
    close(value[:1], float(nll[0, [3, 4]].mean() - nll[0, [0, 1]].mean()))
    close(value[1:], float(nll[1, [3]].mean() - nll[1, [0, 1]].mean()))


def test_kl_against_one_clean_run_for_every_item() -> None:
    """A clean row that is expanded, not copied, has its distribution made once; the bits are the same."""
    rows = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    several = reading(rows[:2], clean=rows[2].repeat(2, 1))
    shared = reading(rows[:2], clean=rows[2].expand(2, -1))
    assert shared.clean.stride(0) == 0
    assert torch.equal(KL()(several), KL()(shared))
    assert KL()(shared).min() > 0


@pytest.mark.parametrize("metric", [LogitDiff(), Prob(), ProbDiff(), LogProb(), KL()])
def test_metrics_of_one_position_do_not_depend_on_a_constant_or_the_row_beside(metric: Any) -> None:
    shifted = metric(reading(LOGITS + 7.0, clean=LOGITS[[1, 0]]))
    whole = metric(reading(LOGITS, clean=LOGITS[[1, 0]]))
    torch.testing.assert_close(shifted, whole)
    assert whole.abs().min() > 0.1


@pytest.mark.parametrize("name", sorted(METRICS))
def test_what_a_metric_declares(name: str) -> None:
    metric = METRICS[name]()
    assert metric.name == name
    assert metric.unit in ("logits", "probability", "nats", "rank")
    assert metric.better == ("lower" if name in ("kl", "rank", "loss", "in_context_loss") else "higher")
    assert metric.reads_positions == ("all" if "loss" in name else "answer")
    assert metric.reads_columns == ("answers" if name == "logit_diff" else "vocabulary")
    assert metric == METRICS[name]()


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"rank", "in_context_loss"}))
def test_gradients_match_finite_differences_beside_padding(name: str) -> None:
    torch.manual_seed(0)
    shape = (2, 3, 5) if "loss" in name else (2, 5)
    clean = torch.randn(shape, dtype=torch.float64)
    logits = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    answer, wrong = torch.tensor([[1, 2], [3, -1]]), torch.tensor([[4], [0]])
    assert torch.autograd.gradcheck(
        lambda x: METRICS[name]()(reading(x, clean=clean, answer=answer, wrong=wrong)), logits
    )


def test_float32_stays_float32_and_float64_stays_float64() -> None:
    for dtype in (torch.float32, torch.float64):
        assert LogitDiff()(reading(LOGITS.to(dtype))).dtype == dtype
        assert Rank()(reading(LOGITS.to(dtype))).dtype == dtype


def test_custom_metric_is_the_users_function() -> None:
    top = Custom(lambda r: r.logits.amax(-1), name="top", unit="logits", reads_columns="vocabulary")
    close(top(reading()), 3 + math.log(4), 3 + math.log(4))
    assert (top.name, top.unit, top.better) == ("top", "logits", "higher")
    assert repr(top) == repr(Custom(lambda r: r.logits[:, 0], name="top", unit="logits"))


def test_custom_metric_of_the_wrong_shape_names_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"'flat' returned shape \(2, 4\); it must return shape \(2,\)"):
        Custom(lambda r: r.logits, name="flat")(reading())
    with pytest.raises(ValueError, match=r"'mean' returned shape \(\); it must return shape \(2,\)"):
        Custom(lambda r: r.logits.mean(), name="mean")(reading())
    with pytest.raises(
        ValueError, match=r"'number' returned a float; it must return a tensor of shape \(2,\)"
    ):
        Custom(lambda r: 1.0, name="number")(reading())


@pytest.mark.parametrize(
    ("field", "value"), [("better", "bigger"), ("reads_positions", "last"), ("reads_columns", "all")]
)
def test_custom_metric_with_a_wrong_declaration(field: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is '{value}'; it must be"):
        Custom(lambda r: r.logits[:, 0], name="x", **{field: value})
