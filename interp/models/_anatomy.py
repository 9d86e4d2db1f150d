"""Facts about a model, the same for both TransformerLens classes.

`HookedTransformer` (3.9) and `TransformerBridge` (3.9 in part, 4.x) agree on hook names and on most of
`cfg`; what differs is settled here, in `_architecture.py`, `_weights.py` and `hook_points.py`, nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.models._architecture import Model as Model
from interp.models._architecture import architecture, is_mixture
from interp.models._experts import n_experts
from interp.places import AXES, EXPERT_SITES, HEAD_SITES, SCALAR_SITES


@dataclass(frozen=True)
class Anatomy:
    """The sizes and switches of a model that the methods need."""

    n_layers: int
    n_heads: int
    n_key_value_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int  # of the prompts
    d_vocab_out: int  # of the logits; smaller in classifiers
    n_ctx: int
    attn_only: bool
    parallel: bool
    causal: bool
    rotary_switch: int | None  # prompts longer than this have other rotary angles (longrope); None: all alike
    windows: tuple[int | None, ...]  # keys that each layer's queries see, themselves included; None: all
    experts: tuple[bool, ...]  # layers whose MLP is a mixture of experts
    n_experts: int  # of such a layer; 0 where they are in no known form
    latent: bool  # queries, keys and values come out of a compressed stream (MLA)
    embed_scale: float  # of the token embedding before it enters the stream
    whole_qk_norm: bool  # queries and keys of all heads are normed together (OLMo)
    post_norm: bool  # a norm stands between what a sublayer writes and the stream (Gemma 2 and 3, OLMo 2)
    dtype: torch.dtype
    device: torch.device
    act_fn: str | None  # of the MLPs, as the model computes it; a bridge's `cfg` may name another
    architecture: str  # the class in transformers, "" where nothing says
    name: str

    def sites(self) -> tuple[str, ...]:
        """The sites that this model has."""
        return tuple(site for site in AXES if self.lacks(site) is None)

    def lacks(self, site: str) -> str | None:
        """Why the model has no such site; None where it has it."""
        whole = self.architecture or self.name
        if self.attn_only and site in ("resid_mid", "mlp_out", "post"):
            return f"{self.name} is attention-only"
        if self.parallel and site == "resid_mid":
            return f"{self.name} is parallel (attention and MLP read the same stream)"
        if site == "post" and any(self.experts):
            return f"{whole} mixes experts, each with neurons of its own; patch mlp_out, the whole mixture"
        if site in EXPERT_SITES and not any(self.experts):
            return f"{whole} has no experts"
        if site in EXPERT_SITES and not self.n_experts:
            return (
                f"the experts of {whole} are in no form that is known here; patch mlp_out, the whole mixture"
            )
        if self.latent and site in ("q", "k", "v", "z"):
            return f"{whole} has latent attention (MLA), whose {site} has no [prompt, pos, head, d_head]"
        return None

    def straddled(self, shortest: int, longest: int) -> str | None:
        """Why runs of such lengths cannot stand in one batch; None where they can.

        transformers takes the angles of the longest row for every row of a batch.
        """
        if self.rotary_switch is None or shortest == longest or not shortest <= self.rotary_switch < longest:
            return None
        return (
            f"runs of {shortest} to {longest} tokens lie on both sides of the {self.rotary_switch} at which "
            f"{self.architecture or self.name} turns to other rotary angles, and a batch has those of its "
            "longest row. Give prompts of one length, or those of either side by themselves."
        )

    def require_one_batch(self, lengths: Tensor) -> None:
        """Raise ValueError for prompts [prompt] of lengths that cannot be padded to one batch."""
        shortest, longest = int(lengths.min()), int(lengths.max())
        if not self.causal and shortest != longest:
            raise ValueError(
                f"the prompts have {shortest} to {longest} tokens, and attention of {self.name} goes both "
                "ways: padding would be attended to. Give prompts of one length."
            )
        if straddled := self.straddled(shortest, longest):
            raise ValueError(straddled)

    def width(self, site: str) -> int:
        """Length of the vectors at a site; 1 where it has numbers alone."""
        if site in SCALAR_SITES:
            return 1
        return self.d_head if site in HEAD_SITES else self.d_model

    def layers(self, site: str) -> tuple[int, ...]:
        """The layers that have a site: those with experts for what lies in these, else all."""
        everywhere = site not in EXPERT_SITES
        return tuple(layer for layer in range(self.n_layers) if everywhere or self.experts[layer])

    def heads(self, site: str) -> int:
        """Heads at a site: key-value heads for `k` and `v` under grouped-query attention."""
        return self.n_key_value_heads if site in ("k", "v") else self.n_heads

    def size(self, site: str, axis: str, n_pos: int) -> int:
        """Length of one axis of a site, for prompts of `n_pos` tokens."""
        sizes = {"head": self.heads(site), "neuron": self.d_mlp, "expert": self.n_experts}
        return sizes.get(axis, n_pos)


def activation_shape(facts: Anatomy, site: str, n_pos: int) -> tuple[int, ...]:
    """Shape of one prompt's activation at a site: its axes, and the length of its vectors if it has any."""
    axes = tuple(facts.size(site, axis, n_pos) for axis in AXES[site])
    return axes if site in SCALAR_SITES else (*axes, facts.width(site))


