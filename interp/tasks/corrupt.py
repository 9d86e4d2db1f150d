"""Corrupt prompts for prompts of one's own: each keeps the number of tokens of its clean prompt.

| function     | the corrupt prompt                                                  | what it takes away |
|--------------|---------------------------------------------------------------------|--------------------|
| `swap`       | two words change places                                             | who is who         |
| `replace`    | a word gives way to another one of its class                        | which one it is    |
| `negate`     | a word gives way to its opposite (is, isn't; always, never; ...)    | the polarity       |
| `shuffle`    | the words in another order, some kept in place                      | the order          |
| `resample`   | another prompt of the set                                           | everything         |

All take texts and give texts, to be used as `Task.from_prompts(model, clean=texts, corrupt=..., ...)`. A text
whose corrupt text would have another number of tokens, or be the same, is a ValueError that names it:
patching by position compares token with token. What is random is drawn with `seed`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from interp.tasks import vocabulary

OPPOSITES = {
    "is": "isn't", "was": "wasn't", "are": "aren't", "were": "weren't", "can": "cannot", "will": "won't",
    "do": "don't", "does": "doesn't", "did": "didn't", "always": "never", "all": "no", "yes": "no",
    "everything": "nothing", "everyone": "nobody", "good": "bad", "true": "false", "right": "wrong",
    "likes": "hates", "loves": "hates", "with": "without", "more": "less", "before": "after", "happy": "sad",
}  # fmt: skip
Words = str | Sequence[str]  # the same word in every text, or one a text


def swap(model: Any, texts: Sequence[str], first: Words, second: Words) -> list[str]:
    """Exchange two words wherever they stand.

    first, second: words (not parts of words), the same for all texts or one a text.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> interp.tasks.corrupt.swap(model, ["Mary and John went home"], "Mary", "John")
        ['John and Mary went home']
    """
    swapped = []
    for text, a, b in zip(texts, _each(first, texts, "first"), _each(second, texts, "second")):
        _require_words(text, len(swapped), (a, b))
        swapped.append(_exchanged(text, {a: b, b: a}))
    return checked(model, texts, swapped)


def replace(
    model: Any, texts: Sequence[str], word: Words, others: Sequence[str], *, seed: int = 0
) -> list[str]:
    """Put another member of a word's class in its place, drawn from those of as many tokens.

    word: what is replaced, the same for all texts or one a text. others: the class, such as names or places;
    words that stand in the text already are not taken.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> text = "When Mary and John went to the store, John gave a book to"
        >>> interp.tasks.corrupt.replace(model, [text], "store", ["store", "park"])
        ['When Mary and John went to the park, John gave a book to']
    """
    draw, replaced = np.random.default_rng(seed), []
    for text, given in zip(texts, _each(word, texts, "word")):
        _require_words(text, len(replaced), (given,))
        want = _length(model, text)
        options = [_exchanged(text, {given: other}) for other in others if not _has(text, other)]
        fitting = [each for each in options if _fits(model, each, want)]
        if not fitting:
            raise ValueError(
                f"prompt {len(replaced)}: none of the {len(others)} others for {given!r} has as many tokens "
                f"and is not in {text!r} already. Give more words of its class."
            )
        replaced.append(fitting[int(draw.integers(len(fitting)))])
    return checked(model, texts, replaced)


def negate(model: Any, texts: Sequence[str], opposites: Mapping[str, str] = OPPOSITES) -> list[str]:
    """Turn the first word that has an opposite of as many tokens into it; both ways round.

    opposites: pairs of words. ValueError for a text in which no word has a fitting one.

    Example:
        >>> model = interp.load("tiny-world")
        >>> interp.tasks.corrupt.negate(model, ["the park is good"], {"good": "bad"})
        ['the park is bad']
    """
    pairs, negated = {**{b: a for a, b in opposites.items()}, **opposites}, []
    for text in texts:
        want, known = _length(model, text), [word for word in _words(text) if word in pairs]
        options = [_exchanged(text, {word: pairs[word]}) for word in known]
        fitting = [each for each in options if _fits(model, each, want)]
        if not fitting:
            has = (
                f"has {', '.join(known)}, whose opposites have other numbers of tokens"
                if known
                else "has none"
            )
            raise ValueError(
                f"prompt {len(negated)}: of the words that have an opposite {text!r} {has}. Give "
                "opposites= of as many tokens, such as {'is': 'was'}."
            )
        negated.append(fitting[0])
    return checked(model, texts, negated)


def shuffle(model: Any, texts: Sequence[str], *, keep: Iterable[str] = (), seed: int = 0) -> list[str]:
    """The words of each text in another order; those in `keep` stay where they are.

    Drawn again up to a hundred times until the number of tokens is the same and the text is another one.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> (text,) = interp.tasks.corrupt.shuffle(model, ["Mary and John went to the store"], keep=["Mary"])
        >>> text.split()[0], sorted(text.split())
        ('Mary', ['John', 'Mary', 'and', 'store', 'the', 'to', 'went'])
    """
    draw, kept = np.random.default_rng(seed), set(keep)
    return checked(model, texts, [_shuffled(model, text, kept, draw, i) for i, text in enumerate(texts)])


def resample(
    model: Any, texts: Sequence[str], *, answers: Sequence[Any] | None = None, seed: int = 0
) -> list[str]:
    """For each text another one of the set with as many tokens; with `answers`, one with another answer.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> interp.tasks.corrupt.resample(model, ["Mary went to the store", "John went to the park"])
        ['John went to the park', 'Mary went to the store']
    """
    draw, lengths = np.random.default_rng(seed), [_length(model, text) for text in texts]
    marks = list(texts) if answers is None else list(answers)
    if len(marks) != len(texts):
        raise ValueError(f"answers has {len(marks)} entries, texts has {len(texts)}. Give one for each.")
    drawn = []
    for i, text in enumerate(texts):
        options = [
            other
            for other, length, mark in zip(texts, lengths, marks)
            if length == lengths[i] and other != text and mark != marks[i]
        ]
        if not options:
            also = " and another answer" if answers is not None else ""
            raise ValueError(f"prompt {i}: no other text of the set has {lengths[i]} tokens{also}: {text!r}.")
        drawn.append(options[int(draw.integers(len(options)))])
    return drawn


def checked(model: Any, clean: Sequence[str], corrupt: Sequence[str]) -> list[str]:
    """The corrupt texts, if each has as many tokens as its clean text and is another one; else ValueError."""
    for i, (before, after) in enumerate(zip(clean, corrupt, strict=True)):
        have, want = _length(model, after), _length(model, before)
        if have != want:
            raise ValueError(
                f"prompt {i}: {after!r} has {have} tokens, {before!r} has {want}. Choose words that are as "
                "many tokens, so that positions line up."
            )
        if unknown := vocabulary.unknown_words(model, after):
            raise ValueError(f"prompt {i}: {', '.join(unknown)} in {after!r} is not in the vocabulary.")
        if before == after:
            raise ValueError(f"prompt {i}: nothing changed in {before!r}.")
    return list(corrupt)


def _shuffled(model: Any, text: str, kept: set[str], draw: np.random.Generator, i: int) -> str:
    words = text.split(" ")
    free = [at for at, word in enumerate(words) if word not in kept]
    want = _length(model, text)
    for _ in range(100):
        order = draw.permutation(free)
        mixed = list(words)
        for at, source in zip(free, order):
            mixed[at] = words[source]
        if (other := " ".join(mixed)) != text and _fits(model, other, want):
            return other
    raise ValueError(f"prompt {i}: no other order of {text!r} has {want} tokens. Keep fewer words, or more.")


def _each(words: Words, texts: Sequence[str], name: str) -> list[str]:
    listed = [words] * len(texts) if isinstance(words, str) else list(words)
    if len(listed) != len(texts):
        raise ValueError(f"{name} has {len(listed)} words for {len(texts)} texts. Give one, or one a text.")
    return listed


def _words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text)


def _has(text: str, word: str) -> bool:
    return re.search(_whole(word), text) is not None


def _whole(*words: str) -> str:
    """A pattern of whole words; the longest first, so that none hides another."""
    listed = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return rf"(?<![\w'])(?:{listed})(?![\w'])"


def _exchanged(text: str, pairs: Mapping[str, str]) -> str:
    return re.sub(_whole(*pairs), lambda match: pairs[match[0]], text)


def _require_words(text: str, i: int, words: Sequence[str]) -> None:
    for word in words:
        if not word or not _has(text, word):
            raise ValueError(f"prompt {i}: the word {word!r} is not in {text!r}.")


def _fits(model: Any, text: str, tokens: int) -> bool:
    """Whether a text has so many tokens, all of words that the tokenizer knows."""
    return _length(model, text) == tokens and not vocabulary.unknown_words(model, text)


def _length(model: Any, text: str) -> int:
    return len(vocabulary.encode(model, text))
