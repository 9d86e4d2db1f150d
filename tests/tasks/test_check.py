"""Task.check and keep_solved: a constructed model whose right and wrong prompts are known."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from interp.tasks import Task, UnsolvedTask, check, ioi
from interp.tasks._shifts import shift_of, shift_warnings


class LastToken(torch.nn.Module):
    """Predicts the last token again: logit 1 on it, 0 elsewhere."""

    def __init__(self, size: int = 10) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.eye(size))
        self.cfg = SimpleNamespace(d_vocab=size, d_vocab_out=size, n_ctx=8)
        self.tokenizer = None
        self.eval()

    def forward(self, tokens: torch.Tensor, return_type: str = "logits") -> torch.Tensor:
        return self.weight[tokens]


def task(**changes: Any) -> Task:
    """Answers 1 against 2; solved by `LastToken` on rows 0 and 3, clean wrong on 1, corrupt right on 2."""
    fields = {
        "clean": [[5, 1], [5, 2], [5, 1], [5, 5, 1]],
        "corrupt": [[5, 2], [6, 2], [6, 1], [5, 5, 2]],
        "answer": [1, 1, 1, [1, 3]],
        "wrong": [2, 2, 2, [2, 4]],
        **changes,
    }
    return Task.from_tokens(**fields)


def test_counts_right_and_wrong_at_each_prompts_own_position() -> None:
    for batch_size in (1, 3, 32):
        report = task().check(LastToken(), batch_size=batch_size)
        assert report.problems == report.notes == ()
        assert report.clean_right.tolist() == [True, False, True, True]
        assert report.corrupt_wrong.tolist() == [True, True, False, True]
        assert (report.accuracy, report.corrupted) == (0.75, 0.75)
    assert str(report) == "clean right in 3 of 4 prompts\ncorrupt wrong in 3 of 4 prompts"


def test_accuracy_below_the_floor_warns_with_it() -> None:
    with pytest.warns(
        UnsolvedTask, match="right in 75% of the clean prompts, below the floor of 90%"
    ) as seen:
        report = task().check(LastToken(), floor=0.9)
    assert [str(warning.message) for warning in seen] == list(report.notes)


def test_the_floor_is_one_half(recwarn: pytest.WarningsRecorder) -> None:
    for accuracy, warns in ((0.5, False), (0.499, True), (1.0, False), (0.0, True), (float("nan"), False)):
        recwarn.clear()
        warnings.simplefilter("always")
        note = check.warn_unsolved(accuracy)
        assert [str(warning.message) for warning in recwarn] == ([note] if warns else [])
        assert note is None or f"{100 * accuracy:g}% of the clean" in note


def test_right_is_more_total_probability() -> None:
    """0.2 + 0.2 against 0.3, and against 0.3 + 0.3; far below float32's least probability too."""
    logits = torch.tensor([0.2, 0.2, 0.3, 0.3]).log().expand(2, 4)
    answer, wrong = torch.tensor([[0, 1], [0, 1]]), torch.tensor([[2, -1], [2, 3]])
    for shift in (0.0, -500.0):
        lowered = torch.cat((logits + shift, torch.zeros(2, 1)), 1)
        assert check.right(lowered, answer, wrong).tolist() == [True, False]
    assert check.right(logits, answer, answer).tolist() == [False, False]


def test_keep_solved_drops_the_others_and_counts_them() -> None:
    with pytest.warns(UserWarning, match="2 of 4 pairs dropped: not solved by this model"):
        kept = task().keep_solved(LastToken())
    assert kept.clean.tolist() == [[5, 1, 0], [5, 5, 1]]
    with pytest.warns(UserWarning, match="1 of 4 pairs dropped"):
        assert len(task().keep_solved(LastToken(), corrupt=False)) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(kept.keep_solved(LastToken())) == 2


def test_keep_solved_of_nothing() -> None:
    with pytest.raises(ValueError, match="none of the 1 pairs is solved by this model"):
        task()[[1]].keep_solved(LastToken())


def test_problems_are_reported_all_at_once_and_nothing_is_run() -> None:
    report = task().check(LastToken(size=6), floor=0.0)
    assert len(report.problems) == 2
    assert "prompt 1: corrupt has the token id 6" in str(report)
    assert report.clean_right is None
    with pytest.raises(ValueError, match="2 problems in all"):
        task().keep_solved(LastToken(size=6))


def test_train_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="the model is in train mode"):
        task().check(LastToken().train())


def test_task_without_corrupt_prompts() -> None:
    report = task(corrupt=None).check(LastToken())
    assert report.corrupt_wrong is None
    assert report.accuracy == 0.75


def test_a_real_model_is_left_as_it_was(words: Any) -> None:
    made = ioi(words, n=6)
    before = {name: value.clone() for name, value in words.state_dict().items()}
    report = made.check(words, floor=0.0, batch_size=4)
    logits = words(made.clean)[torch.arange(6), made.positions]
    right = logits.gather(1, made.answers) > logits.gather(1, made.wrongs)
    assert report.clean_right.tolist() == right.flatten().tolist()
    assert all(torch.equal(value, before[name]) for name, value in words.state_dict().items())
    assert not words.training


def test_a_shifted_span_is_noted_and_an_aligned_one_is_not() -> None:
    shifted = Task.from_tokens(
        clean=[[1, 2, 3, 4, 5, 9]], corrupt=[[6, 1, 2, 3, 4, 9]], answer=[9], wrong=[1]
    )
    with pytest.warns(
        UserWarning, match="prompt 0: between positions 0 and 4 the same tokens stand 1 position apart"
    ):
        shifted.check(LastToken(), floor=0.0)
    assert shift_of([1, 2, 3, 4, 5], [6, 1, 2, 3, 4]) == 1
    assert shift_of([6, 7, 1, 2, 3], [1, 2, 3, 6, 8]) == -2
    assert shift_of([1, 8, 3, 4, 5], [2, 8, 3, 4, 6]) == 0
    assert shift_of([1, 2, 7], [2, 1, 8]) == 0


def test_random_tokens_are_no_shifted_words() -> None:
    """Of few kinds of token, runs of three recur by chance: nothing was written, and nothing has shifted."""
    generator = torch.Generator().manual_seed(0)
    clean, corrupt = torch.randint(1, 4, (2, 60, 8), generator=generator)
    assert shift_warnings(clean, corrupt)  # so that the test can fail
    random = Task.from_tokens(clean=clean, corrupt=corrupt, answer=[1] * 60, wrong=[2] * 60)
    notes = random.check(LastToken(), floor=0.0).notes
    assert not [note for note in notes if "apart in clean and corrupt" in note]
