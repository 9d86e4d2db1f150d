"""A folder that a run wrote: results, circuits, directions, prompts, pages, and `summary.json`.

`save` writes one from Python, every command of `interp` writes one, and `open` (`interp.open`) takes either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
import xarray as xr

from interp._verbs import verb
from interp.files import SUMMARY, TASK, staged, whole, write_text

if TYPE_CHECKING:
    from interp.circuits import Circuit
    from interp.steering import Direction
    from interp.tasks import Task

PAGE = "report.html"
_ENGINE = "h5netcdf"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_WRITERS = "interp patch, path, attribute, heads, circuit or steer"


def save_result(result: xr.Dataset, path: Path) -> Path:
    """Write a result as netCDF, whole or not at all."""
    with whole(path) as unfinished:
        try:
            result.to_netcdf(unfinished, engine=_ENGINE)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"the result for {path.name} cannot be written as netCDF ({error}). Give it as the verb "
                "returned it: numbers as numbers, attributes as strings and numbers."
            ) from error
    return path


def read_result(path: Path) -> xr.Dataset:
    """Read a result of any verb. ValueError unless the file holds one."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. Give a .nc file that {_WRITERS} wrote.")
    try:
        result = xr.load_dataset(path, engine=_ENGINE)
    except Exception as error:  # whatever HDF5 says of a file that is damaged, or something else
        raise ValueError(
            f"{path} cannot be read as netCDF ({error}). Give a file that {_WRITERS} wrote."
        ) from None
    if "method" not in result.attrs or not {"value", "accuracy", "text"} & set(result.data_vars):
        lacks = "the attribute 'method'" if "method" not in result.attrs else "the variable 'value'"
        raise ValueError(f"{path} is not a result: it lacks {lacks}. Give a file that {_WRITERS} wrote.")
    return result


@dataclass(frozen=True)
class Run:
    """What `interp.open` found: everything by the name of its file, without the suffix."""

    folder: Path
    results: dict[str, xr.Dataset] = field(default_factory=dict)
    circuits: dict[str, Circuit] = field(default_factory=dict)
    directions: dict[str, Direction] = field(default_factory=dict)
    pages: dict[str, Path] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def command(self) -> str | None:
        """The command line that wrote the folder; None where Python did."""
        return self.summary.get("line")

    def task(self, model: Any) -> Task:
        """The prompts of the run, as they were, for this model. ValueError where the folder has none."""
        from interp.tasks import Task

        path = self.folder / TASK
        if not path.is_file():
            raise ValueError(
                f"{self.folder} has no {TASK}: the run was on prompts without answers, or on none."
            )
        return Task.from_file(model, path)

    def __str__(self) -> str:
        parts = {
            "command": self.command,
            "claim": self.summary.get("claim"),
            "results": ", ".join(f"{name} {dict(each.sizes)}" for name, each in self.results.items()),
            "circuits": ", ".join(f"{name} ({each.n_edges} edges)" for name, each in self.circuits.items()),
            "directions": ", ".join(self.directions),
            "pages": ", ".join(path.name for path in self.pages.values()),
        }
        return "\n".join([str(self.folder), *(f"  {name}: {text}" for name, text in parts.items() if text)])

    __repr__ = __str__


