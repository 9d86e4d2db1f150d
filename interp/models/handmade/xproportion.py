"""`xproportion`: which share of the letters so far is x. Two layers, one head each.

`y x w x x` → 3/5. The logit of `yes` is the share itself and that of `no` is one minus it, so the model
answers whether x is in the majority. It does so at every position.

| part | what it does |
|---|---|
| m0 | writes `is x` where the letter is x |
| a1.h0 | looks alike at everything but `<bos>`, so it writes the mean of `is x` |

a0.h0 and m1 are zero. `<bos>` and the query never differ between prompts: only zero ablation needs them.
"""

from __future__ import annotations

from interp.models.handmade.sketch import SHARP, Sketch

DESCRIPTION = "which share of up to 5 letters is x, as a logit; 2 layers, 1 head, relu MLPs"
LETTERS = ("w", "x", "y", "z")
LONGEST = 5

MOVING = ("input->m0", "m0->a1.h0<v>", "a1.h0->logits")
FIXED = ("input->a1.h0<q>", "input->a1.h0<k>")
TRUTH = {"resample": MOVING, "mean": MOVING, "zero": (*MOVING, *FIXED)}


def sketch() -> Sketch:
    """The model."""
    letters = (f"tok {letter}" for letter in LETTERS)
    features = (*letters, "bos", "here", "is x", "share of x")
    model = Sketch((*LETTERS, "yes", "no"), features, n_ctx=LONGEST + 1, n_layers=2)
    for letter in LETTERS:
        model.embed(letter, f"tok {letter}")
    model.embed("<bos>", "bos")
    for position in range(model.n_ctx):
        model.place(position, "here")
    model.neuron(0, {"tok x": 1.0}, {"is x": 1.0})
    model.head(1, 0, looks=[("here", "bos", -SHARP)], moves=[("is x", "share of x", 1.0)])
    model.unembed("share of x", "yes", 1.0)
    model.unembed("share of x", "no", -1.0)
    model.offer("no", 1.0)
    return model
