"""The effect of exchanging a subspace between the runs of a task, and whether it is an illusion.

`interchange` is exact patching with h' = h + ((h_source - h) B) Bᵀ in the place of h_source, on the engine of
`interp.patch`: both directions, every metric, positions by number or name.

Illusion (Makelov, Lange & Nanda 2311.17030): a patch along v may act through a part of v that what comes
after does not read off v itself: v has a part in the row space of the readers' weights and a part in their
null space, and the source differs from the base along both. The null part cannot act; but a patch along
v = row + null moves the row part by what the *null* part differs by. So patch along v, along its row part
alone and along its null part alone. A genuine direction keeps its effect in the row part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp import results
from interp._verbs import verb
from interp.ablation import Ablation
from interp.engine.trust import require_weights, short_row
from interp.experiment import MEMORY, Experiment, Metrics, prepare
from interp.models import Model, anatomy
from interp.models.places import place
from interp.patching._sweep import Sweep
from interp.places import HEAD_SITES, Place
from interp.subspaces._subspace import Subspace, place_in
from interp.tasks import Task

Exchange = Callable[[Tensor, Tensor], Tensor]  # activations of the base and of the source -> what is put in
_RANK = 1e-6  # of the largest singular value
_LOST = 1e-6  # of the length of a direction


@verb
def interchange(
    model: Model,
    task: Task,
    subspace: Subspace,
    pos: int | str | Sequence[int | str] = "last",
    *,
    ablation: str | Ablation = "resample",
    direction: str | None = None,
    metric: Metrics | None = None,
    batch_size: int | None = None,
    memory: int = MEMORY,
    engine: str = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """Exact effect of exchanging a subspace between the two runs, of all the rest, and of the whole site.

    subspace: directions and their place. pos: a position, the name of a span, or several of them, each
    a cell; "all" is all positions together. Other arguments as in `interp.patch`.

    Returns a Dataset: `value` with dims prompt, part (subspace, rest, whole), cell, (metric): effects in
    units of the metric, positive where the exchange helps. Were the model linear above the place, subspace
    and rest would add up to the whole.

    Cost: `interp.patch` of three times these cells; both runs are made once. Raises ValueError for a place
    that the model has not, a basis of another width, a position outside the prompts; before the first pass.

    Example:
        >>> import torch
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4, template=0)
        >>> everything = interp.subspaces.Subspace(torch.eye(64), "L1.resid_pre")
        >>> result = interp.subspaces.interchange(model, task, everything, "end", progress=False)
        >>> result["value"].dims, result["value"].shape
        (('prompt', 'part', 'cell'), (4, 3, 1))
    """
    exchanges = {"subspace": subspace.exchange, "rest": subspace.rest, "whole": _whole}
    with torch.inference_mode():
        experiment = prepare(
            model, task, ablation=ablation, direction=direction, metric=metric, batch_size=batch_size,
            memory=memory, engine=engine, progress=progress,
        )  # fmt: skip
        where = _fitting(subspace, experiment)
        out = _effects(experiment, where, _cells(where, pos, task), exchanges)
    own = {"method": "interchange", "rank": subspace.rank, "basis": subspace.method}
    return out.assign_attrs(own)


@verb
def illusion(
    model: Model,
    task: Task,
    subspace: Subspace,
    pos: int | str = "last",
    *,
    reads: Float[Tensor, "reader width"] | None = None,
    ablation: str | Ablation = "resample",
    direction: str | None = None,
    metric: Metrics | None = None,
    level: float = 0.95,
    seed: int = 0,
    batch_size: int | None = None,
    memory: int = MEMORY,
    engine: str = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """Whether a subspace acts by itself, or through a part that nothing reads off it.

    reads: the weights that read the site, a row each (`readers` by default: what reads it first). Give the
    rows apart, never their sum: with one row alone every part that it sees moves all of the output.

    Returns a Dataset: `value` with dims prompt, part (subspace, row, null, whole), cell, (metric), the
    effects in units of the metric of patching the subspace, its part in the readers' row space and in their
    null space (each made orthonormal) and the whole site. attrs: `verdict` ("illusion", "genuine" or
    "undecided", which is all that can be said of one prompt), `verdict_reason`, `row_share` (of the
    basis' square length in the row space), `row_rank`, `lost` (directions of the basis without a part there).

    Verdict: illusion where the effect of the subspace exceeds that of its row part, the whole interval above
    0, and the row part has less than half of it. The whole site is shown and not judged: it can have the same
    effect, and the direction be an illusion.

    Cost: `interp.patch` of four cells; both runs are made once. Raises ValueError as `interchange` does, and
    for readers of another width. Paper: 2311.17030.

    Example:
        >>> import torch
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, template=0)
        >>> line = interp.subspaces.Subspace(torch.eye(16)[0], "L0H0")
        >>> result = interp.subspaces.illusion(model, task, line, progress=False)
        >>> result.attrs["row_rank"], result.attrs["verdict"]
        (16, 'genuine')
    """
    with torch.inference_mode():
        experiment = prepare(
            model, task, ablation=ablation, direction=direction, metric=metric, seed=seed,
            batch_size=batch_size, memory=memory, engine=engine, progress=progress,
        )  # fmt: skip
        where = _fitting(subspace, experiment)
        rows = readers(model, where) if reads is None else _rows(reads, subspace.basis.shape[0])
        parts, facts = _split(subspace, rows)
        exchanges = {name: each.exchange if each else _nothing for name, each in parts.items()}
        out = _effects(experiment, where, _cells(where, pos, task), exchanges | {"whole": _whole})
    facts |= {"method": "illusion", "rank": subspace.rank, "basis": subspace.method}
    return out.assign_attrs(facts | _verdict(out, level, seed))


@verb
def readers(model: Model, where: str | Place) -> Float[Tensor, "reader width"]:
    """The weights that first read a site, a row each: what a direction there must lie in to act.

    Of a head's z its W_O, of neurons ("L3.post") W_out: they are the only readers, and the null part of a
    direction does exactly nothing. Of the stream and of what is written to it: the queries', keys' and
    values' weights of the blocks above and the MLPs', with the norms' gains, and the unembedding; together
    they nearly always read every direction, so name those of the path that you mean.

    Cost: none where the model's weights are proved already, else that of the trust check. Raises ValueError
    for sites without readers of this kind, and where the weights do not give the model's logits.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> tuple(interp.subspaces.readers(model, "L0H0").shape)
        (64, 16)
    """
    found = place(where, anatomy(model))
    parts, layer = require_weights(model, short_row(model), what="readers of a site"), found.layer or 0
    block = parts.blocks[layer]
    if found.site == "z" and found.head is not None:
        return block.attn.W_O[found.head].T
    if found.site == "post" and block.mlp is not None:
        return block.mlp.W_out.T
    if found.site in HEAD_SITES or found.site == "post":
        raise ValueError(f"{found}: its readers are no fixed weights. Give reads= [reader, width].")
    rows = [parts.W_U.T] if parts.final_norm is None else [parts.W_U.T * _gain(parts.final_norm)]
    first = layer if found.site == "resid_pre" else layer + 1
    if found.site in ("attn_out", "resid_mid") and block.mlp is not None and not block.parallel:
        rows += _mlp_rows(block)
    for above in parts.blocks[first:]:
        attn, gain = above.attn, _gain(above.attn_norm)
        rows += [W.flatten(0, 1) * gain for W in (w.transpose(1, 2) for w in (attn.W_Q, attn.W_K, attn.W_V))]
        rows += [] if above.mlp is None else _mlp_rows(above)
    return torch.cat(rows)


def _mlp_rows(block: Any) -> list[Tensor]:
    mlp = block.mlp
    return [W.T * _gain(mlp.norm) for W in (mlp.W_in, mlp.W_gate) if W is not None]


def _gain(norm: Any) -> Tensor | float:
    return 1.0 if norm is None or norm.gain is None else norm.gain


def _rows(reads: Any, size: int) -> Tensor:
    if not isinstance(reads, Tensor) or reads.ndim != 2 or reads.shape[1] != size or not len(reads):
        got = list(reads.shape) if isinstance(reads, Tensor) else type(reads).__name__
        raise ValueError(
            f"reads is {got}; give the weights that read the site, a row each: [reader, {size}]."
        )
    return reads


def _split(subspace: Subspace, rows: Tensor) -> tuple[dict[str, Subspace | None], dict[str, Any]]:
    """The subspace, its part in the row space of the readers and its part in their null space."""
    if subspace.flow is not None:
        raise ValueError("an illusion is a question about directions; a flow has none.")
    _, sizes, V = torch.linalg.svd(rows.double(), full_matrices=False)
    kept = V[sizes > _RANK * sizes.max()]  # [rank, width]
    basis = subspace.basis.to(kept)
    row = kept.T @ (kept @ basis)
    parts = {"row": _part(row, subspace), "null": _part(basis - row, subspace)}
    lost = 0 if parts["row"] is None else subspace.rank - parts["row"].rank
    facts = {
        "row_share": float(row.square().sum() / subspace.rank),
        "row_rank": len(kept),
        "lost": subspace.rank if parts["row"] is None else lost,
    }
    return {"subspace": subspace, **parts}, facts


def _part(columns: Float[Tensor, "width rank"], subspace: Subspace) -> Subspace | None:
    """The span of some columns as a subspace; None where nothing is left."""
    U, sizes, _ = torch.linalg.svd(columns, full_matrices=False)
    kept = U[:, sizes > _LOST]
    return Subspace(kept, subspace.place) if kept.shape[1] else None


def _verdict(out: xr.Dataset, level: float, seed: int) -> dict[str, Any]:
    from interp import stats

    effects = out[["value"]].isel(cell=0)
    effects = effects.isel(metric=0) if "metric" in effects.dims else effects
    along, in_rows = (effects.sel(part=part, drop=True) for part in ("subspace", "row"))
    whole, row = float(along["value"].mean()), float(in_rows["value"].mean())
    if len(np.unique(out["unit"])) < 2:
        reason = "prompts that share a text are one draw, and one gives no interval"
        return {"verdict": "undecided", "verdict_reason": reason, "level": level}
    ends = stats.bootstrap((along - in_rows).assign_attrs(out.attrs), level=level, seed=seed)
    low, high = float(ends["low"]), float(ends["high"])
    is_one = low > 0 and row < whole / 2
    reason = (
        f"effect {whole:.3g}, of its row part {row:.3g}; the difference lies between {low:.3g} and "
        f"{high:.3g} at the {level:.0%} level"
    )
    return {"verdict": "illusion" if is_one else "genuine", "verdict_reason": reason, "level": level}


def _fitting(subspace: Subspace, experiment: Experiment) -> Place:
    """The subspace's place in this model. ValueError for another width."""
    if not isinstance(subspace, Subspace):
        raise ValueError(
            f"subspace is {type(subspace).__name__}; give interp.subspaces.Subspace(basis, place)."
        )
    return place_in(subspace, experiment.facts)


