"""What the two gates share: `Mary red John red =` → `red`. One layer, two heads, one MLP.

Head 0 reads the first colour, head 1 the second, and both add it to the same features, `seen red`: 2 if
both colours are red, 1 if one is. The MLP is the gate. Where no colour passes the gate, the answer is `none`,
whose logit is always 5; a colour that passes has 10. The names matter to nothing.

Positions, and with them where the heads look, never differ between prompts: only zero ablation needs them.
"""

from __future__ import annotations

from collections.abc import Callable

from interp.models.handmade.sketch import SHARP, Sketch

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
TRUTH = {"resample": MOVING, "mean": MOVING, "zero": (*MOVING, *FIXED)}


def sketch(gate: Callable[[Sketch, str], None]) -> Sketch:
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
