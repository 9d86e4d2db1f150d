"""A zarr folder of arrays that are filled unit by unit, each with a checksum.

1. `open_arrays` makes the folder beside its place and moves it there whole, or opens the one that is there.
2. `write` fills the regions of a unit, then writes their checksum: a unit counts from then on.
3. Where the folder is opened again each checksum is taken anew; what is lost or damaged is measured again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interp._locks import locked
from interp._verbs import warn
from interp.files import target
from interp.stores._identity import Identity, foreign, plain, require_same

if TYPE_CHECKING:
    import xarray as xr

Parts = Mapping[str, tuple[tuple[slice | int, ...], np.ndarray]]  # by variable: a region, and what fills it
Regions = Mapping[str, tuple[slice | int, ...]]

_KEY = "interp_run"
_SUMS = "_sums"  # by unit, the checksum of what was written; 0: not done


class ArrayStore:
    """An open zarr folder. `done` says which units of work are finished, and undamaged."""

    def __init__(self, path: Path, template: xr.Dataset, regions: Sequence[Regions]) -> None:
        self.path, self._template, self._regions = path, template, regions
        self._group = _group(path, template)
        self._sums = self._group[_SUMS]
        if self._sums.shape[0] != len(regions):
            raise ValueError(
                f"{path} was written in {self._sums.shape[0]} units and this run has {len(regions)}: "
                "another release of interp, or another device, divides the work otherwise. Choose another "
                "path; nothing was changed."
            )
        sums = np.asarray(self._sums[:])
        self.done = np.array(
            [bool(sums[unit]) and self._sum(unit) == sums[unit] for unit in range(len(sums))]
        )
        damaged = int((sums != 0).sum() - self.done.sum())
        if damaged:
            warn(
                f"{path}: {damaged} of {int((sums != 0).sum())} finished units are lost or damaged, and are "
                "measured again."
            )

    def write(self, unit: int, parts: Parts) -> None:
        """Write arrays into the regions of a unit, then mark it as done."""
        for name, (region, values) in parts.items():
            self._group[name][region] = values
        self._sums[unit] = self._sum(unit)
        self.done[unit] = True

    def load(self) -> xr.Dataset:
        """The result so far, in memory; NaN where nothing is written yet.

        A variable that the template has no array of its own for is read from the folder when it is asked for.
        """
        blank = [name for name, variable in self._template.data_vars.items() if _is_blank(variable)]
        out = self._template.drop_vars(blank).copy(deep=True)
        for name in out.data_vars:
            out[name].values[...] = self._group[name][...]
        if not blank:
            return out
        import xarray as xr

        folder = xr.open_zarr(str(self.path), chunks=None, consolidated=False)
        return out.assign({name: folder[name].variable for name in blank})

    def _sum(self, unit: int) -> int:
        """A checksum of what stands in the regions of a unit; 0 where that cannot be read."""
        digest = hashlib.blake2b(str(unit).encode(), digest_size=7)
        try:
            for name, region in sorted(self._regions[unit].items()):
                digest.update(np.ascontiguousarray(self._group[name][region]).tobytes())
        except Exception:  # whatever a codec says of a damaged chunk
            return 0
        return int.from_bytes(digest.digest(), "big") + 1


@contextlib.contextmanager
def open_arrays(
    path: str | Path | None,
    template: xr.Dataset,
    identity: Identity,
    chunks: Mapping[str, int],
    regions: Sequence[Regions],
) -> Iterator[ArrayStore | None]:
    """Open the zarr folder of a run, or make it from a template; None for no path.

    regions: for each unit of work, what it fills of each variable. chunks: by dim. Raises ValueError, and
    changes nothing, if the folder holds another run or something else, or is in use.
    """
    if path is None:
        yield None
        return
    path = Path(path)
    with locked(path):
        if not (path.exists() and any(path.iterdir() if path.is_dir() else [path])):
            _create(path, template, identity, chunks, len(regions))
        require_same(path, identity_of(path), plain(identity))
        yield ArrayStore(path, template, regions)


def _group(path: Path, template: xr.Dataset) -> Any:
    """The folder's arrays. ValueError where one that is filled is lost, or of another shape or type."""
    import zarr

    group: Any = zarr.open_group(str(path), mode="r+")
    for name, wanted in [*template.data_vars.items(), (_SUMS, None)]:
        try:
            array = group[str(name)]
            right = wanted is None or (array.shape, array.dtype) == (wanted.shape, wanted.dtype)
        except Exception:  # whatever zarr says of what it cannot read
            right = False
        if not right:
            raise ValueError(f"{path} is damaged: its array {name!r} is lost. Choose another path.")
    return group