def _cells(where: Place, pos: Any, task: Task) -> list[str]:
    """The cells' names: the place at each position, or whole."""
    if isinstance(pos, str) and pos == "all":
        return [str(where)]
    listed = [pos] if isinstance(pos, (int, str)) else list(pos)
    n = task.clean.shape[1]
    for each in listed:
        if isinstance(each, str) and each == "last" and bool((task.lengths != n).any()):
            raise ValueError(
                "the prompts differ in length, and 'last' is another position in each: name a span."
            )
    return [f"{where}@{n - 1 if each == 'last' else each}" for each in listed]


def _whole(base: Tensor, source: Tensor) -> Tensor:
    return source


def _nothing(base: Tensor, source: Tensor) -> Tensor:
    return base


def _effects(
    experiment: Experiment, where: Place, cells: list[str], exchanges: Mapping[str, Exchange]
) -> xr.Dataset:
    """Effects with dims prompt, part, cell, (metric)."""
    sweep = Sweep.of(experiment, None, None, cells, 1, None)
    effects = sweep.run_mixed([_mixing(where, each) for each in exchanges.values()])
    parts = xr.concat([each[["value"]] for each in effects], xr.IndexVariable("part", list(exchanges)))
    out = effects[0].drop_vars("value").merge(parts)
    dims = ("prompt", "part", *(dim for dim in effects[0]["value"].dims if dim != "prompt"))
    out["value"] = out["value"].transpose(*dims)
    results.check(out)
    return out


def _mixing(where: Place, exchange: Exchange) -> Callable[[str, int, Tensor, Tensor], Tensor]:
    def mix(site: str, layer: int, base: Tensor, source: Tensor) -> Tensor:
        if (site, layer) != (where.site, where.layer):
            return source
        if where.head is None:
            return torch.where((base == source).all(-1, keepdim=True), base, exchange(base, source))
        out = source.clone()
        mine, other = base[:, :, where.head], source[:, :, where.head]
        out[:, :, where.head] = torch.where(
            (mine == other).all(-1, keepdim=True), mine, exchange(mine, other)
        )
        return out

    return mix
