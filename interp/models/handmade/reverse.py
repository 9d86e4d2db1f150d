"""`reverse`: say a sequence backwards. Three layers, one head each.

`a c b b = b b` → `c`. Letters a, b, c; a sequence of 1 to 5 of them, `=`, and as much of the reversed
sequence as has been said. If `=` stands at position e, the letter to say at position p stands at 2e − 1 − p.

| part | what it does |
|---|---|
| a0.h0 | looks at `=` and writes its position as one number, e |
| m0 | turns the number into one of the features `len 1` ... `len 5` (length e − 1), by tent functions |
| m1 | AND of `len n` and `pos p`: writes `from s`, s = 2n + 1 − p, the position to copy from |
| a2.h0 | looks at the position that `from s` names and copies its letter to the output |

a1.h0 and m2 are zero. The logit of the answer is 10, of every other word 0.

Positions never differ between prompts, nor does the reading of them; so resampling or a mean leaves those
edges as they are, and only zero ablation needs them (`FIXED`).
"""

from __future__ import annotations

from interp.models.handmade.sketch import SHARP, Sketch

DESCRIPTION = "says a sequence of up to 5 letters backwards; 3 layers, 1 head, relu MLPs"
LETTERS = ("a", "b", "c")
LONGEST = 5
GAIN = 10.0

MOVING = (
    "input->a0.h0<k>",  # where `=` is
    "a0.h0->m0",
    "m0->m1",
    "m1->a2.h0<q>",
    "input->a2.h0<v>",  # the letters
    "a2.h0->logits",
)
FIXED = (
    "input->a0.h0<q>",
    "input->a0.h0<v>",
    "input->m1",
    "input->a2.h0<k>",
)
TRUTH = {"resample": MOVING, "mean": MOVING, "zero": (*MOVING, *FIXED)}


def sketch() -> Sketch:
    """The model."""
    n_ctx = 2 * LONGEST + 1  # <bos>, the sequence, =, and all but the last of the reversed sequence
    lengths = range(1, LONGEST + 1)
    model = Sketch(
        (*LETTERS, "="),
        (
            *(f"tok {letter}" for letter in (*LETTERS, "=")),
            *("here", "index", "equals at"),
            *(f"pos {p}" for p in range(1, n_ctx)),
            *(f"len {n}" for n in lengths),
            *(f"from {s}" for s in lengths),
            *(f"out {letter}" for letter in LETTERS),
        ),
        n_ctx=n_ctx,
        n_layers=3,
    )
    _embed(model)
    model.head(0, 0, looks=[("here", "tok =", SHARP)], moves=[("index", "equals at", 1.0)])
    _lengths(model)
    _sources(model)
    look = [(f"from {s}", f"pos {s}", SHARP) for s in lengths]
    model.head(2, 0, looks=look, moves=[(f"tok {letter}", f"out {letter}", 1.0) for letter in LETTERS])
    for letter in LETTERS:
        model.unembed(f"out {letter}", letter, GAIN)
    return model


def _embed(model: Sketch) -> None:
    for word in (*LETTERS, "="):
        model.embed(word, f"tok {word}")
    for position in range(model.n_ctx):
        model.place(position, "here")
        model.place(position, "index", float(position))
        if position:
            model.place(position, f"pos {position}")


def _lengths(model: Sketch) -> None:
    """`len n` is the tent relu(e − n) − 2 relu(e − n − 1) + relu(e − n − 2): 1 at e = n + 1, else 0."""
    for knot in range(1, LONGEST + 3):
        tents = {knot: 1.0, knot - 1: -2.0, knot - 2: 1.0}
        writes = {f"len {n}": weight for n, weight in tents.items() if 1 <= n <= LONGEST}
        model.neuron(0, {"equals at": 1.0}, writes, bias=-float(knot))


def _sources(model: Sketch) -> None:
    """One neuron for each length and each position at which a letter of it is to be said."""
    for length in range(1, LONGEST + 1):
        for source in range(1, length + 1):
            position = 2 * length + 1 - source
            reads = {f"len {length}": 1.0, f"pos {position}": 1.0}
            model.neuron(1, reads, {f"from {source}": 1.0}, bias=-1.0)
