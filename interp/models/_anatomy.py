"""Facts about a model, the same for both TransformerLens classes.

`HookedTransformer` (3.9) and `TransformerBridge` (3.9 in part, 4.x) agree on hook names and on most of
`cfg`; what differs is settled here, in `_architecture.py`, `_weights.py` and `hook_points.py`, nowhere else.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
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
        d_vocab_out=cfg.d_vocab_out if getattr(cfg, "d_vocab_out", -1) > 0 else cfg.d_vocab,
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


def logits(model: Model, tokens: Int[Tensor, "prompt pos"]) -> Float[Tensor, "prompt pos vocab"]:
    """One plain forward pass, attached hooks included.

    Padding is always on the right and never masked: attention is causal, so what a pad token computes
    reaches no real position. (With `padding_side="left"` TransformerLens would mask every token whose id
    is the pad id.)
    """
    takes_padding_side = type(model).__name__ == "HookedTransformer" and model.tokenizer is not None
    options = {"padding_side": "right"} if takes_padding_side else {}
    with dtypes_explained(model, model.cfg.model_name):
        return model(tokens, **options).to(tokens.device)  # a model on several devices ends on its last


@contextlib.contextmanager
def dtypes_explained(model: torch.nn.Module, name: str) -> Iterator[None]:
    """torch's error over the dtypes of a model's operations as a ValueError that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if re.search(r"dtype|Float32|Double|BFloat16|Half|overflow", str(error)) is None:
            raise
        raise ValueError(
            f"{name} does not run in {next(model.parameters()).dtype}: {error}. Load it in float32, and "
            "outside of autocast."
        ) from error


def has_hooks(model: Model) -> bool:
    """Whether any hook of the user's is attached: TransformerLens's on a hook point, or torch's on a module.

    Hooks that TransformerLens and transformers attach themselves (OPT on a bridge) are not the user's.
    """
    for point in model.hook_dict.values():
        if any(
            not _is_theirs(getattr(each, "user_hook", None)) for each in (*point.fwd_hooks, *point.bwd_hooks)
        ):
            return True
    every = (hook for module in model.modules() for hook in _torch_hooks(module))
    return any(not _is_theirs(hook) for hook in (*_global_hooks(), *every))


def _global_hooks() -> tuple[Any, ...]:
    """Hooks on all modules of this process (`torch.nn.modules.module.register_module_forward_hook`).

    Those of torch's own module tracker, which counts FLOPs, look on and change nothing.
    """
    at = torch.nn.modules.module
    tables = (at._global_forward_hooks, at._global_forward_pre_hooks)
    every = (hook for table in tables for hook in table.values())
    return tuple(hook for hook in every if getattr(hook, "__module__", "") != "torch.utils.module_tracker")


def _is_theirs(hook: Any) -> bool:
    """Whether TransformerLens or transformers wrote the hook, or it makes hook points (`_experts`)."""
    hook = getattr(hook, "func", hook)  # of a partial
    if getattr(hook, "makes_points", False):
        return True
    return str(getattr(hook, "__module__", "")).split(".")[0] in ("transformer_lens", "transformers")


def _torch_hooks(module: torch.nn.Module) -> list[Any]:
    """torch's hooks of a module; those of a hook point are TransformerLens's way of calling its own."""
    if type(module).__name__ == "HookPoint":
        return []
    return [hook for kind in _hook_tables(module) for hook in kind.values()]


def _hook_tables(module: torch.nn.Module) -> tuple[dict[int, Any], ...]:
    backward = (module._backward_hooks, module._backward_pre_hooks)
    return (module._forward_hooks, module._forward_pre_hooks, *backward)


def computation_fingerprint(model: Model) -> int | None:
    """A number that changes with anything that may change what the model computes; within one process only.

    It covers every module's type, `forward`, mode, plain settings, functions (an activation) and configs,
    hooks of torch and of TransformerLens, the dtype, place and version of every tensor, `cfg`, and autocast.
    It reads no values: some milliseconds for a model of a dozen layers. Tensors that a forward pass makes
    anew before it reads them (`remade`) are left out, or no two calls would have one number. None where that
    cannot be known: a module or a function in the model that is neither torch's, transformers' nor
    TransformerLens's may keep state anywhere.
    """
    modules = list(model.modules())
    if any(_is_foreign(module) for module in modules):
        return None
    autocast = (*map(torch.is_autocast_enabled, ("cpu", "cuda")), torch.get_default_dtype())
    configs = {id(each): each for module in modules for each in vars(module).values() if _is_config(each)}
    settings = tuple(_settings(config) for config in configs.values())
    hooks = tuple(map(id, _global_hooks()))
    return hash((id(model), settings, autocast, hooks, tuple(_state(module) for module in modules)))


