"""`and-gate`: a colour is the answer if both places hold it. See `gates` for the rest of the model.

The gate is relu(seen − 1): 1 when both heads carry the colour, 0 when one does. Each head alone is needed, so
cutting either branch changes the answer.
"""

from __future__ import annotations

from interp.models.handmade import gates
from interp.models.handmade.sketch import Sketch

DESCRIPTION = "a colour is the answer if two heads both carry it, else none; 1 layer, 2 heads, relu MLP"
TRUTH = gates.TRUTH


def sketch() -> Sketch:
    """The model."""
    return gates.sketch(_both)


def _both(model: Sketch, colour: str) -> None:
    model.neuron(0, {f"seen {colour}": 1.0}, {f"out {colour}": 1.0}, bias=-1.0)
