"""ActivationReasoning: concepts read from features, rules over concepts, features of what follows steered.

1. Each concept has a detector: the `top` features that are best told apart (AUROC) on its prompts against all
   other prompts, each in units of its own deviation; their mean is the score, and the threshold has the
   largest F1.
2. Facts of a prompt: the concepts whose score is above their threshold.
3. Rules "A & B -> C" are applied until nothing new follows (forward chaining). What follows does not depend
   on the order of the rules, and chaining again adds nothing.
4. Prompts where a concept was concluded get its features raised to their mean on the concept's own prompts;
   all other prompts are the model's own to the bit.

Helff et al. 2510.18184. Alternatives are rules of their own; there is no "not", with which the order of rules
would matter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp._brief import brief
from interp._verbs import verb
from interp.models import Model
from interp.places import hint
from interp.positions import AnyPositions, everywhere, require_rows
from interp.probes.selectors import auroc
from interp.prompts import read
from interp.sae._contexts import encode
from interp.sae._dictionary import Dictionary
from interp.steering import gates
from interp.steering.edits import Made, Number, finite
from interp.steering.edits import features as edit_features

_RULE = re.compile(r"\s*(.+?)\s*->\s*([^&]+?)\s*")


@dataclass(frozen=True, eq=False)
class Detectors:
    """Detectors of several concepts on one dictionary.

    names: of the concepts. features: [concept, k], their numbers. scale: [feature], the unit of every
    feature. thresholds: [concept]. f1: [concept], on the prompts of the fit. levels: [concept, k], means of
    the features on the concept's own prompts, in units of the dictionary.
    """

    dictionary: Dictionary
    names: tuple[str, ...]
    features: Tensor
    scale: Float[Tensor, "feature"]
    thresholds: Float[Tensor, "concept"]
    f1: Float[Tensor, "concept"]
    levels: Float[Tensor, "concept k"]
    pos: AnyPositions = "last"
    __repr__ = brief

    def scores(self, f: Float[Tensor, "row feature"]) -> Float[Tensor, "row concept"]:
        """Mean of each concept's features, in units of their deviations."""
        return _scores(f, self.features, self.scale)

    def facts(
        self, model: Model, prompts: Any, *, mask: Tensor | None = None
    ) -> Bool[Tensor, "prompt concept"]:
        """Which concepts hold in each prompt. Cost: a forward of each as far as the site."""
        return self.scores(encode(model, self.dictionary, prompts, pos=self.pos, mask=mask)) > self.thresholds

    def steer(
        self,
        facts: Bool[Tensor, "prompt concept"],
        concept: str,
        strength: Number = 1.0,
        *,
        when: AnyPositions = everywhere,
    ) -> Made:
        """A concept's features raised to `strength` times their level in the prompts where it holds.

        facts: of the prompts that are steered, in their order (`chain`). Raises ValueError for a concept that
        has no detector.
        """
        finite("strength", strength)
        number = _number(concept, self.names)
        index, level = self.features[number].tolist(), strength * self.levels[number]

        def change(f: Tensor) -> Tensor:
            out = f.clone()
            out[..., index] = torch.maximum(f[..., index], level.to(f))
            return out

        return edit_features(self.dictionary, change, when=when, gate=gates.rows(facts[:, number]))


