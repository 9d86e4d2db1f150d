"""The sites of a model: families of hook points, their axes, and TransformerLens's names for them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

STREAM_SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
HEAD_SITES = ("z", "q", "k", "v", "pattern")
SITES = (*STREAM_SITES, "z", "q", "k", "v", "pattern", "post")
AXES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(STREAM_SITES, ("pos",)),
    **dict.fromkeys(("z", "q", "k", "v"), ("pos", "head")),
    "pattern": ("head", "dst", "src"),
    "post": ("pos", "neuron"),
}
ENDS = ("embed", "logits")

_HOOK = re.compile(r"blocks\.([0-9]+)\.(?:(attn|mlp)\.)?hook_([a-z_]+)")


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
    folder = "mlp." if site == "post" else "attn." if site in HEAD_SITES else ""
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
