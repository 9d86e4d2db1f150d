"""Execute the notebooks' sources and write the .ipynb files beside them: `make notebooks`.

The source of a notebook is a jupytext percent file. Every notebook runs in a clean kernel in an empty folder.
Figures are kept as plotly data, and also as PNG where a Chromium is found, for viewers that run no scripts.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import numpy as np
import plotly.io
from nbclient import NotebookClient

from interp import plot

HERE = Path(__file__).resolve().parent
PLOTLY = "application/vnd.plotly.v1+json"
LARGEST = 500_000  # bytes of an .ipynb
_DIGITS = 5  # of the numbers of a figure


def main() -> None:
    """Build every notebook, or one by name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="notebooks by name (default: all)")
    parser.add_argument(
        "--out", type=Path, default=HERE, help="folder to write (default: beside the sources)"
    )
    parser.add_argument("--no-png", action="store_true", help="leave out the PNG copies of the figures")
    args = parser.parse_args()
    for name in args.names or sources():
        print(build(name, args.out, png=not args.no_png))


def sources() -> list[str]:
    """The names of all notebooks."""
    return sorted(path.stem for path in HERE.glob("*.py") if path != Path(__file__).resolve())


def build(name: str, out: Path, png: bool = True) -> Path:
    """Execute one notebook and write it. ValueError if it is too large."""
    notebook = execute(jupytext.read(HERE / f"{name}.py"))
    if png:
        add_images(notebook)
    text = written(notebook)
    if len(text.encode()) > LARGEST:
        raise ValueError(f"{name}.ipynb has {len(text.encode()):,} bytes; at most {LARGEST:,} are allowed.")
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.ipynb"
    path.write_text(text, encoding="utf-8")
    return path


def execute(notebook: Any) -> Any:
    """Run all cells in a clean kernel; an exception in a cell is raised here."""
    os.environ["PLOTLY_RENDERER"] = "plotly_mimetype"  # no copy of plotly.js in the outputs
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm, where ipywidgets is not installed
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=300, kernel_name="python3", record_timing=False)
        client.execute(cwd=folder)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # the same in every build
        cell.metadata = {}
    return notebook


def written(notebook: Any) -> str:
    """The file: its figures on one line each and with five digits, all else as nbformat has it."""
    figures = []
    for output in (output for cell in notebook.cells for output in cell.get("outputs", ())):
        if PLOTLY in output.get("data", {}):
            figures.append(json.dumps(_short(output.data[PLOTLY]), ensure_ascii=False, separators=(",", ":")))
            output.data[PLOTLY] = {"figure": len(figures) - 1}
    text = nbformat.writes(notebook) + "\n"
    return re.sub(r'\{\s*"figure": (\d+)\s*\}', lambda match: figures[int(match[1])], text)


def _short(node: Any) -> Any:
    """The same tree with numbers of five digits, arrays of numbers in single precision."""
    if isinstance(node, float):
        return float(f"{node:.{_DIGITS}g}")
    if isinstance(node, list):
        return [_short(part) for part in node]
    if not isinstance(node, dict):
        return node
    if node.get("dtype") == "f8":
        values = np.frombuffer(base64.b64decode(node["bdata"]), dtype="f8").astype("f4")
        return {**node, "dtype": "f4", "bdata": base64.b64encode(values.tobytes()).decode()}
    return {key: _short(value) for key, value in node.items()}


def add_images(notebook: Any) -> None:
    """Put a PNG beside every plotly output, all drawn in one browser session; none without a browser."""
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", ()) if PLOTLY in o.get("data", {})]
    figures = [plotly.io.from_json(json.dumps(o.data[PLOTLY])) for o in outputs]
    if not figures:
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.png" for number in range(len(figures))]
        try:
            plot.save_image(figures, paths, scale=1.0)
        except RuntimeError as error:
            print(f"without PNG copies: {error}")
            return
        for output, path in zip(outputs, paths):
            output.data["image/png"] = base64.b64encode(path.read_bytes()).decode() + "\n"


if __name__ == "__main__":
    main()
