"""One folder for laptops without a network: wheels with a CPU build of torch, models, labs, and how to
install.

    bundle/README.txt  install.sh  install.ps1  constraints.txt  wheels/  labs/  notebooks/  models/

Wheels are for one platform and one Python version: those of the computer that makes the bundle, unless others
are named. The bundled and the hand-built models travel in this package's own wheel.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from interp.files import write_text
from interp.labs._copies import copy, research

CPU = "https://download.pytorch.org/whl/cpu"
EXTRA = ("notebook",)  # to show the labs
SOURCE_ONLY = (
    "transformers-stream-generator",
)  # needed by TransformerLens 3.9; its index has no wheel of it
NAME = "interp-workbench"

README = """\
1. Copy this whole folder to the laptop. It needs Python {python} and no network.
2. Linux or macOS: sh install.sh    Windows: powershell -ExecutionPolicy Bypass -File install.ps1
3. The script makes a folder `env` here, installs from `wheels` and runs `interp labs doctor`.
4. Start: env/bin/jupyter notebook labs    (Windows: env\\Scripts\\jupyter notebook labs)
5. Help: env/bin/interp labs list
"""
INSTALL_SH = """\
#!/bin/sh
# Makes env here and installs from wheels; no network.
set -e
cd "$(dirname "$0")"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --no-index -f wheels -c constraints.txt interp-workbench notebook
if [ -d models ]; then mkdir -p "$HOME/.cache/interp" && cp -R models/. "$HOME/.cache/interp/"; fi
env/bin/python -m interp labs doctor
"""
# One line is one command: PowerShell knows no line that goes on by itself.
INSTALL_PS1 = """\
# Makes env here and installs from wheels; no network.
$ErrorActionPreference = "Stop"
Set-Location $PSScriptRoot
python -m venv env
if ($LASTEXITCODE) { exit $LASTEXITCODE }
env\\Scripts\\python -m pip install --no-index -f wheels -c constraints.txt interp-workbench notebook
if ($LASTEXITCODE) { exit $LASTEXITCODE }
if (Test-Path models) {
  $cache = Join-Path $HOME ".cache/interp"
  New-Item -ItemType Directory -Force $cache | Out-Null
  Copy-Item -Recurse -Force models/* $cache
}
env\\Scripts\\python -m interp labs doctor
"""

Run = Callable[[Sequence[str]], None]


def bundle(
    folder: str | Path,
    *,
    source: str | Path | None = None,
    platform: str | None = None,
    python: str | None = None,
    index: str | None = CPU,
    models: Sequence[str] = (),
    run: Run | None = None,
) -> list[Path]:
    """Make the folder; what lies in it. A folder with something in it is refused.

    source: the checkout or wheel of this package, by default the checkout that runs. platform, python: of the
    laptops, as pip names them (`win_amd64`, `3.12`), by default this computer's. index: where torch's CPU
    builds are; None: the indexes and folders that pip is set up with, alone. models: real models to put in,
    fetched here before. run: runs a command of pip. Raises ValueError for a wrong argument or a download that
    failed. Cost: a download of about 450 MB.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there and not empty. Name a new folder.")
    origin = _origin(source)
    real = {name: _model(name) for name in models}
    run = run or _pip
    wheels = folder / "wheels"
    wheels.mkdir(parents=True)
    constraints = write_text(folder / "constraints.txt", pins())
    own = _own_wheel(origin, wheels, run)
    _build_missing(wheels, constraints, run)
    run([*_download(wheels, constraints, platform, python, index), str(own), *EXTRA])
    copy(folder / "labs")
    research(folder / "notebooks")
    for name, there in real.items():
        shutil.copytree(there, folder / "models" / name)
    version = python or ".".join(map(str, sys.version_info[:2]))
    write_text(folder / "README.txt", README.format(python=version))
    write_text(folder / "install.sh", INSTALL_SH).chmod(0o755)
    write_text(folder / "install.ps1", INSTALL_PS1)
    return sorted(folder.iterdir())


def pins() -> str:
    """Every package that is installed here by its version, torch without the mark of its build."""
    lines = set()
    for package in importlib.metadata.distributions():
        name, version = package.metadata["Name"], package.version.split("+")[0]
        if name and name.lower().replace("_", "-") not in (NAME, "pip"):
            lines.add(f"{name}=={version}")
    return "\n".join(["# What this bundle was made and tried with.", *sorted(lines, key=str.lower)]) + "\n"


def _own_wheel(origin: Path, wheels: Path, run: Run) -> Path:
    """This package's wheel, built or copied."""
    if origin.suffix == ".whl":
        return Path(shutil.copy(origin, wheels))
    run(["wheel", "--no-deps", "--wheel-dir", str(wheels), str(origin)])
    built = sorted(wheels.glob("interp_workbench-*.whl"))
    if not built:
        raise ValueError(f"pip built no wheel of {origin}.")
    return built[-1]


def _build_missing(wheels: Path, constraints: Path, run: Run) -> None:
    """Wheels of pure Python of what the index has as source alone: laptops have no means to build."""
    installed = [name for name in SOURCE_ONLY if _has(name)]
    if installed:
        run(["wheel", "--no-deps", "--wheel-dir", str(wheels), "--constraint", str(constraints), *installed])


def _has(name: str) -> bool:
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


def _download(
    wheels: Path, constraints: Path, platform: str | None, python: str | None, index: str | None
) -> list[str]:
    """The command of pip that fetches all wheels."""
    command = ["download", "--only-binary", ":all:", "--dest", str(wheels), "--find-links", str(wheels)]
    command += ["--constraint", str(constraints)]
    command += ["--extra-index-url", index] if index else []
    command += ["--platform", platform] if platform else []
    command += ["--python-version", python] if python else []
    return command


def _origin(source: str | Path | None) -> Path:
    """The checkout or wheel that the package's own wheel is made of."""
    path = Path(source) if source is not None else Path(__file__).resolve().parents[2]
    if path.suffix == ".whl" and path.is_file():
        return path
    if (path / "pyproject.toml").is_file():
        return path
    raise ValueError(
        f"{path} is neither a wheel nor a checkout of interp. Name one with source= (--source): the bundle "
        "needs the package itself."
    )


def _model(name: str) -> Path:
    """The folder of a fetched model."""
    from interp.models._fetch import WHEELS, folder_of_wheel

    there = folder_of_wheel(name) if name in WHEELS else None
    if there is None:
        raise ValueError(f"the model {name!r} is not here. Fetch it first: interp models get {name}")
    return there


def _pip(arguments: Sequence[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise ValueError("\n".join([f"pip {arguments[0]} failed:", *lines[-8:]]))
