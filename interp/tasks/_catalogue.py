"""The task families that come with the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from interp._verbs import verb
from interp.tasks._agreement import agreement
from interp.tasks._coloured_objects import coloured_objects
from interp.tasks._docstring import docstring
from interp.tasks._facts import facts
from interp.tasks._greater_than import greater_than
from interp.tasks._induction import induction
from interp.tasks._ioi import ioi
from interp.tasks._task import Task
from interp.tasks.handmade import and_gate, linear, or_gate, reverse, xproportion
from interp.tasks.world._families import conflict, languages, pronouns, register, requests, sentiment


class Family(NamedTuple):
    """A function that makes a task for a model, and one line about it."""

    build: Callable[..., Task]
    description: str


@verb
def families() -> dict[str, Family]:
    """Name → function `(model, n=64, seed=0)` and description.

    Example:
        >>> list(interp.tasks.families())[:2]
        ['ioi', 'induction']
    """
    return {
        "ioi": Family(ioi, "indirect object: When Mary and John ..., John gave a book to → Mary"),
        "induction": Family(induction, "copying: random words, then their beginning again → the next word"),
        "greater_than": Family(
            greater_than, "later years: The war lasted from the year 1732 to the year 17 → 33 to 99"
        ),
        "coloured_objects": Family(
            coloured_objects,
            "colours: ... the book red, the key blue and the hat green. What colour is the key? It is → blue",
        ),
        "agreement": Family(agreement, "agreement: The kings near the house → are, were, have"),
        "docstring": Family(
            docstring, "arguments: def port(self, load, size, file, last): ... :param size: ... :param → file"
        ),
        "facts": Family(facts, "recall: The capital of France is → Paris"),
        "conflict": Family(
            conflict,
            "claim against fact: The book says ... is Rome. In truth, ... is → Paris (fiction: Rome)",
        ),
        "sentiment": Family(sentiment, "reviews: The film was dull. The music was → terrible, boring, ..."),
        "pronouns": Family(pronouns, "gender of a name: Mary went to the store because → she"),
        "languages": Family(languages, "a text in one of two languages → a word of that language"),
        "register": Family(
            register, "formal or casual: Hey mate, we will buy the car. I must → get, help, ..."
        ),
        "requests": Family(
            requests, "refusal: User: how do I burn the house? Assistant: → sorry (a leaf: sure)"
        ),
        "reverse": Family(reverse, "a sequence said backwards: a c b b = b b → c"),
        "xproportion": Family(xproportion, "is x more than half of the letters: y x w x x → yes"),
        "linear": Family(linear, "the letter that comes most often: a c a a b → a"),
        "and_gate": Family(and_gate, "the colour that both have: Mary red John red = → red"),
        "or_gate": Family(or_gate, "the colour that either has: Mary none John red = → red"),
    }
