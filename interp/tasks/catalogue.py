"""The task families that come with the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from interp.tasks.greater_than_family import greater_than
from interp.tasks.induction_family import induction
from interp.tasks.ioi_family import ioi
from interp.tasks.task import Task


class Family(NamedTuple):
    """A function that makes a task for a model, and one line about it."""

    build: Callable[..., Task]
    description: str


def families() -> dict[str, Family]:
    """Name → function `(model, n=64, seed=0)` and description."""
    return {
        "ioi": Family(ioi, "indirect object: When Mary and John ..., John gave a book to → Mary"),
        "induction": Family(induction, "copying: random words, then their beginning again → the next word"),
        "greater_than": Family(
            greater_than, "later years: The war lasted from the year 1732 to the year 17 → 33 to 99"
        ),
    }
