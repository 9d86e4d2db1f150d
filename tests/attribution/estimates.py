"""What the attribution tests share: architectures to try, and an oracle that knows no gradient."""

from __future__ import annotations

import itertools
from typing import Any

import architectures
import numpy as np
import torch
from sides import model_of as model_of

from interp.models import is_bridge, logits
from interp.places import AXES, hook_name
from interp.tasks import Task


def covering(strength: int) -> list[str]:
    """Architectures of the grid's product in which every `strength` of its factors meet in all combinations,
    and then all that are beside the product."""
    names = [name for name, _ in architectures.grid()]
    parts = {name: tuple(enumerate(name.split("-"))) for name in names}
    met = {
        name: set(itertools.combinations(parts[name], strength)) for name in names if len(parts[name]) == 6
    }
    missing, chosen = set().union(*met.values()), []
    while missing:
        chosen.append(max(met, key=lambda name: len(met[name] & missing)))
        missing -= met[chosen[-1]]
    return chosen + [name for name in names if name not in met]


FEW = [
    "LN-gelu_new-plain-serial-gqa-rotary",
    "RMS-silu-gated-parallel-mha-learned",
    "none-relu-gated-serial-gqa-rotary",
    "attn-only",
    "sandwich-norm",
    "post-norm",
    "qk-norm",
    "soft-cap",
    "clip",
]


def linear_toy() -> Any:
    """A model that is linear in everything but queries and keys: no norm, even attention, ReLUs all on."""
    model = architectures.build({"normalization_type": None, "act_fn": "relu"})
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_Q.zero_()
            block.attn.b_Q.zero_()
            block.mlp.b_in.fill_(80.0)
    return model


def logit_difference(model: Any, task: Task, tokens: torch.Tensor, hooks: list) -> np.ndarray:
    """The plain metric of a run under hooks, by prompt."""
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        out = logits(model, tokens)[torch.arange(len(task)), task.positions]
    rows = torch.arange(len(task))
    return (out[rows, task.answers[:, 0]] - out[rows, task.wrongs[:, 0]]).numpy()


def activation(model: Any, tokens: torch.Tensor, name: str) -> torch.Tensor:
    """One hook point's tensor."""
    kept = []
    with torch.no_grad(), model.hooks(fwd_hooks=[(name, lambda tensor, hook: kept.append(tensor.clone()))]):
        logits(model, tokens)
    return kept[-1]


def finite_difference(
    model: Any, task: Task, site: str, cell: dict[str, int], direction: str, step: float
) -> np.ndarray:
    """d metric / d step of moving one cell from the base towards the source, by symmetric difference.

    The oracle of attribution patching: nothing but forward passes with one activation moved.
    """
    base, source = (task.corrupt, task.clean) if direction == "denoise" else (task.clean, task.corrupt)
    name = hook_name(site, cell["layer"])
    delta = activation(model, source, name) - activation(model, base, name)
    where = (slice(None), *(cell.get(axis, slice(None)) for axis in AXES[site]))
    only = torch.zeros_like(delta)
    only[where] = delta[where]
    into = name
    if site == "resid_mid" and is_bridge(model):
        into = hook_name("attn_out", cell["layer"])
    up, down = (
        logit_difference(model, task, base, [(into, lambda tensor, hook, s=s: tensor + s * only)])
        for s in (step, -step)
    )
    slope = (up - down) / (2 * step)
    return slope if direction == "denoise" else -slope
