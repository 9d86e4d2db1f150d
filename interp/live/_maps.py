"""Results as maps that can be clicked: rows are layers, columns heads, positions or spans.

Every other dim (a position beside heads, a score) is a choice on the page. A result of several sites gives a
map of each. Means have the interval and the corrected p of `interp.stats`, over the result's own prompts;
values by prompt are shown where those are the prompts of the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from interp import stats
from interp.live._arrays import pack
from interp.plot import _words as words
from interp.plot._cells import is_tested, several_units
from interp.plot._theme import visible
from interp.stats._means import MetricFacts, metric_facts

COLUMNS = ("head", "pos", "span", "expert")  # the first of these that a result has is across
_WIDEST = 256  # columns that a page can show


@dataclass(frozen=True, eq=False)
class Map:
    """One result at one site, to be drawn as layers × something."""

    id: str
    result: xr.Dataset
    level: float
    own_prompts: bool  # whether its prompts are not those of the page

    @property
    def value(self) -> xr.DataArray:
        return self.result["value" if "value" in self.result else "estimate"]

    @property
    def across(self) -> str | None:
        """The dim of the columns; None for a number a layer."""
        return next((dim for dim in COLUMNS if dim in self.value.dims), None)

    @property
    def choices(self) -> list[str]:
        """The dims that are neither rows nor columns."""
        shown = ("prompt", "metric", "layer", self.across)
        return [str(dim) for dim in self.value.dims if dim not in shown]

    @property
    def metrics(self) -> list[MetricFacts]:
        return metric_facts(self.result)

    @property
    def by_prompt(self) -> bool:
        return "prompt" in self.value.dims and not self.own_prompts

    def facts(self) -> dict[str, Any]:
        """What the page says of it, and what can be chosen."""
        site = str(self.result["site"].item()) if "site" in self.result.coords else None
        attrs = self.result.attrs
        about = self.result.assign_attrs(site=site) if site else self.result
        return {
            "id": self.id,
            "name": words.heading(about, _subject(about, self.across)),
            "label": f"{site or attrs['site']}, {words.method(self.result)}",
            "words": words.subtitle(about),
            "noun": words.noun(attrs),
            "site": site or str(attrs["site"]),
            "convention": str(attrs.get("convention", "")),
            "across": self.across,
            "layers": self.value["layer"].values.tolist(),
            "metrics": [{"name": facts.name, "unit": facts.unit} for facts in self.metrics],
            "choices": [{"dim": dim, "labels": labels(self.value, dim)} for dim in self.choices],
            "by_prompt": self.by_prompt,
            "why": self._why(),
        }

    def _why(self) -> str | None:
        """Why there are no values by prompt."""
        if "prompt" not in self.value.dims:
            return "this result holds means, and no values by prompt"
        return "measured on other prompts than those of this page" if self.own_prompts else None

    @cached_property
    def ends(self) -> dict[str, xr.DataArray]:
        """`mean`, and where there are prompts to take them over `low`, `high` and `p`."""
        if "prompt" not in self.value.dims:
            known = {name: self.result[name] for name in ("low", "high") if name in self.result}
            return {"mean": self.value, **known}
        if not several_units(self.result):
            return {"mean": self.value.mean("prompt", skipna=True)}
        interval = stats.bootstrap(self.result, level=self.level)
        ends = {"mean": interval["estimate"], "low": interval["low"], "high": interval["high"]}
        tested = words.noun(self.result.attrs) == "effect" and is_tested(self.result)  # a score is never 0
        return ends | ({"p": self._tested["p"]} if tested else {})

    @cached_property
    def _tested(self) -> xr.Dataset:
        return stats.test(self.result, level=self.level)

    def grid(self, metric: str, at: dict[str, int]) -> dict[str, Any]:
        """The map of a metric; `at` has an index of every dim that is to be chosen."""
        cut = {dim: self._index(dim, at.get(dim, 0)) for dim in self.choices}
        if "metric" in self.value.dims:
            cut["metric"] = self._metric(metric)
        ends = {name: self._plane(end, cut) for name, end in self.ends.items()}
        answer: dict[str, Any] = {
            "rows": [f"L{layer}" for layer in self.value["layer"].values.tolist()],
            "columns": [str(self.result.attrs["site"])] if self.across is None else self.columns(),
            "layers": self.value["layer"].values.tolist(),
            "family": self._tested.attrs["family"] if "p" in self.ends else 0,
            "level": self.level,
            **{name: pack(end, "f4") for name, end in ends.items()},
        }
        if self.by_prompt:
            answer["value"] = pack(self._plane(self.value, cut, "prompt"), "f2", by="prompt")
        return answer

    def columns(self) -> list[str]:
        """Names of the columns."""
        return labels(self.value, str(self.across))

    def heads_by_position(self) -> xr.DataArray | None:
        """Effects [prompt, layer, head, pos, (metric)] where that is what this is."""
        wanted = {"prompt", "layer", "head", "pos"}
        return self.value if self.by_prompt and set(self.value.dims) - {"metric"} == wanted else None

    def at_head(self, layer: int, head: int) -> list[dict[str, Any]]:
        """Mean and interval of one head, by metric, where the map has heads and nothing to choose."""
        if self.across != "head" or self.choices or layer not in self.value["layer"].values:
            return []
        rows = []
        for number, facts in enumerate(self.metrics):
            cut: dict[str, Any] = {"layer": layer, "head": head}
            at = {"metric": number} if "metric" in self.value.dims else {}
            ends = {name: float(end.isel(at).sel(cut)) for name, end in self.ends.items()}
            rows.append({"result": self.id, "metric": facts.name, "unit": facts.unit, **_plain(ends)})
        return rows

    def _plane(self, values: xr.DataArray, cut: dict[str, int], *first: str) -> np.ndarray:
        plane = values.isel(cut).transpose(*first, "layer", *([self.across] if self.across else []))
        return plane.values if self.across else plane.values[..., None]

    def _index(self, dim: str, index: Any) -> int:
        size = self.value.sizes[dim]
        if not isinstance(index, int) or not 0 <= index < size:
            raise ValueError(f"{dim} is {index!r}; this result has 0 to {size - 1}.")
        return index

    def _metric(self, name: str) -> int:
        names = [facts.name for facts in self.metrics]
        if name not in names:
            raise ValueError(f"metric is {name!r}; this result has {', '.join(names)}.")
        return names.index(name)


def maps(results: Sequence[xr.Dataset], fingerprint: str | None, level: float) -> list[Map]:
    """The maps of some results. fingerprint: of the page's task. ValueError for what is no map."""
    out: list[Map] = []
    for number, result in enumerate(results):
        require_map(result, number)
        value = result["value"] if "value" in result else result["estimate"]
        sites = range(result.sizes["site"]) if "site" in value.dims else [None]
        for site in sites:
            part = result if site is None else result.isel(site=site)
            own = fingerprint is None or part.attrs["task_fingerprint"] != fingerprint
            out.append(Map(f"r{len(out)}", part, level, own))
    return out


