"""Devices that are none: what is said to lie on one is computed on the CPU, and may not meet another.

A machine with one processor cannot show that a pass follows a model over several devices. Here a tensor says
that it lies on `lazy:0`, `lazy:1`, ...; every operation of torch looks at what it is given and refuses
tensors of two devices, as CUDA does (numbers without an axis, and indices on the CPU, go with any). Moves
from one to another are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

KIND = "lazy"  # a kind of device that torch knows by name, whose way back the CPU's thread walks
CPU = torch.device("cpu")
_aten = torch.ops.aten
_PRODUCTS = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)
_MOVES = (_aten._to_copy.default, _aten.copy_.default)
_INDEXED = (
    _aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default
)  # fmt: skip


def device(number: int) -> torch.device:
    return torch.device(KIND, number)


class Placed(torch.Tensor):
    """A tensor of a device that is none; `held` is where its numbers are."""

    held: Tensor

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func in _PRODUCTS and args[0].ndim == 1:  # torch would squeeze what comes out in place
                return func(args[0][None], *args[1:]).squeeze(0)
            return func(*args, **(kwargs or {}))

    @staticmethod
    def __new__(cls, held: Tensor, at: torch.device, requires_grad: bool = False) -> Placed:
        with torch.inference_mode(held.is_inference()):
            out = torch.Tensor._make_wrapper_subclass(
                cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
                dtype=held.dtype, device=at, requires_grad=requires_grad,
            )  # fmt: skip
        out.held = held
        return out

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, *args: Any, **options: Any) -> Any:
        raise TypeError(f"can't convert {self.device} device type tensor to numpy.")

    def __array__(self, *args: Any, **options: Any) -> Any:
        return self.numpy()

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def __repr__(self, *args: Any) -> str:
        return f"Placed({self.held!r}, {self.device})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Devices(TorchDispatchMode):
    """While it lasts, tensors can be made on devices that are none; `moves` counts (from, to)."""

    def __init__(self) -> None:
        super().__init__()
        self.moves: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._can_decompose():  # `to` in inference mode: its parts come back here
            with self:
                return func.decompose(*args, **(kwargs or {}))
        return _run(func, args, kwargs or {}, self.moves)


def _run(func: Any, args: Any, kwargs: dict[str, Any], moves: Counter | None = None) -> Any:
    wanted = kwargs.get("device")
    given = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
    at = args[0].device if func in _MOVES or func in _INDEXED else _common(func, given)
    if func in _INDEXED:
        _indices(func, args)
    if wanted is not None:
        target = torch.device(wanted)
        if moves is not None and given and target != at:
            moves[str(at), str(target)] += 1
        at = target
        kwargs = {**kwargs, "device": CPU}
    inner, outer = _without(args, kwargs)
    out = func(*inner[0], **inner[1])
    return tree_map(lambda each: _with(each, at, outer), out)


def _common(func: Any, given: list[Tensor]) -> torch.device:
    """The device of what an operation is given."""
    found = {each.device for each in given if each.ndim}
    if len(found) > 1:
        raise RuntimeError(
            f"{func}: expected all tensors to be on one device, found {sorted(map(str, found))}"
        )
    return next(iter(found or {each.device for each in given}), CPU)


def _indices(func: Any, args: Any) -> None:
    """Indices lie beside what they index, or on the CPU; what is put in lies beside it."""
    beside = {args[0].device, CPU}
    for index in args[1]:
        if index is not None and index.device not in beside:
            raise RuntimeError(f"{func}: indices on {index.device} into {args[0].device}")
    if len(args) > 2 and args[2].ndim and args[2].device != args[0].device:
        raise RuntimeError(f"{func}: values on {args[2].device} into {args[0].device}")


def _without(args: Any, kwargs: Any) -> tuple[Any, dict[int, Placed]]:
    """The same with plain tensors, and the placed ones by what they hold."""
    outer: dict[int, Placed] = {}

    def plain(each: Any) -> Any:
        if not isinstance(each, Placed):
            return each
        outer[id(each.held)] = each
        return each.held

    return tree_map(plain, (args, kwargs)), outer


def _with(out: Any, at: torch.device, outer: dict[int, Placed]) -> Any:
    if not isinstance(out, Tensor) or isinstance(out, Placed):
        return out
    if id(out) in outer:
        return outer[id(out)]
    return out if at.type != KIND else Placed(out, at)


def place(tensor: Tensor, at: torch.device) -> Tensor:
    """The same numbers, on a device that is none; a parameter stays one."""
    plain = tensor.detach()
    out = Placed(plain.held if isinstance(plain, Placed) else plain, at)
    return (
        torch.nn.Parameter(out, requires_grad=tensor.requires_grad)
        if isinstance(tensor, torch.nn.Parameter)
        else out
    )


def place_module(module: torch.nn.Module, at: torch.device) -> None:
    for each in module.modules():
        for held in (each._parameters, each._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    held[name] = place(tensor, at)  # type: ignore[assignment]


@contextmanager
def devices() -> Iterator[Counter]:
    """Makes devices that are none, and gives the count of moves between them."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # what is made of a list is made on the CPU, and moved
    try:
        with Devices() as mode:
            yield mode.moves
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def spread(model: Any, n: int = 2) -> Any:
    """The model with its layers dealt to n devices in order; its ends lie on the first and the last."""
    n_layers = len(model.blocks)
    for layer, block in enumerate(model.blocks):
        place_module(block, device(layer * n // n_layers))
    for name, module in model.named_children():
        if name != "blocks":
            place_module(module, device(n - 1 if name in ("ln_final", "unembed") else 0))
    model.cfg.device, model.cfg.n_devices = f"{KIND}:0", n
    return model


def spread_as_accelerate_does(hf_model: Any) -> Any:
    """A transformers model under accelerate's hooks, its last layer and what follows on another device."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    (base_name, base), *rest = hf_model.named_children()
    tied = hf_model.config.tie_word_embeddings
    where = {name: device(0 if tied else 1) for name, _ in rest}
    for name, module in base.named_children():
        if isinstance(module, torch.nn.ModuleList):
            where |= {f"{base_name}.{name}.{n}": device((n + 1) // len(module)) for n in range(len(module))}
        else:
            first = "emb" in name or name.startswith("w")
            where[f"{base_name}.{name}"] = device(0 if first else 1)
    for name, at in where.items():
        place_module(hf_model.get_submodule(name), at)
    hf_model.tie_weights()
    for name, at in where.items():
        hook = AlignDevicesHook(execution_device=at, place_submodules=False)
        add_hook_to_module(hf_model.get_submodule(name), hook)
    ends = AlignDevicesHook(execution_device=device(0), io_same_device=True, place_submodules=False)
    add_hook_to_module(hf_model, ends)
    hf_model.hf_device_map = {name: str(at) for name, at in where.items()}
    return hf_model
