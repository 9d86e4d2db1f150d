"""Which run a store belongs to: a table of plain values, the same for the same call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Identity = Mapping[str, Any]


def require_same(path: Path, there: Identity, here: Identity) -> None:
    """Raise ValueError where a store belongs to another run."""
    differing = [key for key in sorted({**there, **here}) if there.get(key) != here.get(key)]
    if differing:
        told = "; ".join(f"{key}: {there.get(key)!r} there, {here.get(key)!r} here" for key in differing)
        raise ValueError(f"{path} holds another run ({told}). Choose another path; nothing was changed.")


def foreign(path: Path, kind: str, error: Exception | None = None) -> ValueError:
    """The error for a path that holds something else; kind: of store, as the user knows it."""
    told = f" ({error})" if error is not None and str(error) else ""
    return ValueError(
        f"{path} exists and is not a store of {kind}{told}. Choose another path; nothing was changed."
    )


def plain(identity: Identity) -> dict[str, Any]:
    """As JSON gives it back."""
    return json.loads(json.dumps(dict(identity)))
