"""Sites and places of a model: hook-point families, and the names that this field uses for single spots.

A place is a site (a family of hook points), a layer, and along each axis of the site one index or all of
them. `parse` reads every form below, `Place.format` prints it, `str(place)` is the first column.

    interp             tl (TransformerLens)               eap         autocircuit   acdc       short
    L9H6               blocks.9.attn.hook_z[:, :, 6]      a9.h6       A9.6          <a9.6>     9.6
    L9H6.q             blocks.9.attn.hook_q[:, :, 6]      a9.h6<q>    A9.6.Q        <a9.6_q>   9.6.q
    L9H6.pattern       blocks.9.attn.hook_pattern[:, 6]                                        9.6.pattern
    MLP9               blocks.9.hook_mlp_out              m9          MLP 9         <m9>       m9
    L9.resid_pre       blocks.9.hook_resid_pre                                                 9.resid_pre
    L3N17              blocks.3.mlp.hook_post[:, :, 17]                                        3.n17
    L3E5               blocks.3.mlp.hook_expert_out[:, :, 5]                                   3.e5
    L3E5.router        blocks.3.mlp.hook_router[:, :, 5]                                       3.e5.router
    embed              hook_embed                         input       Resid Start   <embed>    embed
    logits                                                logits      Resid End     <resid_post> logits

`L9.z` is every head of the layer, `L3.post` every neuron. A position follows an `@` in every style but tl,
where it is an index: `L3.resid_pre@5`, `L9H6@-1`; a cell of an attention pattern is `L9H6.pattern@7<-2`
(destination <- source), a column of it `L9H6.pattern@*<-2`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace

from interp._arguments import shown

STREAM_SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
HEAD_SITES = ("z", "q", "k", "v", "pattern")
EXPERT_SITES = ("router", "expert_out")
SCALAR_SITES = ("pattern", "post", "router")  # a number at every index, no vectors
SITES = (*STREAM_SITES, "z", "q", "k", "v", "pattern", "post", *EXPERT_SITES)
AXES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(STREAM_SITES, ("pos",)),
    **dict.fromkeys(("z", "q", "k", "v"), ("pos", "head")),
    "pattern": ("head", "dst", "src"),
    "post": ("pos", "neuron"),
    **dict.fromkeys(EXPERT_SITES, ("pos", "expert")),
}
ENDS = ("embed", "logits")

_HOOK = re.compile(r"blocks\.([0-9]+)\.(?:(attn|mlp)\.)?hook_([a-z_]+)")

_INDICES = ("head", "neuron", "expert", "pos", "dst", "src")
_SIGNED = ("pos", "dst", "src")  # -1 is the last position
_LAYER, _HEAD, _NEURON, _EXPERT = (f"(?P<{name}>[0-9]+)" for name in ("layer", "head", "neuron", "expert"))
_PART = r"(?P<site>[qkv])"
_SITE = rf"(?P<site>{'|'.join(sorted(SITES, key=len, reverse=True))})"
_FORMS = tuple(
    re.compile(form)
    for form in (
        rf"L{_LAYER}H{_HEAD}(?:\.(?P<site>z|q|k|v|pattern))?",
        rf"L{_LAYER}\.{_SITE}",
        rf"L{_LAYER}N{_NEURON}",
        rf"L{_LAYER}E{_EXPERT}(?:\.(?P<site>{'|'.join(EXPERT_SITES)}))?",
        rf"(?:MLP ?|m){_LAYER}",
        rf"<m{_LAYER}>",
        rf"a{_LAYER}\.h{_HEAD}(?:<{_PART}>)?",
        rf"A{_LAYER}\.{_HEAD}(?:\.(?P<site>[QKV]))?",
        rf"<a{_LAYER}\.{_HEAD}(?:_{_PART})?>",
        rf"a{_LAYER}\.{_HEAD}(?:_{_PART})?",
        rf"{_LAYER}\.{_HEAD}(?:\.(?P<site>z|q|k|v|pattern))?",
        rf"{_LAYER}\.n{_NEURON}",
        rf"{_LAYER}\.e{_EXPERT}(?:\.(?P<site>{'|'.join(EXPERT_SITES)}))?",
        rf"{_LAYER}\.{_SITE}",
    )
)
_END_FORMS = {
    **dict.fromkeys(("embed", "input", "Resid Start", "<embed>", "hook_embed"), "embed"),
    **dict.fromkeys(("logits", "Resid End", "<resid_post>"), "logits"),
}
_SUFFIX = re.compile(r"(?P<body>.+?)@(?P<at>-?[0-9]+|\*)(?:<-(?P<src>-?[0-9]+))?")
_INDEXED = re.compile(r"(?P<hook>[a-z_.0-9]+)\[\s*:(?P<rest>(?:\s*,\s*(?::|-?[0-9]+))+)\s*\]")


def hook_name(site: str, layer: int | None = None) -> str:
    """TransformerLens's name of a site's hook point: `hook_name("z", 9)` is `blocks.9.attn.hook_z`."""
    if site == "logits":
        raise ValueError("TransformerLens has no hook point for the logits. Read the output of the model.")
    if site == "embed":
        return "hook_embed"
    if site not in SITES or layer is None or layer < 0:
        raise ValueError(
            f"{site!r} at layer {layer} has no hook point{hint(site, SITES)} Sites: {', '.join(SITES)}."
        )
    folder = "mlp." if site in ("post", *EXPERT_SITES) else "attn." if site in HEAD_SITES else ""
    return f"blocks.{layer}.{folder}hook_{site}"


def from_hook_name(name: str) -> tuple[str, int | None]:
    """Site and layer of a TransformerLens hook point; `attn.hook_result` is z, the same intervention."""
    if name == "hook_embed":
        return "embed", None
    match = _HOOK.fullmatch(name)
    site = match[3].replace("result", "z") if match else None
    layer = int(match[1]) if match else 0
    if match and site in SITES:
        right = hook_name(site, layer)
        if right.split(".")[2:-1] == ([match[2]] if match[2] else []):
            return site, layer
        raise ValueError(f"{name!r} is no hook point; did you mean {right!r}?")
    valid = [*(hook_name(each, layer) for each in SITES), "hook_embed"]
    raise ValueError(f"{name!r} is no hook point of a known site{hint(name, valid)}")


def nearest(name: str, options: Iterable[str]) -> str | None:
    """The option most like `name`, whatever the case; None if nothing is close."""
    by_key = {option.lower(): option for option in reversed(list(options))}
    close = difflib.get_close_matches(str(name).lower(), by_key, n=1, cutoff=0.5)
    return by_key[close[0]] if close else None


def hint(name: str, options: Iterable[str]) -> str:
    """The end of an error message: `; did you mean '...'?`, or a full stop."""
    close = nearest(name, options)
    return f"; did you mean {close!r}?" if close else "."


@dataclass(frozen=True)
class Place:
    """One place in a model. An index left out (None) means all of that axis."""

    site: str  # one of SITES, "embed" or "logits"
    layer: int | None = None
    head: int | None = None
    neuron: int | None = None
    expert: int | None = None
    pos: int | None = None
    dst: int | None = None
    src: int | None = None

    def __post_init__(self) -> None:
        if self.site not in (*SITES, *ENDS):
            raise ValueError(f"unknown site {self.site!r}{hint(self.site, SITES)} Sites: {', '.join(SITES)}.")
        if (self.layer is None) != (self.site in ENDS):
            wanted = "has no layer" if self.site in ENDS else "needs a layer"
            raise ValueError(f"site {self.site!r} {wanted}, but layer is {self.layer}.")
        for name in _INDICES:
            if getattr(self, name) is not None and name not in self.axes:
                raise ValueError(f"site {self.site!r} has no {name}; its axes are {', '.join(self.axes)}.")
        for name in ("layer", "head", "neuron", "expert"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; layers, heads, neurons and experts count from 0."
                )

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of the site beside the layer."""
        return AXES.get(self.site, ("pos",))

    @property
    def indices(self) -> dict[str, int]:
        """The indices that are given, by axis, layer first."""
        given = ((f.name, getattr(self, f.name)) for f in fields(self) if f.name != "site")
        return {name: index for name, index in given if index is not None}

    def __str__(self) -> str:
        return self.format()

    def format(self, style: str = "interp") -> str:
        """The name in a style: interp, tl, eap, autocircuit, acdc or short.

        Raises ValueError where the style has no name for the place.
        """
        if style not in STYLES:
            raise ValueError(f"unknown style {style!r}{hint(style, STYLES)} Styles: {', '.join(STYLES)}.")
        body = STYLES[style](self)
        if body is None:
            raise ValueError(f"style {style!r} has no name for {self.format()!r}. Use style='interp'.")
        return body if style == "tl" else body + _suffix(self)

    def check(
        self,
        *,
        n_layers: int | None = None,
        n_heads: int | None = None,
        n_key_value_heads: int | None = None,
        d_mlp: int | None = None,
        n_experts: int | None = None,
        n_pos: int | None = None,
    ) -> Place:
        """The place itself, or ValueError with the valid range if an index is outside the model."""
        grouped = self.site in ("k", "v") and n_key_value_heads is not None
        head = n_key_value_heads if grouped else n_heads
        sizes = {"layer": n_layers, "head": head, "neuron": d_mlp, "expert": n_experts}
        for name, index in self.indices.items():
            size = sizes.get(name, n_pos)
            lowest = -size if size is not None and name in _SIGNED else 0
            if size is not None and not lowest <= index < size:
                what = f"key-value heads (site {self.site})" if grouped and name == "head" else _plural(name)
                nearest_place = replace(self, **{name: min(max(index, lowest), size - 1)})
                raise ValueError(
                    f"{name} {index} is out of range in {str(self)!r}: there are {size} {what}, "
                    f"0 to {size - 1}. The nearest is {str(nearest_place)!r}."
                )
        return self


