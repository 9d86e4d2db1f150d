"""Plain torch hooks on a transformers model: the oracle of every verb. It shares nothing with interp."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

OUTPUTS = ("o_proj", "out_proj", "c_proj", "dense", "o")
ATTENTIONS = ("self_attn", "attn", "self_attention", "attention", "mixer")


class Throughout64(TorchFunctionMode):
    """Float64 stays float64 where transformers would go down to float32 on the way (norms, softmax, caps).

    So what is left between two ways to compute a model is their formulas, and not that rounding.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if args and isinstance(args[0], Tensor) and args[0].dtype == torch.float64:
            if func is Tensor.float:
                return args[0]
            if func in (Tensor.to, Tensor.type):
                args = tuple(torch.float64 if each is torch.float32 else each for each in args)
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


class Oracle:
    """A transformers model, and where its stream and its heads' outputs pass."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        from transformers import AutoModelForCausalLM

        found: Any = AutoModelForCausalLM.from_pretrained(str(folder), attn_implementation="eager")
        self.model = found.to(dtype).eval()
        config = self.model.config
        n_layers = config.num_hidden_layers
        lists = [each for each in self.model.modules() if isinstance(each, nn.ModuleList)]
        self.layers: Any = next(each for each in lists if len(each) == n_layers)
        self.outputs = [_output(layer) for layer in self.layers]
        self.n_heads = config.num_attention_heads

    def logits(self, tokens: Tensor) -> Tensor:
        """[prompt, pos, vocab]."""
        return self.model(tokens, use_cache=False).logits

    def inputs(self, tokens: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Inputs of every layer [prompt, pos, d_model] and of its output map [prompt, pos, head · d_head]."""
        stream: list[Tensor] = []
        heads: list[Tensor] = []
        with contextlib.ExitStack() as hooks:
            for layer, output in zip(self.layers, self.outputs):
                hooks.enter_context(hooked(layer, lambda x: stream.append(x) or x))
                hooks.enter_context(hooked(output, lambda x: heads.append(x) or x))
            self.logits(tokens)
        return stream, heads

    def with_input(self, module: nn.Module, change: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
        """Logits where the input of a module is changed."""
        with hooked(module, change):
            return self.logits(tokens)

    def slopes(
        self, tokens: Tensor, measure: Callable[[Tensor], Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The gradient of a sum of metrics in every tensor of `inputs`."""
        shifts: dict[int, Tensor] = {}

        def shift(key: int) -> Callable[[Tensor], Tensor]:
            def change(x: Tensor) -> Tensor:
                shifts[key] = torch.zeros_like(x).requires_grad_()
                return x + shifts[key]

            return change

        modules = [*self.layers, *self.outputs]
        with torch.enable_grad(), contextlib.ExitStack() as hooks:
            for key, module in enumerate(modules):
                hooks.enter_context(hooked(module, shift(key)))
            total = measure(self.logits(tokens)).sum()
            found = torch.autograd.grad(total, [shifts[key] for key in range(len(modules))])
        return list(found[: len(self.layers)]), list(found[len(self.layers) :])

    def heads_of(self, z: Tensor) -> Tensor:
        """[..., head · d_head] to [..., head, d_head]."""
        return z.unflatten(-1, (self.n_heads, -1))


@contextlib.contextmanager
def hooked(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """The first input of a module goes through a function."""

    def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _output(layer: nn.Module) -> nn.Module:
    """The map from all heads to the stream."""
    attention = next(getattr(layer, name) for name in ATTENTIONS if hasattr(layer, name))
    inner = getattr(attention, "attention", attention)
    return next(getattr(inner, name) for name in OUTPUTS if hasattr(inner, name))
