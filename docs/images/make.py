"""Pictures of the README and of the gallery: `python docs/images/make.py [gallery]`.

Each picture of docs/gallery.md is made by the lines above it on that page. Needs kaleido, Pillow and a
Chromium; the README's also the real model.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

import interp

HERE = Path(__file__).parent
PAGE = HERE.parent / "gallery.md"
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n!\[[^\]]*\]\(images/(gallery/[\w-]+\.png)\))?", re.S | re.M)
WIDTH = 800
HEAVIEST = 60_000  # bytes


def heads(name: str, file: str, width: int, **options: int) -> None:
    """The head map of one model on indirect objects."""
    model = interp.load(name)
    effects = interp.patch(model, interp.tasks.ioi(model, **options), "z")
    interp.plot.save_image(interp.plot.heads(effects), HERE / file, width=width)


def gallery() -> None:
    """Run the page, and save what stands last in each block that has a picture."""
    namespace: dict[str, Any] = {}
    figures, paths = [], []
    for body, file in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        shown = _run(body, namespace) if file or "save_image" not in body else None
        if file and isinstance(shown, interp.plot.TokenStrip):
            _photograph(shown.html(), HERE / file)
        elif file:
            figures.append(shown)
            paths.append(HERE / file)
    interp.plot.save_image(figures, paths, width=WIDTH, scale=1.0)
    shrink(paths)


def shrink(paths: Sequence[Path]) -> None:
    """Write pictures that are too heavy again with a palette, whose colours are means of those near them: a
    palette of the widest spread would change a scale's order.
    """
    for path in (path for path in paths if path.stat().st_size > HEAVIEST):
        with Image.open(path) as picture:
            small = picture.convert("RGB").quantize(256, kmeans=4, dither=Image.Dither.NONE)
        small.save(path, optimize=True)


def _run(body: str, namespace: dict[str, Any]) -> Any:
    """The value of the last line of a block."""
    tree = ast.parse(body)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(PAGE), "exec"), namespace)
    if last is None:
        return None
    assert isinstance(last, ast.Expr)
    return eval(compile(ast.Expression(last.value), str(PAGE), "eval"), namespace)


def _photograph(fragment: str, path: Path) -> None:
    """HTML as Chromium shows it."""
    chromium = shutil.which("chromium") or "google-chrome"
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(f"<meta charset='utf-8'><body style='margin:8px'>{fragment}", encoding="utf-8")
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--window-size={WIDTH},130", f"--screenshot={path}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    gallery()
    if "gallery" not in sys.argv[1:]:
        heads("tiny-ioi", "heads.png", 720, n=64, seed=0)
        heads("smollm2-135m", "heads-smollm2.png", 720, n=8, seed=1, template=0)
