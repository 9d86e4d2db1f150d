"""Where the bundled data lies: `data/` in a checkout, `interp/_data/` in an installed wheel."""

from __future__ import annotations

from pathlib import Path


def data_dir() -> Path:
    """The folder that holds the bundled models and task files."""
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "_data", package.parent / "data"):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(
        f"the bundled data is missing: neither {package / '_data'} nor {package.parent / 'data'} exists. "
        "Reinstall the package, or run from a full checkout."
    )
