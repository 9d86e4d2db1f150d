"""The check of every exercise, by its name: `check.logit_diff(logit_diff)`.

A check calls the student's function on tensors that can be worked out by hand, then on random ones, then on
the lab's model, and compares with the lab's own. It prints one line when all is right, and raises
`interp.labs.Wrong` with what differs, where, and the likely cause.
"""

from __future__ import annotations

import importlib
from typing import Any

from interp.labs._source import lab_of, labs


def __getattr__(name: str) -> Any:
    number = lab_of(name)
    if number is None:
        from interp.places import nearest

        known = [exercise for lab in labs().values() for exercise in lab.exercises]
        close = None if name.startswith("_") else nearest(name, known)
        end = f" Did you mean {close!r}?" if close else ""
        raise AttributeError(f"no lab has an exercise {name!r}.{end}")
    return getattr(importlib.import_module(f"interp.labs.checks.lab{number}"), name)


def __dir__() -> list[str]:
    return sorted(exercise for lab in labs().values() for exercise in lab.exercises)
