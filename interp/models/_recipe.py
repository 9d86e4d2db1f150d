"""How a model was made by `load`, so that another process can make the same one, and prove that it did.

1. `load` notes its arguments beside the model, for as long as the model lives.
2. `recipe` puts them down with the fingerprint of everything that the model computes with as it is now.
3. `Recipe.load` loads by them elsewhere, and refuses what is not that model.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from interp.models._architecture import Model
from interp.models._computation import computation_fingerprint, has_hooks, lasting, settings_of

_loaded: WeakKeyDictionary[Any, tuple[str, str, str | None, dict[str, Any]]] = WeakKeyDictionary()
_SAVE = (
    "Save it with interp.models.save(model, folder) where the workers see the folder, and give "
    "interp.load(folder)."
)


@dataclass(frozen=True)
class Recipe:
    """The arguments of `load`, and what came of them. Small, and the same in every process."""

    name: str
    device: str
    dtype: str | None
    flags: tuple[tuple[str, Any], ...]
    kind: str  # the class, of which each release of TransformerLens has its own
    computes_in: str  # the dtype of the weights
    fingerprint: str

    def load(self) -> Model:
        """The model. Raises ValueError where it is another one here."""
        from interp.models._load import load

        model = load(self.name, device=self.device, dtype=self.dtype, **dict(self.flags))
        here = (type(model).__name__, _dtype(model), whole_fingerprint(model))
        for what, ours, theirs in zip(
            ("class", "dtype", "fingerprint"), here, (self.kind, self.computes_in, self.fingerprint)
        ):
            if ours != theirs:
                raise ValueError(
                    f"interp.load({self.name!r}) gives a worker another model: its {what} is {_short(ours)} "
                    f"and the driver's {_short(theirs)}. A model that was changed after loading, or files "
                    f"that differ between machines, do this. {_SAVE}"
                )
        return model


def note(model: Model, name: str, device: Any, dtype: Any, flags: dict[str, Any]) -> Model:
    """Remember how a model was loaded; the model itself."""
    kind = None if dtype is None else str(dtype).removeprefix("torch.")
    _loaded[model] = (name, str(device), kind, dict(flags))
    return model


def loaded_as(model: Model) -> str | None:
    """The name or folder that `load` was given for this model; None for one that it did not make."""
    return _loaded[model][0] if model in _loaded else None


def recipe(model: Model) -> Recipe:
    """How another process gets this model. Cost: its weights are read once.

    Raises ValueError for a model that `load` did not make, and for one with hooks or code of the user's.
    """
    if has_hooks(model):
        raise ValueError(
            "the model has hooks of yours, which its description for workers would leave out. Remove them "
            "(model.reset_hooks(including_permanent=True)), or leave out workers= and executor=."
        )
    if model not in _loaded or computation_fingerprint(model) is None:
        raise ValueError(
            "workers load the model by the arguments of interp.load, and this one was made or changed by "
            f"hand. {_SAVE}"
        )
    name, device, dtype, flags = _loaded[model]
    return Recipe(
        name, device, dtype, tuple(sorted(flags.items())), type(model).__name__, _dtype(model),
        whole_fingerprint(model),
    )  # fmt: skip


def whole_fingerprint(model: Model) -> str:
    """A digest of every value of every tensor, and of all types and settings; the same in every process."""
    digest = hashlib.blake2b(digest_size=16)
    for setting in settings_of(model):
        digest.update(repr(setting).encode())
    for tensor in lasting(model):
        digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _dtype(model: Model) -> str:
    return str(next(model.parameters()).dtype).removeprefix("torch.")


def _short(text: str) -> str:
    return text[:12]
