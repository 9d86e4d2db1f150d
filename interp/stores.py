"""Stores: what long work is written to as it goes, and from which the same call goes on after a kill.

| store        | format             | for                                            |
|--------------|--------------------|------------------------------------------------|
| `ArrayStore` | a zarr folder      | arrays filled part by part (`interp.patch`)    |
| `LogStore`   | JSON lines         | decisions in order (`circuits.acdc`)           |
| `StateStore` | safetensors        | the whole state of a training (`train_mask`)   |

All three know which run they belong to (an identity) and refuse another one, changing nothing. All are
locked while they are open: a second process is refused with the first one's host and process id, and a lock
goes with the process that held it. Every part carries a checksum: what was lost or damaged is done again.
Nothing that another process made is ever removed. `status` says how far a store has come.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interp._locks import holder_of, locked
from interp._verbs import warn
from interp.files import whole, write_text

if TYPE_CHECKING:
    import xarray as xr
    from torch import Tensor

Parts = Mapping[str, tuple[tuple[slice | int, ...], np.ndarray]]  # by variable: a region, and what fills it
Regions = Mapping[str, tuple[slice | int, ...]]
Identity = Mapping[str, Any]

_KEY = "interp_run"
_SUMS = "_sums"  # by unit, the checksum of what was written; 0: not done


def _same(path: Path, there: Identity, here: Identity) -> None:
    """Raise ValueError where a store belongs to another run."""
    differing = [key for key in sorted({**there, **here}) if there.get(key) != here.get(key)]
    if differing:
        told = "; ".join(f"{key}: {there.get(key)!r} there, {here.get(key)!r} here" for key in differing)
        raise ValueError(f"{path} holds another run ({told}). Choose another path; nothing was changed.")


def _foreign(path: Path, kind: str, error: Exception | None = None) -> ValueError:
    told = f" ({error})" if error is not None and str(error) else ""
    return ValueError(
        f"{path} exists and is not a store of {kind}{told}. Choose another path; nothing was changed."
    )


# --- arrays -------------------------------------------------------------------------------------------------


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
        _same(path, _identity_of(path), _plain(identity))
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
    path = Path(os.path.realpath(path))  # a link stays
    new = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        full = template.assign_attrs({_KEY: json.dumps(_plain(identity), sort_keys=True)})
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
        new.chmod(0o777 & ~_umask())
        if path.is_dir():
            path.rmdir()
        new.rename(path)
    finally:
        shutil.rmtree(new, ignore_errors=True)


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


def _identity_of(path: Path) -> dict[str, Any]:
    import zarr

    try:
        return json.loads(str(zarr.open_group(str(path), mode="r").attrs[_KEY]))
    except Exception as error:
        raise _foreign(path, "interp.patch") from error


def _plain(identity: Identity) -> dict[str, Any]:
    """As JSON gives it back."""
    return json.loads(json.dumps(dict(identity)))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# --- decisions ----------------------------------------------------------------------------------------------


@dataclass(eq=False)
class LogStore:
    """An open file of JSON lines: the entries that it held, and where further ones go."""

    path: Path
    lines: list[dict[str, Any]] = field(default_factory=list)
    written: int = 1  # lines of the file, with its head

    def append(self, line: Mapping[str, Any]) -> None:
        """Write an entry, and see that it is on the disk."""
        text = json.dumps(dict(line))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(self.written + 1, text))
            file.flush()
            os.fsync(file.fileno())
        self.written += 1


@contextlib.contextmanager
def open_log(path: str | Path | None, kind: str, identity: Identity) -> Iterator[LogStore | None]:
    """Open the log of a run, or make it; None for no path. `kind` names the verb.

    An entry that a kill cut short is dropped. Raises ValueError, and changes nothing, if the file holds
    another run, something else, or a damaged entry, or is in use.
    """
    if path is None:
        yield None
        return
    path = Path(path)
    _require_file(path)
    with locked(path):
        if not path.exists() or path.stat().st_size == 0:
            head = json.dumps({"kind": kind, **_plain(identity)})
            write_text(path, _line(1, head))
        text = path.read_bytes()
        complete = text[: text.rfind(b"\n") + 1]  # what comes after it, a kill cut short
        head, *lines = _entries(path, complete, kind)
        _same(path, head, {"kind": kind, **_plain(identity)})
        if len(complete) < len(text):
            write_text(path, complete.decode("utf-8"))
        yield LogStore(path, lines, 1 + len(lines))


def _entries(path: Path, text: bytes, kind: str) -> list[dict[str, Any]]:
    entries = []
    for number, line in enumerate(text.split(b"\n")[:-1], 1):
        try:
            check, _, body = line.decode("utf-8").partition(" ")
            entry = json.loads(body)
            if number == 1 and entry["kind"] != kind:
                raise ValueError(f"it is one of {entry['kind']}")
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            if number == 1:
                raise _foreign(path, kind) from error
            raise _damaged(path, number) from error
        if check != _check(number, body):
            raise _damaged(path, number)
        entries.append(entry)
    if not entries:
        raise _foreign(path, kind)
    return entries


def _damaged(path: Path, number: int) -> ValueError:
    return ValueError(
        f"{path}: line {number} is damaged. Delete it and all lines after it to go on from there, or choose "
        "another path; nothing was changed."
    )


def _line(number: int, text: str) -> str:
    return f"{_check(number, text)} {text}\n"


def _check(number: int, text: str) -> str:
    """Of a line where it stands: lines lost or exchanged are damage too."""
    return hashlib.blake2b(f"{number} {text}".encode(), digest_size=6).hexdigest()


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"{path} is a folder. Give the name of a file.")


# --- states -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class StateStore:
    """An open safetensors file that is replaced, whole, at every save."""

    path: Path
    identity: dict[str, Any]
    tensors: dict[str, Tensor] | None  # what it held

    def save(self, tensors: Mapping[str, Tensor]) -> None:
        """Write the state, whole or not at all."""
        from safetensors.torch import save_file

        told = {"run": json.dumps(self.identity, sort_keys=True), "sum": _sum_of(tensors)}
        with whole(self.path) as path:
            save_file(dict(tensors), path, metadata=told)


@contextlib.contextmanager
def open_state(path: str | Path | None, kind: str, identity: Identity) -> Iterator[StateStore | None]:
    """Open the state of a run, or prepare to write it; None for no path. `kind` names the verb.

    Raises ValueError, and changes nothing, if the file holds another run, something else, or is damaged or
    in use.
    """
    if path is None:
        yield None
        return
    path = Path(path)
    _require_file(path)
    here = {"kind": kind, **_plain(identity)}
    with locked(path):
        tensors = None
        if path.exists() and path.stat().st_size:
            there, tensors = _read_state(path, kind)
            _same(path, there, here)
        yield StateStore(path, here, tensors)


def _read_state(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            identity, total = json.loads(told["run"]), told["sum"]
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise _foreign(path, kind, error) from error
    if total != _sum_of(tensors):
        raise ValueError(f"{path} is damaged. Choose another path; nothing was changed.")
    return identity, tensors


def _sum_of(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


# --- how far it has come ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Status:
    """What a store holds, and who writes it."""

    path: Path
    kind: str
    done: int  # units of a sweep, batches of a search, saves of a training
    total: int | None  # None where nobody can know
    holder: str  # who writes it now; "" for nobody
    changed: float  # seconds since the last write
    run: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.done == self.total

    def __str__(self) -> str:
        share = f" of {self.total} units" if self.total is not None else " entries"
        state = "finished" if self.finished else self.holder or "nobody writes it; the same call resumes"
        writer = f"written by {state}" if self.holder and not self.finished else state
        return f"{self.path}: {self.kind}, {self.done}{share}; {writer}; last change {self.changed:.0f} s ago"


def status(path: str | Path) -> Status:
    """How far the store at a path has come. Nothing is locked, read as numbers, or changed.

    Raises ValueError for what is no store.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"there is no {path}. Give the path that store= had.")
    if path.is_dir():
        run = _identity_of(path)
        import zarr

        sums: Any = zarr.open_group(str(path), mode="r")[_SUMS]
        done, total, kind = int((np.asarray(sums[:]) != 0).sum()), int(sums.shape[0]), str(run["method"])
        last = max(each.stat().st_mtime for each in path.rglob("*"))
    else:
        last, total = path.stat().st_mtime, None
        run, done = _log_of(path)
        kind = str(run["kind"])
    return Status(path, kind, done, total, holder_of(path), max(0.0, time.time() - last), run)


def _log_of(path: Path) -> tuple[dict[str, Any], int]:
    """The run of a log and its entries, or that of a state."""
    try:
        head, *lines = path.read_bytes().split(b"\n")[:-1]
        run = json.loads(head.decode("utf-8").partition(" ")[2])
        return {"kind": run["kind"], **run}, len(lines)
    except (ValueError, LookupError, TypeError):
        identity, _ = _read_state(path, "interp")
        return identity, 1