def parse(
    text: str,
    *,
    n_layers: int | None = None,
    n_heads: int | None = None,
    n_key_value_heads: int | None = None,
    d_mlp: int | None = None,
    n_experts: int | None = None,
    n_pos: int | None = None,
) -> Place:
    """The place that a name stands for, in any style; within the sizes of a model if they are given.

    Raises ValueError for a name in no known form (with the nearest valid one) and for an index out of range.
    """
    if not isinstance(text, str):
        raise ValueError(f"a place is {shown(text)}; give its name, such as 'L9H6' or 'L3.resid_pre'.")
    place = _parse_hook(text) or _parse_suffixed(text)
    if place is None:
        raise ValueError(
            f"{text!r} names no place{hint(text, _candidates(text))} Forms: L9H6, L9H6.q, MLP9, "
            "L9.resid_pre, L3N17, embed, logits; with a position L9H6@5, L9H6.pattern@7<-2."
        )
    sizes = {"n_key_value_heads": n_key_value_heads, "d_mlp": d_mlp, "n_pos": n_pos}
    return place.check(n_layers=n_layers, n_heads=n_heads, n_experts=n_experts, **sizes)


def _plural(axis: str) -> str:
    return "positions" if axis in _SIGNED else f"{axis}s"


def _parse_suffixed(text: str) -> Place | None:
    match = _SUFFIX.fullmatch(text)
    place = _parse_body(match["body"] if match else text)
    if place is None or match is None:
        return place
    at = None if match["at"] == "*" else int(match["at"])
    if place.site == "pattern":
        return replace(place, dst=at, src=None if match["src"] is None else int(match["src"]))
    if match["src"] is not None or at is None:
        raise ValueError(
            f"{text!r} gives a destination and a source, which only a pattern has: "
            f"did you mean {str(_parse_body(match['body']))!r} or an L9H6.pattern@7<-2?"
        )
    return replace(place, pos=at)


