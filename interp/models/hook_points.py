"""Hook points, where HookedTransformer and TransformerBridge differ: patching a site, and inside MLPs.

| model             | before the activation | linear factor   | after      | inner bias |
|-------------------|-----------------------|-----------------|------------|------------|
| plain             | hook_pre              |                 | hook_post  |            |
| plain, solu_ln    | hook_pre              |                 | hook_mid   |            |
| gated             | hook_pre              | hook_pre_linear | hook_post  | b_in (*)   |
| expert of a MoE   | hook_gate             | hook_pre        | hook_post  |            |

(*) HookedTransformer adds b_in to the product of both factors; a bridge has it inside the linear factor.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp.models._anatomy import Anatomy, Model, activation_shape, anatomy
from interp.models._architecture import is_mixture
from interp.models._computation import logits
from interp.models._experts import expert_points
from interp.models._placement import without_slopes
from interp.places import hook_name

Hook = tuple[str, Callable[..., Tensor | None]]
Where = tuple[int | slice | Tensor, ...]
SCORES = "attn_scores"


def patch_hooks(model: Model, site: str, layer: int, where: Where, source: Tensor) -> list[Hook]:
    """Forward hooks that put `source[where]` into a site; the hooked tensor itself is not changed.

    On a bridge `hook_resid_mid` is the input of the second norm alone: what it returns does not reach the
    stream. There the patch goes through attention's write, which is resid_mid - resid_pre.
    """
    if site == "resid_mid" and is_bridge(model):
        return _mid_through_attention(layer, where, source)

    def put(tensor: Tensor, hook: Any) -> Tensor:
        out, at = tensor.clone(), _beside(where, tensor)
        out[at] = source.to(tensor.device)[at]
        return out

    return [(hook_name(site, layer), put)]


def _beside(where: Where, tensor: Tensor) -> Where:
    """The index on the tensor's device."""
    return tuple(each.to(tensor.device) if isinstance(each, Tensor) else each for each in where)


def slope_hook(model: Model, site: str, layer: int) -> str:
    """The hook point at which the slope in a site is read.

    On a bridge `hook_resid_mid` lies on the MLP's branch alone; the slope in the stream is that in what
    attention adds to it. `SCORES`, where attention is edited before its softmax, is no site, and has a point.
    """
    if site == SCORES:
        return f"blocks.{layer}.attn.hook_{SCORES}"
    return hook_name("attn_out" if site == "resid_mid" and is_bridge(model) else site, layer)


def unreached(model: Model, site: str, tokens: Int[Tensor, "prompt pos"]) -> str | None:
    """Why an edit at a site's hook points would not do what it says; None where it does, at every layer.

    A hook point must exist, be passed, hold a tensor of the shape that the anatomy says, and what a hook
    returns must be what the model goes on with: on bridges whose attention transformers computes (GPT-J,
    GPT-Neo, OPT) a changed pattern is thrown away.

    Cost: one forward and one backward of the first prompt for all layers together; two forwards more for each
    layer that this finds cut off, before it is called so.
    """
    facts = anatomy(model)
    if reason := facts.lacks(site):
        return reason
    with expert_points(model, (site,)):
        return _unreached(model, facts, site, tokens[:1])


def _unreached(model: Model, facts: Anatomy, site: str, tokens: Tensor) -> str | None:
    names = [slope_hook(model, site, layer) for layer in facts.layers(site)]
    if missing := [name for name in names if name not in model.hook_dict]:
        return f"{facts.name} has no hook point {missing[0]}"
    with warnings.catch_warnings():  # a bridge warns of edits that it throws away
        warnings.filterwarnings("ignore", message="A hook on .* returned a modified tensor")
        return _cut_off(model, facts, site, names, tokens)


def _cut_off(model: Model, facts: Anatomy, site: str, names: list[str], tokens: Tensor) -> str | None:
    shapes, reached = _passed(model, names, tokens)
    wanted = _shape(facts, site, tokens.shape[1])
    for name in names:
        if name not in shapes:
            return f"{facts.name} does not pass its hook point {name}"
        if shapes[name] != wanted:
            return f"{name} of {facts.name} holds {list(shapes[name])} and not {list(wanted)}"
    cut = next((name for name in names if name not in reached and not _changes(model, name, tokens)), None)
    return cut and f"{facts.name} goes on without what a hook at {cut} returns: it does not reach the logits"


def _passed(model: Model, names: list[str], tokens: Tensor) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """Shapes at the hook points that a forward pass passes, and the names from which a gradient flows."""
    shapes: dict[str, tuple[int, ...]] = {}
    shifts: dict[str, Tensor] = {}

    def shift(name: str) -> Callable[..., Tensor]:
        def hook(tensor: Tensor, hook: Any) -> Tensor:
            shapes[name] = tuple(tensor.shape)
            shifts[name] = torch.zeros_like(tensor).requires_grad_(not no_slopes)
            return tensor + shifts[name]

        return hook

    no_slopes = any(parameter.is_inference() for parameter in model.parameters()) or bool(
        without_slopes(model)
    )
    with torch.inference_mode(no_slopes), torch.set_grad_enabled(not no_slopes):
        with model.hooks(fwd_hooks=[(name, shift(name)) for name in names]):
            total = logits(model, tokens.clone()).float().sum()
        if not shifts or not total.requires_grad:
            return shapes, set()
        slopes = torch.autograd.grad(total, list(shifts.values()), allow_unused=True)
    return shapes, {name for name, slope in zip(shifts, slopes) if slope is not None}


