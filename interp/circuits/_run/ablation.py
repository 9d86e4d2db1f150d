"""What a cut edge carries instead of what its writer writes now.

| ablation           | a cut edge carries                                                                 |
|--------------------|------------------------------------------------------------------------------------|
| `resample`         | what the writer writes in the other run (for direction noise: the corrupt prompts)  |
| `zero`             | nothing; the biases of attention stay                                               |
| `mean`             | the mean over the task's corrupt prompts, position by position, padding left out    |
| a tensor           | a constant of each writer, [writer, d_model] (optimal ablation, Li & Janson 2024)   |

Direction "noise" runs the clean prompts and cuts bring in the ablation; "denoise" runs the corrupt prompts
and a cut brings in the clean run, so it takes `resample` only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits._graph import Graph
from interp.engine.runs import Capture, Runs, capture
from interp.engine.trust import require_weights
from interp.models import Model, anatomy
from interp.models.parts import Weights
from interp.patching.corruption import Corruption, Mean, Tokens, Zero, direction_of, make_runs
from interp.tasks import Task

KINDS = ("resample", "zero", "mean")
SITES = ("z", "mlp_out", "resid_pre")
_CORRUPTIONS: dict[str, Corruption] = {
    "resample": Tokens(),
    "zero": Zero(),
    "mean": Mean(),
    "learned": Zero(),
}


@dataclass(frozen=True, eq=False)
class Ablation:
    """`kind` is "resample", "zero", "mean", or "learned" with a constant for each writer."""

    kind: str = "resample"
    constants: Float[Tensor, "writer d_model"] | None = None

    def runs(self, model: Model, task: Task, direction: str) -> Runs:
        """The run that edges are cut in, and the one that cut edges carry. Means cost a forward a prompt."""
        return make_runs(model, task, _CORRUPTIONS[self.kind], direction, sites(model))


def parse(
    ablation: str | Float[Tensor, "constant d_model"] | Ablation, graph: Graph, task: Task, direction: str
) -> Ablation:
    """The ablation of a name or of constants. Raises ValueError for one that does not fit."""
    if isinstance(ablation, Tensor):
        ablation = Ablation("learned", ablation)
    if isinstance(ablation, str):
        if ablation not in KINDS:
            raise ValueError(
                f"ablation {ablation!r} is not one of {', '.join(KINDS)}, nor a tensor [writer, d_model]."
            )
        ablation = Ablation(ablation)
    if ablation.constants is not None:
        _check_constants(ablation.constants, graph)
    direction_of(_CORRUPTIONS[ablation.kind], direction, task)
    return ablation


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
    ablation: str | Float[Tensor, "constant d_model"] | Ablation = "resample",
    *,
    direction: str = "noise",
) -> Float[Tensor, "writer prompt pos d_model"]:
    """What every writer is replaced by. Cost: two forwards of the blocks a prompt, one more for means."""
    graph = Graph.of(model)
    chosen = parse(ablation, graph, task, direction)
    with torch.inference_mode():
        runs = chosen.runs(model, task, direction)
        blocks = require_weights(model, runs.base, runs.lengths, sites=("z",), what="circuits")
        saved = capture(blocks, runs, ("z", "mlp_out"))
        now = torch.cat(list(_writes(blocks, _base(blocks, runs, saved))))
        return now + gaps(blocks, runs, saved, chosen.constants, None)


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
        yield head_writes(block.attn.W_O, heads[at])
        if out is not None:
            yield out[at][None]


def head_writes(
    W_O: Float[Tensor, "head d_head d_model"], z: Float[Tensor, "*row head d_head"]
) -> Float[Tensor, "head *row d_model"]:
    """What each head adds to the stream, without the bias that they share."""
    flat = z.flatten(0, -3).transpose(0, 1)  # [head, row, d_head]
    return torch.bmm(flat, W_O).unflatten(1, z.shape[:-2])


def _check_constants(constants: Tensor, graph: Graph) -> None:
    wanted = (len(graph.writers), graph.d_model)
    if tuple(constants.shape) != wanted:
        raise ValueError(
            f"the constants are {list(constants.shape)}; this model has {wanted[0]} writers and d_model "
            f"{wanted[1]}. Give one row for each of Graph.of(model).writers."
        )
    if not torch.isfinite(constants).all():
        raise ValueError("the constants are not all finite. Give finite numbers.")