def _parse_body(body: str) -> Place | None:
    if body in _END_FORMS:
        return Place(_END_FORMS[body])
    for form in _FORMS:
        match = form.fullmatch(body)
        if match:
            found = match.groupdict()
            numbers = {k: int(v) for k, v in found.items() if k != "site" and v is not None}
            defaults = {"head": "z", "neuron": "post", "expert": "expert_out"}
            default = next((defaults[each] for each in numbers if each in defaults), "mlp_out")
            return Place((found.get("site") or default).lower(), **numbers)
    return None


def _parse_hook(text: str) -> Place | None:
    if not text.startswith(("blocks.", "hook_")):
        return None
    match = _INDEXED.fullmatch(text)
    site, layer = from_hook_name(match["hook"] if match else text.split("@")[0])
    if match is None:
        place = Place(site, layer)
        return place if "@" not in text else _parse_suffixed(str(place) + text[text.index("@") :])
    order = AXES.get(site, ("pos",))
    given = [part.strip() for part in match["rest"].split(",")[1:]]
    if len(given) > len(order):
        raise ValueError(
            f"{text!r} has {len(given)} indices after the batch; {site} has ({', '.join(order)})."
        )
    return Place(site, layer, **{axis: int(at) for axis, at in zip(order, given) if at != ":"})


