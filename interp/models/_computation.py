"""A model's plain forward pass, and what it depends on: hooks, modes, settings and tensors.

Two numbers and a list tell models apart: `computation_fingerprint` within one process (it reads no values),
`model_fingerprint` by a sample of the parameters on any device, and `settings_of` with `lasting`, which a
copy must share to be the same model.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models._architecture import Model


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
