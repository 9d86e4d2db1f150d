"""One small call of each verb, for what every one of them must refuse: a task of 8 prompts, 64 wide."""

from __future__ import annotations

from typing import Any

import torch

import interp
from interp import circuits, heads, lens, probes, steering, subspaces

QUIET: dict[str, Any] = {"progress": False}


def halves(task: interp.Task) -> tuple[torch.Tensor, torch.Tensor]:
    return task.clean[:4], task.clean[4:]


D = steering.Direction.from_tensor(torch.ones(64), "L1.resid_pre")
VERBS: dict[str, Any] = {
    "patch": lambda m, t, **o: interp.patch(m, t, "z", **QUIET, **o),
    "attribute": lambda m, t, **o: interp.attribute(m, t, "z", **QUIET, **o),
    "path_patch": lambda m, t, **o: interp.path_patch(m, t, "L2H0", **QUIET, **o),
    "score_edges": lambda m, t, **o: circuits.score_edges(m, t, **QUIET, **o),
    "direct": lambda m, t: interp.attribution.direct(m, t),
    "relevance": lambda m, t: interp.attribution.relevance(m, t.clean[0], 5),
    "activations": lambda m, t, **o: interp.activations(m, t, "L1.resid_pre", **o),
    "generate": lambda m, t, **o: steering.generate(m, t.clean, max_new_tokens=1, **o),
    "generate, steered": lambda m, t, **o: steering.generate(
        m, t.clean, steering.add(D), max_new_tokens=1, **o
    ),
    "sweep": lambda m, t, **o: steering.sweep(m, D, t, [1.0], **QUIET, **o),
    "calibrate": lambda m, t, **o: steering.calibrate(m, D, t, 0.1, **o),
    "side_by_side": lambda m, t, **o: steering.side_by_side(m, t, D, 1.0, max_new_tokens=1, **o),
    "mean_difference": lambda m, t, **o: steering.mean_difference(m, *halves(t), layer=1, **o),
    "probes.fit": lambda m, t, **o: probes.fit(m, *halves(t), layer=1, draws=1, **QUIET, **o),
    "lens.logit": lambda m, t, **o: lens.logit(m, t, **o),
    "lens.backward": lambda m, t, **o: lens.backward(m, t, D, **o),
    "heads.attention": lambda m, t: heads.attention(m, t),
    "interchange": lambda m, t: subspaces.interchange(
        m, t, subspaces.Subspace(torch.eye(64)[:, :2], "L1.resid_pre"), pos=4, **QUIET
    ),
}
REFERENCE = ("activations", "generate", "generate, steered", "sweep", "mean_difference", "lens.logit")
READINGS = ("activations", "heads.attention")  # what the model itself computed, infinite or not
