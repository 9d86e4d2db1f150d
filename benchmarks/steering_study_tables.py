"""The figures of the study of steering as Markdown."""

from __future__ import annotations

import re
from typing import Any

Done = dict[str, dict[str, Any]]
Found = dict[str, Any]
METHODS = (
    "mean_difference", "pca", "lda", "logistic", "weighted_mean", "class_means", "prompt_pair", "optimise",
)  # fmt: skip
EDITS = ("add", "rotate", "ablate")


def everything(done: Done) -> str:
    """All tables, with headings."""
    parts = [f"## {title}\n\n{body}" for title, body in sections(done).items()]
    return "# Steering\n\nMade by benchmarks/steering_study.py.\n\n" + "\n".join(parts)


def sections(done: Done) -> dict[str, str]:
    """Table by name."""
    found = {"summary": _summary(done)} | {
        edit: _effects(done, edit) for edit in EDITS if rows_of(done, edit)
    }
    found |= {"controls": _controls(done), "side-effects": _side_effects(done), "prompts": _prompts(done)}
    return found | {"doses": _doses(done), "layers": _layers(done)}


def filled(page: str, done: Done, real: Done) -> str:
    """The page with every marked table as it is now; `real` are the cases of the real model.

    Those of the chat model are of another study (steering_chat_tables.py).
    """
    tables = sections(done) | {f"smollm2-{name}": body for name, body in sections(real).items()}

    def table(match: re.Match) -> str:
        return f"<!-- table {match[1]} -->\n{tables[match[1]]}<!-- end -->"

    return re.sub(r"<!-- table (?!chat-)([\w-]+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


def rows_of(done: Done, edit: str, method: str | None = None) -> list[Found]:
    """Rows with figures, of all behaviours."""
    return [
        {"case": name, **row}
        for name, case in done.items()
        for row in case["rows"]
        if row["edit"] == edit and method in (None, row["method"]) and "refused" not in row
    ]


def _senses(done: Done) -> list[tuple[str, str]]:
    return [(n, s) for n, case in done.items() for s in dict.fromkeys(row["sense"] for row in case["rows"])]


def _row(done: Done, name: str, sense: str, edit: str, method: str) -> Found | None:
    for row in done[name]["rows"]:
        if (row["sense"], row["edit"], row["method"]) == (sense, edit, method):
            return row
    return None


def _summary(done: Done) -> str:
    rows = []
    for edit in EDITS:
        for method in METHODS:
            found = rows_of(done, edit, method)
            if not found:
                continue
            asked = sum(_row(done, *at, edit, method) is not None for at in _senses(done))  # refused ones too
            effects = [row["effect"] for row in found]
            rows.append([
                f"`{method}`", edit, f"{sum(row['passes'] for row in found)} of {asked}",
                f"{_mean(effects):.2f}", f"{min(effects):.2f}",
                f"{_mean([r['perplexity'] for r in found]):.2f}",
                f"{_mean([r['kl_p95'] for r in found]):.2f}", f"{_mean([r['wrong'] for r in found]):.0%}",
            ])  # fmt: skip
    header = [
        "method", "edit", "passes", "mean effect", "least effect", "perplexity ×", "KL, 95 %", "wrong way",
    ]  # fmt: skip
    return _table(header, rows)


def _effects(done: Done, edit: str) -> str:
    methods = [m for m in METHODS if rows_of(done, edit, m)]
    rows = []
    for name, sense in _senses(done):
        cells = [_effect(_row(done, name, sense, edit, method), edit) for method in methods]
        rows.append([f"{name}: {sense}", *cells])
    return _table(["behaviour: towards", *(f"`{m}`" for m in methods)], rows)


def _effect(row: Found | None, edit: str) -> str:
    """Effect, and the higher of the controls' 95 % quantiles; an ablation with its own KL."""
    if row is None:
        return ""
    if "refused" in row:
        return "–"
    effect = f"**{row['effect']:.2f}**" if row["passes"] else f"{row['effect']:.2f}"
    bar = max(row["random"]["high"], row["shuffled"]["high"])
    return f"{effect} / {bar:.2f}" + (f", {row['kl']:.3f} nats" if edit == "ablate" else "")


def _controls(done: Done) -> str:
    rows = []
    for name, sense in _senses(done):
        row = _row(done, name, sense, "add", "mean_difference")
        if row is None or "refused" in row:
            continue
        cells = [_spread(row[kind]) for kind in ("random", "shuffled")]
        same = row["equal_norm"]
        cells.append(f"{_spread(same)} ({same['kl']:.4f} nats)")
        rows.append([f"{name}: {sense}", f"{row['effect']:.2f}", *cells])
    header = [
        "behaviour: towards",
        "direction",
        "random, equal KL",
        "shuffled, equal KL",
        "random, equal norm",
    ]
    return _table(header, rows)


def _spread(null: Found) -> str:
    return f"{null['mean']:.2f} / {null['high']:.2f} / {null['largest']:.2f}"


def _side_effects(done: Done) -> str:
    rows = []
    for name, sense in _senses(done):
        for row in done[name]["rows"]:
            if row["sense"] == sense and row["edit"] != "ablate" and "refused" not in row:
                strength = f"{row['strength']:.2f}" + (" rad" if row["edit"] == "rotate" else "")
                rows.append([
                    f"{name}: {sense}", f"`{row['method']}`, {row['edit']}", str(row["layer"]), strength,
                    f"{row['kl_median']:.3f} / {row['kl_p95']:.2f}", f"{row['perplexity']:.2f}",
                    f"{row['entropy']:+.2f}", f"{row['base_repetition']:.2f} → {row['repetition']:.2f}",
                ])  # fmt: skip
    header = [
        "behaviour: towards", "method, edit", "layer", "strength", "KL median / 95 %", "perplexity ×",
        "entropy", "repetition",
    ]  # fmt: skip
    return _table(header, rows)


def _prompts(done: Done) -> str:
    rows = []
    for name, sense in _senses(done):
        for method in METHODS:
            row = _row(done, name, sense, "add", method)
            if row is None or "refused" in row:
                continue
            cosine = "–" if row["cosine"] is None else f"{row['cosine']:.2f}"
            rows.append([
                f"{name}: {sense}", f"`{method}`", f"{row['slope']:.2f}", f"{row['slope_sd']:.2f}",
                f"{row['wrong']:.0%}", f"{row['random']['wrong']:.0%}", f"{row['flipped']:.0%}", cosine,
            ])  # fmt: skip
    header = [
        "behaviour: towards", "method", "slope", "SD", "wrong way", "random: wrong way", "flipped",
        "cosine with mean_difference",
    ]  # fmt: skip
    return _table(header, rows)


def _doses(done: Done) -> str:
    targets = sorted({row["target"] for case in done.values() for row in case["doses"]})
    rows = []
    for name, sense in _senses(done):
        at = {row["target"]: row for row in done[name]["doses"] if row["sense"] == sense}
        cells = [f"{at[t]['effect']:.2f}, {at[t]['flipped']:.0%}" if t in at else "–" for t in targets]
        rows.append([f"{name}: {sense}", *cells])
    return _table(["behaviour: towards", *(f"{t:g} nats" for t in targets)], rows)


def _layers(done: Done) -> str:
    rows = []
    for name, sense in _senses(done):
        for method in METHODS:
            row = _row(done, name, sense, "add", method)
            if row is not None:
                cells = [
                    f"**{effect:.2f}**" if int(layer) == row["layer"] else f"{effect:.2f}"
                    for layer, effect in row["tried"].items()
                ]
                rows.append([f"{name}: {sense}", f"`{method}`", *cells])
    layers = dict.fromkeys(layer for case in done.values() for row in case["rows"] for layer in row["tried"])
    return _table(["behaviour: towards", "method", *(f"layer {layer}" for layer in layers)], rows)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"
