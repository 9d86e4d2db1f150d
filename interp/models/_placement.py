"""Where a model's weights lie and in what numbers: several devices, quantised weights.

`device_map`, `n_devices` and `quantization_config` go to transformers, which reads the model; it is then a
TransformerBridge on every release, since a HookedTransformer would copy the weights to one device and out of
their numbers. Nothing is folded or centred. Quantised weights are run by the model's own modules alone (the
engine "reference", estimates through hooks); what reads weights as matrices refuses them (`quantised`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from interp.models._anatomy import Model

_PACKED = ("weight", "qweight", "weight_packed", "W_q")  # what quantised modules call their numbers
_KINDS = ("Linear4bit", "Linear8bitLt", "LinearNF4", "LinearFP4", "QuantLinear", "HQQLinear", "AqlmLinear")
_FORWARD_ONLY = "torch.ao.nn.quantized"
_HOMES = ("torch.ao.nn.quantized", "torchao", "bitsandbytes", "optimum.quanto", "compressed_tensors")


@dataclass(frozen=True)
class Placement:
    """What `load` was told of devices and quantisation."""

    device_map: str | dict[str, Any] | None = None
    n_devices: int | None = None
    quantization_config: Any = None

    def __post_init__(self) -> None:
        if self.n_devices is None:
            return
        if self.device_map is not None:
            raise ValueError(
                "n_devices= splits the model evenly and device_map= as it says. Give one of them."
            )
        here = torch.cuda.device_count()
        if not isinstance(self.n_devices, int) or isinstance(self.n_devices, bool) or self.n_devices < 1:
            raise ValueError(f"n_devices is {self.n_devices!r}; give a whole number of at least 1.")
        if self.n_devices > here:
            raise ValueError(
                f"n_devices is {self.n_devices}, and this machine has {here} CUDA devices. Give fewer, "
                "or device_map=."
            )

    def __bool__(self) -> bool:
        return self != Placement()

    @property
    def given(self) -> dict[str, Any]:
        """What was given, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @property
    def options(self) -> dict[str, Any]:
        """The same for `from_pretrained` of transformers."""
        out = {"device_map": self.device_map, "quantization_config": self.quantization_config}
        if self.n_devices is not None:
            free = {n: torch.cuda.mem_get_info(n)[0] for n in range(self.n_devices)}
            out |= {"device_map": "balanced", "max_memory": free}
        return {name: value for name, value in out.items() if value is not None}

    def require_transformers(self, what: str) -> None:
        """ValueError for a model that transformers does not read."""
        if self:
            raise ValueError(
                f"{', '.join(self.given)}: these are for models that transformers reads (a name of the hub, "
                f"or a folder of save_pretrained), and {what} is none."
            )


def without_slopes(model: Model) -> str | None:
    """Which module lets no gradient through, in words; torch's own quantised ones have no way back."""
    kinds = ((name, type(module)) for name, module in model.named_modules())
    return next(
        (
            f"{name} is torch's {kind.__name__}"
            for name, kind in kinds
            if kind.__module__.startswith(_FORWARD_ONLY)
        ),
        None,
    )


def quantised(model: Model) -> str | None:
    """What about the weights is no plain matrix, in words; None where all are floats of 16 bits or more."""
    for name, module in model.named_modules():
        kind = type(module)
        if kind.__name__ in _KINDS or kind.__module__.startswith(_HOMES):
            return f"{name} is a {kind.__module__.split('.')[0]} {kind.__name__}"
        held = (*module._parameters.items(), *module._buffers.items())
        for part, tensor in held:
            if tensor is None or part not in _PACKED:
                continue
            dtype = str(tensor.dtype).removeprefix("torch.")
            if not tensor.dtype.is_floating_point or tensor.dtype.itemsize < 2:
                return f"{name}.{part} holds {dtype}"
            if type(tensor.data).__module__.startswith(_HOMES):
                return f"{name}.{part} is a {type(tensor.data).__name__}"
    return None
