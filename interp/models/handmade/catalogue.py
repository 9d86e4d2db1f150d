"""The hand-built models by name. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from interp.models.handmade import and_gate, induction, linear, or_gate, reverse, xproportion
from interp.models.handmade.sketch import Sketch

ABLATIONS = ("resample", "zero", "mean")


class Entry(NamedTuple):
    """What a model's file says of it."""

    description: str
    sketch: Callable[[], Sketch]
    truth: Mapping[str, tuple[str, ...]]


MODELS = {
    "reverse": Entry(reverse.DESCRIPTION, reverse.sketch, reverse.TRUTH),
    "xproportion": Entry(xproportion.DESCRIPTION, xproportion.sketch, xproportion.TRUTH),
    "induction": Entry(induction.DESCRIPTION, induction.sketch, induction.TRUTH),
    "and-gate": Entry(and_gate.DESCRIPTION, and_gate.sketch, and_gate.TRUTH),
    "or-gate": Entry(or_gate.DESCRIPTION, or_gate.sketch, or_gate.TRUTH),
    "linear": Entry(linear.DESCRIPTION, linear.sketch, linear.TRUTH),
}
NAMES = tuple(MODELS)


def sketch(name: str) -> Sketch:
    """The model, written out. Raises ValueError for a name that is not one of `NAMES`."""
    return _entry(name).sketch()


def truth(name: str, ablation: str) -> tuple[str, ...]:
    """The circuit of a model: the edges whose single ablation changes its output, in the names of EAP-IG.

    Ablating the edge u→v takes what u writes out of what v alone reads, at all positions, and puts there
    * `resample`: what u writes in the corrupt prompt, an unrelated one of as many tokens;
    * `mean`: its mean over the task's corrupt prompts, position by position, padding left out;
    * `zero`: nothing.
    Queries, keys and values are read apart. `input` is token and position embedding together. The output is
    every logit at the answer position. An edge is in the circuit if its ablation changes the output for some
    prompt of the model's whole domain (`interp.tasks.handmade.every_input`); the others change it for none.
    With all others ablated at once, every logit is still what it was.

    Raises ValueError for an unknown name or ablation.
    """
    found = _entry(name).truth
    if ablation not in ABLATIONS:
        raise ValueError(f"ablation is {ablation!r}; it must be one of {', '.join(map(repr, ABLATIONS))}.")
    return found[ablation]


def _entry(name: str) -> Entry:
    if name not in MODELS:
        raise ValueError(f"{name!r} is not a hand-built model; these are: {', '.join(NAMES)}.")
    return MODELS[name]


def _shape(made: Sketch) -> dict[str, int | bool]:
    return {"n_layers": made.n_layers, "n_heads": made.n_heads, "attn_only": made.attn_only}


SHAPES = {name: _shape(entry.sketch()) for name, entry in MODELS.items()}
