"""The figures of the study of indirect objects: its results in one dictionary, which tables are made of.

A head has a role where it was confirmed by patching and meets every condition of the role below, on
verification prompts. The thresholds were written before the run; attention is a mean over prompts, copying a
share of prompts, scores are those of `heads.scores` on random repeats.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from interp import stats

LOOKS, COPIES, SCORES = 0.2, 0.5, 0.3
Row = dict[str, Any]
ROLES: dict[str, Callable[[Row], bool]] = {
    "name mover": lambda r: (
        r["direct_low"] > 0 and r["end_io"] - r["end_s1"] >= LOOKS and r["copies_io"] >= COPIES
    ),
    "negative name mover": lambda r: (
        r["direct_high"] < 0 and r["end_io"] - r["end_s1"] >= LOOKS and r["suppresses_io"] >= COPIES
    ),
    "subject suppressor": lambda r: (
        r["direct_low"] > 0 and r["end_s2"] >= LOOKS and r["suppresses_s"] >= COPIES
    ),
    "inhibition": lambda r: r["end_s2"] >= LOOKS and r["feeds_queries"],
    "induction": lambda r: r["s2_s1+1"] >= LOOKS and r["induction"] >= SCORES,
    "duplicate token": lambda r: r["s2_s1"] >= LOOKS and r["duplicate_token"] >= SCORES,
    "previous token": lambda r: r["s1+1_s1"] >= LOOKS and r["previous_token"] >= SCORES,
}
ATTENTION = (("end", "io"), ("end", "s1"), ("end", "s2"), ("s2", "s1"), ("s2", "s1+1"), ("s1+1", "s1"))


def by_head(table: xr.Dataset) -> list[tuple[str, bool]]:
    """The head of every cell of `stats.verify`, and whether verification confirms it with the same sign."""
    same = np.sign(table["discovery"].values) == np.sign(table["estimate"].values)
    sure = table["significant"].values.astype(bool) & same
    return [(head_of(str(cell)), bool(yes)) for cell, yes in zip(table["cell"].values, sure)]


def head_of(cell: str) -> str:
    """`L20H0` of "layer 20, head 0, receiver L23H3.q" and of "sender L20H0, receiver L23H3.q"."""
    if sender := re.search(r"sender (\w+)", cell):
        return sender[1]
    layer, head = re.findall(r"\b(?:layer|head) (\d+)", cell)
    return f"L{layer}H{head}"


def place(name: str) -> tuple[int, int]:
    """Layer and head of a name."""
    layer, head = re.findall(r"\d+", name)[:2]
    return int(layer), int(head)


def flat(values: xr.DataArray) -> dict[str, float]:
    """Values [layer, head] by name."""
    grid = values.transpose("layer", "head").values
    return {f"L{layer}H{head}": float(grid[layer, head]) for layer, head in np.ndindex(grid.shape)}


def key_value_heads(names: list[str], group: int) -> list[str]:
    """The key-value heads that heads read, each once."""
    return list(dict.fromkeys(f"L{layer}H{head // group}" for layer, head in map(place, names)))


def chosen_size(found: xr.Dataset, reached: float) -> int:
    """The smallest size whose circuit is that faithful; the largest where none is."""
    sizes = [int(name) for name in found["circuit"].values]
    return min((n for n, f in zip(sizes, found["faithfulness"].values) if f >= reached), default=max(sizes))


def interval(result: xr.Dataset, value: xr.DataArray | None = None) -> xr.Dataset:
    """Mean and 95 % interval over prompts by unit, of `value` or another variable."""
    coords = [name for name in ("template", "unit", "text") if name in result.coords]
    data = xr.Dataset({"value": result["value"] if value is None else value}, attrs=result.attrs)
    return stats.bootstrap(data.assign_coords({name: result[name] for name in coords}))


def ends(found: xr.Dataset, **at: Any) -> Row:
    """mean, low, high of a cell of an interval."""
    cell = found.sel(at)
    return {new: float(cell[old]) for new, old in (("mean", "estimate"), ("low", "low"), ("high", "high"))}


def behaviour(both: list[xr.Dataset]) -> Row:
    """Accuracy and logit difference by part, order and template."""
    out: Row = {"templates": {}}
    for part, found in zip(("discovery", "verification"), both):
        value = found["value"]
        out[part] = {
            "prompts": len(value), "units": len(set(found["unit"].values.tolist())),
            "templates": len(set(found["template"].values.tolist())), **ends(interval(found)),
            "right": int((value > 0).sum()), "top1": int((found["rank"] == 0).sum()),
            "p_io": float(found["io"].mean()), "p_s": float(found["s"].mean()),
            "abb": float(value[found["abb"].values == 1].mean()),
            "bab": float(value[found["abb"].values == 0].mean()),
        }  # fmt: skip
        for name in dict.fromkeys(found["template"].values.tolist()):
            rows = found["template"].values == name
            text = str(found["text"].values[int(np.flatnonzero(rows)[0])])
            out["templates"][name] = {"part": part, "example": text, "mean": float(value[rows].mean())}
    return out


def verified(both: list[xr.Dataset], seed: int = 0) -> list[Row]:
    """The significant cells of discovery, as verification measures them."""
    try:
        table = stats.verify(*both, top=None, seed=seed)
    except ValueError as nothing:
        if "no cell of discovery" not in str(nothing):
            raise
        return []
    columns = ("discovery", "estimate", "low", "high", "p")
    rows = []
    for number, (name, sure) in enumerate(by_head(table)):
        cell = str(table["cell"].values[number])
        receiver = re.search(r"receiver (\S+)", cell)
        row: Row = {"head": name, "confirmed": sure, **({"receiver": receiver[1]} if receiver else {})}
        rows.append(row | {column: float(table[column].values[number]) for column in columns})
    return rows


def head_effects(both: list[xr.Dataset], mirror: dict[str, xr.Dataset]) -> Row:
    """The gap, the family, what is found and confirmed; how alike the parts and the directions are."""
    tested, rows = stats.test(both[0], step_down=True), verified(both)
    means = [each["value"].mean("prompt").values.ravel() for each in both]
    other = stats.test(both[0], step_down=True, method="bootstrap-t")
    directions = [each["value"].groupby("unit").mean() for each in mirror.values()]
    return {
        "gap": [float((each["clean"] - each["corrupt"]).mean()) for each in both],
        "family": tested.attrs["family"], "units": tested.attrs["units"],
        "smallest_p": tested.attrs["smallest_p"], "found": len(rows),
        "confirmed": sum(row["confirmed"] for row in rows), "rows": rows,
        "by_bootstrap": int(other["significant"].sum()), "sum": float(means[1].sum()),
        "between_parts": float(np.corrcoef(*means)[0, 1]),
        "directions": float(abs(directions[0] - directions[1]).max()),
        "mirror_largest": float(abs(directions[0]).max()),
        "first_eight": {
            str(cell): float(mirror["denoise"]["value"].sel(cell=cell).mean())
            for cell in mirror["denoise"]["cell"].values
        },
        "skewed": int((abs(tested["skewness"]) > 1).sum()),
    }  # fmt: skip


def role_rows(names: list[str], parts: Row) -> list[Row]:
    """What each head is, in numbers, and which roles it has."""
    roles, at_s2, seen, scores = (parts[name] for name in ("roles-io", "roles-s2", "attention", "scores"))
    direct = interval(roles, roles["direct"])
    attention, repeats = seen["value"].mean("prompt"), scores["value"].mean("prompt")
    effects = interval(parts["heads"][1])
    queries = {row["head"] for row in parts["queries"] if row["confirmed"] and row["estimate"] > 0}
    means = interval(parts["mean"])
    out = []
    for name in names:
        layer, head = place(name)
        at = {"layer": layer, "head": head}
        row: Row = {"head": name, **ends(effects, **at)}
        row |= {f"direct_{key}": value for key, value in ends(direct, **at).items()}
        row |= {f"{d}_{s}": float(attention.sel(at | {"dst": d, "src": s})) for d, s in ATTENTION}
        row |= {f"{verb}_io": float(roles[verb].mean("prompt").sel(at)) for verb in ("copies", "suppresses")}
        row |= {f"{verb}_s": float(at_s2[verb].mean("prompt").sel(at)) for verb in ("copies", "suppresses")}
        row |= {
            s: float(repeats.sel(at | {"score": s}))
            for s in ("induction", "duplicate_token", "previous_token")
        }
        row |= {f"without_{key}": value for key, value in ends(means, cell=name).items()}
        row["feeds_queries"] = name in queries
        row["roles"] = [role for role, has in ROLES.items() if has(row)]
        out.append(row)
    return out


def load(found: xr.Dataset) -> Row:
    """One test of load-bearing."""
    damage = found["value"].mean("prompt")
    return {
        "heads": str(found.attrs["heads"]), "damage": float(damage[0]), "random": float(damage[1:].mean()),
        "difference": float(found["difference"]), "low": float(found["difference_low"]),
        "high": float(found["difference_high"]), "rank": int(found["rank"]), "sets": damage.size,
        "p": float(found["p"]),
    }  # fmt: skip


def backup(found: xr.Dataset) -> Row:
    """Self-repair of the heads that are out, and who steps in, with the norm frozen."""
    frozen = found.sel(norm="frozen")
    sums = {
        norm: float(found["value"].sel(norm=norm).mean("prompt").sum()) for norm in ("frozen", "recomputed")
    }
    change, direct = interval(frozen), interval(found, found["direct"])
    tested = stats.test(frozen, step_down=True)
    rows = []
    for name in flat(change["estimate"]):
        at = dict(zip(("layer", "head"), place(name)))
        if bool(tested["significant"].sel(at)):
            rows.append({"head": name, "direct": ends(direct, **at)["mean"], **ends(change, **at)})
    totals = {name: float(found[name].mean()) for name in ("direct_effect", "total_effect", "repair")}
    share = {name: float(found[name]) for name in ("share", "share_low", "share_high")}
    return {"sums": sums, **totals, **share, "rows": sorted(rows, key=lambda row: -abs(row["mean"]))}


def sizes(both: list[xr.Dataset], random: xr.Dataset) -> list[Row]:
    """Faithfulness of every size on both parts, and of random circuits on the second."""
    out = []
    for number, name in enumerate(both[1]["circuit"].values):
        row: Row = {"asked": int(name), "discovery": float(both[0]["faithfulness"][number])}
        row["without"] = float(both[0]["without"][number])
        row |= {key: float(both[1][key][number]) for key in ("faithfulness", "low", "high")}
        row |= {key: int(both[1][key][number]) for key in ("edges", "nodes", "heads")}
        drawn = random["size"].values.tolist()
        row["random"] = (
            float(random["quantile"].sel(level=0.95, size=row["edges"])) if row["edges"] in drawn else None
        )
        out.append(row)
    return out


def tests(found: xr.Dataset) -> Row:
    """The three tests of a circuit."""
    out: Row = {
        str(test): {name: float(found[name].sel(test=test)) for name in ("statistic", "p", "rejected")}
        for test in found["test"].values
    }
    order = np.argsort(-found["effect"].values)
    kept = [str(found["edge"].values[i]) for i in order]
    out["needed"] = int((found["p_edge"].values >= found.attrs["alpha"]).sum())
    out["edges"] = len(kept)
    out["largest"] = [{"edge": kept[i], "effect": float(found["effect"].values[order[i]])} for i in range(10)]
    return out


def rounded(value: Any) -> Any:
    """Floats to five digits after the point; NaN as None."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(each) for each in value]
    if isinstance(value, (float, np.floating)):
        return None if np.isnan(value) else round(float(value), 5)
    return value
