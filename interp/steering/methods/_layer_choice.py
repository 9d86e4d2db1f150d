"""Which layer to steer: contrastive layer selection (Wang & Shu, 2311.09433), beside two other choices.

"jsd": at each layer read the stream through the final norm and the unembedding (the logit lens), and take the
layer at which the distributions of paired prompts differ most: argmax of the mean Jensen–Shannon divergence
JSD(p, q) = ½ KL(p ‖ m) + ½ KL(q ‖ m), m = ½ (p + q). It is 0 for equal distributions and at most log 2.
"probe": the best held-out accuracy of a linear probe (`bias.probe_sweep`).
"effect": the largest effect of the mean difference on a task, every layer at the same KL (`layer_effects`).

The source uses the choice to attack aligned models; here it is one way to choose a layer. The first two cost
no steered pass and measure what can be read at a layer; only the third measures what steering it does.

Units: nats; share; the units of the task's metric. Sign of an effect: positive is better by the metric.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp import results
from interp._activations import activations
from interp._verbs import verb
from interp.engine.trust import prove_readout
from interp.models import Model, anatomy, final_norm
from interp.models.parts import beside
from interp.models.places import Layers, places
from interp.places import STREAM_SITES
from interp.positions import AnyPositions, weights
from interp.probes.selectors import require_pairs
from interp.prompts import read
from interp.steering._controls import controls
from interp.steering._direction import Direction
from interp.steering._sweep import sweep
from interp.steering.extract import mean_difference
from interp.steering.measures import calibrate
from interp.steering.methods._bias import probe_sweep
from interp.tasks import Task

BY = ("jsd", "probe", "effect")


@verb
def select_layer(
    model: Model,
    positive: Any,
    negative: Any,
    by: str = "jsd",
    *,
    layer: Layers = None,
    site: str = "resid_pre",
    pos: AnyPositions = "last",
    task: Task | None = None,
    target_kl: float | int = 0.2,
) -> int:
    """The layer that `by` prefers; the first one where several are equally good.

    by: "jsd" (paired prompts), "probe", or "effect", which needs `task`: held-out prompts whose answers the
    positive class should raise. The scores themselves: `lens_divergence`, `probe_sweep`, `layer_effects`.

    Cost: "jsd" and "probe" one forward pass of each prompt; "effect" those of `layer_effects`. Raises
    ValueError, before any pass, for another `by`, "effect" without a task, and what the three refuse.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp.steering import methods
        >>> methods.select_layer(model, up, down) in range(3)
        True
    """
    if by not in BY:
        raise ValueError(f"by is {by!r}; use one of {', '.join(BY)}.")
    if by == "jsd":
        score = lens_divergence(model, positive, negative, layer=layer, site=site, pos=pos)["value"]
        mean = score.mean("prompt")
    elif by == "probe":
        found = probe_sweep(model, positive, negative, layer=layer, site=site, pos=pos)
        mean = found["accuracy"].mean("fold")
    elif task is None:
        raise ValueError(
            "by='effect' measures on a task; give task=, prompts that the vector is not made of."
        )
    else:
        direction = mean_difference(model, positive, negative, layer=layer, site=site, pos=pos)
        mean = layer_effects(model, direction, task, target_kl)["value"].mean("prompt")
    return int(mean["layer"][int(mean.argmax("layer"))])


@verb
def lens_divergence(
    model: Model,
    positive: Any,
    negative: Any,
    *,
    layer: Layers = None,
    site: str = "resid_pre",
    pos: AnyPositions = "last",
    batch_size: int | None = None,
) -> xr.Dataset:
    """`value` (prompt, layer): JSD in nats between the logit lenses of prompt i on the two sides.

    Cost: one forward pass of each prompt as far as the last layer. Raises ValueError, before any pass, for
    unpaired lists, pos="all", a site outside the stream. Paper: 2311.09433.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp.steering import methods
        >>> methods.lens_divergence(model, up, down)["value"].dims
        ('prompt', 'layer')
    """
    if site not in STREAM_SITES or pos == "all":
        raise ValueError(
            f"the logit lens reads one position of the stream; got site {site!r}, pos {pos!r}. Use one of "
            f"{', '.join(STREAM_SITES)}, and pos='last', 'mean' or a position."
        )
    wanted = places(anatomy(model), layer, site)
    sides = [read(model, each, what=name) for each, name in ((positive, "positive"), (negative, "negative"))]
    require_pairs(len(sides[0]), len(sides[1]))
    for side in sides:
        weights(pos, side)
    up, down = (activations(model, side, wanted, pos, batch_size=batch_size) for side in sides)
    values = [_jsd(_lens(model, up[where]), _lens(model, down[where])).cpu().numpy() for where in wanted]
    attrs = results.provenance(
        method="lens_divergence",
        convention="Jensen-Shannon divergence of the logit lenses of paired prompts; 0 to log 2",
        model=anatomy(model).name,
        site=site,
        n_prompts=len(sides[0]),
    )
    coords = {"layer": [where.layer for where in wanted], "prompt": np.arange(len(sides[0]))}
    variables = {"value": (("prompt", "layer"), np.stack(values, 1))}
    return results.dataset(variables, coords, attrs | {"unit": "nats"})


@verb
def layer_effects(
    model: Model, direction: Direction, task: Task, target_kl: float | int = 0.2, *, seed: int = 0
) -> xr.Dataset:
    """`value`, `random`, `shuffled` (prompt, layer): effect on the task's metric, every layer at one KL.

    The effect is metric(steered) − metric(unsteered), positive is better. `coefficient` (layer) is the one
    at which adding the direction has a mean KL of `target_kl` nats; each control has a coefficient of its
    own, for the same KL. NaN at a layer where the direction is 0.

    Cost: for each layer and control about 40 steered passes of each prompt from that layer on. Raises
    ValueError for a KL that no coefficient reaches, a direction of another model.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp.steering import methods
        >>> d = interp.steering.mean_difference(model, up, down, layer=1)
        >>> methods.layer_effects(model, d, task, 0.1)["value"].dims
        ('prompt', 'layer')
    """
    parts = direction.check(model).require_any().split()
    sets = {"value": list(parts)} | controls(parts, seed)
    measured = {
        name: [_at_kl(model, each, task, target_kl) for each in members] for name, members in sets.items()
    }
    coords = {
        "layer": [part.layer for part in parts],
        "coefficient": ("layer", [coefficient for coefficient, _ in measured["value"]]),
    }
    attrs = results.provenance(
        method="layer_effects",
        convention="effect = metric(steered) - metric(unsteered) at equal KL; positive: better by the metric",
        metric=[task.metric],
        model=anatomy(model).name,
        site=", ".join(dict.fromkeys(part.site for part in parts)),
        task=task.name,
        task_fingerprint=task.fingerprint(),
        n_prompts=len(task),
        seed=seed,
        target_kl=float(target_kl),
    )
    effects = {name: np.stack([effect for _, effect in got], 1) for name, got in measured.items()}
    variables = {name: (("prompt", "layer"), effect) for name, effect in effects.items()}
    return results.dataset(variables, coords, attrs, task)


def _at_kl(
    model: Model, direction: Direction | None, task: Task, target_kl: float | int
) -> tuple[float, np.ndarray]:
    """Coefficient, and the effect by prompt; NaN where there is no control, or the direction is 0."""
    if direction is None or not bool(direction.vector.any()):
        return float("nan"), np.full(len(task), np.nan)
    step = calibrate(model, direction, task, target_kl, tolerance=0.01).coefficient
    swept = sweep(model, direction, task, [step], metric=task.metric, with_controls=False, progress=False)
    return step, swept["value"].squeeze(("layer", "coefficient")).values


def _lens(model: Model, rows: Float[Tensor, "prompt d"]) -> Float[Tensor, "prompt vocab"]:
    """Log probabilities that the stream would give if the model ended here, in float64."""
    prove_readout(model)
    home = model.W_U.device
    norm, bias = beside(final_norm(model), home), beside(getattr(model, "b_U", None), home)
    x = (rows.to(home) if norm is None else norm(rows.to(model.W_U))).detach().double()
    logits = x @ model.W_U.detach().double()
    return (logits if bias is None else logits + bias.detach().double()).log_softmax(-1)


def _jsd(p: Float[Tensor, "prompt vocab"], q: Float[Tensor, "prompt vocab"]) -> Float[Tensor, "prompt"]:
    """Jensen–Shannon divergence of rows of log probabilities, nats."""
    middle = torch.logaddexp(p, q) - np.log(2)
    found = (p.exp() * (p - middle) + q.exp() * (q - middle)).sum(-1) / 2
    return found.clamp(min=0)