def _create(
    path: Path, template: xr.Dataset, identity: Identity, chunks: Mapping[str, int], n_units: int
) -> None:
    """Make the store beside its place and move it there whole: a kill leaves none or all of it."""
    path = target(path)  # a link stays
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        new = Path(folder, path.name)
        with ThreadPoolExecutor(1) as writer:  # zarr's own threads write on after Ctrl-C: it is waited for
            writer.submit(_fill, new, template, identity, chunks, n_units).result()
        new.chmod(0o777 & ~_umask())
        if path.is_dir():
            path.rmdir()
        new.rename(path)


def _fill(
    new: Path, template: xr.Dataset, identity: Identity, chunks: Mapping[str, int], n_units: int
) -> None:
    """Write the template, with a sum for each unit, as a zarr folder."""
    full = template.assign_attrs({_KEY: json.dumps(plain(identity), sort_keys=True)})
    full[_SUMS] = ("unit", np.zeros(n_units, dtype=np.int64))
    sizes = {str(dim): int(size) for dim, size in full.sizes.items()}
    encoding: dict[str, Any] = {}
    for name, variable in full.data_vars.items():
        dims = [str(dim) for dim in variable.dims]
        encoding[str(name)] = {"chunks": tuple(min(chunks.get(d, sizes[d]), sizes[d]) for d in dims)}
    encoding[_SUMS] = {"chunks": (1,)}
    blank = [str(name) for name, variable in full.data_vars.items() if _is_blank(variable)]
    named = {name: value for name, value in encoding.items() if name not in blank}
    full.drop_vars(blank).to_zarr(str(new), mode="w", encoding=named, consolidated=False, zarr_format=2)
    for name in blank:
        _blank(new, name, full[name], encoding[name]["chunks"])


def _is_blank(variable: xr.DataArray) -> bool:
    """Whether all entries of an array are one number in memory: it has no array of its own yet."""
    values = variable.variable._data
    return isinstance(values, np.ndarray) and values.size > 1 and not any(values.strides)


def _blank(path: Path, name: str, variable: xr.DataArray, chunks: tuple[int, ...]) -> None:
    """An array of NaN in a folder, of which no chunk is written."""
    import zarr

    group: Any = zarr.open_group(str(path), mode="r+")
    array = group.create_array(
        name, shape=variable.shape, chunks=chunks, dtype=str(variable.dtype), fill_value=np.nan
    )
    array.attrs["_ARRAY_DIMENSIONS"] = [str(dim) for dim in variable.dims]


def identity_of(path: Path) -> dict[str, Any]:
    """The run that a folder belongs to. ValueError where it is no store."""
    import zarr

    try:
        return json.loads(str(zarr.open_group(str(path), mode="r").attrs[_KEY]))
    except Exception as error:
        raise foreign(path, "interp.patch") from error


def units_of(path: Path) -> tuple[int, int]:
    """How many units of a folder are written, by its own word, and how many there are."""
    import zarr

    sums: Any = zarr.open_group(str(path), mode="r")[_SUMS]
    return int((np.asarray(sums[:]) != 0).sum()), int(sums.shape[0])


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
