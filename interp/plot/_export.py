"""Files: one self-contained HTML page, or PNG images through kaleido and a Chromium browser."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go

from interp.files import write_text

INSTALL = (
    "PNG export needs kaleido 1.x and a Chromium or Chrome browser: pip install 'kaleido>=1.0', and install "
    "chromium from your system's packages (or run plotly_get_chrome). HTML needs neither: plot.save_html."
)
CONFIG = {"displaylogo": False, "modeBarButtons": [["toImage", "resetScale2d"]]}
_WIDTH, _HEIGHT = 900, 600


def save_html(fig: go.Figure, path: str | Path, cdn: bool = False) -> Path:
    """Write one page with the figure; plotly.js is inside it unless `cdn` is set. Returns the path."""
    return write_text(Path(path), fig.to_html(include_plotlyjs="cdn" if cdn else True, config=CONFIG))


def save_png(
    figs: go.Figure | Sequence[go.Figure],
    paths: str | Path | Sequence[str | Path],
    width: int | None = None,
    height: int | None = None,
    scale: float = 2.0,
) -> list[Path]:
    """Write each figure as an image, in one browser session; sizes in pixels, by default the figure's own.

    Raises ValueError where figures and paths do not match, RuntimeError where no browser can be used.
    """
    figures = [figs] if isinstance(figs, go.Figure) else list(figs)
    files = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(p) for p in paths]
    if len(figures) != len(files) or not files:
        raise ValueError(f"{len(figures)} figures and {len(files)} paths. Give one path a figure.")
    wrong = [str(file) for file in files if file.suffix.lower() != ".png"]
    if wrong:
        raise ValueError(f"{wrong[0]!r} does not end in .png.")
    sizes = [(width or fig.layout.width or _WIDTH, height or fig.layout.height or _HEIGHT) for fig in figures]
    with tempfile.TemporaryDirectory() as folder:
        for made, file in zip(_render(figures, sizes, scale, Path(folder)), files):
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(made, file)
    return files


def _render(figures: list, sizes: list[tuple[int, int]], scale: float, folder: Path) -> list[Path]:
    """Draw into numbered files, without MathJax, which kaleido would fetch from the network."""
    try:
        import kaleido
    except ImportError as error:
        raise RuntimeError(INSTALL) from error
    files = [folder / f"{number}.png" for number in range(len(figures))]
    jobs = [
        {
            "fig": fig.to_dict(),
            "path": file,
            "opts": {"format": "png", "width": width, "height": height, "scale": scale},
        }
        for fig, file, (width, height) in zip(figures, files, sizes)
    ]
    try:
        failed = kaleido.write_fig_from_object_sync(jobs, kopts={"mathjax": False})
    except Exception as error:
        raise RuntimeError(f"{INSTALL} (What went wrong: {type(error).__name__}: {error})") from error
    missing = [number for number, file in enumerate(files) if not file.exists()]
    if missing:
        raise RuntimeError(f"figure {missing[0]} could not be drawn: {failed}")
    return files
