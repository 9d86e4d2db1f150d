"""From strings to tokens: what is read, and what is refused with which words."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from word_models import bundled_words

from interp.tasks import Task

CLEAN = ["When Mary and John went to the store, John gave a book to", "After Tom and Amy met, Amy gave it to"]
CORRUPT = [
    "When Mary and John went to the store, Mary gave a book to",
    "After Tom and Amy met, Tom gave it to",
]


def pair(model: Any, **changes: Any) -> Task:
    fields = {
        "clean": CLEAN,
        "corrupt": CORRUPT,
        "answer": [" Mary", " Tom"],
        "wrong": [" John", " Amy"],
        **changes,
    }
    return Task.from_prompts(model, **fields)


@pytest.mark.parametrize("name", ["words", "gpt2"])
def test_tokens_are_the_models_own_and_padding_follows(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    task = pair(model)
    for rows, texts in ((task.clean, CLEAN), (task.corrupt, CORRUPT)):
        for row, length, text in zip(rows, task.lengths, texts):
            assert torch.equal(row[:length], model.to_tokens(text)[0].cpu())
    assert task.lengths[0] > task.lengths[1]
    assert task.positions.tolist() == (task.lengths - 1).tolist()
    assert task.answer.tolist() == [int(model.to_tokens(a, prepend_bos=False)) for a in (" Mary", " Tom")]


def test_labels_are_the_token_strings(gpt2: Any) -> None:
    task = pair(gpt2)
    assert "".join(task.labels[0]) == "<|endoftext|>" + CLEAN[0]
    assert task.labels[1][-1] == ""
    assert task.labels[0][2] == " Mary"


@pytest.mark.parametrize("name", ["words", "gpt2"])
def test_bos_is_there_or_not_as_asked(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    bos = model.tokenizer.bos_token_id
    with_bos, without = pair(model, prepend_bos=True), pair(model, prepend_bos=False)
    assert with_bos.clean[:, 0].tolist() == [bos, bos]
    assert torch.equal(with_bos.clean[0, 1:], without.clean[0])


def test_several_answers(words: Any) -> None:
    task = pair(words, answer=[[" Mary", " Anna"], " Tom"])
    assert task.answers.shape == (2, 2)
    assert (task.answers[1] >= 0).tolist() == [True, False]


CASES = {
    "several tokens": (
        {"answer": [" Mary", " Zylophone"]},
        "prompt 1: answer ' Zylophone' is 3 tokens (' Z', 'yl', 'ophone'); an answer must be one token.",
    ),
    "needs a space": (
        {"wrong": ["Melissa", " Amy"]},
        "prompt 0: wrong 'Melissa' is 2 tokens ('Mel', 'issa'); an answer must be one token. "
        "' Melissa', with a leading space, is one: use it.",
    ),
    "empty": ({"answer": ["", " Tom"]}, "prompt 0: answer '' is no token"),
    "unequal": (
        {"corrupt": [CORRUPT[0], "After Tom and Melissande met, Tom gave it to"]},
        "Patching compares positions; use prompts of equal token length.",
    ),
    "same answers": ({"wrong": [" John", " Tom"]}, "is both an answer and a wrong answer"),
    "doubled BOS": (
        {"clean": ["<|endoftext|>" + t for t in CLEAN], "corrupt": ["<|endoftext|>" + t for t in CORRUPT]},
        "prompt 0: clean begins with two BOS tokens (50256). Leave it out of the text, or pass prepend_bos=",
    ),
    "one string": ({"clean": CLEAN[0]}, "clean is one string; give a list of strings, one per prompt"),
    "counts": (
        {"answer": [" Mary"]},
        "the lists differ in length: clean has 2, corrupt has 2, answer has 1, wrong has 2.",
    ),
    "none": ({"clean": [], "corrupt": [], "answer": [], "wrong": []}, "clean has 0 prompts"),
    "context": (
        {"clean": ["a" + " a" * 60, CLEAN[1]], "corrupt": ["a" + " b" * 60, CORRUPT[1]]},
        "the prompts have 62 positions, but the model's context is 48 tokens. Use shorter prompts.",
    ),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_mistake(case: str, gpt2: Any) -> None:
    changes, message = CASES[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        pair(gpt2, **changes)


def test_unknown_word_in_a_prompt_and_the_nearest(words: Any) -> None:
    size = words.cfg.d_vocab
    wanted = f"prompt 1, clean: 'Amyy' is not in the vocabulary of {size} words; the nearest words are 'Amy'"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        pair(words, clean=[CLEAN[0], "After Tom and Amyy met, Amy gave it to"])
    with pytest.raises(
        ValueError, match=r"prompt 0, corrupt: 'Qqqqqq' is not .*; no word of it looks like this one"
    ):
        pair(words, corrupt=["When Mary and John went to the store, Qqqqqq gave a book to", CORRUPT[1]])


def test_marks_are_read_as_the_tokenizer_splits_them(words: Any) -> None:
    """`):` is one token and `)` alone is none: only the word is named. A special token is never offered."""
    start = "def run(self, size, path): "
    with pytest.raises(
        ValueError, match=r"prompt 0, clean: 'sise' is not in the vocabulary .*'size'"
    ) as error:
        pair(words, clean=[start.replace("size", "sise"), start], corrupt=[start] * 2)
    assert "problems in all" not in str(error.value)
    with pytest.raises(ValueError, match=r"'unk' is not in the vocabulary of \d+ words") as error:
        pair(words, answer=[" unk", " Tom"])
    assert "<unk>" not in str(error.value)


def test_unknown_word_as_an_answer(words: Any) -> None:
    with pytest.raises(ValueError, match=r"prompt 0, answer: 'Marry' is not in the vocabulary .* 'Mary'"):
        pair(words, answer=[" Marry", " Tom"])


def test_answers_continue_the_prompt_where_every_text_gets_a_space(stories: Any) -> None:
    start = "There was a boy."
    task = Task.from_prompts(
        stories,
        clean=[start, start],
        corrupt=["There was a girl."] * 2,
        answer=[" He", "."],
        wrong=[" She", ","],
    )
    for i, answer in enumerate((" He", ".")):
        assert stories.to_tokens(start + answer)[0].tolist() == [*task.clean[i].tolist(), int(task.answer[i])]
    with pytest.raises(ValueError, match="prompt 0: answer ' Mary' is 4 tokens"):
        Task.from_prompts(
            stories, clean=[start], corrupt=["There was a girl."], answer=[" Mary"], wrong=[" He"]
        )


def test_a_model_without_tokenizer_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"no tokenizer, so it cannot read strings. Use Task.from_tokens"):
        pair(SimpleNamespace(tokenizer=None))


def test_ids_outside_the_vocabulary_and_bos_of_one_side(words: Any) -> None:
    size, bos = words.cfg.d_vocab, words.tokenizer.bos_token_id
    task = Task.from_tokens(
        clean=[[bos, 4, 5], [3, 4, 5]], corrupt=[[6, 4, 5], [3, size, 5]], answer=[4, 5], wrong=[5, size + 1]
    )
    assert task.problems() == []
    found = task.problems(words)
    assert [text.split(". ")[0] for text in found] == [
        f"prompt 1: corrupt has the token id {size}, but the model has {size} tokens",
        f"prompt 1: wrong has the token id {size + 1}, but the model has {size} tokens",
        f"prompt 0: clean begins with the BOS token ({bos}), corrupt does not",
    ]


def test_a_task_on_another_device_is_a_problem(words: Any) -> None:
    task = pair(words)
    elsewhere = SimpleNamespace(
        clean=task.clean.to("meta"),
        corrupt=task.corrupt,
        answers=task.answers,
        wrongs=task.wrongs,
        lengths=task.lengths,
    )
    from interp.tasks import _validate

    problems = _validate._device_problems(elsewhere, words)
    assert problems == ["the task is on meta, the model on cpu. Move one of them."]


def test_the_bundled_words_are_enough_for_these_sentences() -> None:
    assert {"Mary", "John", "store", "gave", ","} <= set(bundled_words())
