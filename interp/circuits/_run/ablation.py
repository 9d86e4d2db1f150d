"""What a cut edge carries instead of what its writer writes now.

| ablation                | a cut edge carries                                                             |
|-------------------------|--------------------------------------------------------------------------------|
| `resample`              | what the writer writes in the other run (direction noise: the corrupt prompts)  |
| `zero`                  | nothing; the biases of attention stay                                           |
| `mean`, `Mean(over)`    | the mean over prompts, position by position, padding left out                   |
| a tensor, `Constants()` | a constant of each writer, [writer, d_model] (optimal ablation, 2409.09951)     |
| `Optimal()`             | what each writer makes of its constant, see `interp.optimal_ablation`           |

Direction "noise" runs the clean prompts and cuts bring in the ablation; "denoise" runs the corrupt prompts
and a cut brings in the clean run, so it takes `resample` only.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

import torch
from jaxtyping import Float
from torch import Tensor

from interp.ablation import Ablation, Constants, Gaussian, Optimal, Scaled, make_runs, parse
from interp.circuits._graph import Graph
from interp.engine import block as B
from interp.engine.runs import Capture, Runs, capture
from interp.engine.trust import require_weights
from interp.models import Model, anatomy
from interp.models.parts import Weights
from interp.tasks import Task

SITES = ("z", "mlp_out", "resid_pre")


def check_ablation(ablation: Ablation, graph: Graph) -> None:
    """Raise ValueError for an ablation that a cut edge cannot carry."""
    if isinstance(ablation, Gaussian):
        raise ValueError(
            "a cut edge carries what its writer writes in one other run, and noise has several draws. Use "
            "ablation='resample', 'zero', 'mean', or a tensor [writer, d_model]."
        )
    if isinstance(ablation, Scaled):
        raise ValueError(
            "a cut edge carries what stands in for its writer, and not a multiple of it. Use "
            "ablation='resample', 'zero', 'mean', or a tensor [writer, d_model]."
        )
    if isinstance(ablation, Optimal):
        parts = ("z",) if graph.attn_only else ("z", "mlp_out")
        places = [(part, layer) for part in parts for layer in range(graph.n_layers)]
        ablation.require([*places, ("resid_pre", 0)], "a circuit")
    if isinstance(ablation, Constants):
        _check_constants(ablation.tensor, graph)


def constants_of(ablation: Ablation) -> Float[Tensor, "writer d_model"] | None:
    """The constants that cut edges carry, if they do."""
    return ablation.tensor if isinstance(ablation, Constants) else None


def sites(model: Model) -> tuple[str, ...]:
    """The sites at which writers write: heads, MLPs, and the stream before the first block."""
    return tuple(site for site in SITES if site in anatomy(model).sites())


def gaps(
    blocks: Weights,
    runs: Runs,
    saved: Capture,
    constants: Tensor | None,
    window: tuple[Tensor, Tensor] | None,
) -> Float[Tensor, "writer prompt pos d_model"]:
    """What a cut adds to its reader: the replacement less what the writer writes in the run of `saved`.

    `window` picks positions, as an index of [prompt, pos]; None is all.
    """
    places = _base(blocks, runs, saved) if constants is not None else _differences(blocks, runs, saved)
    now = torch.cat(list(_writes(blocks, places, window)))
    if constants is None:
        return now
    return constants.to(now)[:, None, None] - now


def replacements(
    model: Model,
    task: Task,
    ablation: str | Tensor | Ablation = "resample",
    *,
    direction: str = "noise",
) -> Float[Tensor, "writer prompt pos d_model"]:
    """What every writer is replaced by. Cost: two forwards of the blocks a prompt, one more for means."""
    chosen = parse(ablation)
    with torch.inference_mode():
        runs = make_runs(model, task, chosen, direction, sites(model))
        blocks = require_weights(model, runs.base, runs.lengths, sites=("z",), what="circuits")
        saved = capture(blocks, runs, ("z", "mlp_out"))
        now = torch.cat(list(_writes(blocks, _base(blocks, runs, saved))))
        return now + gaps(blocks, runs, saved, constants_of(chosen), None)


_Places = tuple[Tensor, list[Tensor], list[Tensor]]  # input, z by layer, MLP output by layer


def _base(blocks: Weights, runs: Runs, saved: Capture) -> _Places:
    z = [saved.base["z", layer] for layer in range(len(blocks.blocks))]
    mlp = [saved.base["mlp_out", layer] for layer in range(len(z)) if ("mlp_out", layer) in saved.base]
    return saved.pre[0], z, mlp


def _differences(blocks: Weights, runs: Runs, saved: Capture) -> _Places:
    source = blocks.embed(runs.source, runs.noises()[1])
    source = source if runs.fill is None else runs.fill("resid_pre", 0, source)
    z = [saved.difference("z", layer) for layer in range(len(blocks.blocks))]
    mlp = [saved.difference("mlp_out", layer) for layer in range(len(z)) if ("mlp_out", layer) in saved.base]
    return source - saved.pre[0], z, mlp


def _writes(
    blocks: Weights, places: _Places, window: tuple[Tensor, Tensor] | None = None
) -> Iterator[Tensor]:
    """By writer, layer by layer: [writer, prompt, pos, d_model]."""
    at = slice(None) if window is None else window
    first, z, mlp = places
    yield first[at][None]
    for block, heads, out in zip(blocks.blocks, z, mlp or repeat(None)):
        yield B.head_writes(block.attn.W_O, heads[at])
        if out is not None:
            yield out[at][None]


def _check_constants(constants: Tensor, graph: Graph) -> None:
    wanted = (len(graph.writers), graph.d_model)
    if tuple(constants.shape) != wanted:
        raise ValueError(
            f"the constants are {list(constants.shape)}; this model has {wanted[0]} writers and d_model "
            f"{wanted[1]}. Give one row for each of Graph.of(model).writers."
        )
    if not torch.isfinite(constants).all():
        raise ValueError("the constants are not all finite. Give finite numbers.")
