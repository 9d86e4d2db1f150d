"""The bundled families: solved by construction, balanced, mirrored, seeded, refused where words lack."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from word_models import build_words, bundled_words

from interp import tasks
from interp.tasks import ProbDiff, families, greater_than, induction, ioi, wordlists

MODELS = ["words", "gpt2"]
MIRRORED = ["ioi", "induction", "coloured_objects", "agreement", "docstring", "facts"]
WITH_TEMPLATES = ["ioi", "coloured_objects", "agreement", "docstring", "facts"]


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def words_of(model: Any, row: torch.Tensor, length: torch.Tensor) -> list[str]:
    return [model.tokenizer.decode([token]).strip() for token in row[:length].tolist()]


def text(model: Any, token: torch.Tensor) -> str:
    return model.tokenizer.decode([int(token)]).strip()


@pytest.mark.parametrize("name", MIRRORED)
def test_prompts_are_mirrored_in_pairs(name: str, model: Any) -> None:
    task = families()[name].build(model, n=24, seed=3)
    twin = torch.arange(24) ^ 1
    assert torch.equal(task.corrupt, task.clean[twin])
    assert torch.equal(task.answer, task.wrong[twin])
    assert torch.equal(task.lengths, task.lengths[twin])
    assert torch.equal(task.answer.flatten().sort().values, task.wrong.flatten().sort().values)
    assert len({tuple(row) for row in task.clean.tolist()}) == 24


@pytest.mark.parametrize("name", [*MIRRORED, "greater_than"])
def test_a_hundred_valid_prompts(name: str, model: Any) -> None:
    """100 different prompts, each with a corrupt one of equal length, and single tokens that continue it."""
    task = families()[name].build(model, n=100, seed=0)
    assert task.problems(model) == []
    assert len({tuple(row) for row in task.clean.tolist()}) == len(task) == 100
    assert (task.clean != task.corrupt).any(-1).all()
    assert (task.positions == task.lengths - 1).all()
    pad, width = model.tokenizer.pad_token_id, task.clean.shape[1]
    padding = torch.arange(width) >= task.lengths.unsqueeze(-1)
    assert (task.corrupt[padding] == (0 if pad is None else pad)).all()
    for row, length, answers in zip(task.clean.tolist(), task.lengths.tolist(), task.answers.tolist()):
        last = answers[:1] if name in MIRRORED else []  # GPT-2 reads some years, such as 1832, as one token
        whole = [token for token in (*row[:length], *last) if token != model.tokenizer.bos_token_id]
        assert model.tokenizer.encode(model.tokenizer.decode(whole), add_special_tokens=False) == whole


@pytest.mark.parametrize("name", [*MIRRORED, "greater_than"])
def test_the_seed_decides_and_the_global_generator_does_not(name: str, model: Any) -> None:
    build_task = families()[name].build
    torch.manual_seed(1)
    first = build_task(model, n=12, seed=5)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert build_task(model, n=12, seed=5).fingerprint() == first.fingerprint()
    assert build_task(model, n=12, seed=6).fingerprint() != first.fingerprint()
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert (first.name.split()[0], first.seed, len(first)) == (name, 5, 12)
    assert first.problems(model) == []


def test_ioi_answer_is_the_name_said_once(model: Any) -> None:
    task = ioi(model, n=48, seed=0)
    names = set(wordlists.load("ioi")["names"])
    orders = []
    for row, length, answer, wrong in zip(task.clean, task.lengths, task.answer, task.wrong):
        said = [word for word in words_of(model, row, length) if word in names]
        assert Counter(said) == {text(model, answer): 1, text(model, wrong): 2}
        assert said[2] == text(model, wrong)
        orders.append("BAB" if said[0] == said[2] else "ABB")
    assert Counter(orders) == {"ABB": 24, "BAB": 24}


def test_ioi_clean_and_corrupt_differ_in_the_subject_only(model: Any) -> None:
    task = ioi(model, n=24, seed=0)
    assert (task.clean != task.corrupt).sum(-1).tolist() == [1] * 24
    at = task.first_difference
    rows = torch.arange(24)
    assert torch.equal(task.clean[rows, at], task.wrong)
    assert torch.equal(task.corrupt[rows, at], task.answer)


def test_ioi_uses_its_templates_alike_and_names_them(model: Any) -> None:
    counts = Counter(ioi(model, n=48, seed=0).template)
    assert set(counts.values()) == {4}
    assert len(counts) == len(wordlists.load("ioi")["templates"])


def test_every_ioi_name_is_one_gpt2_token_and_every_slot_keeps_the_length(gpt2: Any) -> None:
    content = wordlists.load("ioi")
    for key in ("names", "places", "objects"):
        assert len(wordlists.single_tokens(gpt2, content[key])) == len(set(content[key])) == len(content[key])
    assert len(content["names"]) >= 60
    nouns = wordlists.load("greater_than")["nouns"]
    assert len(wordlists.single_tokens(gpt2, nouns)) == len(nouns)


def test_induction_answer_follows_the_earlier_occurrence(model: Any) -> None:
    task = induction(model, n=16, seed=0, length=6, prefix=2)
    bos = int(task.clean[0, 0] == model.tokenizer.bos_token_id)
    assert task.clean.shape == (16, bos + 8)
    for row, other, answer, wrong in zip(task.clean, task.corrupt, task.answer, task.wrong):
        sequence = row[bos:].tolist()
        assert sequence[6:] == sequence[:2]
        assert len(set(sequence)) == 6
        assert sequence[2] == int(answer)
        assert int(wrong) not in sequence
        assert (row != other).nonzero().flatten().tolist() == [bos + 2]
        assert int(other[bos + 2]) == int(wrong)


def test_induction_without_a_tokenizer_draws_token_ids() -> None:
    bare = SimpleNamespace(
        tokenizer=None,
        cfg=SimpleNamespace(d_vocab=12, d_vocab_out=12, n_ctx=20),
        parameters=lambda: iter([torch.zeros(1)]),
    )
    task = induction(bare, n=40, seed=0)
    assert task.clean.shape == (40, 12)
    assert set(task.clean.flatten().tolist()) == set(range(12))
    assert task.labels is None
    with pytest.raises(ValueError, match="12 distinct tokens, but 16 are needed"):
        induction(bare, n=4, length=15)


def test_induction_of_random_tokens_avoids_special_ones(words: Any) -> None:
    task = induction(words, n=200, seed=0, random_tokens=True)
    special = set(words.tokenizer.all_special_ids)
    body = task.clean[:, 1:] if int(task.clean[0, 0]) in special else task.clean
    assert not special & set(body.flatten().tolist())


def test_induction_of_given_words(words: Any) -> None:
    task = induction(words, n=4, length=3, words=["store", "school", "park", "garden"])
    assert {text(words, token) for token in task.answer} <= {"store", "school", "park", "garden"}
    with pytest.raises(ValueError, match="has 2 of 2 words as single tokens; 4 are needed"):
        induction(words, n=4, length=3, words=["store", "school"])
    with pytest.raises(ValueError, match=r"words: 'stor' is not in the vocabulary of \d+ words; .* 'store'"):
        induction(words, n=4, length=3, words=["park", "stor", "school", "garden"])
    with pytest.raises(ValueError, match=r"prefix is 3; it must be from 1 to 2, one less than length \(3\)"):
        induction(words, n=4, length=3, prefix=3)


def test_induction_of_words_of_several_tokens(gpt2: Any) -> None:
    with pytest.raises(ValueError, match=r"words: ' Melissande' is 3 tokens \(.*\); each must be one token"):
        induction(gpt2, n=4, length=2, words=["Mary", "Melissande", " John"])
    task = induction(gpt2, n=4, length=2, words=["Mary", "Anna", " John"])
    assert {text(gpt2, token) for token in task.answer} <= {"Mary", "Anna", "John"}


def test_induction_of_unrelated_sequences(model: Any) -> None:
    """corrupt="all": the corrupt sequence differs at every place, and is continued as it began."""
    task = induction(model, n=16, seed=0, length=5, prefix=3, corrupt="all")
    bos = int(task.clean[0, 0] == model.tokenizer.bos_token_id)
    clean, corrupt = task.clean[:, bos:], task.corrupt[:, bos:]
    assert (clean != corrupt).all()
    for rows, answer in ((clean, task.answer), (corrupt, task.wrong)):
        assert torch.equal(rows[:, 5:], rows[:, :3])
        assert torch.equal(rows[:, 3], answer)
    with pytest.raises(ValueError, match="corrupt is 'some'; it must be one of 'answer', 'all'"):
        induction(model, n=4, corrupt="some")


def test_greater_than_answers_are_the_later_years(model: Any) -> None:
    task = greater_than(model, n=40, seed=0)
    assert task.metric == ProbDiff()
    starts = []
    for i in range(40):
        said = words_of(model, task.clean[i], task.lengths[i])
        others = words_of(model, task.corrupt[i], task.lengths[i])
        at = int(task.first_difference[i])
        assert (task.clean[i] != task.corrupt[i]).sum() == 1
        start = int(said[at])
        assert others[at] == "01"
        assert said[at - 1] == said[-1]
        answers = [int(text(model, token)) for token in task.answers[i] if token >= 0]
        wrongs = [int(text(model, token)) for token in task.wrongs[i] if token >= 0]
        assert answers == list(range(start + 1, 100))
        assert wrongs == list(range(start + 1))
        starts.append(start)
    assert max(Counter(starts).values()) == 1
    assert min(starts) >= 2


def test_greater_than_writes_years_as_the_tokenizer_splits_them(words: Any, gpt2: Any) -> None:
    assert re.search(r"from the year 1\d\d\d to", "".join(greater_than(gpt2, n=4).labels[0]))
    assert re.search(r"from the year 1\d \d\d to", " ".join(greater_than(words, n=4).labels[0]))


def test_families_on_a_vocabulary_of_word_pieces(stories: Any) -> None:
    assert len(induction(stories, n=4, random_tokens=True)) == 4
    with pytest.raises(ValueError, match=r"has \d+ of 84 names as single tokens; 2 are needed"):
        ioi(stories, n=4)
    with pytest.raises(ValueError, match="its century and two digits"):
        greater_than(stories, n=4)


def test_too_few_words_says_how_many(tmp_path: Path) -> None:
    words = [word for word in bundled_words() if word not in set(wordlists.load("ioi")["names"]) - {"Mary"}]
    small = build_words(words, tmp_path)
    with pytest.raises(ValueError, match="has 1 of 84 names as single tokens; 2 are needed"):
        ioi(small, n=4)


def test_too_few_prompts_says_how_many(tmp_path: Path) -> None:
    template = "When Mary and John went to the store , gave a book to"
    small = build_words(template.split(), tmp_path)
    task = ioi(small, n=4, seed=0)
    assert len({tuple(row) for row in task.clean.tolist()}) == 4
    with pytest.raises(ValueError, match="n is 6, but the words that the tokenizer has give only 4 prompts"):
        ioi(small, n=6)


def test_template_words_lacking(tmp_path: Path) -> None:
    content = wordlists.load("ioi")
    small = build_words([*content["names"], *content["places"], *content["objects"]], tmp_path)
    with pytest.raises(ValueError, match=r"all words of 0 of 12 templates; the first lacks \['When', 'and'"):
        ioi(small, n=4)


def test_greater_than_needs_two_digit_tokens(tmp_path: Path) -> None:
    small = build_words([word for word in bundled_words() if word not in ("77", "78")], tmp_path)
    with pytest.raises(
        ValueError, match=r"(?s)its century and two digits .* has 98 of 100 numbers 00 to 99 as tokens"
    ):
        greater_than(small, n=4)


@pytest.mark.parametrize("n", [0, 3, -2])
def test_pairs_need_an_even_number(n: int, words: Any) -> None:
    for name in MIRRORED:
        with pytest.raises(ValueError, match=f"n is {n}, but prompts come in mirrored pairs"):
            families()[name].build(words, n=n)


def test_the_catalogue_names_every_family() -> None:
    found = families()
    assert {*MIRRORED, "greater_than"} <= set(found)
    assert all(family.description for family in found.values())
    assert all(getattr(tasks, name) is family.build for name, family in found.items())


@pytest.mark.parametrize("name", WITH_TEMPLATES)
def test_one_template_lines_up(name: str, model: Any) -> None:
    """One form: the same length, the same words outside the slots, clusters that are the mirrored pairs."""
    build_task = families()[name].build
    number = 0 if name == "docstring" else 1
    task = build_task(model, n=8, seed=0, template=number)
    assert task.lengths.tolist() == [task.clean.shape[1]] * 8
    fixed = [len(set(column)) == 1 for column in zip(*(task.labels or ()))]
    assert sum(fixed) >= 3
    assert fixed[-1] or name == "agreement"
    assert list(task.template) == [f"{task.name} {number}, pair {i // 2}" for i in range(8)]
    with pytest.raises(ValueError, match="template 99 is not usable with this tokenizer; these are: 0"):
        build_task(model, n=8, template=99)


@pytest.mark.parametrize("name", WITH_TEMPLATES)
def test_templates_take_turns(name: str, words: Any) -> None:
    """All templates equally often, and their names are the clusters."""
    count = len(wordlists.load("capitals" if name == "facts" else name)["templates"])
    task = families()[name].build(words, n=8 * count, seed=1)
    if count == 1:
        assert len(set(task.template)) == 4
    else:
        assert Counter(task.template) == {f"{task.name} {number}": 8 for number in range(count)}


@pytest.mark.parametrize("name", [*MIRRORED, "greater_than"])
def test_a_vocabulary_without_the_words(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the tokenizer has 0 of|needs a tokenizer in which a year is"):
        families()[name].build(build_words(["word"], tmp_path), n=4)


def test_greater_than_of_single_digits_asks_for_tens(tmp_path: Path) -> None:
    """Digits above the first year's are right, those below wrong, and its own is neither."""
    words = [word for word in bundled_words() if not word.isdigit()]
    model = digit_model([*words, *"0123456789"], tmp_path)
    task = greater_than(model, n=24, seed=1)
    assert task.problems(model) == []
    digit = {model.tokenizer.convert_tokens_to_ids(str(d)): d for d in range(10)}
    for row, length, answers, wrongs in zip(
        task.clean.tolist(), task.lengths.tolist(), task.answers, task.wrongs
    ):
        century, start = [[digit.get(token) for token in row[:length]][i] for i in (-2, -1)], row[:length]
        said = [digit[token] for token in start if token in digit]
        assert said[:2] == century
        assert 2 <= said[2] <= 7
        assert {digit[t] for t in answers.tolist() if t >= 0} == set(range(said[2] + 1, 10))
        assert {digit[t] for t in wrongs.tolist() if t >= 0} == set(range(said[2]))
    different = task.clean != task.corrupt
    assert set(task.corrupt[different].tolist()) == {model.tokenizer.convert_tokens_to_ids(d) for d in "01"}


def digit_model(words: list[str], folder: Path) -> Any:
    """A model that reads these words, and numbers digit by digit."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast
    from word_models import SPECIAL, build

    vocab = {word: i for i, word in enumerate(dict.fromkeys([*SPECIAL, *words]))}
    backend = Tokenizer(WordLevel(vocab, unk_token="<unk>"))
    splits = [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    backend.pre_tokenizer = pre_tokenizers.Sequence(splits)
    pad, bos, unk = SPECIAL
    made = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=pad, bos_token=bos, unk_token=unk)
    made.save_pretrained(folder / "digits")
    return build(PreTrainedTokenizerFast.from_pretrained(folder / "digits"), folder)
