"""Files: one HTML page with a figure; images (PNG, SVG, PDF) through kaleido and a Chromium browser."""

from __future__ import annotations

import html
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go

from interp._verbs import verb
from interp.files import write_text
from interp.plot._frame import refitted
from interp.plot._theme import WIDTH, follow, ground, own, themed

INSTALL = (
    "Images need kaleido 1.x and a Chromium or Chrome browser: pip install 'kaleido>=1.0', and install "
    "chromium from your system's packages (or run plotly_get_chrome). HTML needs neither: plot.save_html."
)
CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtons": [["toImage", "resetScale2d"]]}
_HEIGHT = 600
_PAGES = (".html", ".htm")
_IMAGES = (".png", ".svg", ".pdf")


@verb
def save_html(fig: go.Figure, path: str | Path, cdn: bool = False, *, theme: str = "auto") -> Path:
    """Write one page with the figure, and return its path.

    cdn: False puts plotly.js into the page (4.8 MB), which then needs no network; True loads it from plotly's
    network when the page is opened, and the page is about 10 kB. theme: "light", "dark", or "auto": as the
    reader's system says, unless the figure was made for one.

    Raises ValueError for a path that does not end in .html.

    Example:
        >>> import interp, tempfile
        >>> model = interp.load("tiny-ioi")
        >>> result = interp.patch(model, interp.tasks.ioi(model, n=4), "z", progress=False)
        >>> page = f"{tempfile.mkdtemp()}/heads.html"
        >>> interp.plot.save_html(interp.plot.heads(result), page, cdn=True).name
        'heads.html'
    """
    require_page(path)
    figure = themed(fig, theme)
    drawing = figure.to_html(full_html=False, include_plotlyjs="cdn" if cdn else True, config=CONFIG)
    of_page = figure.layout.meta["theme"] if own(figure) else "light"
    page = (
        "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{html.escape(title_of(fig))}</title>\n<style>{ground(of_page)}</style>\n</head>\n<body>\n"
        f"{drawing}\n{follow() if of_page == 'auto' else ''}\n</body>\n</html>\n"
    )
    return write_text(Path(path), page)


def title_of(fig: go.Figure) -> str:
    """A figure's title as plain text."""
    text = (fig.layout.title.text or "").replace("<b>", "").replace("</b>", "").replace("<br>", " ")
    return html.unescape(text)


def require_page(path: str | Path) -> None:
    """Raise ValueError unless a path has the name of an HTML page."""
    if Path(path).suffix.lower() not in _PAGES:
        raise ValueError(f"{str(path)!r} does not end in .html, and what is written there is an HTML page.")


@verb
def save_image(
    figs: go.Figure | Sequence[go.Figure],
    paths: str | Path | Sequence[str | Path],
    width: int | None = None,
    height: int | None = None,
    scale: float = 2.0,
    *,
    theme: str = "auto",
) -> list[Path]:
    """Write each figure as PNG, SVG or PDF, by the end of its path, in one browser session.

    width, height: in pixels, by default the figure's own, else 800 wide; 96 are an inch, and letters keep
    their size. scale: what a PNG has of pixels, or a PDF of length, for each of these. For a column of a
    paper, 3.3 inches: "heads.pdf", width=640, scale=0.5. theme: "light", "dark", or "auto": the figure's own,
    else light.

    Raises ValueError where figures and paths do not match, RuntimeError where no browser can be used.

    Example:
        >>> interp.plot.save_image([], [])
        Traceback (most recent call last):
        ValueError: 0 figures and 0 paths. Give one path a figure.
    """
    figures = [figs] if isinstance(figs, go.Figure) else list(figs)
    files = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(p) for p in paths]
    if len(figures) != len(files) or not files:
        raise ValueError(f"{len(figures)} figures and {len(files)} paths. Give one path a figure.")
    wrong = [str(file) for file in files if file.suffix.lower() not in _IMAGES]
    if wrong:
        raise ValueError(f"{wrong[0]!r} does not end in {', '.join(_IMAGES[:-1])} or {_IMAGES[-1]}.")
    shown = [refitted(themed(fig, theme), width) for fig in figures]
    sizes = [(width or fig.layout.width or WIDTH, height or fig.layout.height or _HEIGHT) for fig in shown]
    with tempfile.TemporaryDirectory() as folder:
        drawings = [Path(folder) / f"{i}{file.suffix.lower()}" for i, file in enumerate(files)]
        _render(shown, sizes, scale, drawings)
        for drawing, file in zip(drawings, files):
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(drawing, file)
    return files


def _render(figures: list, sizes: list[tuple[int, int]], scale: float, files: list[Path]) -> None:
    """Draw into files, without MathJax, which kaleido would fetch from the network."""
    try:
        import kaleido
    except ImportError as error:
        raise RuntimeError(INSTALL) from error
    jobs = [
        {
            "fig": fig.to_dict(),
            "path": file,
            "opts": {"format": file.suffix[1:], "width": width, "height": height, "scale": scale},
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
