"""K-steering: several attributes at once, by the gradient of one classifier of activations (2505.24535).

1. One classifier of activations at a place, trained on texts of k classes: a score for each label, by a layer
   of `hidden` ReLU units, or linear (hidden=0). Binary cross entropy of each label; texts may have several.
2. Steering, `steps` times: h <- h - alpha decay^i grad_h (mean score of `avoid` - mean score of `target`).

With a linear classifier every step is the same vector, the difference of its rows; otherwise the vector
depends on h, and a step is taken where the last one led. Scores of a classifier say nothing of what the model
does with them: `accuracy` is on texts left out, beside that of shuffled labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp._activations import activations
from interp._brief import brief
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.models.places import vector_places
from interp.places import Place, hint
from interp.positions import AnyPositions, everywhere
from interp.prompts import read
from interp.steering._direction import found_on
from interp.steering._edit_types import Gradient
from interp.steering._intervention import Intervention
from interp.steering._optimise import learn
from interp.steering.edits import AnyGate, Made, Number, finite

_HELD = 4  # one of so many texts is left out


@dataclass(frozen=True, eq=False)
class Labels:
    """A classifier of activations at a place, one score a label, and steering along its gradient.

    parameters: `w` [d, hidden] and `b`, `out` [hidden or d, label] and `shift`, of (h - centre) / scale.
    accuracy: the share of texts left out whose largest score is one of their labels'; shuffled: the same
    after training on shuffled labels; chance: of always saying the commonest.
    """

    place: Place
    labels: tuple[str, ...]
    parameters: Mapping[str, Tensor]
    centre: Float[Tensor, "d"]
    scale: float
    accuracy: float
    shuffled: float
    chance: float
    found: Mapping[str, Any]
    __repr__ = brief

    def scores(self, h: Float[Tensor, "*any d"]) -> Float[Tensor, "*any label"]:
        """What the classifier says of activations, as log odds."""
        given = {name: value.to(h) for name, value in self.parameters.items()}
        return _scores((h - self.centre.to(h)) / self.scale, given)

    def steer(
        self,
        target: str | Sequence[str],
        avoid: str | Sequence[str] = (),
        alpha: Number = 1.0,
        *,
        steps: int = 1,
        decay: Number = 1.0,
        when: AnyPositions = everywhere,
        gate: AnyGate = None,
    ) -> Made:
        """h moved up the mean score of `target` and down that of `avoid`. alpha 0 does nothing.

        alpha: times the gradient, whose unit is log odds by a unit of h. steps, decay: gradient steps, each
        `decay` times the one before. Raises ValueError for a label that there is not, and for one that is
        both wanted and to be avoided.
        """
        finite("alpha", alpha)
        finite("decay", decay)
        up, down = self._columns("target", target), self._columns("avoid", avoid)
        if not up + down or set(up) & set(down) or steps < 1 or decay <= 0:
            raise ValueError(
                f"target is {target!r}, avoid {avoid!r}, steps {steps}, decay {decay}; give a label or more, "
                "none of them twice, a step or more, and a decay above 0."
            )

        def wanted(h: Tensor) -> Tensor:
            scores = self.scores(h)
            means = [scores[..., each].mean(-1) if each else scores.new_zeros(()) for each in (up, down)]
            return means[0] - means[1]

        def edit(h: Tensor) -> Tensor:
            for i in range(steps):
                h = Gradient(wanted, alpha * decay**i)(h)
            return h

        return (Intervention(self.place, edit, when, gate, **self.found),)

    def _columns(self, what: str, names: str | Sequence[str]) -> list[int]:
        """Columns of labels, by name."""
        listed = [names] if isinstance(names, str) else list(names)
        for name in listed:
            if name not in self.labels:
                raise ValueError(
                    f"{what} has {name!r}{hint(str(name), self.labels)} Labels: {', '.join(self.labels)}."
                )
        return [self.labels.index(name) for name in listed]


@verb
def k_steering(
    model: Model,
    classes: Mapping[str, Any],
    *,
    layer: int,
    site: str = "resid_pre",
    pos: AnyPositions = "last",
    hidden: int = 64,
    steps: int = 200,
    lr: Number = 0.01,
    seed: int = 0,
    batch_size: int | None = None,
) -> Labels:
    """One classifier of activations for several labels, to steer towards some and away from others.

    classes: prompts by label; a prompt that stands under two labels has both. hidden: ReLU units, 0 for a
    linear classifier. Raises ValueError, before any pass, for fewer than two labels, fewer than four prompts
    of one, or hidden below 0. Cost: one forward pass of each prompt as far as the layer.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> from interp.steering import methods
        >>> classes = {"one": task.clean[:4], "two": task.clean[4:]}
        >>> found = methods.k_steering(model, classes, layer=1, steps=5)
        >>> len(found.steer("one", avoid="two")), found.labels
        (1, ('one', 'two'))
    """
    (where,) = vector_places(anatomy(model), layer, site)
    prompts = {name: read(model, each, what=f"class {name!r}") for name, each in classes.items()}
    few = [name for name, rows in prompts.items() if len(rows) < _HELD]
    if len(prompts) < 2 or few or hidden < 0:
        raise ValueError(
            f"there are {len(prompts)} labels, {few} of them with fewer than {_HELD} prompts, and hidden is "
            f"{hidden}; give two labels or more, {_HELD} prompts or more of each, and 0 units or more."
        )
    acts = [activations(model, rows, where, pos, batch_size=batch_size) for rows in prompts.values()]
    texts = [tuple(row[:n]) for rows in prompts.values() for row, n in _rows(rows)]
    x, marks = _merged(torch.cat([each.double() for each in acts]), texts, [len(each) for each in acts])
    centre = x.mean(0)
    scale = float((x - centre).norm(dim=1).mean().clamp(min=1e-12)) / x.shape[1] ** 0.5
    x = (x - centre) / scale

    def trained(rows: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        start = _start(x.shape[1], hidden, wanted.shape[1], seed, x.device)
        return learn(start, lambda free: _loss(_scores(x[rows], free), wanted), steps=steps, lr=lr)[0]

    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(x.device)
    held, kept = order[: len(x) // _HELD], order[len(x) // _HELD :]
    shares: list[float] = []
    for wanted in (marks[kept], marks[kept.roll(len(kept) // 2)]):
        best = _scores(x[held], trained(kept, wanted)).argmax(1)
        shares.append(float(marks[held, best].mean()))
    accuracy, shuffled = shares
    return Labels(
        where, tuple(prompts), trained(order, marks[order]), centre, scale, accuracy, shuffled,
        float(marks[held].mean(0).max()), found_on(model),
    )  # fmt: skip


def _rows(rows: Any) -> Any:
    return zip(rows.tokens.tolist(), rows.lengths.tolist())


def _merged(x: Tensor, texts: Sequence[Any], counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Activations of each text once, and its labels [text, label]."""
    first: dict[Any, int] = {}
    of = [first.setdefault(text, len(first)) for text in texts]
    label = [i for i, n in enumerate(counts) for _ in range(n)]
    marks = torch.zeros(len(first), len(counts), dtype=x.dtype, device=x.device)
    marks[of, label] = 1.0
    rows = torch.tensor([of.index(i) for i in range(len(first))], device=x.device)
    return x[rows], marks


def _start(d: int, hidden: int, labels: int, seed: int, device: Any) -> dict[str, Tensor]:
    """Parameters to begin with, in float64."""
    drawn = torch.Generator().manual_seed(seed)
    wide = hidden or d
    out = torch.randn(wide, labels, generator=drawn, dtype=torch.float64) * (0.1 / wide**0.5)
    start = {"out": out, "shift": torch.zeros(labels, dtype=torch.float64)}
    if hidden:
        start["w"] = torch.randn(d, hidden, generator=drawn, dtype=torch.float64) / d**0.5
        start["b"] = torch.zeros(hidden, dtype=torch.float64)
    return {name: value.to(device) for name, value in start.items()}


def _scores(x: Tensor, given: Mapping[str, Tensor]) -> Tensor:
    middle = (x @ given["w"] + given["b"]).relu() if "w" in given else x
    return middle @ given["out"] + given["shift"]


def _loss(scores: Tensor, wanted: Tensor) -> Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(scores, wanted)
