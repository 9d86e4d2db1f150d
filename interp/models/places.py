"""The places where activations are read and steered, checked against a model before any forward pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from interp._verbs import verb
from interp.models import Anatomy
from interp.places import AXES, EXPERT_SITES, Place, hint, parse

Layers = int | Iterable[int] | None


def place(name: str | Place, facts: Anatomy) -> Place:
    """A place of this model. ValueError for a site, layer, head or neuron that the model does not have."""
    sizes = {
        "n_layers": facts.n_layers,
        "n_heads": facts.n_heads,
        "n_key_value_heads": facts.n_key_value_heads,
        "d_mlp": facts.d_mlp,
    }
    found = name.check(**sizes) if isinstance(name, Place) else parse(name, **sizes)
    if found.site not in facts.sites():
        raise ValueError(
            f"{str(found)!r}: this model has no site {found.site!r}{hint(found.site, facts.sites())} "
            f"It has {', '.join(facts.sites())}."
        )
    if found.site in EXPERT_SITES:
        raise ValueError(
            f"{str(found)!r}: routers and experts can be patched and attributed (interp.patch, "
            "interp.attribute), and are neither read nor steered. Use mlp_out, the whole mixture."
        )
    if found.pos is not None or found.dst is not None or found.src is not None:
        raise ValueError(
            f"{str(found)!r} names a position. Say where with pos= when reading, with when= when steering."
        )
    return found


def places(facts: Anatomy, layer: Layers, site: str, head: int | None = None) -> tuple[Place, ...]:
    """One place for each layer; `layer=None` means all layers, negative layers count from the last.

    Raises ValueError for what the model does not have.
    """
    layers = range(facts.n_layers) if layer is None else [layer] if isinstance(layer, int) else list(layer)
    if not layers:
        raise ValueError("layer is empty. Give a layer, several layers, or None for all.")
    for each in layers:  # of two names of one layer, 1 and -1, the second would be lost
        if not -facts.n_layers <= each < facts.n_layers:
            raise ValueError(f"layer {each} is out of range: the model has layers 0 to {facts.n_layers - 1}.")
    if len({each % facts.n_layers for each in layers}) < len(layers):
        raise ValueError(f"layer is {layers}, and names a layer twice. Give each once.")
    return tuple(place(Place(site, each % facts.n_layers, head=head), facts) for each in layers)


def vector_places(facts: Anatomy, layer: Layers, site: str, head: int | None = None) -> tuple[Place, ...]:
    """`places` of which each has one vector. ValueError for a site with heads, of which none is named."""
    wanted = places(facts, layer, site, head)
    if head is None and "head" in AXES[site]:
        raise ValueError(
            f"{str(wanted[0])!r} has heads, and not one vector; name a place of the stream, or post, or one "
            "head where the method takes head=."
        )
    return wanted


def width(where: Place, facts: Anatomy) -> int:
    """Length of the vectors at a place."""
    if where.site == "post":
        return 1 if where.neuron is not None else facts.d_mlp
    return facts.d_head if where.site == "pattern" else facts.width(where.site)


def whole(where: Place) -> Place:
    """The site that a head or a neuron is part of."""
    return replace(where, head=None, neuron=None)


@verb
def writers(facts: Anatomy) -> tuple[Place, ...]:
    """Everything that writes to the stream: the embeddings (L0.resid_pre), every attention, every MLP.

    Ablating a direction at all of them is ablating it from the stream everywhere.

    Example:
        >>> from interp.models import anatomy
        >>> model = interp.load("tiny-ioi")
        >>> len(interp.steering.writers(anatomy(model)))
        7
    """
    found = [Place("resid_pre", 0)]
    for layer in range(facts.n_layers):
        found.append(Place("attn_out", layer))
        found += [] if facts.attn_only else [Place("mlp_out", layer)]
    return tuple(found)