@verb
def open(path: str | Path) -> Run:
    """Reopen what a run wrote: a folder of any command or of `report.save`, or one file of it.

    Gives a `Run` with `results` (Datasets), `circuits`, `directions`, `pages` (paths of HTML and pictures),
    `summary` (what summary.json says: arguments, versions, seconds, fingerprints, largest cells), `command`
    and `task(model)`. No pass is run and no model is needed.

    Raises FileNotFoundError where there is nothing, ValueError for a file that is damaged or something else,
    and for a folder in which nothing is a run's.

    Example:
        >>> import interp, tempfile
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4)
        >>> result = interp.patch(model, task, "z", progress=False)
        >>> folder = interp.report.save(tempfile.mkdtemp(), {"heads": result}, claim="L0H0 moves the name.")
        >>> interp.open(folder).results["heads"].equals(result)
        True
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist. Give a folder or a file that a run wrote.")
    run = Run(path if path.is_dir() else path.parent)
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        _take(run, file, alone=file == path)
    if not any((run.results, run.circuits, run.directions, run.pages, run.summary)):
        raise ValueError(f"{path} holds nothing that a run wrote (.nc, .json, .safetensors, .html).")
    return run


def _take(run: Run, path: Path, alone: bool) -> None:
    """Put a file where it belongs; of a folder, files of others are left alone."""
    if path.suffix == ".nc":
        run.results[path.stem] = read_result(path)
    elif path.suffix == ".json" and path.name.endswith(SUMMARY):
        run.summary.update(_object(path))
    elif path.suffix == ".json":
        _circuit(run, path, alone)
    elif path.suffix == ".safetensors":
        _direction(run, path, alone)
    elif path.suffix in (".html", ".png", ".svg", ".pdf"):
        run.pages[path.stem] = path
    elif alone:
        raise ValueError(f"{path}: a run writes .nc, .json, .safetensors and .html files; this is none.")


def _object(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}).") from None
    if not isinstance(known, dict):
        raise ValueError(f"{path} holds a {type(known).__name__}, not an object.")
    return known


def _circuit(run: Run, path: Path, alone: bool) -> None:
    from interp.circuits import Circuit

    if alone or {"nodes", "edges"} <= set(_object(path)):
        run.circuits[path.stem] = Circuit.load(path)


def _direction(run: Run, path: Path, alone: bool) -> None:
    from interp.steering import Direction

    try:
        run.directions[path.stem] = Direction.load(path)
    except ValueError:
        if alone:
            raise


@verb
def save(
    folder: str | Path,
    items: Mapping[str, Any],
    *,
    claim: str,
    control: str | None = None,
    expected: str | None = None,
    model: Any = None,
    task: Task | None = None,
    title: str | None = None,
) -> Path:
    """Write a folder that another person can check: the claim, the data it rests on, and a page.

    items: results, circuits, directions and figures by name; each becomes a file of that name (.nc, .json,
    .safetensors, .html). claim: one sentence. control: what would show the same if the claim were wrong.
    expected: which sign or size was expected beforehand. model: its name and the fingerprint of its weights
    are written down. task: its prompts are written as token ids (`task.jsonl`), from which `interp.open`
    makes it again.

    Writes `report.html` (claim, control and expectation on top, then figures and tables) and `summary.json`
    (the same words, versions, fingerprints). Returns the folder. Raises ValueError for an empty claim, for a
    name that is no file name, and for an item of another kind, before anything is written.

    Example:
        >>> import interp, tempfile
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4)
        >>> result = interp.patch(model, task, "z", progress=False)
        >>> folder = interp.report.save(
        ...     tempfile.mkdtemp(), {"heads": result}, claim="L0H0 moves the name.", model=model, task=task
        ... )
        >>> sorted(path.name for path in folder.iterdir())
        ['heads.nc', 'report.html', 'summary.json', 'task.jsonl']
    """
    from interp.report._page import write
    from interp.results import made_now

    folder = Path(folder)
    _check(items, claim)
    words = {"claim": claim, "control": control, "expected": expected}
    summary: dict[str, Any] = {name: text for name, text in words.items() if text}
    if model is not None:
        from interp.models import anatomy, model_fingerprint

        summary |= {"model": anatomy(model).name, "model_fingerprint": model_fingerprint(model)}
    if task is not None:
        summary |= {"task": task.name, "task_fingerprint": task.fingerprint(), "n_prompts": len(task)}
    page = [
        f"{name.capitalize()}: {text}" if name != "claim" else text for name, text in words.items() if text
    ]
    page += [part for name, item in items.items() for part in _shown(name, item)]
    with staged(folder) as new:
        files = {name: _write(item, new, name).name for name, item in items.items()}
        if task is not None:
            files["task"] = task.to_file(None, new / TASK, tokens=True).name
        files["report"] = write(page, new / PAGE, title=title or "Claim and evidence").name
        summary |= {**made_now(), "files": files}
        write_text(new / SUMMARY, json.dumps(summary, indent=1) + "\n")
    return folder


def _check(items: Mapping[str, Any], claim: str) -> None:
    if not isinstance(claim, str) or not claim.strip():
        raise ValueError("claim is empty; say in one sentence what the data show.")
    if not isinstance(items, Mapping) or not items:
        raise ValueError(
            f"items is {items!r:.60}; give results, circuits or figures by name: {{'heads': result}}."
        )
    for name, item in items.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in ("report", "task", "summary"):
            raise ValueError(f"{name!r} cannot be the name of an item: use letters, digits, - and _.")
        if not isinstance(item, xr.Dataset | go.Figure) and not hasattr(item, "save"):
            raise ValueError(
                f"{name} is a {type(item).__name__}; give a result, circuit, direction or figure."
            )


def _write(item: Any, folder: Path, name: str) -> Path:
    from interp.circuits import Circuit
    from interp.plot import save_html

    if isinstance(item, xr.Dataset):
        return save_result(item, folder / f"{name}.nc")
    if isinstance(item, go.Figure):
        return Path(save_html(item, folder / f"{name}.html"))
    return Path(item.save(folder / f"{name}{'.json' if isinstance(item, Circuit) else '.safetensors'}"))


def _shown(name: str, item: Any) -> list[Any]:
    """What the page shows of an item."""
    from interp.circuits import Circuit
    from interp.plot import circuit
    from interp.report._figures import figures

    heading = ("heading", name.replace("_", " "))
    if isinstance(item, xr.Dataset):
        return [heading, *figures(item), item]
    if isinstance(item, go.Figure):
        return [heading, item]
    return [heading, circuit(item)] if isinstance(item, Circuit) else [heading, str(item)]
