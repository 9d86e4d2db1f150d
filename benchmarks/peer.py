"""The same sweeps done by `transformer_lens.patching`, the library that everyone uses."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformer_lens import patching as peer

SETTERS = {
    ("layer", "pos"): peer.layer_pos_patch_setter,
    ("layer", "head"): peer.layer_head_vector_patch_setter,
    ("layer", "pos", "head"): peer.layer_pos_head_vector_patch_setter,
}


@dataclass(frozen=True)
class PeerRun:
    """What the peer took for some cells of a grid, and what it found."""

    cells: np.ndarray  # index of each cell timed, into the flattened grid
    metric: np.ndarray  # its raw metric
    seconds_a_cell: float


def run(model: Any, task: Any, site: str, by: tuple[str, ...], shape: tuple[int, ...], most: int) -> PeerRun:
    """Time the peer on at most `most` cells, evenly spaced over the grid.

    Its clean cache is made before the clock starts; its loop over cells is what is timed.
    """
    total = int(np.prod(shape))
    picked = np.unique(np.linspace(0, total - 1, min(most, total)).astype(int))
    frame = pd.DataFrame(np.stack(np.unravel_index(picked, shape), 1), columns=list(by))
    answer, wrong, position = task.answers[:, 0], task.wrongs[:, 0], task.positions
    rows = torch.arange(len(task))

    def metric(logits: torch.Tensor) -> torch.Tensor:
        last = logits[rows, position]
        return (last[rows, answer] - last[rows, wrong]).mean()

    with torch.inference_mode():
        _, cache = model.run_with_cache(task.clean)
        model(task.corrupt)  # warm
        start = time.perf_counter()
        found = peer.generic_activation_patch(
            model, task.corrupt, cache, metric, SETTERS[by], site, index_df=frame
        )
        taken = time.perf_counter() - start
    return PeerRun(picked, found.double().cpu().numpy(), taken / len(picked))