def _changes(model: Model, name: str, tokens: Tensor) -> bool:
    """Whether another value at a hook point changes some logit."""
    with torch.no_grad():
        before = logits(model, tokens)
        with model.hooks(fwd_hooks=[(name, lambda tensor, hook: tensor + 1 + tensor.abs())]):
            return not torch.equal(logits(model, tokens), before)


def _shape(facts: Anatomy, site: str, n_pos: int) -> tuple[int, ...]:
    """Of one prompt's activation at a site, with the dim of prompts."""
    return (1, *activation_shape(facts, "pattern" if site == SCORES else site, n_pos))


def kept_in_path(model: Model, names: Iterable[str]) -> list[Hook]:
    """Backward hooks that do nothing, for points that drop what a hook returns unless its values changed.

    Bridges of the Granite family scale what a sublayer adds outside of it: they put a hooked tensor back only
    if its values are others, or if a backward hook asks for the graph.
    """
    scaled = [
        f"blocks.{layer}."
        for layer, block in enumerate(model.blocks)
        if "ScaledResidualBlockBridge" in {kind.__name__ for kind in type(block).__mro__}
    ]
    ends = ("hook_attn_out", "hook_mlp_out")
    return [
        (name, lambda slope, hook: None)
        for name in names
        if name.endswith(ends) and any(name.startswith(block) for block in scaled)
    ]


def is_bridge(model: Model) -> bool:
    """Whether the model is a TransformerBridge."""
    return type(model).__name__ == "TransformerBridge"


def _mid_through_attention(layer: int, where: Where, source: Tensor) -> list[Hook]:
    seen: dict[str, Tensor] = {}

    def keep(tensor: Tensor, hook: Any) -> Tensor:
        seen["pre"] = tensor
        return tensor

    def write(tensor: Tensor, hook: Any) -> Tensor:
        out, at = tensor.clone(), _beside(where, tensor)
        out[at] = source.to(tensor.device)[at] - seen["pre"][at]
        return out

    return [(hook_name("resid_pre", layer), keep), (hook_name("attn_out", layer), write)]


@dataclass(frozen=True, eq=False)
class MLPPoints:
    """One MLP, or one expert: post = act(pre) · linear + bias, without linear and bias if it is plain."""

    module: str
    layer: int
    pre: str
    linear: str | None
    post: str
    bias: Tensor | None = None
    is_expert: bool = False


def mlp_points(model: Model) -> list[MLPPoints]:
    """The MLPs of a model, experts one by one. ValueError for one whose insides have no hook points."""
    return [mlp for layer, block in enumerate(model.blocks) for mlp in _of_block(model, layer, block)]


def router_points(model: Model) -> list[tuple[int, str]]:
    """(layer, hook point) of the weights by which experts are mixed."""
    names = [(layer, f"blocks.{layer}.mlp.hook_expert_weights") for layer in range(model.cfg.n_layers)]
    return [(layer, name) for layer, name in names if name in model.hook_dict]


def _of_block(model: Model, layer: int, block: Any) -> Iterator[MLPPoints]:
    mlp = getattr(block, "mlp", None)
    if mlp is None:
        return
    module = f"blocks.{layer}.mlp"
    if is_mixture(mlp):
        if type(mlp).__name__ != "MoE":
            raise ValueError(
                f"{module} is a {type(mlp).__name__}, a mixture of experts whose insides TransformerLens "
                'does not expose in a known form. Use identity=False, half=False, or method="atp".'
            )
        for number in range(len(mlp.experts)):
            name = f"{module}.experts.{number}"
            yield MLPPoints(
                name, layer, f"{name}.hook_gate", f"{name}.hook_pre", f"{name}.hook_post", is_expert=True
            )
        return
    before_norm = getattr(mlp, "hook_mid", None) is not None  # solu_ln: norm within the MLP
    linear, bias = f"{module}.hook_pre_linear", None
    gated = linear in model.hook_dict and not before_norm
    if gated and not is_bridge(model):
        bias = getattr(mlp, "b_in", None)
    found = MLPPoints(
        module,
        layer,
        f"{module}.hook_pre",
        linear if gated else None,
        f"{module}.{'hook_mid' if before_norm else 'hook_post'}",
        bias,
    )
    missing = [name for name in (found.pre, found.post) if name not in model.hook_dict]
    if missing:
        raise ValueError(
            f"{module} ({type(mlp).__name__}) has no hook point {missing[0]}: its activation cannot be "
            "reached. Use identity=False, half=False, or a method without rules (atp)."
        )
    yield found
