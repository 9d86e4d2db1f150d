"""The insides of mixtures of experts as sites, which neither class of TransformerLens has hook points for.

A mixture gives Σ_e w_e E_e(x), and has two sites, each with an axis of experts:

| site         | [prompt, pos, expert]    | what it is                                             |
|--------------|--------------------------|--------------------------------------------------------|
| `router`     | a number                 | w_e, the weight of an expert; 0 where it is not chosen |
| `expert_out` | a vector, [..., d_model] | w_e E_e(x), what an expert adds to the mixture         |

1. Hooks on the model's own modules see what the experts read, and which were chosen with what weight.
2. Every expert is run on every token, by the model's own code; w_e E_e(x) and their sum follow.
3. The sum must be what the model has (a ValueError otherwise). Then what hooks change at the two points is
   added to the model's own output, so that a pass without such hooks is the model's to the bit.

A shared expert (Qwen 2) stands beside the mixture and is no part of these sites.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from interp.models._architecture import Model, inner, is_mixture, transformers_config
from interp.places import EXPERT_SITES, hook_name

_HOOKED = ("MoE", "GptOssMoE")  # HookedTransformer's own mixtures
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}  # of the largest value that the mixture gives


def n_experts(model: Model) -> int:
    """Experts of a layer; 0 without any, and where they are not in a form that is known here."""
    sizes = {_size(block.mlp) for block in model.blocks if is_mixture(getattr(block, "mlp", None))}
    return sizes.pop() if len(sizes) == 1 else 0


@contextmanager
def expert_points(model: Model, sites: Iterable[str]) -> Iterator[None]:
    """Hook points for `router` and `expert_out`, for as long as the block runs, if one of these is wanted.

    They are named as `places.hook_name` says, and known to `model.hooks`. The model is left as found. Cost:
    every expert on every token, at each pass.
    """
    if not set(EXPERT_SITES) & set(sites) or hook_name("router", _first(model)) in model.hook_dict:
        yield
        return
    with ExitStack() as stack:
        for layer, block in enumerate(model.blocks):
            if is_mixture(block.mlp):
                mixture = _Mixture(layer, *(_added(stack, model, hook_name(s, layer)) for s in EXPERT_SITES))
                for handle in mixture.attach(block.mlp):
                    stack.callback(handle.remove)
        yield


def experts_per_token(model: Model) -> int:
    """How many experts a token goes through."""
    mlp = model.blocks[_first(model)].mlp
    own = getattr(mlp, "experts_per_token", None)
    own = getattr(transformers_config(model), "num_experts_per_tok", None) if own is None else own
    if own is None:
        raise ValueError(
            f"how many experts a token of {type(mlp).__name__} goes through is not known here: its config "
            "has no num_experts_per_tok."
        )
    return int(own)


@contextmanager
def changed_gates(model: Model, changes: Mapping[int, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """By layer, a function of the gate's logits [token, expert] before experts are chosen, for the block.

    A gate of transformers takes its logits, chooses and weighs in one `forward`, which therefore runs with
    its one product watched. Raises ValueError for a layer whose gate is not in a form that is known here.
    """
    with ExitStack() as stack:
        for layer, change in changes.items():
            mlp = model.blocks[layer].mlp
            gate = (
                mlp.W_gate if type(mlp).__name__ == "MoE" else _innermost(getattr(inner(mlp), "gate", None))
            )
            if gate is None:
                gate = _innermost(getattr(inner(mlp), "router", None))
            if getattr(getattr(gate, "weight", None), "ndim", 0) != 2:
                raise ValueError(f"the gate of layer {layer} ({type(mlp).__name__}) is not known here.")
            own = vars(gate).get("forward")  # of a block around this one
            gate.forward = partial(_with_logits, gate.forward, gate.weight, change)
            stack.callback(_put_back, gate, own)
        yield


def _put_back(gate: Any, own: Callable[..., Any] | None) -> None:
    if own is None:
        del gate.forward
    else:
        gate.forward = own


def _with_logits(
    forward: Callable[..., Any], weight: Tensor, change: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any
) -> Any:
    with _Watched(weight, change):
        return forward(*args, **kwargs)


class _Watched(TorchFunctionMode):
    """What a product with one weight gives is changed before anything sees it."""

    def __init__(self, weight: Tensor, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.change = weight, change

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        linear = func is nn.functional.linear and len(args) > 1 and args[1] is self.weight
        return self.change(out) if linear else out


def _first(model: Model) -> int:
    """The first layer with experts."""
    return next(layer for layer, block in enumerate(model.blocks) if is_mixture(block.mlp))


def _added(stack: ExitStack, model: Model, name: str) -> Any:
    """A new hook point of the model, until the stack ends."""
    from transformer_lens.hook_points import HookPoint

    point: Any = HookPoint()
    point.name = name
    point.eval()
    tables = (
        [model._hook_registry]
        if type(model).__name__ == "TransformerBridge"
        else [model.hook_dict, model.mod_dict]
    )
    for table in tables:
        table[name] = point
        stack.callback(table.pop, name, None)
    return point


def _size(mlp: Any) -> int:
    """How many experts a mixture has, if it is in one of the two forms."""
    experts = _innermost(getattr(inner(mlp), "experts", None))
    if isinstance(experts, nn.ModuleList):  # HookedTransformer's
        return len(experts) if type(mlp).__name__ in _HOOKED else 0
    return int(getattr(experts, "num_experts", 0) or 0)


def _innermost(module: Any) -> Any:
    """The module that computes, inside all bridges."""
    while module is not None and inner(module) is not module:
        module = inner(module)
    return module


@dataclass(eq=False)
class _Mixture:
    """The two hook points of a layer, and what its modules have shown of the running pass."""

    layer: int
    router: Callable[[Tensor], Tensor]
    expert_out: Callable[[Tensor], Tensor]
    size: tuple[int, int] = (0, 0)  # prompts and positions
    shares: list[Tensor] = field(default_factory=list)  # of a HookedTransformer: probabilities of all experts

    def attach(self, mlp: Any) -> list[Any]:
        """Hooks on the modules of the mixture."""
        if type(mlp).__name__ in _HOOKED:
            seen = mlp.hook_expert_weights.register_forward_hook(_known(self._keep))
            return [seen, mlp.register_forward_hook(_known(self._hooked))]
        experts = _innermost(inner(mlp).experts)
        before = inner(mlp).register_forward_pre_hook(_known(self._measure), with_kwargs=True)
        return [before, experts.register_forward_hook(_known(self._experts), with_kwargs=True)]

    def _measure(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["hidden_states"]
        self.size = (x.shape[0], x.shape[1])

    def _experts(self, module: Any, args: tuple, kwargs: dict[str, Any], output: Tensor) -> Tensor:
        """transformers: (tokens, chosen experts, their weights), all by token."""
        given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        x, chosen, weights = list(given.values())[:3]
        n = int(module.num_experts)
        dense = weights.new_zeros((len(x), n)).scatter(1, chosen, weights)
        one = torch.ones_like(weights[:, :1])

        def expert(number: int) -> Tensor:
            return module.forward(x, torch.full_like(chosen[:, :1], number), one)

        return self._mixed(dense, torch.stack([expert(number) for number in range(n)], 1), output)

    def _keep(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        self.shares = [output]

    def _hooked(self, mlp: Any, args: tuple, output: Tensor) -> Tensor:
        """HookedTransformer: shares of all experts; for gpt-oss of the chosen, which else are taken here."""
        x, dense = args[0], self.shares.pop()
        self.size, flat = (x.shape[0], x.shape[1]), x.reshape(-1, x.shape[-1])
        if type(mlp).__name__ == "MoE":
            weights, chosen = torch.topk(dense, mlp.experts_per_token, dim=-1)
            weights = weights / weights.sum(-1, keepdim=True) if mlp.cfg.norm_topk_prob else weights
            dense = torch.zeros_like(dense).scatter(1, chosen, weights)
        dense = dense.to(x.dtype)
        each = torch.stack([expert(flat) for expert in mlp.experts], 1)
        return self._mixed(dense, each, output.reshape(flat.shape)).view(output.shape)

    def _mixed(
        self,
        weights: Float[Tensor, "token expert"],
        each: Float[Tensor, "token expert d_model"],
        output: Float[Tensor, "token d_model"],
    ) -> Float[Tensor, "token d_model"]:
        """The mixture's output, with what hooks at the two points change."""
        plain = (weights[..., None] * each).to(output.dtype).sum(1)
        self._require_sum(plain, output)
        weights = self.router(weights.unflatten(0, self.size)).flatten(0, 1)
        adds = (weights[..., None] * each).to(output.dtype)  # [token, expert, d_model]
        adds = self.expert_out(adds.unflatten(0, self.size)).flatten(0, 1)
        return output.detach() + (adds.sum(1) - plain.detach())

    def _require_sum(self, plain: Tensor, output: Tensor) -> None:
        gap, scale = float((plain - output).detach().abs().max()), float(output.detach().abs().max())
        if not gap <= _TOLERANCE.get(output.dtype, 0.05) * scale:
            raise ValueError(
                f"the experts of layer {self.layer} do not add up to their mixture (they are off by "
                f"{gap:.2g} of {scale:.2g}): it has a step that is not known here. Patch mlp_out, the whole "
                "mixture."
            )


def _known(method: Callable[..., Any]) -> Callable[..., Any]:
    """A hook that `models.has_hooks` knows for ours: it changes nothing by itself."""

    def hook(*args: Any) -> Any:
        return method(*args)

    hook.makes_points = True  # type: ignore[attr-defined]
    return hook
