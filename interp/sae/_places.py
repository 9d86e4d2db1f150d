"""Where a dictionary sits: names of hook points and modules as the files have them, in our words.

A transcoder's `reads` is another site than it writes: a site of ours, "mlp_in" (what an MLP reads, after norm
and gain) or "mlp_normed" (after the norm, before the gain).
"""

from __future__ import annotations

import re
from typing import Any

from interp.places import Place, from_hook_name

MLP_READS = ("mlp_in", "mlp_normed")  # what an MLP reads: after norm and gain; after the norm alone

_HOOKS = {  # TransformerLens's hook points that are no site of ours, by what follows the block's number
    "ln2.hook_normalized": "mlp_normed",
    "hook_mlp_in": "resid_mid",  # before the norm
    "mlp.hook_in": "mlp_in",
    "mlp.hook_out": "mlp_out",
    "attn.hook_in": "resid_pre",
    "hook_in": "resid_pre",
    "hook_out": "resid_post",
}
_MODULES = (  # of transformers' models, by what follows the layer's number
    (r"\.?(output)?", "resid_post"),
    (r"\.input", "resid_pre"),
    (r"\.(mlp|feed_forward)(\.output)?", "mlp_out"),
    (r"\.(post_feedforward_layernorm)(\.output)?", "mlp_out"),
    (r"\.(mlp|feed_forward)\.input", "mlp_in"),
    (r"\.(pre_feedforward_layernorm|post_attention_layernorm|ln_2)\.output", "mlp_in"),
    (r"\.(self_attn|attn|attention)(\.output)?", "attn_out"),
    (r"\.(self_attn|attn)\.(o_proj|c_proj)\.input", "z"),
)
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_LAYER = re.compile(r"(?:^|.*\.)(?:layers|h|blocks)\.(\d+)(.*)")


def site_of(name: str) -> tuple[str, int] | None:
    """Site (or "mlp_in", "mlp_normed") and layer of a hook point or module; None for an unknown one."""
    name = name.strip()
    if name in ("hook_embed", "embed_tokens", "model.embed_tokens", "transformer.wte"):
        return "resid_pre", 0
    block = _BLOCK.fullmatch(name)
    if block and block[2] in _HOOKS:
        return _HOOKS[block[2]], int(block[1])
    if block and ("hook_" in name):
        try:
            site, layer = from_hook_name(name)
        except ValueError:
            return None
        return None if layer is None else (site, layer)
    module = _LAYER.fullmatch(name)
    for form, site in _MODULES if module else ():
        if module and re.fullmatch(form, module[2]):
            return site, int(module[1])
    return None


def placed(written: str | None, read: str | None = None, head: int | None = None) -> dict[str, Any]:
    """`place` and `reads` of a dictionary from the names in its file; nothing where they are not known."""
    target = site_of(written) if written else None
    source = site_of(read) if read else None
    if target is None or target[0] in ("mlp_in", "mlp_normed"):
        return {}
    return {
        "place": Place(target[0], target[1], head=head),
        "reads": None if source is None or source == target else source[0],
    }