@verb
def detectors(
    model: Model,
    dictionary: Dictionary,
    concepts: Mapping[str, Any],
    *,
    top: int = 3,
    pos: AnyPositions = "last",
    batch_size: int | None = None,
) -> Detectors:
    """A detector for each concept, from prompts that have it; those of the other concepts are the negatives.

    concepts: prompts by name, two concepts or more. top: features of each.

    Cost: a forward of each prompt as far as the site. Raises ValueError for fewer than two concepts, and
    where no feature's value differs between a concept and the others. Helff et al. 2510.18184.

    Example:
        >>> import torch
        >>> from interp import sae
        >>> model = interp.load("tiny-ioi")
        >>> both = torch.cat((torch.eye(64), -torch.eye(64)))
        >>> d = sae.Dictionary(both.T, torch.zeros(128), both, torch.zeros(64), place="L2.resid_pre")
        >>> text = "When Mary and John went to the {}, John gave".format
        >>> say = {place: [text(place)] * 2 for place in ("store", "park")}
        >>> found = sae.methods.detectors(model, d, say)
        >>> found.facts(model, say["park"]).tolist()
        [[False, True], [False, True]]
    """
    if len(concepts) < 2:
        raise ValueError(
            f"there are {len(concepts)} concepts; the others are the negatives, so give two or more."
        )
    if not 1 <= top <= dictionary.n_features:
        raise ValueError(f"top is {top}; give 1 to {dictionary.n_features} features.")
    require_rows(pos)
    sides = [read(model, given, what=name) for name, given in concepts.items()]
    rows = [encode(model, dictionary, side, pos=pos, batch_size=batch_size).double() for side in sides]
    scale = torch.cat(rows).std(0).clamp(min=1e-12)
    features, thresholds, f1, levels = [], [], [], []
    for number, (name, own) in enumerate(zip(concepts, rows)):
        others = torch.cat([each for i, each in enumerate(rows) if i != number])
        chosen = auroc(own, others).topk(top).indices
        score = [_scores(each, chosen[None], scale)[:, 0] for each in (own, others)]
        if float(torch.cat(score).max() - torch.cat(score).min()) == 0:
            raise ValueError(f"{name!r}: its features have one value in all prompts, so nothing detects it.")
        threshold, quality = _above(*score)
        features.append(chosen)
        thresholds.append(threshold)
        f1.append(quality)
        levels.append(own[:, chosen].mean(0))
    return Detectors(
        dictionary, tuple(concepts), torch.stack(features), scale, torch.tensor(thresholds).double(),
        torch.tensor(f1).double(), torch.stack(levels), pos,
    )  # fmt: skip


def _above(on: Tensor, off: Tensor) -> tuple[float, float]:
    """The threshold above which a concept holds with the largest F1, of equals the widest gap; and that
    F1."""
    values = torch.cat((on, off)).unique()
    cuts, gaps = (values[1:] + values[:-1]) / 2, values.diff()
    right, wrong = ((side[:, None] > cuts).sum(0).double() for side in (on, off))
    f1 = 2 * right / (right + wrong + len(on))
    best = max(range(len(cuts)), key=lambda i: (float(f1[i]), float(gaps[i])))
    return float(cuts[best]), float(f1[best])


def _scores(f: Tensor, features: Tensor, scale: Tensor) -> Float[Tensor, "row concept"]:
    return (f.double() / scale)[:, features].mean(-1)


@verb
def chain(
    facts: Bool[Tensor, "prompt concept"], names: Sequence[str], rules: Sequence[str]
) -> Bool[Tensor, "prompt concept"]:
    """All that follows from the facts of each prompt by rules "A & B -> C", the facts included.

    names: of the concepts, the columns of facts. Pure. Raises ValueError for a rule that cannot be read, or
    that names no concept.

    Example:
        >>> import torch
        >>> from interp.sae import methods
        >>> facts = torch.tensor([[True, True, False, False], [True, False, False, False]])
        >>> methods.chain(facts, ["a", "b", "c", "d"], ["c -> d", "a & b -> c"]).tolist()
        [[True, True, True, True], [True, False, False, False]]
    """
    if facts.shape[1] != len(names):
        raise ValueError(f"facts has {facts.shape[1]} concepts, and there are {len(names)} names.")
    parsed = [_rule(text, names) for text in rules]
    known = facts.clone()
    while True:
        before = known.clone()
        for premises, conclusion in parsed:
            known[:, conclusion] |= known[:, premises].all(1)
        if bool((known == before).all()):
            return known


def _rule(text: str, names: Sequence[str]) -> tuple[list[int], int]:
    match = _RULE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no rule; write 'A & B -> C'.")
    premises = [_number(each.strip(), names) for each in match[1].split("&")]
    return premises, _number(match[2], names)


def _number(name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise ValueError(f"{name!r} is no concept{hint(name, names)} There are {', '.join(names)}.")
    return list(names).index(name)
