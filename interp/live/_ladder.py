"""Steering on the page: a ladder of coefficients, and beside each text those of its controls.

At every rung `steering.side_by_side` continues the prompts with the direction, with a random direction of
the same length, and, where the direction has it, with that of shuffled labels; the KL of the next token and
the loss of the text under the unsteered model say what each has cost. Without a control and a KL an effect is
no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from interp import steering
from interp.models import Model
from interp.steering import Direction
from interp.tasks import Task

COEFFICIENTS = (-2.0, -1.0, 1.0, 2.0, 4.0)
PROMPTS = 4  # of the task, that are steered
_NUMBERS = ("kl", "loss", "repetition")
_LONGEST = 2_000  # letters of a prompt of the reader's own


@dataclass(frozen=True, eq=False)
class Ladder:
    """A direction of the page."""

    id: str
    direction: Direction
    model: Model
    task: Task
    coefficients: Sequence[float]
    max_new_tokens: int
    seed: int
    _known: dict[float, xr.Dataset] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """What the page says of the direction."""
        return {
            "id": self.id,
            "name": f"{self.direction.method} at {self.direction.place}",
            "prompts": min(PROMPTS, len(self.task)),
            "words": f"{self.max_new_tokens} tokens, the likeliest at each step; acts at every position; a "
            "coefficient multiplies the vector as it is",
        }

    def climb(
        self,
        prompt: Any,
        text: Any,
        coefficient: Any,
        checkpoint: Callable[[], None],
    ) -> dict[str, Any]:
        """The rungs for a prompt of the task by number, or for a text; one rung for a coefficient."""
        steps = self.coefficients if coefficient is None else [_finite(coefficient)]
        rungs = []
        for step in steps:
            checkpoint()
            known, row = self._side_by_side(prompt, text, step)
            runs = {str(run): _run(known, row, str(run)) for run in known["run"].values}
            rungs.append({"coefficient": step, "runs": runs})
        return {"rungs": rungs}

    def _side_by_side(self, prompt: Any, text: Any, step: float) -> tuple[xr.Dataset, int]:
        """The texts of a rung, and the row of the prompt; of the task's prompts all are made at once."""
        options: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "seed": self.seed}
        if text is not None:
            if not isinstance(text, str) or not text.strip() or len(text) > _LONGEST:
                raise ValueError(f"give a prompt of words, of at most {_LONGEST:,} letters.")
            return steering.side_by_side(self.model, [text], self.direction, step, **options), 0
        n = min(PROMPTS, len(self.task))
        if type(prompt) is not int or not 0 <= prompt < n:
            raise ValueError(f"prompt is {prompt!r}; prompts 0 to {n - 1} are steered.")
        if step not in self._known:
            first = self.task[:PROMPTS]
            self._known[step] = steering.side_by_side(self.model, first, self.direction, step, **options)
        return self._known[step], prompt


def _run(texts: xr.Dataset, row: int, run: str) -> dict[str, Any]:
    one = texts.sel(run=run).isel(prompt=row)
    numbers = {name: float(one[name]) for name in _NUMBERS}
    return {"text": str(one["text"].item()), **{n: v if np.isfinite(v) else None for n, v in numbers.items()}}


def _finite(coefficient: Any) -> float:
    if (
        isinstance(coefficient, bool)
        or not isinstance(coefficient, (int, float))
        or not np.isfinite(coefficient)
    ):
        raise ValueError(f"coefficient is {coefficient!r}; give a number.")
    return float(coefficient)


def check_ladder(direction: Direction, model: Model, coefficients: Sequence[float], n_new: int) -> None:
    """Raise ValueError for a direction of another model or several places, and settings that do not fit."""
    direction.check(model)
    if len(direction.places) != 1:
        names = ", ".join(map(str, direction.places))
        raise ValueError(f"a direction of the page has one place, this has {names}. Use .at(...).")
    if not len(coefficients) or 0 in [_finite(each) for each in coefficients]:
        raise ValueError(
            "coefficients is a list of numbers that are not 0: the unsteered text is shown beside them."
        )
    if not isinstance(n_new, int) or n_new < 1:
        raise ValueError(f"max_new_tokens is {n_new!r}; give a whole number of at least 1.")
