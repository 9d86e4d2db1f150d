"""The files of this package: bundled data, files written whole or not at all, files of tensors.

A file is written under a temporary name beside its path, then renamed. It gets the rights that the umask
gives any new file, or those of the file that it replaces; where the path is a symbolic link, the link stays
and what it points to is replaced.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


SUMMARY, TASK = "summary.json", "task.jsonl"  # beside what a run wrote: what it was asked, and its prompts


def target(path: Path) -> Path:
    """What a path means, links followed. ValueError for a link that leads back to itself."""
    meant = Path(os.path.realpath(path))
    if meant.is_symlink():
        raise ValueError(f"{path} is a link that leads back to itself. Choose another path.")
    return meant


def file_at(path: Path) -> Path:
    """What a path means, links followed, where a file is or can be made.

    Raises ValueError for a folder and for what is no file, such as a device, which a file would replace.
    """
    meant = target(path)
    if meant.is_dir():
        raise ValueError(f"{path} is a folder. Give the name of a file.")
    if meant.exists() and not meant.is_file():
        raise ValueError(f"{path} is no file, but a device, a pipe or the like. Choose another path.")
    return meant


def require_place(path: Path) -> None:
    """ValueError where no file or folder can be made: below a file, or in a folder that cannot be written."""
    above = existing_above(target(path))
    if not above.is_dir() or not os.access(above, os.W_OK):
        told = "cannot be written" if above.is_dir() else "is no folder"
        raise ValueError(f"{path} cannot be written: {above} {told}. Choose another path.")


def existing_above(path: Path) -> Path:
    """The nearest folder above a path that is there already; a loop of links counts as one."""
    return next(parent for parent in path.absolute().parents if parent.exists() or parent.is_symlink())


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """An empty folder whose files go into another one, which is made, when the block ends without an error.

    Raises ValueError where there can be no such folder; then, and after an error, nothing is left behind.
    """
    meant = target(folder)
    require_place(meant)
    if meant.exists() and not meant.is_dir():
        raise ValueError(f"{folder} is a file. Give a folder.")
    try:
        beside = tempfile.TemporaryDirectory(prefix=f".{meant.name}.", dir=existing_above(meant))
    except OSError as error:
        raise _unwritable(folder, error) from error
    with beside as new:
        yield Path(new)
        meant.mkdir(parents=True, exist_ok=True)
        for file in Path(new).iterdir():
            file.replace(file_at(meant / file.name))


def _unwritable(path: Path, error: OSError) -> ValueError:
    return ValueError(f"{path} cannot be written: {error.strerror or error}. Choose another path.")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary file beside the path, which takes the path's place when the block ends without an error.

    Raises ValueError, and leaves all as it is, where no file can be.
    """
    path = file_at(path)
    unfinished = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)  # less what the umask takes
    except OSError as error:
        raise _unwritable(path, error) from error
    rights = (path.stat() if path.is_file() else os.fstat(handle)).st_mode & 0o777
    os.close(handle)
    try:
        yield unfinished
        unfinished.chmod(rights)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Write a text file, in UTF-8."""
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return path


def data_dir() -> Path:
    """The folder of the bundled models and task files: `data/` in a checkout, `interp/_data/` in a wheel."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "_data", package.parent / "data"):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(
        f"the bundled data is missing: neither {package / '_data'} nor {package.parent / 'data'} exists. "
        "Reinstall the package, or run from a full checkout."
    )


def notebooks_dir() -> Path:
    """The folder of the research notebooks: `notebooks/` in a checkout, `interp/_data/notebooks/` in a
    wheel.
    """
    data = data_dir()
    return data / "notebooks" if (data / "notebooks").is_dir() else data.parent / "notebooks"


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], *, form: str, key: str, header: Mapping[str, Any]
) -> Path:
    """Write tensors as safetensors; the header has the name of the format and, at `key`, all else as JSON."""
    from safetensors.torch import save_file

    listed = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    with whole(path) as unfinished:
        save_file(listed, unfinished, metadata={"format": form, key: json.dumps(header)})
    return path


def read_tensors(
    path: Path, *, form: str, key: str, writer: str, fields: Collection[str] = ()
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file of `write_tensors`, and what its header says.

    writer: what makes such files, for the message. fields: what the header must have. Raises ValueError for a
    file that is missing, damaged or something else, and for numbers that are whole or not finite.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ValueError(f"there is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or is damaged: {error}.") from None
    if metadata.get("format") != form:
        raise ValueError(f"{path} has format {metadata.get('format')!r}, expected {form!r}. Use {writer}.")
    header = _header(metadata.get(key, ""))
    missing = [key] if header is None else [field for field in fields if field not in header]
    if header is None or missing:
        raise ValueError(f"{path} lacks {', '.join(missing)} in its header. Write it with {writer}.")
    whole_numbers = [name for name, tensor in tensors.items() if not tensor.is_floating_point()]
    if whole_numbers:
        kind = tensors[whole_numbers[0]].dtype
        raise ValueError(f"{path} has {whole_numbers[0]} of {kind}, expected floating point. Use {writer}.")
    broken = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise ValueError(f"{path} has values in {broken[0]} that are not finite; it cannot be used.")
    return tensors, header


def require_tensors(tensors: Mapping[str, Tensor], wanted: Collection[str], where: str) -> None:
    """ValueError unless a file holds exactly the tensors wanted; it names those missing and extra."""
    missing, extra = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    if missing or extra:
        parts = [
            f"{word} {', '.join(names)}" for word, names in (("lacks", missing), ("also has", extra)) if names
        ]
        raise ValueError(f"{where} {' and '.join(parts)}; expected are {', '.join(sorted(wanted))}.")


def _header(text: str) -> dict[str, Any] | None:
    try:
        header = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None
    return header if isinstance(header, dict) else None