def _is_foreign(module: torch.nn.Module) -> bool:
    """Whether the module, or a function put into it, is code of the user's or of another package."""
    functions = (value for name, value in vars(module).items() if callable(value) and name != "tokenizer")
    return not _is_known(type(module)) or not all(map(_is_known, functions))


def _is_known(value: Any) -> bool:
    """Whether a class or a function is of a package whose modules keep their state in their fields."""
    value = getattr(value, "func", value)  # of a partial
    module = getattr(value, "__module__", None) or type(value).__module__
    return module.split(".")[0] in ("torch", "transformers", "transformer_lens", "builtins", "functools")


def _is_config(value: Any) -> bool:
    """Whether it is a config: an object with settings that a forward pass may look up."""
    return type(value).__name__.endswith("Config") and hasattr(value, "__dict__")


def _settings(config: Any) -> tuple[Any, ...]:
    """What a config says, configs within it as well."""
    inside = (_settings(value) for value in vars(config).values() if _is_config(value))
    return (*((name, repr(value)) for name, value in vars(config).items() if _is_plain(value)), *inside)


def _is_plain(value: Any) -> bool:
    """Whether it is a setting, or a list or table of such."""
    if isinstance(value, dict):
        return all(_is_plain(each) for each in value.values())
    return all(map(_is_plain, value)) if isinstance(value, (list, tuple)) else _is_setting(value)


def _state(module: torch.nn.Module) -> tuple[Any, ...]:
    """What a module's computation depends on, beside its children and its config."""
    anew = remade(module)
    fields = {name: value for name, value in vars(module).items() if name not in anew}
    settings = [(name, value) for name, value in fields.items() if _is_setting(value)]
    functions = [(name, id(value)) for name, value in fields.items() if callable(value)]
    loose = {name: value for name, value in fields.items() if isinstance(value, Tensor)}
    named = {**module._parameters, **module._buffers, **loose}
    tensors = [value for name, value in named.items() if name not in anew]
    hooks = tuple(
        number for kind in _hook_tables(module) for number, hook in kind.items() if not _is_theirs(hook)
    )
    attached = tuple(getattr(module, "fwd_hooks", ())) + tuple(getattr(module, "bwd_hooks", ()))
    return (
        id(type(module)),
        id(type(module).forward),
        tuple(settings),
        tuple(functions),
        hooks,
        tuple(map(id, attached)),
        tuple(map(_version, tensors)),
    )


def remade(module: torch.nn.Module) -> frozenset[str]:
    """Names of a module's tensors that each forward pass makes anew before anything reads them.

    A bridge's attention keeps its last pattern as a record; longrope takes the frequencies of a pass from two
    tensors that last. What is written into one of these between two passes changes no logit.
    """
    names = {"_pattern"} if type(module).__module__.startswith("transformer_lens.") else set()
    kinds = getattr(module, "rope_type", None)
    kinds = kinds if isinstance(kinds, dict) else {"": kinds}
    names |= {f"{layer}_inv_freq".lstrip("_") for layer, kind in kinds.items() if kind == "longrope"}
    return frozenset(names)


def lasting(model: Model) -> Iterator[Tensor]:
    """Parameters and buffers, but for those that each pass makes anew (`remade`)."""
    for module in model.modules():
        anew = remade(module)
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and name not in anew:
                yield tensor


def settings_of(model: Model) -> Iterator[tuple[Any, ...]]:
    """What modules and configs say beside their tensors and functions; the same in every process.

    A bridge's modules keep in private fields which hooks have fired; these are no settings.
    """
    for module in model.modules():
        fields = ((name, value) for name, value in vars(module).items() if not name.startswith("_"))
        yield type(module).__name__, *((name, str(value)) for name, value in fields if _is_setting(value))
    configs = {id(each): each for module in model.modules() for each in vars(module).values()}
    yield from (_settings(each) for each in configs.values() if _is_config(each))


def _is_setting(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, torch.dtype))


def _version(tensor: Tensor | None) -> tuple[Any, ...] | None:
    if tensor is None:
        return None
    version = -1 if tensor.is_inference() else tensor._version
    return (id(tensor), tensor.data_ptr(), version, tensor.dtype, tensor.device, tensor.shape)


def part_in_training(model: Model) -> str | None:
    """What is in train mode, where dropout may act, in words; None where nothing is."""
    inside = next((name for name, module in model.named_modules() if module.training), None)
    if inside is None:
        return None
    return f"its part {inside!r} is in train mode" if inside else "the model is in train mode"


def require_eval(model: Model) -> None:
    """Raise ValueError where some part of the model is in train mode."""
    if training := part_in_training(model):
        raise ValueError(f"{training}, where dropout may act. Call model.eval() first (interp.load does).")


def model_fingerprint(model: Model) -> str:
    """sha256 over the names, shapes and a sample of the values of all parameters; device-independent."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 64)][:64].double().cpu()
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()
