"""The tables of docs/smollm2-ioi.md, and those of its sentences that hold figures."""

from __future__ import annotations

import re
from typing import Any

Done = dict[str, Any]
Row = dict[str, Any]
LAYERS = 30
PARTS = ("discovery", "verification")
GPT2 = {  # Wang et al. 2022, GPT-2 small, 12 layers
    "name mover": "9.6 9.9 10.0",
    "negative name mover": "10.7 11.10",
    "inhibition": "7.3 7.9 8.6 8.10",
    "induction": "5.5 5.8 5.9 6.9",
    "duplicate token": "0.1 0.10 3.0",
    "previous token": "2.2 4.11",
}
WHERE = {
    "logits": "the logits, read at the end", "queries": "queries at the end",
}  # fmt: skip


def sections(done: Done) -> dict[str, str]:
    """Table or sentence by name."""
    makers = {
        "abstract": _abstract, "behaviour": _behaviour, "heads": _heads, "reading": _reading, "roles": _roles,
        "load": _load, "paths": _paths, "forward": _forward, "backup": _backup, "sizes": _sizes,
        "tests": _tests, "gpt2": _gpt2,
    }  # fmt: skip
    return {name: make(done) for name, make in makers.items()}


def filled(page: str, done: Done) -> str:
    """The page with every marked table as it is now."""
    made = sections(done)

    def table(match: re.Match) -> str:
        return f"<!-- table {match[1]} -->\n{made[match[1]]}<!-- end -->"

    return re.sub(r"<!-- table ([\w-]+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


def having(done: Done, role: str) -> list[str]:
    """The confirmed heads with a role."""
    return [row["head"] for row in done["roles"] if role in row["roles"]]


def by_name(done: Done) -> dict[str, Row]:
    """The numbers of each confirmed head."""
    return {row["head"]: row for row in done["roles"]}


def chosen(done: Done) -> Row:
    """The circuit that discovery chose."""
    return next(row for row in done["sizes"] if row["asked"] == done["chosen"])


def _abstract(done: Done) -> str:
    heads, two = done["heads"], done["behaviour"]
    n, right = (sum(two[part][key] for part in PARTS) for key in ("prompts", "right"))
    first = max(done["roles"], key=lambda row: abs(row["direct_mean"]))
    size, kinds = chosen(done), having(done, "subject suppressor")
    what = "a subject suppressor" if first["head"] in kinds else "no name mover"
    lines = [
        f"The model prefers the indirect object in {right} of {n} prompts. Of {heads['family']} heads, "
        f"{heads['found']} are significant on six templates, {heads['confirmed']} of them on six others.",
        f"The head that writes most, {first['head']} ({_signed(first['direct_mean'])} logits directly), is "
        f"{what}: it looks at the subject's second mention ({first['end_s2']:.2f} of its attention).",
        f"Name movers are there ({', '.join(having(done, 'name mover')) or 'none confirmed'}), and smaller; "
        f"{', '.join(negative(done))} work against the answer, and {_hears(done)}.",
        _forward_sentence(done),
        f"{size['edges']:,} of 70,651 edges have a faithfulness of {size['faithfulness']:.2f} "
        f"[{size['low']:.2f}, {size['high']:.2f}] on prompts that did not choose them.",
    ]
    return "\n".join(f"> {line}" for line in lines) + "\n"


def negative(done: Done) -> list[str]:
    """Confirmed heads whose direct and patched effects are below 0, the largest first."""
    rows = [row for row in done["roles"] if row["direct_high"] < 0 and row["high"] < 0]
    return [row["head"] for row in sorted(rows, key=lambda row: row["direct_mean"])]


def _hears(done: Done) -> str:
    """The largest confirmed path into a negative head's query."""
    rows = [
        row
        for row in done["paths"]["queries"]
        if row["confirmed"] and row["receiver"].removesuffix(".q") in negative(done)
    ]
    if not rows:
        return "no path into their queries is confirmed"
    row = max(rows, key=lambda row: abs(row["estimate"]))
    return (
        f"the query of {row['receiver'].removesuffix('.q')} hears {row['head']} ({_signed(row['estimate'])})"
    )


def _forward_sentence(done: Done) -> str:
    parts = []
    for name in done["followed"]:
        sure = [row for row in done["forward"] if row["head"] == name and row["confirmed"]]
        if sure:
            row = max(sure, key=lambda row: abs(row["estimate"]))
            parts.append(f"{name} by {row['receiver']} ({_signed(row['estimate'])})")
        else:
            parts.append(f"{name} by no single input that is confirmed")
    return f"Below them, heads that write little are heard most: {', '.join(parts)}."


def _reading(done: Done) -> str:
    heads = done["heads"]
    gap, total = heads["gap"][1], heads["sum"]
    return (
        f"{heads['units']} pairs a part; the smallest p is {heads['smallest_p']:.4f}. {heads['skewed']} of "
        f"{heads['family']} cells are skewed (\\|skewness\\| above 1), where sign flips can be too sure: by "
        f"the bootstrap-t {heads['by_bootstrap']} remain. Effects of all heads correlate "
        f"{heads['between_parts']:.3f} between the two sets of templates. They add up to {total:.1f} logits, "
        f"where clean and corrupt are {gap:.1f} apart.\n\n"
        "**Both directions are one measurement here.** The corrupt prompt of one is the clean prompt of its "
        "mirror, and the logit difference changes sign between the two; so clean put into corrupt (denoise) "
        "on the one is corrupt put into clean (noise) on the other. By pair the two differ by at most "
        f"{heads['directions']:.0e} of {heads['mirror_largest']:.1f} logits: rounding. Necessity is "
        "therefore asked by mean ablation, below.\n"
    )


def _behaviour(done: Done) -> str:
    rows = []
    for part in ("discovery", "verification"):
        row = done["behaviour"][part]
        rows.append([
            part, f"{row['prompts']} ({row['units']} pairs, {row['templates']} templates)",
            f"{row['right']} of {row['prompts']}", f"{row['top1']}", _interval(row),
            f"{row['abb']:.2f}; {row['bab']:.2f}",
            f"{row['p_io']:.2f}; {row['p_s']:.3f}",
        ])  # fmt: skip
    header = [
        "part", "prompts", "io above s", "io first of 49,152", "logit difference", "ABB; BAB", "p(io); p(s)",
    ]  # fmt: skip
    return _table(header, rows)


def _heads(done: Done) -> str:
    roles = by_name(done)
    rows = []
    for row in done["heads"]["rows"]:
        kinds = ", ".join(roles[row["head"]]["roles"]) if row["confirmed"] else ""
        rows.append([
            row["head"], _signed(row["discovery"]), _interval(row | {"mean": row["estimate"]}), _p(row["p"]),
            ("yes" if row["confirmed"] else "no"), kinds or ("none of these" if row["confirmed"] else ""),
        ])  # fmt: skip
    return _table(["head", "discovery", "verification", "p", "confirmed", "role"], rows)


def _roles(done: Done) -> str:
    rows = [
        [
            row["head"], _interval({k: row[f"direct_{k}"] for k in ("mean", "low", "high")}),
            _interval({k: row[f"without_{k}"] for k in ("mean", "low", "high")}),
            *(f"{row[f'end_{name}']:.2f}" for name in ("io", "s1", "s2")), _sign(row, "io"), _sign(row, "s"),
            f"{row['s2_s1']:.2f}", f"{row['s2_s1+1']:.2f}", f"{row['induction']:.2f}",
        ]
        for row in done["roles"]
    ]  # fmt: skip
    header = [
        "head", "direct effect", "mean ablation", "end → io", "end → s1", "end → s2", "io", "s", "s2 → s1",
        "s2 → s1+1", "induction",
    ]  # fmt: skip
    return _table(header, rows)


def _sign(row: Row, name: str) -> str:
    """What a head does to a name that it attends to, and on what share of the prompts."""
    copies, suppresses = row[f"copies_{name}"], row[f"suppresses_{name}"]
    if max(copies, suppresses) == 0:
        return "–"
    return f"+ {copies:.0%}" if copies >= suppresses else f"− {suppresses:.0%}"


def _load(done: Done) -> str:
    rows = [
        [
            f"`{name}`", row["heads"], _signed(row["damage"]), _signed(row["random"]),
            _interval(row | {"mean": row["difference"]}),
            f"{row['rank']} of {row['sets']}", _p(row["p"]),
        ]
        for name, row in done["load"].items()
    ]  # fmt: skip
    return _table(["score", "its four highest", "damage", "random heads", "difference", "rank", "p"], rows)


def _paths(done: Done) -> str:
    rows = []
    for name, asked in done["asked"].items():
        for receiver in asked:
            senders = [row for row in done["paths"][name] if row.get("receiver", "logits") == receiver]
            sure = sorted((row for row in senders if row["confirmed"]), key=lambda row: -abs(row["estimate"]))
            heard = ", ".join(
                f"{row['head']} {_interval(row | {'mean': row['estimate']})}" for row in sure[:5]
            )
            more = f" and {len(sure) - 5} more" if len(sure) > 5 else ""
            rows.append([WHERE[name], receiver, heard + more or "none", f"{len(sure)} of {len(senders)}"])
    return _table(["where", "receiver", "confirmed senders, the largest five", "confirmed of found"], rows)


def _forward(done: Done) -> str:
    rows = []
    for name in done["followed"]:
        heard = [row for row in done["forward"] if row["head"] == name]
        sure = sorted((row for row in heard if row["confirmed"]), key=lambda row: -abs(row["estimate"]))
        first = ", ".join(
            f"{row['receiver']} {_interval(row | {'mean': row['estimate']})}" for row in sure[:6]
        )
        rows.append([name, first or "none", f"{len(sure)} of {len(heard)}"])
    return _table(["sender", "confirmed receivers, the largest six", "confirmed of found"], rows)


def _backup(done: Done) -> str:
    found = done["backup"]
    rows = [
        [
            ", ".join(found["out"]), f"{found['direct_effect']:.2f}", f"{found['total_effect']:.2f}",
            _share(found), f"{_signed(found['sums']['frozen'])}; {_signed(found['sums']['recomputed'])}",
            ", ".join(f"{row['head']} {_interval(row)}" for row in found["rows"][:4]) or "none significant",
        ]
    ]  # fmt: skip
    header = [
        "out together", "direct effect", "total effect", "repaired",
        "change of all others: norm frozen; recomputed", "heads that change (frozen)",
    ]  # fmt: skip
    return _table(header, rows)


def _share(found: Row) -> str:
    if found["share"] is None:
        return "undecided"
    return f"{found['share']:.0%} [{found['share_low']:.0%}, {found['share_high']:.0%}]"


def _sizes(done: Done) -> str:
    rows = []
    for row in done["sizes"]:
        mark = " (chosen)" if row["asked"] == done["chosen"] else ""
        random = "" if row["random"] is None else f"{row['random']:.3f}"
        rows.append([
            f"{row['asked']:,}{mark}", f"{row['edges']:,}", str(row["heads"]), f"{row['discovery']:.2f}",
            f"{row['without']:.3f}",
            f"{row['faithfulness']:.2f} [{row['low']:.2f}, {row['high']:.2f}]", random,
        ])  # fmt: skip
    header = [
        "best edges", "on paths", "heads", "faithfulness, discovery", "the rest alone",
        "faithfulness, verification", "random, 95 %",
    ]  # fmt: skip
    return _table(header, rows)


def _tests(done: Done) -> str:
    rows = []
    says = {
        "equivalence": "share of prompts on which the circuit is above the model",
        "independence": "HSIC of what is left without the circuit, and the model",
        "minimality": "share of its edges that are not rejected",
    }
    for found in done["tests"].values():
        for name, what in says.items():
            row = found[name]
            rejected = "yes" if row["rejected"] else "no"
            rows.append([str(found["edges"]), name, what, f"{row['statistic']:.3f}", _p(row["p"]), rejected])
    return _table(["edges", "test", "statistic", "value", "p", "rejected"], rows)


def _gpt2(done: Done) -> str:
    rows = []
    for role, names in GPT2.items():
        here = having(done, role)
        theirs = [int(name.split(".")[0]) for name in names.split()]
        rows.append([
            role, f"{names} ({_depth(theirs, 12)})",
            f"{' '.join(here)} ({_depth([_layer(name) for name in here], LAYERS)})" if here else "none",
        ])  # fmt: skip
    others = having(done, "subject suppressor")
    rows.append([
        "subject suppressor", "not described",
        f"{' '.join(others)} ({_depth([_layer(n) for n in others], LAYERS)})" if others else "none",
    ])  # fmt: skip
    return _table(["role", "GPT-2 small (mean depth)", "SmolLM2-135M (mean depth)"], rows)


def _layer(name: str) -> int:
    return int(re.findall(r"\d+", name)[0])


def _depth(layers: list[int], n_layers: int) -> str:
    """The mean of (layer + ½) / layers."""
    return f"{sum(layer + 0.5 for layer in layers) / len(layers) / n_layers:.0%}"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _interval(row: Row) -> str:
    return f"{_signed(row['mean'])} [{_signed(row['low'])}, {_signed(row['high'])}]"


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0")


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
