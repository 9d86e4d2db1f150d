"""How good is a circuit over features? The model with all other features and errors taken out.

1. Run the clean prompts. At every dictionary's site, features of the circuit keep the value that they have in
   this run; all others get what stands in for them (the other prompt's, zero, or their mean).
2. The error of a site is that of the clean run where it is kept (it does not follow what changes upstream),
   else what stands in for it.
3. The site is changed by the sum of these differences, so that a circuit of all nodes is the model itself, to
   the bit, and one of no node the baseline, errors taken out as well.
4. Faithfulness = (m(circuit) − m(none)) / (m(model) − m(none)): ratios of means over prompts.

Errors carry much: the circuit is run with its own errors, with every error, and with none, which bracket it;
and what is left without the circuit. Marks et al. 2403.19647.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool
from torch import Tensor

from interp import results
from interp._verbs import verb
from interp.ablation import Ablation
from interp.engine.readout import Reads, Scores
from interp.engine.runs import Runs
from interp.experiment import MEMORY
from interp.models import Model, logits
from interp.patching._feature_cells import feature_runs
from interp.places import hook_name
from interp.sae._circuit import captured, circuit_experiment, circuit_sites, rows_at_once
from interp.sae._dictionary import Dictionary
from interp.sae._graph import ALL, FeatureGraph
from interp.sae._site import ERROR, Parts, Site, site_name
from interp.tasks import Task
from interp.tasks.metrics import Metric

RUNS = ("circuit", "every error", "no error", "complement")
_ROWS, _RESAMPLES = 32, 1000


@dataclass(frozen=True, eq=False)
class _Mask:
    """What is kept at a site: features [pos or 1, feature], errors [pos or 1]."""

    features: Bool[Tensor, "pos feature"]
    error: Bool[Tensor, "pos"]

    def __invert__(self) -> _Mask:
        return _Mask(~self.features, ~self.error)

    def with_error(self, kept: bool) -> _Mask:
        return _Mask(self.features, torch.full_like(self.error, kept))


@verb
def faithfulness(
    model: Model,
    task: Task,
    graph: FeatureGraph,
    dictionaries: Sequence[Dictionary],
    *,
    ablation: str | Ablation = "resample",
    metric: str | Metric | None = None,
    level: float = 0.95,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = True,
) -> xr.Dataset:
    """How much of what the model does its circuit over features does (see the steps above).

    graph: its features and errors are kept, all else at the dictionaries' sites is taken out; `graph.top(n)`
    for fewer. dictionaries: those of the graph. ablation: what stands in, "resample", "zero" or "mean".

    Returns a Dataset: `value` [prompt, run], the metric less that of the empty circuit, positive helps, and
    `raw`, of the runs "circuit" (with the errors that the graph has), "every error", "no error", "complement"
    (the circuit taken out); `clean` and `empty` [prompt]; `faithfulness`, `low`, `high` [run], with intervals
    over prompts. NaN where the empty circuit does as well as the model.

    Cost: seven forwards a prompt, and the means of mean ablation. Raises ValueError for dictionaries that are
    not those of the graph, positions that the prompts do not have, and as `sae.circuit`.

    Example:
        >>> import torch
        >>> from interp import sae
        >>> model = interp.load("tiny-ioi")
        >>> both = torch.cat((torch.eye(64), -torch.eye(64)))
        >>> d = sae.Dictionary(both.T, torch.zeros(128), both, torch.zeros(64), place="L2.resid_pre")
        >>> task = interp.tasks.ioi(model, n=4)
        >>> found = sae.circuit(model, task, [d], nodes=None, progress=False)
        >>> judged = sae.faithfulness(model, task, found, [d], progress=False)
        >>> float(judged["faithfulness"].sel(run="circuit").round(3))
        1.0
    """
    experiment = circuit_experiment(model, task, ablation, metric, memory, progress)
    sites = circuit_sites(experiment, dictionaries)
    masks = _masks(graph, sites, task.clean.shape[1])
    variants = {
        "circuit": masks,
        "every error": [mask.with_error(True) for mask in masks],
        "no error": [mask.with_error(False) for mask in masks],
        "complement": [~mask for mask in masks],
        "empty": [_Mask(torch.zeros_like(mask.features), torch.zeros_like(mask.error)) for mask in masks],
    }
    runs = feature_runs(experiment)
    columns: dict[str, list[Tensor]] = {name: [] for name in ("clean", *variants)}
    with torch.no_grad():
        rows = rows_at_once(experiment, sites, _ROWS)
        for start in range(0, len(task), rows):
            part = runs.take(slice(start, min(start + rows, len(task))))
            for name, values in _measured(
                model, part, sites, variants, Scores(Reads(part, experiment.metric))
            ).items():
                columns[name].append(values)
    raw = {name: torch.cat(parts).cpu().numpy() for name, parts in columns.items()}
    sign = experiment.metric[0].sign
    table = np.stack([raw[name] for name in RUNS], 1)  # [prompt, run]
    shares, low, high = _shares(table, raw["clean"], raw["empty"], level, seed)
    attrs = results.attrs(
        experiment, method="sae.faithfulness", site=" ".join(graph.sites), level=level, error="fixed",
        convention="metric of the circuit less that of the empty one; positive: the circuit helps",
        n_features=len(graph.features), 
        n_errors=sum(n.feature == ERROR and n.site in graph.sites for n in graph.nodes),
    )  # fmt: skip
    attrs["seed"] = seed
    variables = {
        "value": (("prompt", "run"), sign * (table - raw["empty"][:, None])),
        "raw": (("prompt", "run"), table),
        "clean": (("prompt",), raw["clean"]), "empty": (("prompt",), raw["empty"]),
        "faithfulness": (("run",), shares), "low": (("run",), low), "high": (("run",), high),
    }  # fmt: skip
    return results.dataset(variables, {"run": list(RUNS)}, attrs, task)


def _masks(graph: FeatureGraph, sites: Sequence[Site], n_pos: int) -> list[_Mask]:
    names = [site_name(site.dictionary) for site in sites]
    if set(names) != set(graph.sites):
        raise ValueError(
            f"the graph is of {', '.join(graph.sites)}, and the dictionaries lie at {', '.join(names)}."
        )
    nodes = [node for node in graph.nodes if node.site in names]
    if beyond := [node.name for node in nodes if node.pos >= n_pos]:
        raise ValueError(f"{beyond[0]} is beyond the {n_pos} tokens of the prompts: the graph is of others.")
    masks = []
    for site, name in zip(sites, names):
        size = site.dictionary.n_features
        features, error = torch.zeros(n_pos, size, dtype=torch.bool), torch.zeros(n_pos, dtype=torch.bool)
        for node in (node for node in nodes if node.site == name):
            if node.feature >= size:
                raise ValueError(f"{node.name}: the dictionary has features 0 to {size - 1}; it is another.")
            rows = slice(None) if node.pos == ALL else node.pos
            if node.feature == ERROR:
                error[rows] = True
            else:
                features[rows, node.feature] = True
        masks.append(_Mask(features, error))
    return masks


def _measured(
    model: Model, runs: Runs, sites: Sequence[Site], variants: dict[str, list[_Mask]], scores: Scores
) -> dict[str, Tensor]:
    """The metric of the clean run and of every variant, [prompt] each."""
    base, out = captured(model, runs.base, sites)
    source, _ = captured(model, runs.source, sites)
    own = [site.parts(base) for site in sites]
    put = [site.replacement(site.parts(source)) for site in sites]
    clean = scores.pick(out)
    found = {"clean": scores(clean, clean)[:, 0]}
    for name, masks in variants.items():
        out = _circuit_run(model, runs.base, sites, masks, own, put)
        found[name] = scores(scores.pick(out), clean)[:, 0]
    return found


def _circuit_run(
    model: Model,
    tokens: Tensor,
    sites: Sequence[Site],
    masks: Sequence[_Mask],
    own: Sequence[Parts],
    put: Sequence[Parts],
) -> Tensor:
    """Logits with everything that no mask keeps taken out, site after site."""
    kept: dict[Any, Tensor] = {}

    def keep(end: Any, tensor: Tensor, hook: object) -> Tensor:
        kept[end] = tensor
        return tensor

    def change(number: int, tensor: Tensor, hook: object) -> Tensor:
        site, mask = sites[number], masks[number]
        kept[site.ends[1]] = tensor
        here = site.parts(kept)
        features, error = mask.features.to(tensor.device), mask.error.to(tensor.device)[:, None]
        phi = torch.where(features, 0.0, put[number].phi - here.phi)
        rest = torch.where(error, own[number].error, put[number].error) - here.error
        step = phi @ site.dictionary.W_dec.to(phi) + rest
        kept[site.ends[1]] = tensor + step.reshape(tensor.shape).to(tensor)
        return kept[site.ends[1]]

    written = {site.ends[1] for site in sites}
    hooks: list[Any] = [(hook_name(*site.ends[1]), partial(change, i)) for i, site in enumerate(sites)]
    hooks += [(hook_name(*end), partial(keep, end)) for end in {site.ends[0] for site in sites} - written]
    with model.hooks(fwd_hooks=hooks):
        return logits(model, tokens)


def _shares(
    table: np.ndarray, clean: np.ndarray, empty: np.ndarray, level: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ratios of means by run, and their bootstrap intervals over prompts."""

    def of(rows: np.ndarray) -> np.ndarray:
        whole = (clean[rows] - empty[rows]).mean()
        return (table[rows] - empty[rows, None]).mean(0) / whole if whole else np.full(table.shape[1], np.nan)

    every = np.arange(len(clean))
    rng = np.random.default_rng(seed)
    draws = np.array([of(rng.choice(every, len(every))) for _ in range(_RESAMPLES)])
    ends = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.nanquantile(draws, ends, axis=0) if np.isfinite(draws).any() else np.full((2, 4), np.nan)
    return of(every), low, high
