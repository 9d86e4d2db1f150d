"""Time of grading a class of thirty: `interp labs grade` on copies that `interp labs copy` made.

    python benchmarks/grading.py            # prints the rows and the time
    python benchmarks/grading.py --out DIR  # keeps the copies and the tables there

Labs 01 to 07 in turn, a seed each. Fifteen copies are solved; five were left as they came; five have one
usual mistake (a mean too early, a cache changed in place, a sign turned); one never ends, one asks for all
memory, one is no Python, one ends its process, one is an empty file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from interp.labs import copy, labs

MEAN = "logits[rows, positions, answer] - logits[rows, positions, wrong]"
Change = Callable[[str], str]


def solve(path: Path, change: Change = lambda text: text) -> None:
    """Fill a copy in as a student would: every stub by its solution, every question by its answer."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    lab = labs()[notebook["metadata"]["interp_lab"]["number"]]
    filled = {(cell.kind, cell.name): cell.text for cell in lab.cells if cell.kind in ("solution", "answer")}
    for cell in notebook["cells"]:
        kind, name = (*cell["metadata"]["tags"], "")[:2]
        own = filled.get(({"exercise": "solution", "predict": "answer"}.get(kind, ""), name))
        if own is not None:
            cell["source"] = change(own).splitlines(keepends=True)
    path.write_text(json.dumps(notebook), encoding="utf-8")


def begin_with(line: str) -> Callable[[Path], None]:
    """A copy whose first cell of code is one line."""

    def change(path: Path) -> None:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        first = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
        first["source"] = [line]
        path.write_text(json.dumps(notebook), encoding="utf-8")

    return change


def wrong(old: str, new: str) -> Callable[[Path], None]:
    """A solved copy with one mistake in it."""

    def change(path: Path) -> None:
        before = path.read_text(encoding="utf-8")
        solve(path, lambda text: text.replace(old, new))
        if before == path.read_text(encoding="utf-8") or new not in path.read_text(encoding="utf-8"):
            raise ValueError(f"{path} has no {old!r} to go wrong.")

    return change


SPECIAL: list[tuple[str, Callable[[Path], None]]] = [
    ("01", wrong(MEAN, f"({MEAN}).mean()")),
    ("01", wrong("patched = value.clone()", "patched = value; clean[:, pos] = value[:, pos]")),
    ("01", wrong("effects.mean(-1) / (clean - corrupt).mean()", "(effects / (clean - corrupt)).mean(-1)")),
    ("03", wrong("metric - (x * slope).sum(-1)", "(x * slope).sum(-1) - metric")),
    ("01", wrong("run_patched(layer, pos) - corrupt", "run_patched(layer, pos)")),
    ("01", begin_with("while True: pass")),
    ("02", begin_with("kept = [bytearray(2**28) for _ in range(1000)]")),
    ("04", begin_with("def logit_diff(:")),
    ("05", begin_with("import os; os._exit(0)")),
    ("06", lambda path: path.write_text("", encoding="utf-8") and None),
]


def make(folder: Path) -> None:
    """Thirty copies, each in a student's folder."""
    turns = [f"{1 + index % 7:02d}" for index in range(20)]
    plain = [(number, solve if index % 4 else lambda path: None) for index, number in enumerate(turns)]
    for seed, (number, fill) in enumerate([*plain, *SPECIAL]):
        (path,) = copy(folder / f"student{seed + 1:02d}", [number], seed=seed)
        fill(path)


def main() -> None:
    """Make the class, grade it by the command, print the time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, help="where the copies and tables stay")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as temporary:
        folder = out or Path(temporary)
        make(folder)
        load, start = os.getloadavg()[0], time.monotonic()
        subprocess.run([sys.executable, "-m", "interp", "labs", "grade", str(folder)], check=True)
        seconds = time.monotonic() - start
    used = os.times()
    print(
        f"thirty copies in {seconds:.0f} s on {os.cpu_count()} cores, load {load:.1f} before; processor time "
        f"{used.children_user + used.children_system:.0f} s"
    )


if __name__ == "__main__":
    main()
