"""`induction`: continue a sequence seen before (Elhage et al. 2021). Two layers of attention, two heads each.

`Mary John store Mary` → `John`.

| part | what it does |
|---|---|
| a0.h0 | previous-token head: looks one position back and writes the word there as `before ...` |
| a1.h0 | induction head: looks where the word before was the present one, copies the word to the output |
| a0.h1, a1.h1 | idle: write the mean of the words so far where nothing reads it |

The idle heads differ from prompt to prompt, so a method must find that they do not matter. The logit of the
answer is 10, of every other word 0. Where each word comes once before, this holds for any sequence.

The truth is that of pairs of unrelated sequences (`tasks.induction(..., corrupt="all")`). In the pairs of
`tasks.induction` as it stands one word differs, the one to be copied: of the five edges only `SWAPPED` moves.
"""

from __future__ import annotations

from interp.models.handmade.sketch import SHARP, Sketch

DESCRIPTION = "continues a sequence of words seen before; 2 layers of attention, 2 heads"
WORDS = (
    *("Mary", "John", "Tom", "Anna", "Paul", "Kate"),
    *("store", "school", "park", "garden", "office"),
    *("book", "ring", "ball", "key", "letter"),
)
LONGEST = 20
GAIN = 10.0

SWAPPED = ("input->a1.h0<v>", "a1.h0->logits")
MOVING = ("input->a0.h0<v>", "a0.h0->a1.h0<k>", "input->a1.h0<q>", *SWAPPED)
FIXED = ("input->a0.h0<q>", "input->a0.h0<k>")
TRUTH = {"resample": MOVING, "mean": MOVING, "zero": (*MOVING, *FIXED)}


def sketch() -> Sketch:
    """The model."""
    kinds = ("tok", "before", "out", "seen")
    model = Sketch(
        WORDS,
        (*(f"{kind} {word}" for kind in kinds for word in WORDS), *(f"pos {p}" for p in range(LONGEST))),
        n_ctx=LONGEST,
        n_layers=2,
        n_heads=2,
        attn_only=True,
    )
    for word in WORDS:
        model.embed(word, f"tok {word}")
        model.unembed(f"out {word}", word, GAIN)
    for position in range(LONGEST):
        model.place(position, f"pos {position}")
    back = [(f"pos {p}", f"pos {p - 1}", SHARP) for p in range(1, LONGEST)]
    match = [(f"tok {word}", f"before {word}", SHARP) for word in WORDS]
    model.head(0, 0, looks=back, moves=_moves("before"))
    model.head(1, 0, looks=match, moves=_moves("out"))
    for layer in (0, 1):
        model.head(layer, 1, moves=_moves("seen"))
    return model


def _moves(kind: str) -> list[tuple[str, str, float]]:
    return [(f"tok {word}", f"{kind} {word}", 1.0) for word in WORDS]
