"""How another process gets a dictionary, and proves that it is the same.

1. `sae.load` notes the path and settings that a dictionary came of, for as long as it lives.
2. `of` puts them down with a digest of its tensors and settings. Where there are none (tensors of the user's,
   a dictionary changed since), the dictionary itself travels.
3. `Recipe.load` gives it elsewhere, and refuses what is not that dictionary.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from interp.places import Place
from interp.sae._dictionary import Dictionary

_INSTEAD = "Give workers the same file, or send the tensors with the work: features=dictionary.but()."
Arguments = tuple[str, Place | str | None, int | None, float | None]  # path, place, layer, scale
_loaded: WeakKeyDictionary[Dictionary, Arguments] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Recipe:
    """The arguments of `sae.load`, or the dictionary itself, and its digest."""

    source: Arguments | Dictionary
    digest: str

    def load(self) -> Dictionary:
        """The dictionary. Raises ValueError where the file is not there, or holds another one."""
        from interp.sae._load import load

        if isinstance(self.source, Dictionary):
            return self.source
        path, place, layer, scale = self.source
        try:
            dictionary = load(path, place, layer=layer, scale=scale)
        except (OSError, ValueError) as error:
            raise ValueError(f"a worker cannot load the dictionary: {error} {_INSTEAD}") from error
        if (here := digest(dictionary)) != self.digest:
            raise ValueError(
                f"interp.sae.load({path!r}) gives a worker another dictionary: its digest is {here} and the "
                f"driver's {self.digest}. {_INSTEAD}"
            )
        return dictionary


def note(
    dictionary: Dictionary,
    path: str | Path,
    place: str | Place | None,
    layer: int | None,
    scale: float | None,
) -> Dictionary:
    """Remember how a dictionary was loaded; the dictionary itself."""
    where = str(Path(path).resolve()) if Path(path).exists() else str(path)  # a bundled one has a name
    _loaded[dictionary] = (where, place, layer, scale)
    return dictionary


def of(dictionary: Dictionary) -> Recipe:
    """How another process gets this dictionary. Cost: its tensors are read once."""
    return Recipe(_loaded.get(dictionary, dictionary), digest(dictionary))


def digest(dictionary: Dictionary) -> str:
    """What two dictionaries share if and only if their tensors and settings are the same."""
    hashed = hashlib.sha256()
    for name, value in sorted(
        {**vars(dictionary), **(vars(dictionary.gate) if dictionary.gate else {})}.items()
    ):
        if isinstance(value, Tensor):
            hashed.update(name.encode() + value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
        elif name not in ("metadata", "gate"):
            hashed.update(f"{name} {value}".encode())
    return hashed.hexdigest()[:16]
