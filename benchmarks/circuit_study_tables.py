"""The figures of the study of circuit methods as Markdown."""

from __future__ import annotations

import re
from typing import Any

Done = dict[str, dict[str, Any]]
SCORES = (
    "eap", "eap-ig", "eap-ig, activations", "relp", "relp, ah off", "secant", "flow-routes", "exact",
)  # fmt: skip
AREAS = ("rank", "trapezoid", "pessimistic")
ABLATIONS = ("resample", "zero", "mean")
SHOWN = (0.02, 0.05, 0.1, 0.2, 0.5)
NEAR = 0.9


def everything(done: Done) -> str:
    """All tables, with headings."""
    parts = [f"## {title}\n\n{body}" for title, body in sections(done).items()]
    return "# Circuit methods\n\nMade by benchmarks/circuit_study.py.\n\n" + "\n".join(parts)


def sections(done: Done) -> dict[str, str]:
    """Table by name."""
    known = {name: case for name, case in done.items() if case["kind"] == "known"}
    trained = {name: case for name, case in done.items() if case["kind"] == "trained"}
    found = {f"known-{ablation}": _known(known, ablation) for ablation in ABLATIONS}
    found |= {"acdc-known": _acdc_known(known), "areas": _areas(trained), "sizes": _sizes(trained)}
    return found | {"equal": _equal(trained), "cost": _cost(trained)}


def filled(page: str, done: Done) -> str:
    """The page with every marked table as it is now."""

    def table(match: re.Match) -> str:
        return f"<!-- table {match[1]} -->\n{sections(done)[match[1]]}<!-- end -->"

    return re.sub(r"<!-- table ([\w-]+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


def _known(cases: Done, ablation: str) -> str:
    rows = []
    for name, case in cases.items():
        row = [name, f"{_of(case, 'exact', ablation)['edges']} of {case['total']}"]
        for method in SCORES:
            one = _of(case, method, ablation)
            row.append("–" if "refused" in one else " / ".join(f"{one[area]:.3f}" for area in AREAS))
        rows.append(row)
    return _table(["model", "true edges", *(f"`{m}`" for m in SCORES)], rows)


def _acdc_known(cases: Done) -> str:
    rows = []
    for name, case in cases.items():
        found = [_of(case, "acdc", ablation) for ablation in ABLATIONS]
        rows.append([name, *(f"{one['right']} of {one['edges']}, {one['kept']} kept" for one in found)])
    return _table(["model", *ABLATIONS], rows)


def _areas(cases: Done) -> str:
    rows = [
        [name, *(f"{one['cpr']:.3f} / {one['cmd']:.3f}" for one in _scores(case))]
        for name, case in cases.items()
    ]
    return _table(["case", *(f"`{m}`" for m in SCORES)], rows)


def _sizes(cases: Done) -> str:
    """Faithfulness by size, and the first size measured that is near the whole model."""
    rows = []
    for name, case in cases.items():
        for one in _scores(case):
            at = [_at(one, case["sizes"].index(share)) for share in SHOWN]
            enough = [n for n, f in zip(one["edges"], one["faithfulness"]) if f >= NEAR]
            rows.append([name, f"`{one['method']}`", *at, str(enough[0]) if enough else "–"])
        random = [_random(case, share) for share in SHOWN]
        rows.append([name, "random paths", *random, ""])
    header = ["case", "method", *(f"{100 * share:g} %" for share in SHOWN), f"edges for {NEAR}"]
    return _table(header, rows)


def _equal(cases: Done) -> str:
    rows = []
    for name, case in cases.items():
        for one in case["circuits"]:
            if not one["edges"]:
                continue
            others = [f"{one['equal'][m]['faithfulness']:.2f} / {one['equal'][m]['kl']:.3f}" for m in SCORES]
            own = f"**{one['faithfulness']:.2f}** / {one['kl']:.3f}"
            rows.append([name, f"`{one['method']}`, {one['setting']}", str(one["edges"]), own, *others])
    return _table(["case", "circuit", "edges", "its own", *(f"`{m}`" for m in SCORES)], rows)


def _cost(cases: Done) -> str:
    rows = []
    for name, case in cases.items():
        for one in _scores(case):
            passes = [str(one[kind]) if one[kind] is not None else "–" for kind in ("forwards", "backwards")]
            rows.append([name, f"`{one['method']}`", *passes, f"{one['seconds']:.2f}"])
        for one in case["circuits"]:
            runs = "–" if one["runs"] is None else f"{one['runs']:,} of circuits"
            rows.append([name, f"`{one['method']}`, {one['setting']}", runs, "–", f"{one['seconds']:.2f}"])
    return _table(["case", "method", "forwards a prompt", "backwards a prompt", "seconds"], rows)


def _scores(case: dict[str, Any]) -> list[dict[str, Any]]:
    return [next(row for row in case["rows"] if row["method"] == method) for method in SCORES]


def _of(case: dict[str, Any], method: str, ablation: str) -> dict[str, Any]:
    return next(row for row in case["rows"] if (row["method"], row["ablation"]) == (method, ablation))


def _at(row: dict[str, Any], i: int) -> str:
    """Faithfulness at one of the sizes."""
    return f"{row['faithfulness'][i]:.2f} ({row['low'][i]:.2f} to {row['high'][i]:.2f})"


def _random(case: dict[str, Any], share: float) -> str:
    """5 and 95 % of random circuits of paths."""
    quantile = case["random"]["quantile"][case["random"]["sizes"].index(share)]
    return f"{quantile[0]:.2f} to {quantile[-1]:.2f}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"
