"""Packages whose names load at their first use, so that importing one loads neither torch nor its siblings.

__getattr__, __dir__ = lazy(__name__, {"interp.circuits._acdc": ("acdc", "trace")}, submodules=("select",))
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy(
    package: str, exports: Mapping[str, Sequence[str]], submodules: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package.

    exports: the names that a package gives, by the module that holds them. submodules: public modules of its
    own. A name that it lacks is an AttributeError with the nearest one that it has.
    """
    home = {name: module for module, names in exports.items() for name in names}

    def get(name: str) -> Any:
        if name in home:
            return getattr(importlib.import_module(home[name]), name)
        if name in submodules:
            return importlib.import_module(f"{package}.{name}")
        from interp.places import nearest

        known = sorted([*home, *submodules])
        close = None if name.startswith("_") else nearest(name, known)
        end = f". Did you mean {close!r}?" if close else "."
        raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {', '.join(known)}{end}")

    return get, lambda: sorted([*home, *submodules])
