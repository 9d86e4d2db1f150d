"""`linear`: which letter comes most often. Two layers of attention, two heads each, and nothing nonlinear.

`a c a a b` → `a`. Every head attends alike to all it can see and adds the mean of what it reads back to the
same features, times a gain; the logits are the features. So logits are linear in every node, and the effect
of cutting an edge is exactly what attribution (eap, with or without integrated gradients) says. The truth is
every edge into a value or the logits; queries and keys are never read.

Letters that come early, and the last one, count for a little more; the gains are such that three letters of
five always win.
"""

from __future__ import annotations

from interp.models.handmade.sketch import Sketch

DESCRIPTION = "which of 3 letters comes most often of 5; linear: 2 layers of uniform attention, 2 heads"
LETTERS = ("a", "b", "c")
LONGEST = 5
GAINS = ((8.0, -2.0), (2.0, -0.5))  # of a0.h0, a0.h1; a1.h0, a1.h1

TRUTH: dict[str, tuple[str, ...]] = dict.fromkeys(
    ("resample", "mean", "zero"),
    (
        *(f"input->a{layer}.h{head}<v>" for layer in (0, 1) for head in (0, 1)),
        *(f"a0.h{one}->a1.h{other}<v>" for one in (0, 1) for other in (0, 1)),
        "input->logits",
        *(f"a{layer}.h{head}->logits" for layer in (0, 1) for head in (0, 1)),
    ),
)


def sketch() -> Sketch:
    """The model."""
    features = [f"tok {letter}" for letter in LETTERS]
    model = Sketch(LETTERS, features, n_ctx=LONGEST + 1, n_layers=2, n_heads=2, attn_only=True)
    for letter, feature in zip(LETTERS, features):
        model.embed(letter, feature)
        model.unembed(feature, letter)
    for layer, gains in enumerate(GAINS):
        for head, gain in enumerate(gains):
            model.head(layer, head, moves=[(feature, feature, gain) for feature in features])
    return model
