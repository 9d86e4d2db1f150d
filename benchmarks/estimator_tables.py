"""The study's figures as Markdown: medians over cases, wins against `atp`, times, and every case."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable
from typing import Any

Record = dict[str, Any]
Done = dict[str, Record]

STREAM = ("resid_pre", "attn_out", "mlp_out", "z", "post")
INPUTS = ("q", "k")
TRAINED = ("tiny-ioi", "tiny-world", "others")
MEASURES = {
    "Pearson": "pearson",
    "Spearman": "spearman",
    "slope": "slope",
    "relative L1": "relative_l1",
    "sign": "sign",
    "recall@5": "recall_5",
    "recall@10": "recall_10",
    "recall@20": "recall_20",
}
TITLES = {"relative L1": "relative L1 (worst case)"}
SHORT = ("Pearson", "Spearman", "slope", "relative L1", "sign", "recall@5", "recall@10")
DUELS = (
    ("relp", "atp"), ("relp, ah off", "atp"), ("relp, ah off", "relp"), ("attnlrp", "atp"), ("gim", "atp"),
    ("ig", "atp"), ("secant", "atp"), ("secant", "ig"),
)  # fmt: skip
MAGNITUDES = ("atp*", "size of atp")
ALL, REST = "all", "without largest"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """One Markdown table."""
    head = list(head)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def values(done: Done, groups: tuple[str, ...], site: str, method: str, key: str, cells: str) -> list[float]:
    """One figure over the cases of some groups; where it is not defined it is left out."""
    found = [
        row[key]
        for case in done.values()
        if case["group"] in groups
        for row in case["rows"]
        if (row["site"], row["method"], row["cells"]) == (site, method, cells)
    ]
    return [value for value in found if value is not None]


def methods(done: Done, sites: tuple[str, ...]) -> list[str]:
    """Those that were measured at some of the sites, in the order of the script."""
    rows = (row for case in done.values() for row in case["rows"])
    return list(dict.fromkeys(row["method"] for row in rows if row["site"] in sites))


def by_site(done: Done, groups: tuple[str, ...], sites: tuple[str, ...]) -> str:
    """Medians over cases: a row for each site and method. Of relative L1 also the worst case."""
    head = ["site", "method", *(TITLES.get(name, name) for name in SHORT)]
    head += ["Pearson without largest", "relative L1 without largest"]
    rows = []
    for site in sites:
        for method in methods(done, sites):
            cells = [(MEASURES[name], ALL) for name in SHORT] + [("pearson", REST), ("relative_l1", REST)]
            found = [_median(values(done, groups, site, method, key, kept)) for key, kept in cells]
            worst = values(done, groups, site, method, "relative_l1", ALL)
            found[3] += f" ({_text(max(worst))})" if worst else ""
            if method in MAGNITUDES:
                found[4] = "–"  # no sign
            rows.append([site, f"`{method}`", *found])
    return table(head, rows)


def by_group(done: Done, name: str) -> str:
    """Medians of one figure: a row for each method and group, a column for each site."""
    rows = []
    groups = {group: (group,) for group in dict.fromkeys(case["group"] for case in done.values())}
    for group, members in groups.items():
        for method in methods(done, STREAM):
            if method == "size of atp":
                continue
            found = [_median(values(done, members, site, method, MEASURES[name], ALL)) for site in STREAM]
            rows.append([group, f"`{method}`", *found])
    return table(["group", "method", *STREAM], rows)


def duels(done: Done, groups: tuple[str, ...]) -> str:
    """In how many cases the first of two methods is nearer to exact: by relative L1, by Pearson."""
    rows = [
        [f"`{first}` against `{second}`", *(_duel(done, groups, site, first, second) for site in STREAM)]
        for first, second in DUELS
    ]
    return table(["", *STREAM], rows)


def _duel(done: Done, groups: tuple[str, ...], site: str, first: str, second: str) -> str:
    nearer, higher, total = 0, 0, 0
    for case in done.values():
        rows = {row["method"]: row for row in case["rows"] if row["site"] == site and row["cells"] == ALL}
        if case["group"] in groups and rows:
            mine, other = rows[first], rows[second]
            total += 1
            nearer += mine["relative_l1"] < other["relative_l1"]
            higher += (mine["pearson"] or 0) > (other["pearson"] or 0)
    return f"{nearer}, {higher} of {total}"


def by_case(done: Done, groups: tuple[str, ...], site: str, name: str) -> str:
    """One figure at one site: a row for each case, a column for each method; the best one is bold."""
    names = [method for method in methods(done, (site,)) if method != "size of atp"]
    rows = []
    for case in done.values():
        found = {r["method"]: r for r in case["rows"] if r["site"] == site and r["cells"] == ALL}
        if case["group"] in groups and found:
            numbers = [found[method][MEASURES[name]] if method in found else None for method in names]
            rows.append([f"{case['group']}: {case['case']}", *_bold(names, numbers, name)])
    return table(["case", *(f"`{method}`" for method in names)], rows)


def _bold(names: list[str], numbers: list[float | None], name: str) -> list[str]:
    """The best of the methods with a sign in bold; of slopes the nearest to 1."""
    better: Callable[[float], float] = {
        "relative L1": lambda x: -x,
        "slope": lambda x: -abs(x - 1),
    }.get(name, lambda x: x)
    signed = [None if method in MAGNITUDES else x for method, x in zip(names, numbers)]
    best = max((better(x) for x in signed if x is not None), default=None)
    return [
        f"**{_text(x)}**" if mine is not None and better(mine) == best else _text(x)
        for x, mine in zip(numbers, signed)
    ]


def cases(done: Done) -> str:
    """What was measured."""
    rows = [
        [case["group"], case["case"], str(case["prompts"]), str(case["tokens"]), f"{case['changed']:.1f}",
         f"{case['gap']:.2f}"]
        for case in done.values()
    ]  # fmt: skip
    return table(["group", "case", "prompts", "tokens", "tokens that differ", "mean clean − corrupt"], rows)


def times(done: Done) -> str:
    """Medians over the cases that were timed, in units of one forward pass of the same prompts."""
    done = {key: case for key, case in done.items() if "times" in case}
    groups = list(dict.fromkeys(case["group"] for case in done.values()))
    names = [name for name in next(iter(done.values()))["times"] if name != "forward"]
    rows = [
        [f"`{name}`", *(_median(_units(done, group, name), 1) for group in groups)]
        for name in [*names, "exact"]
    ]
    return table(["method", *groups], rows)


def _units(done: Done, group: str, name: str) -> list[float]:
    """Times over the forward's; "exact" is all sweeps of the stream, heads and neurons."""
    out = []
    for case in done.values():
        if case["group"] == group:
            exact = sum(s for sites, s in case["exact_s"].items() if not set(sites.split(", ")) & {*INPUTS})
            out.append((exact if name == "exact" else case["times"][name]) / case["times"]["forward"])
    return out


