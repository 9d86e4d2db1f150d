"""`or-gate`: a colour is the answer if either place holds it. See `gates` for the rest of the model.

The gate is relu(2 seen − 1) − relu(2 seen − 2): 1 when one head carries the colour or both do, and 0 up to
one half, so that a mean over many colours does not pass.

The truth holds both branches: on a prompt where one place holds a colour and the other holds `none`, its
branch is needed. In the pairs of `tasks.or_gate` both places hold the colour and neither corrupt place does;
there no single cut of a branch changes any logit, and cutting both loses the answer. On these pairs a greedy
search such as ACDC keeps exactly one branch, and a ranking by single cuts gives both `BRANCHES` zero.
"""

from __future__ import annotations

from interp.models.handmade import gates
from interp.models.handmade.sketch import Sketch

DESCRIPTION = (
    "a colour is the answer if either of two heads carries it, else none; 1 layer, 2 heads, relu MLP"
)
BRANCHES = (
    ("input->a0.h0<v>", "a0.h0->m0"),
    ("input->a0.h1<v>", "a0.h1->m0"),
)
TRUTH = gates.TRUTH


def sketch() -> Sketch:
    """The model."""
    return gates.sketch(_either)


def _either(model: Sketch, colour: str) -> None:
    seen, out = f"seen {colour}", f"out {colour}"
    model.neuron(0, {seen: 2.0}, {out: 1.0}, bias=-1.0)
    model.neuron(0, {seen: 2.0}, {out: -1.0}, bias=-2.0)
