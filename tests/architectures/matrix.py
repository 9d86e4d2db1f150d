"""docs/models.md: every architecture and every verb against transformers, on both releases.

    python tests/architectures/matrix.py measure FIRST.json [NAME ...]     (once in each environment)
    python tests/architectures/matrix.py page FIRST.json SECOND.json > docs/models.md

`make matrix` does both. It takes some minutes; with names only those rows are measured anew.
"""

from __future__ import annotations

import datetime
import json
import logging
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import verbs
import zoo

ABOUT = """# Which models, and how exactly

Made by `make matrix` on {date}; do not edit. transformers {transformers}, torch {torch}.

Each row is a tiny random model of transformers' own class (three layers, grouped queries, windows of 4 tokens
on prompts of 12, every scale and cap on; weights, gains and biases drawn), saved as a folder and loaded with
`interp.load` in float64 (mixtures of experts in float32, which is what transformers computes them in). Every
verb is compared with plain torch hooks on the transformers model, or with its own identity:

| column | what is compared |
|---|---|
| load | logits with transformers' |
| patch | `resid_pre` at every layer and position and every head's `z`; first the engine that ran |
| reference | the same, `engine="reference"` |
| attribute | `attribute(method="atp")` of every head's `z` with gradients of the transformers model |
| score_edges | `eap`: the edges out of the input sum to the attribution of `L0.resid_pre` |
| run | `circuits.run`: the whole circuit, none of it, and each head cut out |
| activations | `steering.activations` of the stream before each block |
| generate | six tokens with transformers' own `generate`: the share that differs |
| bake | a direction ablated from what attention of block 1 writes |
| direct | `attribution.direct`: all parts sum to the logit difference |
| experts | of a mixture: `patch` and `attribute` of every expert at `router` and `expert_out`, all layers |

Figures are the largest error in standard deviations of what is right. transformers goes down to float32 in
norms and softmax of a float64 model; here it is kept from that, on both sides, so that a figure is the error
of the formulas. What stays is its rotary tables, which are float32 and which a HookedTransformer makes anew
in float64: about 1e-6 there; and the slope of Bloom's activation, with a constant of ten digits: about 1e-12
under `attribute` and `score_edges`. A letter is a refusal, and its sentence stands below the table; an empty
cell follows from a refusal to load, and under `experts` from there being none. From "{first}" on the rows are
other configs of the same architectures, and more architectures.
"""
KINDS = {"HookedTransformer": "hooked", "TransformerBridge": "bridge"}
NAMES = {"patch, reference": "reference", "circuits.run": "run"}


def measure(path: Path, names: Sequence[str] = ()) -> None:
    """Write every cell of the installed release, or those of some rows into a file that has the others."""
    logging.disable(logging.WARNING)
    installed = {package: version(package) for package in ("transformer-lens", "transformers", "torch")}
    rows: dict[str, dict[str, list]] = json.loads(path.read_text(encoding="utf-8"))["rows"] if names else {}
    for name in names or zoo.FAMILIES:
        cells = verbs.check(name)
        rows[name] = {verb: [cell.error, _plain(cell.note)] for verb, cell in cells.items()}
        path.write_text(json.dumps({"versions": installed, "rows": rows}, indent=1), encoding="utf-8")


def page(paths: list[Path]) -> str:
    """The whole page."""
    releases = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    packages = releases[0]["versions"]
    date = datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat()
    facts = {
        "transformers": packages["transformers"],
        "torch": packages["torch"],
        "first": next(iter(zoo.VARIANTS)),
    }
    parts = [ABOUT.format(date=date, **facts)]
    return "\n".join([*parts, *(_table(release) for release in releases)])


def _table(release: dict) -> str:
    columns = ["load", *verbs.VERBS]
    sentences: list[str] = []
    head = ["architecture", "class", *(NAMES.get(column, column) for column in columns)]
    lines = [f"## TransformerLens {release['versions']['transformer-lens']}", "", _row(head)]
    lines.append(_row(["---"] * len(head)))
    for name in (name for name in zoo.FAMILIES if name in release["rows"]):
        cells = release["rows"][name]
        kind = cells["load"][1] if cells["load"][0] is not None else ""
        written = [_cell(column, cells, sentences) for column in columns]
        lines.append(_row([name, KINDS.get(kind, ""), *written]))
    notes = [f"- **{_letter(number)}** {sentence}" for number, sentence in enumerate(sentences)]
    return "\n".join([*lines, "", *notes, ""])


def _cell(column: str, cells: dict, sentences: list[str]) -> str:
    if column not in cells:
        return ""
    error, note = cells[column]
    if error is None:
        if note not in sentences:
            sentences.append(note)
        return f"**{_letter(sentences.index(note))}**"
    figure = "0" if error == 0 else f"{error:.0e}"
    return f"{note} {figure}" if column == "patch" else figure


def _letter(number: int) -> str:
    return chr(ord("a") + number) if number < 26 else _letter(number // 26 - 1) + _letter(number % 26)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(note: str) -> str:
    """A sentence without the names of this run's folders."""
    note = re.sub(r"\S*/(?=model-\d+)", "", note)
    return re.sub(r"'?model-\d+'?", "the model", note).replace("\n", " ").replace("|", "/")


if __name__ == "__main__":
    command, *files = sys.argv[1:]
    if command == "measure":
        measure(Path(files[0]), files[1:])
    else:
        sys.stdout.write(page([Path(file) for file in files]))
