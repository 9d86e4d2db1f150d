"""`and-gate` and `or-gate`: `Mary red John red =` → `red`. One layer, two heads, one MLP.

Head 0 reads the first colour, head 1 the second, and both add it to the same features, `seen red`: 2 if
both colours are red, 1 if one is. The MLP is the gate. Where no colour passes the gate, the answer is `none`,
whose logit is always 5; a colour that passes has 10. The names matter to nothing.

* `and-gate`: a colour is the answer if both places hold it. The gate is relu(seen − 1): 1 when both heads
  carry the colour, 0 when one does. Each head alone is needed, so cutting either branch changes the answer.
* `or-gate`: a colour is the answer if either place holds it. The gate is relu(2 seen − 1) − relu(2 seen − 2):
  1 when one head carries the colour or both do, and 0 up to one half, so that a mean over many colours does
  not pass.

The truth of the or-gate holds both branches: on a prompt where one place holds a colour and the other holds
`none`, its branch is needed. In the pairs of `tasks.or_gate` both places hold the colour and neither corrupt
place does; there no single cut of a branch changes any logit, and cutting both loses the answer. On these
pairs a greedy search such as ACDC keeps exactly one branch, and a ranking by single cuts gives both
`OR_BRANCHES` zero.

Positions, and with them where the heads look, never differ between prompts: only zero ablation needs them.
"""

from __future__ import annotations

from collections.abc import Callable

from interp.models.handmade.sketch import SHARP, Sketch

AND_DESCRIPTION = "a colour is the answer if two heads both carry it, else none; 1 layer, 2 heads, relu MLP"
OR_DESCRIPTION = (
    "a colour is the answer if either of two heads carries it, else none; 1 layer, 2 heads, relu MLP"
)
COLOURS = ("red", "blue", "green", "white", "black", "brown", "pink", "grey")
NAMES = ("Mary", "John", "Tom", "Anna")
NONE = "none"
PLACES = (2, 4)  # <bos> Mary red John red =
GAIN = 10.0

MOVING = (
    "input->a0.h0<v>",
    "input->a0.h1<v>",
    "a0.h0->m0",
    "a0.h1->m0",
    "m0->logits",
)
FIXED = ("input->a0.h0<q>", "input->a0.h0<k>", "input->a0.h1<q>", "input->a0.h1<k>")
OR_BRANCHES = (
    ("input->a0.h0<v>", "a0.h0->m0"),
    ("input->a0.h1<v>", "a0.h1->m0"),
)
TRUTH = {"resample": MOVING, "mean": MOVING, "zero": (*MOVING, *FIXED)}


def and_gate() -> Sketch:
    """The model that needs both."""
    return _sketch(_both)


def or_gate() -> Sketch:
    """The model that needs either."""
    return _sketch(_either)


def _sketch(gate: Callable[[Sketch, str], None]) -> Sketch:
    """The model with this gate: a function that adds the neurons of one colour."""
    kinds = [f"{kind} {colour}" for kind in ("tok", "seen", "out") for colour in COLOURS]
    features = ("here", *(f"pos {p}" for p in PLACES), *kinds)
    model = Sketch((*COLOURS, NONE, *NAMES, "="), features, n_ctx=6, n_layers=1, n_heads=2)
    for position in range(model.n_ctx):
        model.place(position, "here")
    for head, position in enumerate(PLACES):
        model.place(position, f"pos {position}")
        moves = [(f"tok {colour}", f"seen {colour}", 1.0) for colour in COLOURS]
        model.head(0, head, looks=[("here", f"pos {position}", SHARP)], moves=moves)
    for colour in COLOURS:
        model.embed(colour, f"tok {colour}")
        gate(model, colour)
        model.unembed(f"out {colour}", colour, GAIN)
    model.offer(NONE, GAIN / 2)
    return model


def _both(model: Sketch, colour: str) -> None:
    model.neuron(0, {f"seen {colour}": 1.0}, {f"out {colour}": 1.0}, bias=-1.0)


def _either(model: Sketch, colour: str) -> None:
    seen, out = f"seen {colour}", f"out {colour}"
    model.neuron(0, {seen: 2.0}, {out: 1.0}, bias=-1.0)
    model.neuron(0, {seen: 2.0}, {out: -1.0}, bias=-2.0)
