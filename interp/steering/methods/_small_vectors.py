"""Small Vectors, Big Effects: trained vectors, and what they act through (2509.06608).

`steering.optimise` trains the vectors, `Direction.lens` reads them in words, `d1 + d2` adds vectors that were
trained apart at several layers. Here:

`vector_paths`: what the vector acts through. Four runs of each prompt with the vector added:
1. all: nothing held.             2. direct: every later attention and MLP held at its unsteered output.
3. attention = (MLPs held) - direct.      4. mlp = (attention held) - direct.
joint = all - direct - attention - mlp: what needs both. They add up to `all` exactly.
By layer: `layer_value` is how much of `all` is lost where one layer's attention, or MLP, does not answer.

`adaptive_vector`: h_t + s_t v, with s_t = sigmoid(w . h_t + b) learned beside v.
`transfer`: the vector put on another model of the same width.

Derived from the abstract, which names the analyses; the paper trains by reinforcement learning (left out).
Sign: effects are of the metric, positive is better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from interp import results
from interp._activations import activations
from interp._brief import brief
from interp._verbs import verb
from interp.experiment import Metrics, check_metric, check_task
from interp.models import Model, anatomy
from interp.models.places import vector_places
from interp.places import Place
from interp.positions import AnyPositions, everywhere, parse
from interp.prompts import Prompts, read
from interp.steering._controls import controls
from interp.steering._direction import Direction, found_on
from interp.steering._intervention import Intervention
from interp.steering._optimise import Objective, first_vectors, learn
from interp.steering.edits import Made, Number, add, finite
from interp.steering.gates import controller
from interp.steering.methods._measure import Steered, pieces
from interp.tasks import Task
from interp.tasks.metrics import Metric

PATHS = ("all", "direct", "attention", "mlp", "joint")
CONVENTION = "effect = metric(vector added, some parts held) - metric(clean); positive is better"


@verb
def vector_paths(
    model: Model,
    direction: Direction,
    task: Task,
    coefficient: Number = 1.0,
    *,
    when: AnyPositions = everywhere,
    metric: Metrics | None = None,
    seed: int = 0,
    progress: bool = True,
) -> xr.Dataset:
    """`value` (prompt, path[, metric]): the effect of the vector by what it acts through; see the module.

    `random` is the same of a random vector of equal norm. `layer_value` (prompt, layer, part[, metric]): the
    loss of effect where "attention" or "mlp" of that layer is held at its unsteered output; 0 before the
    vector. `clean` (prompt[, metric]). direction: one vector of the stream. Raises ValueError, before any
    pass, for another place or a coefficient that is not finite. Cost: a plain pass of each prompt, 8 steered
    ones and two for each layer from the vector on.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> d = interp.steering.mean_difference(model, task.clean[:4], task.clean[4:], layer=1)
        >>> from interp.steering import methods
        >>> out = methods.vector_paths(model, d, task, progress=False)
        >>> out["value"].dims, out["path"].values.tolist()
        (('prompt', 'path'), ['all', 'direct', 'attention', 'mlp', 'joint'])
    """
    finite("coefficient", coefficient)
    facts, where = anatomy(model), direction.check(model).place
    check_task(task, facts, model)
    if where.site not in ("resid_pre", "resid_mid", "resid_post") or where.layer is None:
        raise ValueError(f"the vector is at {where}; paths are of a vector of the stream.")
    chosen = check_metric(metric, task.metric)
    layers = range(where.layer + (where.site == "resid_post"), facts.n_layers)
    parts = {
        "attention": [Place("attn_out", n) for n in layers if (n, where.site) != (where.layer, "resid_mid")],
        "mlp": [] if facts.attn_only else [Place("mlp_out", n) for n in layers],
    }
    made = add(direction, coefficient, when=when)
    (drawn,) = controls([direction], seed)["random"]
    sets = {"value": made, "random": add(drawn, coefficient, when=when)}
    columns: dict[str, list[Tensor]] = {name: [] for name in ("clean", *sets, "layer_value")}
    total = len(pieces(task)) * (1 + 4 * len(sets) + sum(map(len, parts.values())))
    with tqdm(total=total, disable=not progress, desc="paths", unit="run") as bar:
        for piece in pieces(task):
            runs = _Held(model, piece, chosen, parts, bar.update)
            columns["clean"].append(runs.steered.clean.cpu())
            for name, each in sets.items():
                columns[name].append(runs.split(each))
            columns["layer_value"].append(runs.singles(made, columns["value"][-1][:, 0]))
    dims = {"value": ("path",), "random": ("path",), "layer_value": ("layer", "part")}
    variables = {
        name: (("prompt", *dims.get(name, ()), "metric"), torch.cat(each).numpy())
        for name, each in columns.items()
    }
    coords = {
        "path": list(PATHS), "layer": range(facts.n_layers), "part": list(parts),
        "metric": [each.name for each in chosen],
    }  # fmt: skip
    attrs = results.provenance(
        method="vector_paths", convention=CONVENTION, metric=chosen, model=facts.name, site=str(where),
        task=task.name, task_fingerprint=task.fingerprint(), n_prompts=len(task), seed=seed,
        coefficient=float(coefficient), direction_method=direction.method,
    )  # fmt: skip
    return results.dataset(variables, coords, attrs, task)


class _Held:
    """Runs of prompts in which some attentions and MLPs are held at what they give without the vector."""

    def __init__(
        self,
        model: Model,
        piece: Task,
        metric: tuple[Metric, ...],
        parts: Mapping[str, list[Place]],
        done: Callable[[], Any],
    ) -> None:
        self.parts, self.done, self.n_layers = parts, done, anatomy(model).n_layers
        self.kept: dict[Place, Tensor] = {}
        watch = [Intervention(w, _keeper(self.kept, w)) for part in parts.values() for w in part]
        self.steered = Steered(model, piece, metric, *watch)
        done()

    def effect(self, made: Made, held: Sequence[Place] = ()) -> Tensor:
        """[prompt, metric]"""
        effect = self.steered.effect(made, [Intervention(w, _constant(self.kept[w])) for w in held])
        self.done()
        return effect

    def split(self, made: Made) -> Tensor:
        """Effects [prompt, path, metric], which add up."""
        whole, attention, mlp = self.effect(made), self.parts["attention"], self.parts["mlp"]
        direct = self.effect(made, [*attention, *mlp])
        by_attention, by_mlp = self.effect(made, mlp) - direct, self.effect(made, attention) - direct
        return torch.stack((whole, direct, by_attention, by_mlp, whole - direct - by_attention - by_mlp), 1)

    def singles(self, made: Made, whole: Tensor) -> Tensor:
        """[prompt, layer, part, metric]: what is lost of the whole effect where one part does not answer."""
        out = whole.new_zeros(len(whole), self.n_layers, len(self.parts), whole.shape[-1])
        for i, places_of_part in enumerate(self.parts.values()):
            for where in places_of_part:
                out[:, where.layer or 0, i] = whole - self.effect(made, [where])
        return out


def _keeper(kept: dict[Place, Tensor], where: Place) -> Callable[[Tensor], Tensor]:
    def keep(h: Tensor) -> Tensor:
        kept[where] = h
        return h

    return keep


def _constant(value: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda h: value.to(h)


@dataclass(frozen=True, eq=False)
class AdaptiveVector:
    """A vector and how strongly it acts on each token: sigmoid(h . weight + bias)."""

    direction: Direction
    weight: Float[Tensor, "d"]
    bias: float
    losses: tuple[float, ...] = ()
    __repr__ = brief

    def scale(self, h: Float[Tensor, "*any d"]) -> Float[Tensor, "*any"]:
        """s_t of activations at the vector's place, from 0 to 1."""
        return torch.sigmoid(h @ self.weight.to(h) + self.bias)

    def steer(self, coefficient: Number = 1.0, *, when: AnyPositions = everywhere) -> Made:
        """The vector, coefficient times, as strongly as each token asks for."""
        return add(self.direction, coefficient, when=when, gate=controller(self.scale))

    def scales(self, model: Model, prompts: Any) -> tuple[Tensor, Prompts]:
        """s_t of every token of the prompts, [token], prompt after prompt; and the prompts."""
        rows = read(model, prompts)
        return self.scale(activations(model, rows, self.direction.place, "all")), rows