def _median(numbers: list[float], digits: int = 3) -> str:
    return _text(statistics.median(numbers), digits) if numbers else "–"


def _text(number: float | None, digits: int = 3) -> str:
    return "–" if number is None else f"{number:.{digits}f}"


def sections(done: Done) -> dict[str, str]:
    """The tables of docs/estimators.md by the name in their markers."""
    return {
        "cases": cases(done),
        "trained": by_site(done, TRAINED, STREAM),
        "random": by_site(done, ("random",), STREAM),
        "inputs": by_site(done, TRAINED, INPUTS),
        "duels": duels(done, TRAINED),
        "duels-random": duels(done, ("random",)),
        "smollm2": by_site(only(done, "smollm2"), ("smollm2",), ("resid_pre", "mlp_out", "z")),
        "groups": by_group({k: v for k, v in done.items() if v["group"] != "smollm2"}, "relative L1"),
        "resid_pre": by_case(done, TRAINED, "resid_pre", "relative L1"),
        "mlp_out": by_case(done, TRAINED, "mlp_out", "relative L1"),
        "times": times(done),
    }


def only(done: Done, group: str) -> Done:
    """The cases of one group."""
    return {key: case for key, case in done.items() if case["group"] == group}


def filled(page: str, done: Done) -> str:
    """A page with the tables between its markers made anew: <!-- table NAME --> ... <!-- /table -->."""
    made = sections(done)

    def body(match: re.Match[str]) -> str:
        return f"<!-- table {match[1]} -->\n{made[match[1]]}<!-- /table -->"

    return re.sub(r"<!-- table ([\w-]+) -->\n.*?<!-- /table -->", body, page, flags=re.S)


def everything(done: Done) -> str:
    """All figures of all cases."""
    groups = tuple(dict.fromkeys(case["group"] for case in done.values()))
    parts = [
        "# Estimators against exact patching: every case\n",
        "Made by `benchmarks/estimators.py`; what the figures mean is in docs/estimators.md. The best of a "
        "row is bold, among methods with a sign; `atp*` with GradDrop and `size of atp` are compared with "
        "mean |exact effect|.\n",
        cases(done),
    ]
    for site in (*STREAM, *INPUTS):
        for name in MEASURES:
            parts += [f"## {site}: {name}\n", by_case(done, groups, site, name)]
    return "\n".join(parts)
