"""A zarr store that a sweep writes as it goes, and from which a killed run resumes.

The store is an ordinary xarray dataset (`xr.open_zarr`). Values start as NaN; a unit of work (a block of
prompts, one site, one layer) is written and then marked in the `progress` group. Units are the same in every
run, so a run that was killed and started again gives the same file as one that was not.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

_KEY = "interp_run"
_DONE = "_done"


class Store:
    """An open store. `done` says which units are finished."""

    def __init__(self, path: Path, n_units: int) -> None:
        self.path = path
        self._group: Any = zarr.open_group(str(path), mode="r+")
        self._done = self._group[_DONE]
        self.done: np.ndarray = np.asarray(self._done[:]).astype(bool)
        if len(self.done) != n_units:
            raise ValueError(
                f"{path} was written in {len(self.done)} units and this run has {n_units}: "
                "batch_size or memory differ. Use the same, or another store."
            )

    def write(self, unit: int, parts: dict[str, tuple[tuple[Any, ...], np.ndarray]]) -> None:
        """Write arrays into regions, then mark the unit as done."""
        for name, (region, values) in parts.items():
            self._group[name][region] = values
        self._done[unit] = 1
        self.done[unit] = True

    def load(self) -> xr.Dataset:
        """The result so far, in memory; NaN where nothing is written yet."""
        with xr.open_zarr(str(self.path), consolidated=False) as opened:
            out = opened.drop_vars(_DONE).load()
        out.attrs.pop(_KEY, None)
        texts = {name: c.astype(object) for name, c in out.coords.items() if c.dtype.kind == "T"}
        return out.assign_coords(texts)  # strings as in a result that was not stored


def open_store(
    path: str | Path, template: xr.Dataset, identity: dict[str, Any], chunks: dict[str, int], n_units: int
) -> Store:
    """Open a store for a run, or make it from a template.

    Raises ValueError, and changes nothing, if the folder holds another run or something else.
    """
    path = Path(path)
    if path.exists() and any(path.iterdir() if path.is_dir() else [path]):
        _require_same(path, identity)
        return Store(path, n_units)
    _create(path, template, identity, chunks, n_units)
    return Store(path, n_units)


def _create(
    path: Path, template: xr.Dataset, identity: dict[str, Any], chunks: dict[str, int], n_units: int
) -> None:
    """Make the store beside its place and move it there whole: a kill leaves none or all of it."""
    new = path.with_name(path.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.parent.mkdir(parents=True, exist_ok=True)
    full = template.assign_attrs({_KEY: json.dumps(identity, sort_keys=True)})
    full[_DONE] = ("unit", np.zeros(n_units, dtype=np.int8))
    sizes = {str(dim): int(size) for dim, size in full.sizes.items()}
    encoding: dict[str, Any] = {}
    for name, variable in full.data_vars.items():
        dims = [str(dim) for dim in variable.dims]
        encoding[str(name)] = {"chunks": tuple(min(chunks.get(d, sizes[d]), sizes[d]) for d in dims)}
    encoding[_DONE] = {"chunks": (1,)}
    full.to_zarr(str(new), mode="w", encoding=encoding, consolidated=False, zarr_format=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        path.rmdir()
    new.rename(path)


def _require_same(path: Path, identity: dict[str, Any]) -> None:
    try:
        found = json.loads(str(zarr.open_group(str(path), mode="r").attrs[_KEY]))
    except Exception as error:
        raise ValueError(
            f"{path} exists and is not a store of interp.patch. Choose another path; nothing was changed."
        ) from error
    differing = [key for key in {**found, **identity} if found.get(key) != identity.get(key)]
    if differing:
        told = "; ".join(
            f"{key}: {found.get(key)!r} there, {identity.get(key)!r} here" for key in sorted(differing)
        )
        raise ValueError(f"{path} holds another run ({told}). Choose another path; nothing was changed.")