def _candidates(text: str) -> list[str]:
    """Valid names with the numbers that occur in `text`."""
    numbers = [str(int(number)) for number in re.findall("[0-9]+", text)]
    layer, index, at = [*numbers, "0", "0", "0"][:3]
    head = f"L{layer}H{index}"
    plain = [head, f"MLP{layer}", *(f"{head}.{part}" for part in ("q", "k", "v", "z", "pattern"))]
    plain += [f"L{layer}N{index}", f"L{layer}E{index}", *(f"L{layer}.{site}" for site in SITES), *ENDS]
    if "@" not in text:
        return plain
    stream = [f"MLP{layer}@{index}", *(f"L{layer}.{site}@{index}" for site in SITES)]
    return [*stream, *(f"{name}@{at}" for name in plain if name.startswith(head))]


def _suffix(place: Place) -> str:
    if place.src is not None:
        return f"@{'*' if place.dst is None else place.dst}<-{place.src}"
    at = place.dst if place.site == "pattern" else place.pos
    return "" if at is None else f"@{at}"


def _interp(place: Place) -> str:
    if place.site in ENDS:
        return place.site
    if place.site == "mlp_out":
        return f"MLP{place.layer}"
    if place.head is not None:
        return f"L{place.layer}H{place.head}" + ("" if place.site == "z" else f".{place.site}")
    if place.expert is not None:
        name = f"L{place.layer}E{place.expert}"
        return name if place.site == "expert_out" else f"{name}.{place.site}"
    return f"L{place.layer}N{place.neuron}" if place.neuron is not None else f"L{place.layer}.{place.site}"


def _tl(place: Place) -> str | None:
    if place.site == "logits":
        return None
    index = [getattr(place, axis) for axis in place.axes]
    while index and index[-1] is None:
        index.pop()
    written = ", ".join([":", *(":" if at is None else str(at) for at in index)])
    return hook_name(place.site, place.layer) + (f"[{written}]" if index else "")


def _short(place: Place) -> str:
    if place.site in ENDS:
        return place.site
    if place.site == "mlp_out":
        return f"m{place.layer}"
    if place.neuron is not None:
        return f"{place.layer}.n{place.neuron}"
    if place.expert is not None:
        return _interp(place).removeprefix("L").replace("E", ".e", 1)
    return _interp(place).removeprefix("L").replace("H", ".", 1)


def _node(ends: dict[str, str], mlp: str, head: str, part: str) -> Callable[[Place], str | None]:
    """A style that names only heads, their inputs, MLPs and the two ends."""

    def write(place: Place) -> str | None:
        if place.site in ENDS:
            return ends[place.site]
        if place.site == "mlp_out":
            return mlp.format(place.layer)
        if place.head is None or place.site == "pattern":
            return None
        if place.site == "z":
            return head.format(place.layer, place.head)
        return part.format(place.layer, place.head, place.site, place.site.upper())

    return write


STYLES: dict[str, Callable[[Place], str | None]] = {
    "interp": _interp,
    "tl": _tl,
    "eap": _node({"embed": "input", "logits": "logits"}, "m{}", "a{}.h{}", "a{}.h{}<{}>"),
    "autocircuit": _node({"embed": "Resid Start", "logits": "Resid End"}, "MLP {}", "A{}.{}", "A{0}.{1}.{3}"),
    "acdc": _node({"embed": "<embed>", "logits": "<resid_post>"}, "<m{}>", "<a{}.{}>", "<a{}.{}_{}>"),
    "short": _short,
}