@verb
def adaptive_vector(
    model: Model,
    prompts: Any,
    targets: Any = None,
    *,
    layer: int,
    site: str = "resid_pre",
    when: AnyPositions = everywhere,
    suppress: bool = False,
    loss: Callable[[Tensor, Prompts], Tensor] | None = None,
    reward: Callable[[Tensor, Prompts], Tensor] | None = None,
    start: Direction | None = None,
    steps: int = 100,
    lr: Number = 0.05,
    seed: int = 0,
) -> AdaptiveVector:
    """A vector and its token scale, trained together; arguments as in `steering.optimise`.

    The scale starts at one half for every token. Cost: a pass of the prompts, and `steps` forward and
    backward passes. The model is left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> from interp.steering import methods
        >>> adaptive = methods.adaptive_vector(model, task.clean, task.answers[:, :1], layer=1, steps=2)
        >>> len(adaptive.steer(1.0))
        1
    """
    (where,) = vector_places(anatomy(model), layer, site)
    aim = Objective(model, prompts, targets, None, suppress, loss, reward)
    first = first_vectors(model, [where], start, seed)
    vector = first[str(where)]
    norm = activations(model, aim.rows, where, "all").double().norm(dim=1).median().clamp(min=1e-12)
    made_at = parse(when)

    def edit(h: Tensor, free: Mapping[str, Tensor]) -> Tensor:
        scale = torch.sigmoid(h @ (free["weight"] / float(norm)) + free["bias"])
        return h + scale.unsqueeze(-1) * free["vector"]

    def run(free: Mapping[str, Tensor]) -> Tensor:
        return aim.of([Intervention(where, lambda h: edit(h, free), made_at)])

    given = {"vector": vector, "weight": torch.zeros_like(vector), "bias": torch.zeros_like(vector[0])}
    learnt, losses = learn(given, run, steps=steps, lr=lr)
    direction = Direction(
        {where: learnt["vector"]}, method="adaptive_vector", positions=repr(made_at), seed=seed,
        norms={where: float(norm)}, data=aim.whole.data_hash(), **found_on(model),
    )  # fmt: skip
    return AdaptiveVector(direction, learnt["weight"] / float(norm), float(learnt["bias"]), tuple(losses))


@verb
def transfer(direction: Direction, model: Model) -> Direction:
    """The same vectors, as a direction of another model, which must have the places and the widths.

    Nothing says that they mean the same there: measure it beside `steering.controls`. The norms, class means
    and controls of the first model are left behind. ValueError for a model that lacks a place or a width.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> d = interp.steering.mean_difference(model, task.clean[:4], task.clean[4:], layer=1)
        >>> from interp.steering import methods
        >>> methods.transfer(d, model).method
        'mean_difference, transferred from tiny-ioi'
    """
    name = direction.model or "another model"
    free = replace(direction, model=None, weights=(), norms={}, means={}, shuffled={}).check(model)
    return replace(free, method=f"{direction.method}, transferred from {name}", **found_on(model))
