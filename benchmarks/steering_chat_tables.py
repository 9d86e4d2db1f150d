"""The figures of the study on a chat model as Markdown, and its verdicts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

Done = dict[str, dict[str, Any]]
Row = dict[str, Any]
METHODS = (
    "mean difference", "mean difference, turned", "logistic", "system prompts' direction", "Linear-AcT",
    "Gaussian OT", "trained vector", "rank-1 adapter", "tuned bias", "system prompt, boosted",
)  # fmt: skip
PROMPTS = ("system prompt", "3 examples")
SAME = "mean difference, system prompt's KL"
MORE_LOSS, MORE_REPETITION = 0.5, 0.1
TASKS = ("capitals", "objects", "sums")


def everything(done: Done) -> str:
    """All tables, and texts of every method, with headings."""
    parts = [f"## {title}\n\n{body}" for title, body in (sections(done) | {"texts": _texts(done)}).items()]
    return "# Steering a chat model\n\nMade by benchmarks/steering_chat.py.\n\n" + "\n".join(parts)


def sections(done: Done) -> dict[str, str]:
    """Table by name."""
    return {
        "summary": _summary(done), "effect": _effects(done), "text": _in_text(done), "whole": _whole(done),
        "controls": _controls(done), "prompting": _prompting(done), "side": _side(done),
        "detection": _detection(done), "band": _band(done), "kl": _kl(done),
    }  # fmt: skip


def filled(page: str, done: Done) -> str:
    """The page with every marked table of this study as it is now."""
    tables = sections(done)

    def table(match: re.Match) -> str:
        return f"<!-- table chat-{match[1]} -->\n{tables[match[1]]}<!-- end -->"

    return re.sub(r"<!-- table chat-([\w-]+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


def cases(done: Done) -> dict[str, Any]:
    """Behaviours that were studied."""
    return {name: case for name, case in done.items() if name != "refusal"}


def row_of(case: Row, name: str) -> Row | None:
    """A row with figures; None where the method reached no KL or did not run."""
    return next((row for row in case["rows"] if row["name"] == name and "effect" in row), None)


def controls_of(case: Row, *kinds: str) -> list[Row]:
    """Rows of controls that reached the KL."""
    return [
        row for row in case["rows"] if row["kind"] in (kinds or ("random", "shuffled")) and "effect" in row
    ]


def bars(case: Row) -> tuple[float, float]:
    """The highest mean of all controls: of the effect, and of the change of the measure."""
    rows = controls_of(case)
    return max(mean(row["effect"]) for row in rows), max(row["change_interval"][0] for row in rows)


def verdict(case: Row, row: Row) -> tuple[bool, bool, bool]:
    """Whether it works, shows in the text, and leaves the text whole."""
    bar, bar_text = bars(case)
    effect, change = row["effect_interval"], row["change_interval"]
    works = effect[1] > 0 and effect[0] > bar
    shows = change[1] > 0 and change[0] > bar_text
    whole = more(case, row, "loss") <= MORE_LOSS and more(case, row, "repetition") <= MORE_REPETITION
    return works, shows, whole


def more(case: Row, row: Row, key: str) -> float:
    """Mean loss, or repetition, above that of the unsteered answers."""
    return mean(row[key]) - mean(case["base"][key])


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _summary(done: Done) -> str:
    body = []
    for name in (*METHODS, *PROMPTS):
        pairs = [(case, row) for case in cases(done).values() if (row := row_of(case, name))]
        if not pairs:
            continue
        found = [verdict(*pair) for pair in pairs]
        counts = [sum(each[i] for each in found) for i in range(3)]
        body.append([
            name, *(f"{count} of {len(pairs)}" for count in counts), f"**{sum(map(all, found))}**",
            f"{mean([mean(row['effect']) for _, row in pairs]):.2f}",
            *(f"{mean([more(*pair, key) for pair in pairs]):+.2f}" for key in ("loss", "repetition")),
            f"{mean([mean(row['ended']) for _, row in pairs]):.0%}",
            f"{min(row['kl'] for _, row in pairs):.2f} to {max(row['kl'] for _, row in pairs):.2f}",
        ])  # fmt: skip
    header = ["method", "works", "shows", "whole", "all three", "effect", "loss", "repetition", "ended", "KL"]
    return _table(header, body)


def _effects(done: Done) -> str:
    """Effect; the bar in the last column; bold where it works."""
    body = []
    for name in (*METHODS, *PROMPTS):
        cells = []
        for case in cases(done).values():
            row = row_of(case, name)
            cells.append("–" if row is None else _bold(f"{mean(row['effect']):.2f}", verdict(case, row)[0]))
        body.append([name, *cells])
    body.append(["*highest control*", *(f"{bars(case)[0]:.2f}" for case in cases(done).values())])
    return _table(["method", *cases(done)], body)


def _in_text(done: Done) -> str:
    """The measure of what is written; bold where it shows; † where the text is not whole."""
    body = [["*unsteered*", *(_score(case["base"]) for case in cases(done).values())]]
    for name in (*METHODS, *PROMPTS):
        cells = []
        for case in cases(done).values():
            row = row_of(case, name)
            if row is None:
                cells.append("–")
                continue
            _, shows, whole = verdict(case, row)
            cells.append(_bold(_score(row), shows) + ("" if whole else " †"))
        body.append([name, *cells])
    highest = [f"{mean(case['base']['score']) + bars(case)[1]:.2f}" for case in cases(done).values()]
    return _table(["method", *cases(done)], [*body, ["*highest control*", *highest]])


def _whole(done: Done) -> str:
    """Loss under the unsteered model / repetition / ended."""
    body = [["*unsteered*", *(_state(case["base"]) for case in cases(done).values())]]
    for name in (*METHODS, *PROMPTS):
        found = [row_of(case, name) for case in cases(done).values()]
        body.append([name, *("–" if row is None else _state(row) for row in found)])
    for kind in ("random", "shuffled"):
        listed = [controls_of(case, kind) for case in cases(done).values()]
        body.append([f"*{kind}, mean*", *(_state(_pooled(rows)) for rows in listed)])
    return _table(["method", *cases(done)], body)


def _controls(done: Done) -> str:
    body = []
    for name, case in cases(done).items():
        row = row_of(case, "mean difference")
        cells = (
            ["–", "–"]
            if row is None
            else [_interval(row["effect_interval"]), _interval(row["change_interval"])]
        )
        for i, kind in enumerate(("random", "shuffled") * 2):
            rows = controls_of(case, kind)
            values = [r["effect_interval"][0] if i < 2 else r["change_interval"][0] for r in rows]
            cells.append(f"{mean(values):.2f} / {min(values):.2f} to {max(values):.2f}")
        body.append([name, cells[0], cells[2], cells[3], cells[1], cells[4], cells[5]])
    header = [
        "behaviour", "mean difference: effect", "random", "shuffled", "in the text", "random", "shuffled",
    ]  # fmt: skip
    return _table(header, body)


def _prompting(done: Done) -> str:
    body = []
    for name, case in cases(done).items():
        for what in (*PROMPTS, "system prompt, boosted", SAME):
            row = row_of(case, what)
            if row is not None:
                body.append([
                    name, what, f"{row['kl']:.2f}", _interval(row["effect_interval"]),
                    f"{_score(case['base'])} → {_score(row)}", _interval(row["change_interval"]),
                    f"{more(case, row, 'loss'):+.2f}",
                ])  # fmt: skip
    header = ["behaviour", "method", "KL", "effect", "in the text", "change", "loss"]
    return _table(header, body)


def _side(done: Done) -> str:
    """Right answers left, mean over behaviours and fewest."""
    right = next(iter(cases(done).values()))["right"]
    body = [["*unsteered*", *(str(right[task]) for task in TASKS)]]
    listed = [
        name for name in METHODS if any("side" in (row_of(c, name) or {}) for c in cases(done).values())
    ]
    for name in (*listed, "random 1", "random 2"):
        rows = [row for case in cases(done).values() if "side" in (row := row_of(case, name) or {})]
        if not rows:
            continue
        kept = [[row["side"][task] for row in rows] for task in TASKS]
        body.append([name, *(f"{mean(values):.1f} (least {min(values)})" for values in kept)])
    return _table(["method", *TASKS], body)


def _detection(done: Done) -> str:
    body = []
    for name in METHODS:
        found = [(row_of(case, name) or {}).get("auroc") for case in cases(done).values()]
        if any(value is not None for value in found):
            body.append([name, *("–" if value is None else f"{value:.2f}" for value in found)])
    for kind in ("random", "shuffled"):
        listed = [[row["auroc"] for row in controls_of(case, kind)] for case in cases(done).values()]
        body.append([f"*{kind}, lowest to highest*", *(f"{min(v):.2f} to {max(v):.2f}" for v in listed)])
    return _table(["method", *cases(done)], body)


def _band(done: Done) -> str:
    body = []
    for name, case in cases(done).items():
        found = case["band"]
        if "strengths" not in found:
            body.append([name, *["–"] * 5])
            continue
        cells = [
            f"{_bold(f'{s:.2f}', share >= 0.95)} ({kl:.2f}): "
            + ", ".join(f"{each:.2f}" for each in (effect, score, loss, repeats))
            for s, share, kl, effect, score, loss, repeats in zip(*(
                found[key] for key in ("strengths", "share", "kl", "effect", "score", "loss", "repetition")
            ))
        ]  # fmt: skip
        ends = "none" if found["first"] is None else f"{found['first']:.2f} to {found['last']:.2f}"
        body.append([name, ends, *cells])
    return _table(["behaviour", "band", "0.5 ×", "1 ×", "1.5 ×", "2 ×"], body)


def _kl(done: Done) -> str:
    """Strength and KL reached."""
    body = []
    for name in METHODS:
        found = [
            next((row for row in case["rows"] if row["name"] == name), None) for case in cases(done).values()
        ]
        body.append([name, *(_reached(row) for row in found)])
    for kind in ("random", "shuffled"):
        listed = [controls_of(case, kind) for case in cases(done).values()]
        ends = [f"{min(r['kl'] for r in rows):.2f} to {max(r['kl'] for r in rows):.2f}" for rows in listed]
        body.append([f"*{kind}*", *ends])
    return _table(["method", *cases(done)], body)


def _texts(done: Done) -> str:
    """Two answers of each method, for the eye."""
    lines = []
    for name, case in cases(done).items():
        lines += [f"### {name}", "", *_quoted("unsteered", case["base"])]
        for what in (*METHODS, *PROMPTS, "random 1", "shuffled 1"):
            row = row_of(case, what)
            lines += [] if row is None else _quoted(what, row)
        lines.append("")
    return "\n".join(lines)


def _quoted(name: str, row: Row) -> list[str]:
    return [
        f"- {name}: " + " / ".join(f"`{text}`" for text in (t.replace("\n", " ⏎ ") for t in row["texts"][:2]))
    ]


def _reached(row: Row | None) -> str:
    if row is None:
        return ""
    return f"– ({row['kl']:.2f})" if row["strength"] is None else f"{row['strength']:.2f} ({row['kl']:.2f})"


def _pooled(rows: list[Row]) -> Row:
    return {key: [value for row in rows for value in row[key]] for key in ("loss", "repetition", "ended")}


def _state(row: Row) -> str:
    return f"{mean(row['loss']):.2f} / {mean(row['repetition']):.2f} / {mean(row['ended']):.0%}"


def _score(row: Row) -> str:
    return f"{mean(row['score']):.2f}"


def _interval(ends: Sequence[float]) -> str:
    return f"{ends[0]:.2f} ({ends[1]:.2f} to {ends[2]:.2f})"


def _bold(text: str, yes: bool) -> str:
    return f"**{text}**" if yes else text


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"
