"""The text of a lab: a Python file in percent format, whose cells say what they are for.

| marker | cell |
|---|---|
| `# %% [markdown]` | text, in comments |
| `# %%` | code that everyone gets |
| `# %% [predict] name` | a question with choices; the student assigns `name = "a"` |
| `# %% [exercise] name` | the stub: signature, docstring, `raise NotImplementedError("hint")` |
| `# %% [solution] name` | what the stub asks for; the teacher's copy only |
| `# %% [answer] name` | `name = "b"` and why, in comments; the teacher's copy only |
| `# %% [teacher]` | text for the teacher: minutes, common mistakes |

No package of notebooks is needed to read or write one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent / "sources"
MARKER = re.compile(r"^# %%(?: \[(\w+)\])?(?: (\w+))?\s*$")
KINDS = ("markdown", "code", "predict", "exercise", "solution", "answer", "teacher")
ANSWER = re.compile(r"^(\w+) = ([\"'])(.*?)\2", re.M)


@dataclass(frozen=True)
class Cell:
    """One cell: what it is for, the exercise or question that it belongs to, and its text."""

    kind: str
    name: str
    text: str

    @property
    def is_text(self) -> bool:
        """Whether it is text and not code."""
        return self.kind in ("markdown", "teacher")


@dataclass(frozen=True)
class Lab:
    """A lab: its number (`"01"`), the name of its file, its cells."""

    number: str
    name: str
    cells: tuple[Cell, ...]

    @property
    def title(self) -> str:
        """The first line of its text, without the mark of a heading."""
        return self.cells[0].text.splitlines()[0].lstrip("# ")

    @property
    def question(self) -> str:
        """The question that it asks: the first line in bold."""
        return re.sub(r"\s+", " ", re.search(r"\*\*(.+?)\*\*", self.cells[0].text, re.S)[1])  # type: ignore[index]

    @property
    def exercises(self) -> tuple[str, ...]:
        """The names of its exercises, in order."""
        return tuple(cell.name for cell in self.cells if cell.kind == "exercise")

    @property
    def answers(self) -> dict[str, str]:
        """The right choice of every question, by its name."""
        pairs = (ANSWER.search(cell.text) for cell in self.cells if cell.kind == "answer")
        return {pair[1]: pair[3] for pair in pairs if pair}


def read_cells(text: str) -> tuple[Cell, ...]:
    """The cells of a text in percent format. Raises ValueError for a marker of no known kind."""
    cells: list[Cell] = []
    kind, name, lines = "", "", list[str]()
    for line in [*text.splitlines(), "# %%"]:
        marker = MARKER.match(line)
        if not marker:
            lines.append(line)
            continue
        body = "\n".join(lines).strip("\n")
        if kind and body:
            cells.append(Cell(kind, name, _uncomment(body) if kind in ("markdown", "teacher") else body))
        kind, name, lines = marker[1] or "code", marker[2] or "", []
        if kind not in KINDS:
            raise ValueError(f"a cell is marked [{kind}]; the kinds are {', '.join(KINDS)}.")
    return tuple(cells)


def write_cells(cells: tuple[Cell, ...]) -> str:
    """Cells in percent format; the inverse of `read_cells`."""
    parts = []
    for cell in cells:
        kind = "" if cell.kind == "code" else f" [{cell.kind}]"
        body = _comment(cell.text) if cell.is_text else cell.text
        parts.append(f"# %%{kind}{' ' + cell.name if cell.name else ''}\n{body}\n")
    return "\n".join(parts)


@cache
def labs() -> dict[str, Lab]:
    """All labs by number.

    Example:
        >>> from interp.labs import labs
        >>> labs()["01"].exercises[0]
        'logit_diff'
    """
    found = {}
    for path in sorted(SOURCES.glob("lab*.py")):
        number = path.stem[3:5]
        found[number] = Lab(number, path.stem, read_cells(path.read_text(encoding="utf-8")))
    return found


def lab_of(exercise: str) -> str | None:
    """The number of the lab that has an exercise."""
    return next((number for number, lab in labs().items() if exercise in lab.exercises), None)


def pick(which: str) -> Lab:
    """A lab by number or name: `1`, `01`, `lab01`, `lab01_patching`. Raises ValueError where there is
    none.
    """
    digits = re.match(r"(?:lab)?0*(\d+)", which.strip().lower())
    number = f"{int(digits[1]):02d}" if digits else ""
    if number not in labs():
        raise ValueError(f"there is no lab {which!r}; the labs are {', '.join(labs())}.")
    return labs()[number]


def _uncomment(body: str) -> str:
    return "\n".join(re.sub(r"^# ?", "", line) for line in body.splitlines())


def _comment(text: str) -> str:
    return "\n".join(f"# {line}".rstrip() for line in text.splitlines())
