"""Results as netCDF files, and the report of some results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from interp import report
from interp.cli.pictures import figures, heading
from interp.files import whole

_ENGINE = "h5netcdf"


def save(result: xr.Dataset, path: Path) -> Path:
    """Write a result whole or not at all."""
    with whole(path) as unfinished:
        result.to_netcdf(unfinished, engine=_ENGINE)
    return path


def read(path: Path) -> xr.Dataset:
    """Read a result. ValueError unless the file holds one."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. Give a .nc file that interp patch wrote.")
    try:
        result = xr.load_dataset(path, engine=_ENGINE)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read as netCDF ({error}). Give a file that interp patch wrote."
        ) from None
    missing = [name for name in ("value", "clean", "corrupt") if name not in result]
    if missing or "prompt" not in result.dims:
        raise ValueError(
            f"{path} is not a result: it lacks {', '.join(missing) or 'the dim prompt'}. "
            "Give a file that interp patch wrote."
        )
    return result


def write_page(results: Sequence[xr.Dataset], path: Path, title: str, opening: str = "") -> Path:
    """A page with the figures and the table of every result."""
    items: list = [opening] if opening else []
    for result in results:
        items += [("heading", heading(result)), *figures(result), result]
    return report.write(items, path, title=title)
