"""The training language: what is held out stays out, and the rows are what they claim to be."""

from __future__ import annotations

import itertools
import json
import random

import pytest
import torch

from interp.files import data_dir
from interp.tasks.world import SPECIAL, split
from training.batches import BOS, EOS, LAST_WORD, PAD, copy_batch, text_batch
from training.evaluate import COPY_LENGTH, copying_rows
from training.language import HELD_OUT_ONE_IN, Language, held_out


@pytest.fixture(scope="module")
def language() -> Language:
    return Language(seed=0)


@pytest.fixture(scope="module")
def ids(language: Language) -> dict[str, int]:
    return {word: i for i, word in enumerate(language.vocabulary())}


def test_every_word_of_the_task_files_has_one_token(language: Language) -> None:
    words = language.vocabulary()
    assert len(set(words)) == len(words)
    ioi, years = (
        json.loads((data_dir() / f"tasks/{name}.json").read_text()) for name in ("ioi", "greater_than")
    )
    wanted = {*ioi["names"], *ioi["places"], *ioi["objects"], *years["nouns"], *map(str, years["centuries"])}
    wanted |= {f"{year:02d}" for year in range(100)}
    filled = [
        text.format(A="A", B="B", S="S", PLACE="P", OBJECT="O", NOUN="N", START="S", CENTURY="S")
        for text in ioi["templates"] + years["templates"]
    ]
    wanted |= {word for text in filled for word in split(text)} - set("ABSPON")
    assert wanted <= set(words)


def test_pairs_are_split_whatever_their_order(language: Language) -> None:
    pairs = list(itertools.combinations(language.names, 2))
    kept_out = [pair for pair in pairs if held_out(*pair, seed=0)]
    assert all(held_out(second, first, seed=0) for first, second in kept_out)
    assert abs(len(kept_out) / len(pairs) - 1 / HELD_OUT_ONE_IN) < 0.02
    assert {held_out(*pair, seed=1) for pair in kept_out} == {True, False}  # another seed, another split


def test_no_training_sentence_has_a_held_out_pair(language: Language) -> None:
    rng, names = random.Random(0), set(language.names)
    together = 0
    for _ in range(3000):
        words = " ".join(language.sentence(rng)).split(" . ")
        for present in (sorted(names & set(part.split())) for part in words[:1]):
            if len(present) == 2:
                together += 1
                assert not held_out(*present, seed=0)
    assert together > 500


def test_held_out_prompts_are_held_out_and_balanced(language: Language) -> None:
    rng = random.Random(1)
    prompts = [language.ioi_prompt(rng, test=True) for _ in range(2000)]
    assert all(held_out(prompt.answer, prompt.wrong, seed=0) for prompt in prompts)
    first = [prompt.words.index(prompt.answer) < prompt.words.index(prompt.wrong) for prompt in prompts]
    assert 0.45 < sum(first) / len(first) < 0.55
    for prompt in prompts:
        assert prompt.words.count(prompt.wrong) == 2
        assert prompt.words.count(prompt.answer) == 1


def test_a_sentence_row(language: Language, ids: dict[str, int]) -> None:
    batch = text_batch(language, ids, random.Random(0), 64, test=False)
    assert batch.tokens[:, 0].eq(BOS).all()
    lengths = batch.tokens.ne(PAD).sum(-1)
    each = torch.arange(64)
    assert batch.tokens[each, lengths - 1].eq(EOS).all()
    assert batch.tokens[each, lengths - 2].eq(ids["."]).all()
    assert batch.weight[each, lengths - 3].eq(LAST_WORD).all()
    assert torch.equal(batch.targets.sum(-1), lengths - 1)
    assert not batch.targets[batch.tokens.eq(PAD)].any()


def test_a_copying_target_is_told_by_what_came_before() -> None:
    batch = copy_batch(n_words=100, n_ctx=48, rng=random.Random(0), rows=50)
    assert batch.targets.any(-1).sum() > 25
    for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist()):
        seen: dict[int, int] = {}  # a word → the word after its last occurrence
        for before, token, target in zip(tokens, tokens[1:], targets[1:]):
            if target:
                assert seen[before] == token
            seen[before] = token
    assert batch.tokens[:, 1:].min() >= len(SPECIAL)


def test_the_copying_test_repeats_once(language: Language) -> None:
    batch = copying_rows(language, n=5, seed=0)
    first, second = batch.tokens[:, 1:].split(COPY_LENGTH, dim=1)
    assert torch.equal(first, second)
    assert all(len(set(row)) == COPY_LENGTH for row in first.tolist())
    assert batch.targets.nonzero()[:, 1].min() == COPY_LENGTH + 2
    assert batch.targets.sum() == 5 * (COPY_LENGTH - 1)
