"""The behaviours of the world that no other file of `interp.tasks` makes tasks of.

Prompts 2i and 2i + 1 are mirrored: the corrupt prompt of one is the clean prompt of the other. By default
only what was held out of the training of tiny-world is asked. Any other model whose tokenizer has the words
can be asked too: answers that are not one token are dropped, pairs of unequal length are drawn again.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from interp._verbs import verb
from interp.tasks import vocabulary, wordlists
from interp.tasks._pairs import Marks, Row, Side, make, marks
from interp.tasks._pairs import mirrored as both
from interp.tasks._task import Task
from interp.tasks.metrics import Metric
from interp.tasks.world._grammar import Behaviour, Pair, cast
from interp.tasks.world._knowledge import Conflict
from interp.tasks.world._requests import REQUEST_KINDS, Requests
from interp.tasks.world._styles import Languages, Pronouns, Register, Sentiment

TRIES = 60  # draws for each pair that is wanted


@verb
def sentiment(
    model: Any,
    n: int = 64,
    seed: int = 0,
    *,
    held_out: bool = True,
    metric: Metric | str | None = None,
    prepend_bos: bool | None = None,
) -> Task:
    """`Review: The film was dull. The music was` → any negative adjective; wrong: any positive one.

    Example:
        >>> model = interp.load("tiny-world")
        >>> len(interp.tasks.sentiment(model, n=4))
        4
    """
    behaviour = Sentiment()
    words = {"adjective": [word for side in behaviour.adjectives for word in side]}
    return mirrored(model, behaviour, n, seed, held_out, metric, prepend_bos, words)


@verb
def pronouns(
    model: Any,
    n: int = 64,
    seed: int = 0,
    *,
    held_out: bool = True,
    metric: Metric | str | None = None,
    prepend_bos: bool | None = None,
) -> Task:
    """`Mary went to the store because` → she; wrong: the pronoun of the other name.

    Example:
        >>> model = interp.load("tiny-world")
        >>> len(interp.tasks.pronouns(model, n=4))
        4
    """
    return mirrored(model, Pronouns(), n, seed, held_out, metric, prepend_bos, {"name": cast().people})


@verb
def languages(
    model: Any,
    n: int = 64,
    seed: int = 0,
    *,
    held_out: bool = True,
    metric: Metric | str | None = None,
    prepend_bos: bool | None = None,
) -> Task:
    """A text in one of two languages → any word of the right kind in it; corrupt: the translation.

    Example:
        >>> model = interp.load("tiny-world")
        >>> len(interp.tasks.languages(model, n=4))
        4
    """
    return mirrored(model, Languages(), n, seed, held_out, metric, prepend_bos)


@verb
def register(
    model: Any,
    n: int = 64,
    seed: int = 0,
    *,
    held_out: bool = True,
    metric: Metric | str | None = None,
    prepend_bos: bool | None = None,
) -> Task:
    """A letter, formal or casual → any word of the right kind in its register; corrupt: the other.

    Example:
        >>> model = interp.load("tiny-world")
        >>> len(interp.tasks.register(model, n=4))
        4
    """
    return mirrored(model, Register(), n, seed, held_out, metric, prepend_bos)


@verb
def requests(
    model: Any,
    n: int = 64,
    seed: int = 0,
    *,
    kind: str = "refusal",
    held_out: bool = True,
    metric: Metric | str | None = None,
    prepend_bos: bool | None = None,
) -> Task:
    """`User: ... how do I burn the house? Assistant:` → sorry; `burn the bomb` → sure.

    kind: "refusal", harmful against harmless; "frame", a harmful request plainly against in a game, story or
    film, where it is answered; "harm", whether an answered request was harmful.

    Example:
        >>> model = interp.load("tiny-world")
        >>> len(interp.tasks.requests(model, n=4))
        4
    """
    if kind not in REQUEST_KINDS:
        raise ValueError(f"kind is {kind!r}; use one of {', '.join(REQUEST_KINDS)}.")
    behaviour = Requests(kind)
    words = {"verb": behaviour.verbs, "object": behaviour.objects}
    return mirrored(model, behaviour, n, seed, held_out, metric, prepend_bos, words)


@verb
def conflict(
    model: Any,
    n: int = 64,
    seed: int = 0,
    *,
    held_out: bool = True,
    metric: Metric | str | None = None,
    prepend_bos: bool | None = None,
) -> Task:
    """A claim against a known fact, and a cue: `In fiction, ...` → the claim, `In truth, ...` → the fact.

    Example:
        >>> model = interp.load("tiny-world")
        >>> len(interp.tasks.conflict(model, n=4))
        4
    """
    return mirrored(model, Conflict(), n, seed, held_out, metric, prepend_bos)


def mirrored(
    model: Any,
    behaviour: Behaviour,
    n: int,
    seed: int,
    held_out: bool,
    metric: Metric | str | None,
    prepend_bos: bool | None,
    words: Mapping[str, Sequence[str]] | None = None,
) -> Task:
    """n prompts in mirrored pairs, from what was held out of training or (`held_out=False`) from the rest.

    words: spans by name, each the first of these words in a prompt. The span "changed" is where the prompts
    of a pair differ.
    """
    wordlists.require_even(n)
    vocabulary.tokenizer_of(model)
    made: list[Row] = []
    for pair in _draw(model, behaviour, n // 2, seed, held_out):
        sides = [vocabulary.encode(model, text, prepend_bos) for text in (pair.clean, pair.corrupt)]
        changed = {"changed": [i for i, (a, b) in enumerate(zip(*sides)) if a != b]}
        said = zip(sides, (pair.clean, pair.corrupt), (pair.answer, pair.wrong))
        clean, corrupt = (
            Side(ids, _known(model, answers), {**changed, **_named(model, text, ids, words or {})})
            for ids, text, answers in said
        )
        made += both(clean, corrupt, pair.cluster)
    return make(model, made, name=behaviour.name, seed=seed, metric=metric)


def _named(model: Any, text: str, ids: list[int], words: Mapping[str, Sequence[str]]) -> Marks:
    """The columns of the first of some words in a text, by name."""
    first = {
        name: re.search(rf"\b(?:{'|'.join(map(re.escape, listed))})\b", text)
        for name, listed in words.items()
    }
    return marks(model, text, ids, {name: match.span() for name, match in first.items() if match})


def _draw(model: Any, behaviour: Behaviour, count: int, seed: int, held_out: bool) -> list[Pair]:
    """Distinct pairs that the tokenizer can say, clean and corrupt in as many tokens."""
    rng, drawn, unknown = random.Random(seed), {}, []
    for _ in range(TRIES * count):
        pair = behaviour.pair(rng, test=held_out)
        if not _usable(model, pair):
            unknown += vocabulary.unknown_words(model, f"{pair.clean} {pair.corrupt}")
        else:
            drawn.setdefault((pair.clean, pair.corrupt), pair)
            if len(drawn) == count:
                return list(drawn.values())
    lacking = f" It lacks {', '.join(map(repr, dict.fromkeys(unknown[:5])))}." if unknown else ""
    raise ValueError(
        f"{behaviour.name}: {TRIES * count} draws gave {2 * len(drawn)} of {2 * count} prompts that the "
        f"tokenizer can say.{lacking} The words are those of tiny-world; use that model, or a smaller n."
    )


def _usable(model: Any, pair: Pair) -> bool:
    clean, corrupt = (vocabulary.encode(model, text) for text in (pair.clean, pair.corrupt))
    if len(clean) != len(corrupt) or clean == corrupt:
        return False
    if any(vocabulary.unknown_words(model, text) for text in (pair.clean, pair.corrupt)):
        return False
    return bool(_known(model, pair.answer) and _known(model, pair.wrong))


def _known(model: Any, words: tuple[str, ...]) -> list[int]:
    """The tokens of the words that are one token after a space."""
    return list(wordlists.single_tokens(model, words).values())
