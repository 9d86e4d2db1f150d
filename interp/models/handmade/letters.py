"""`linear` and `xproportion`: two models that count letters.

`linear`: which letter comes most often. Two layers of attention, two heads each, and nothing nonlinear.

`a c a a b` → `a`. Every head attends alike to all it can see and adds the mean of what it reads back to the
same features, times a gain; the logits are the features. So logits are linear in every node, and the effect
of cutting an edge is exactly what attribution (eap, with or without integrated gradients) says. The truth is
every edge into a value or the logits; queries and keys are never read.

Letters that come early, and the last one, count for a little more; the gains are such that three letters of
five always win.

`xproportion`: which share of the letters so far is x. Two layers, one head each.

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

LONGEST = 5
LINEAR_DESCRIPTION = (
    "which of 3 letters comes most often of 5; linear: 2 layers of uniform attention, 2 heads"
)
LINEAR_LETTERS = ("a", "b", "c")
GAINS = ((8.0, -2.0), (2.0, -0.5))  # of a0.h0, a0.h1; a1.h0, a1.h1

LINEAR_TRUTH: dict[str, tuple[str, ...]] = dict.fromkeys(
    ("resample", "mean", "zero"),
    (
        *(f"input->a{layer}.h{head}<v>" for layer in (0, 1) for head in (0, 1)),
        *(f"a0.h{one}->a1.h{other}<v>" for one in (0, 1) for other in (0, 1)),
        "input->logits",
        *(f"a{layer}.h{head}->logits" for layer in (0, 1) for head in (0, 1)),
    ),
)

X_DESCRIPTION = "which share of up to 5 letters is x, as a logit; 2 layers, 1 head, relu MLPs"
X_LETTERS = ("w", "x", "y", "z")
X_MOVING = ("input->m0", "m0->a1.h0<v>", "a1.h0->logits")
X_FIXED = ("input->a1.h0<q>", "input->a1.h0<k>")
X_TRUTH = {"resample": X_MOVING, "mean": X_MOVING, "zero": (*X_MOVING, *X_FIXED)}


def linear() -> Sketch:
    """The model that tells the commonest letter."""
    features = [f"tok {letter}" for letter in LINEAR_LETTERS]
    model = Sketch(LINEAR_LETTERS, features, n_ctx=LONGEST + 1, n_layers=2, n_heads=2, attn_only=True)
    for letter, feature in zip(LINEAR_LETTERS, features):
        model.embed(letter, feature)
        model.unembed(feature, letter)
    for layer, gains in enumerate(GAINS):
        for head, gain in enumerate(gains):
            model.head(layer, head, moves=[(feature, feature, gain) for feature in features])
    return model


def xproportion() -> Sketch:
    """The model that tells the share of x."""
    letters = (f"tok {letter}" for letter in X_LETTERS)
    features = (*letters, "bos", "here", "is x", "share of x")
    model = Sketch((*X_LETTERS, "yes", "no"), features, n_ctx=LONGEST + 1, n_layers=2)
    for letter in X_LETTERS:
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