def require_map(result: xr.Dataset, number: int) -> None:
    """Raise ValueError unless a result has layers, and something beside them that fits across a page."""
    names = [name for name in ("value", "estimate") if name in result]
    dims = [str(dim) for dim in result[names[0]].dims] if names else list(map(str, result.dims))
    known = {"prompt", "metric", "site", "score", "part", "layer", *COLUMNS}
    if not names or "layer" not in dims or set(dims) - known or "method" not in result.attrs:
        raise ValueError(
            f"item {number} has {'the dims ' + ', '.join(dims) if names else 'no variable value'}: it is no "
            "map of layers by heads, positions, spans or experts. Draw it with interp.plot.bars, or put it "
            "on a page with interp.report.write."
        )
    wide = next((dim for dim in COLUMNS if dim in dims and result.sizes[dim] > _WIDEST), None)
    if wide is not None:
        raise ValueError(
            f"item {number} has {result.sizes[wide]} columns ({wide}); a page shows {_WIDEST} at most. "
            f"Select some first, as in result.isel({wide}=slice(0, 64))."
        )


def labels(value: xr.DataArray, dim: str) -> list[str]:
    """A label for every index of a dim: heads by number, positions by number and token."""
    names = value[dim].values.tolist()
    if dim == "head":
        return [f"H{name}" for name in names]
    if dim == "pos":
        if "token" not in value.coords:
            return [str(name) for name in names]
        return [f"{name} {visible(str(token))}" for name, token in zip(names, value["token"].values)]
    return [str(name).replace("_", " ") for name in names]


def _subject(result: xr.Dataset, across: str | None) -> str:
    if across == "head":
        return words.each_head(result)
    by = {"pos": "position", None: "layer"}.get(across, across)
    return f"{words.noun(result.attrs)} by {by} ({result.attrs['site']})"


def _plain(numbers: dict[str, float]) -> dict[str, float | None]:
    return {name: number if np.isfinite(number) else None for name, number in numbers.items()}
