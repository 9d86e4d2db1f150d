"""Task families of the hand-built models (`interp.models.handmade`); any model with these words can try.

| family      | prompt → answer                                                                       |
|-------------|---------------------------------------------------------------------------------------|
| reverse     | `a c b b = b b` → `c`: the sequence before `=` said backwards, cut anywhere           |
| xproportion | `y x w x x` → `yes`: is x more than half of the letters                               |
| linear      | `a c a a b` → `a`: the letter that comes most often                                   |
| and_gate    | `Mary red John red =` → `red`: a colour that both have                                |
| or_gate     | the same → `red`: a colour that either has                                            |

The prompts can all be listed: they are drawn in pairs, or (`n=None`) every input of the hand-built model is
taken once, with a corrupt prompt drawn by the seed. Two prompts make a pair when they have as many tokens and
different answers; the wrong answer of each is the answer of the other.

Reversal. Prompts of one task have `letters` letters in all (before and after `=`), so that positions line up;
the clean and the corrupt prompt differ in letters and in the place of `=`.

Gates. In every pair both hold one colour, and neither does in the corrupt prompt (`Mary none John none =`,
whose answer is `none`). So in `and_gate` losing either is as bad as losing both, and in `or_gate` losing one
is nothing. The pairs are not mirrored: the mirror of one gate is the other. Every input: the two places hold
different things as well; for `or_gate` these are the prompts that name one colour at most.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from interp._verbs import verb
from interp.places import hint
from interp.tasks import _prompts, vocabulary, wordlists
from interp.tasks._induction import induction
from interp.tasks._pairs import Side, contrast, make
from interp.tasks._shifts import shift_warnings
from interp.tasks._task import Task
from interp.tasks.metrics import Metric

LONGEST = 5  # letters of a sequence
ABC = ("a", "b", "c")
WXYZ = ("w", "x", "y", "z")
COLOURS = ("red", "blue", "green", "white", "black", "brown", "pink", "grey")
NAMES = ("Mary", "John", "Tom", "Anna")
NONE = "none"
WORDS = (
    *("Mary", "John", "Tom", "Anna", "Paul", "Kate"),
    *("store", "school", "park", "garden", "office"),
    *("book", "ring", "ball", "key", "letter"),
)


class Item(NamedTuple):
    """A prompt in words, and the word that answers it."""

    text: str
    answer: str


Pair = tuple[Item, Item]  # clean, corrupt


def _mirrored(items: Sequence[Item], n: int, seed: int) -> list[Pair]:
    """n pairs of different prompts: the corrupt prompt of pair 2i is the clean prompt of pair 2i + 1."""
    wordlists.require_even(n)
    left = list(items)
    random.Random(seed).shuffle(left)
    pairs: list[Pair] = []
    while len(pairs) < n:
        first = left.pop() if left else None
        partner = next((i for i, item in enumerate(left) if first and _fit(first, item)), None)
        if first is None or partner is None:
            raise ValueError(f"n is {n}, but {len(items)} prompts do not make so many pairs; use fewer.")
        second = left.pop(partner)
        pairs += [(first, second), (second, first)]
    return pairs


def _every(items: Sequence[Item], seed: int) -> list[Pair]:
    """Every prompt once, in order, each with a corrupt prompt drawn by the seed."""
    rng = random.Random(seed)
    groups: dict[int, list[Item]] = defaultdict(list)
    for item in items:
        groups[len(item.text.split())].append(item)
    return [(item, _other(item, groups[len(item.text.split())], rng)) for item in items]


def _drawn(pairs: Sequence[Pair], n: int, seed: int) -> list[Pair]:
    """n of the pairs."""
    if not 1 <= n <= len(pairs):
        raise ValueError(f"n is {n}; there are {len(pairs)} pairs of prompts, so it must be from 1 to that.")
    return random.Random(seed).sample(list(pairs), n)


def _build(
    model: Any,
    name: str,
    pairs: Sequence[Pair],
    seed: int,
    metric: Metric | str | None,
    clusters: Sequence[str] | None = None,
) -> Task:
    """The task of these pairs; by default each is a cluster of its own."""
    listed = list(dict.fromkeys(item for pair in pairs for item in pair))
    words = dict.fromkeys(word for item in listed for word in (*item.text.split(), item.answer))
    _prompts.require_single(model, "words", list(words))
    ids = wordlists.single_tokens(model, words)
    sides = {item: Side(vocabulary.encode(model, item.text), [ids[item.answer]]) for item in listed}
    clusters = clusters or [f"{name} {i}" for i in range(len(pairs))]
    made = [contrast(sides[one], sides[other], c) for (one, other), c in zip(pairs, clusters)]
    return make(model, made, name=name, seed=seed, metric=metric)


def _of(
    model: Any, name: str, items: Sequence[Item], n: int | None, seed: int, metric: Metric | str | None
) -> Task:
    """n mirrored pairs, the cluster of a prompt being its pair; every item once when n is None."""
    if n is None:
        return _build(model, name, _every(items, seed), seed, metric)
    clusters = [f"{name} {i // 2}" for i in range(n)]
    return _build(model, name, _mirrored(items, n, seed), seed, metric, clusters)


def _fit(one: Item, other: Item) -> bool:
    """A pair of as many tokens and different answers, in which no run of words stands elsewhere."""
    a, b = one.text.split(), other.text.split()
    if one.answer == other.answer or len(a) != len(b):
        return False
    ids = {word: i for i, word in enumerate(dict.fromkeys(a + b))}
    clean, corrupt = (torch.tensor([[ids[word] for word in words]]) for words in (a, b))
    return not shift_warnings(clean, corrupt)


def _other(item: Item, group: list[Item], rng: random.Random) -> Item:
    while (found := rng.choice(group)).answer == item.answer:
        pass
    return found


@verb
def reverse(
    model: Any, n: int | None = 64, seed: int = 0, *, letters: int = 5, metric: Metric | str | None = None
) -> Task:
    """Say a sequence backwards: n prompts in mirrored pairs, or every input (n=None).

    Example:
        >>> model = interp.load("reverse")
        >>> len(interp.tasks.reverse(model, n=4))
        4
    """
    lengths = range(2 * LONGEST) if n is None else [letters]
    found = [item for count in lengths for item in _reversals(count)]
    if len(found) < 2:
        raise ValueError(f"letters is {letters}; a prompt has from 1 to {2 * LONGEST - 1}.")
    return _of(model, "reverse", found, n, seed, metric)


def _reversals(letters: int) -> list[Item]:
    """Every prompt with this many letters."""
    found = []
    for length in range(1, LONGEST + 1):
        said = letters - length
        if 0 <= said < length:
            for sequence in itertools.product(ABC, repeat=length):
                backwards = sequence[::-1]
                words = (*sequence, "=", *backwards[:said])
                found.append(Item(" ".join(words), backwards[said]))
    return found


@verb
def xproportion(
    model: Any, n: int | None = 64, seed: int = 0, *, letters: int = 5, metric: Metric | str | None = None
) -> Task:
    """Is x more than half of the letters: n prompts in mirrored pairs, or every input (n=None).

    Example:
        >>> model = interp.load("xproportion")
        >>> len(interp.tasks.xproportion(model, n=4))
        4
    """
    if letters % 2 == 0 or not 1 <= letters <= LONGEST:
        raise ValueError(f"letters is {letters}; it must be odd, from 1 to {LONGEST}.")
    lengths = range(1, LONGEST + 1, 2) if n is None else [letters]
    found = [
        Item(" ".join(word), "yes" if 2 * word.count("x") > length else "no")
        for length in lengths
        for word in itertools.product(WXYZ, repeat=length)
    ]
    return _of(model, "xproportion", found, n, seed, metric)


@verb
def linear(model: Any, n: int | None = 64, seed: int = 0, *, metric: Metric | str | None = None) -> Task:
    """Which letter comes at least 3 times in 5: n prompts in mirrored pairs, or every input (n=None).

    Example:
        >>> model = interp.load("linear")
        >>> len(interp.tasks.linear(model, n=4))
        4
    """
    found = [
        Item(" ".join(word), letter)
        for word in itertools.product(ABC, repeat=LONGEST)
        for letter in ABC
        if 2 * word.count(letter) > LONGEST
    ]
    return _of(model, "linear", found, n, seed, metric)


@verb
def and_gate(model: Any, n: int | None = 64, seed: int = 0, *, metric: Metric | str | None = None) -> Task:
    """The colour that both have: n pairs, or every input (n=None).

    Example:
        >>> model = interp.load("and-gate")
        >>> len(interp.tasks.and_gate(model, n=4))
        4
    """
    return _task(model, "and_gate", lambda a, b: a if a == b else NONE, n, seed, metric)


@verb
def or_gate(model: Any, n: int | None = 64, seed: int = 0, *, metric: Metric | str | None = None) -> Task:
    """The colour that either has: n pairs, or every input that names one colour at most (n=None).

    Example:
        >>> model = interp.load("or-gate")
        >>> len(interp.tasks.or_gate(model, n=4))
        4
    """
    return _task(model, "or_gate", _either, n, seed, metric)


def _either(a: str, b: str) -> str | None:
    named = {a, b} - {NONE} or {NONE}
    return named.pop() if len(named) == 1 else None


def _task(
    model: Any,
    name: str,
    gate: Callable[[str, str], str | None],
    n: int | None,
    seed: int,
    metric: Metric | str | None,
) -> Task:
    people = list(itertools.permutations(NAMES, 2))
    if n is not None:
        pairs = [(_item(who, c, c, c), _item(who, NONE, NONE, NONE)) for who in people for c in COLOURS]
        return _build(model, name, _drawn(pairs, n, seed), seed, metric)
    held = itertools.product(people, (*COLOURS, NONE), (*COLOURS, NONE))
    found = [_item(who, a, b, answer) for who, a, b in held if (answer := gate(a, b)) is not None]
    return _build(model, name, _every(found, seed), seed, metric)


def _item(who: tuple[str, str], a: str, b: str, answer: str) -> Item:
    return Item(f"{who[0]} {a} {who[1]} {b} =", answer)


FAMILIES: dict[str, Callable[..., Task]] = {
    "reverse": reverse,
    "xproportion": xproportion,
    "induction": induction,
    "and-gate": and_gate,
    "or-gate": or_gate,
    "linear": linear,
}


def some_inputs(model: Any, name: str, n: int = 64, seed: int = 0) -> Task:
    """Pairs of the model's family in which the whole of its stated circuit moves (but see `or_gate`)."""
    options = {"corrupt": "all"} if name == "induction" else {}
    return _family(name)(model, n, seed, **options)


def every_input(model: Any, name: str, seed: int = 0) -> Task:
    """Every input of the model's domain, each with a corrupt prompt drawn by the seed.

    Of `induction`: every sequence of two or three different words, with each of its beginnings after it. (Its
    circuit does the same for longer sequences, but they are too many.)
    """
    if name == "induction":
        return _build(model, name, _every(_sequences(), seed), seed, None)
    return _family(name)(model, None, seed)


def _sequences() -> list[Item]:
    return [
        Item(" ".join((*sequence, *sequence[:prefix])), sequence[prefix])
        for length in (2, 3)
        for prefix in range(1, length)
        for sequence in itertools.permutations(WORDS, length)
    ]


def _family(name: str) -> Callable[..., Task]:
    if name not in FAMILIES:
        raise ValueError(
            f"{name!r} is not a hand-built model{hint(name, FAMILIES)} These are: {', '.join(FAMILIES)}."
        )
    return FAMILIES[name]