def anatomy(model: Model) -> Anatomy:
    """Read the facts of a TransformerLens model. No forward pass, nothing changed.

    Raises ValueError for something that is not a TransformerLens model.
    """
    require_model(model)
    cfg = model.cfg
    known = architecture(model)
    grouped = cfg.n_key_value_heads if not getattr(cfg, "ungroup_grouped_query_attention", False) else None
    parameter = next(model.parameters())
    return Anatomy(
        n_layers=cfg.n_layers,
        n_heads=cfg.n_heads,
        n_key_value_heads=grouped or cfg.n_heads,
        d_model=cfg.d_model,
        d_head=cfg.d_head,
        d_mlp=_neurons(model),
        d_vocab=cfg.d_vocab,
        d_vocab_out=_columns(model),
        n_ctx=cfg.n_ctx,
        attn_only=bool(cfg.attn_only),
        parallel=bool(getattr(cfg, "parallel_attn_mlp", False)),
        causal=known.causal,
        rotary_switch=known.rotary_switch,
        windows=known.windows,
        experts=known.experts,
        n_experts=n_experts(model) if any(known.experts) else 0,
        latent=known.latent,
        embed_scale=known.embed_scale,
        whole_qk_norm=known.whole_qk_norm,
        post_norm=_norms_its_writes(model, known.norms_writes),
        dtype=parameter.dtype,
        device=parameter.device,
        act_fn=known.act_fn,
        architecture=known.name,
        name=str(cfg.model_name),
    )


def _columns(model: Model) -> int:
    """Number of logits: the unembedding's columns. A bridge's `cfg` does not know of a changed head."""
    if (W_U := getattr(model, "W_U", None)) is not None:
        return int(W_U.shape[-1])
    columns = getattr(model.cfg, "d_vocab_out", -1)
    return int(columns) if columns > 0 else int(model.cfg.d_vocab)


def is_model(model: Any) -> bool:
    """Whether it has what a TransformerLens model has."""
    return (
        not isinstance(model, type)
        and getattr(model, "cfg", None) is not None
        and hasattr(model, "hook_dict")
    )


def require_model(model: Any, name: str = "model") -> None:
    """Raise ValueError for something that is not a TransformerLens model. name: of the argument."""
    if is_model(model):
        return
    if isinstance(model, type):
        got = f"the class {model.__name__}"
    else:
        got = f"the name {model!r}" if isinstance(model, str) else type(model).__name__
    how = f"interp.load({model!r})" if isinstance(model, str) and model else "interp.load(...)"
    order = " The model comes before the task." if hasattr(model, "clean") else ""
    raise ValueError(
        f"{name}: expected a TransformerLens model (HookedTransformer or TransformerBridge), got {got}. "
        f"Load one with {how}.{order}"
    )


def _neurons(model: Model) -> int:
    """Neurons of an MLP: by its weights on a bridge, whose `cfg` may be wrong (OPT); 0 without MLPs."""
    mlp = getattr(model.blocks[0], "mlp", None)
    if mlp is None:
        return 0
    if type(model).__name__ == "TransformerBridge" and not is_mixture(mlp):
        return int(mlp.W_in.shape[-1])
    return model.cfg.d_mlp or 0


def _norms_its_writes(model: Model, after_only: bool) -> bool:
    """Whether some block norms what its attention or MLP adds to the stream."""
    if model.cfg.normalization_type is None:
        return False
    return after_only or any(
        getattr(block, name, None) is not None for block in model.blocks for name in ("ln1_post", "ln2_post")
    )
