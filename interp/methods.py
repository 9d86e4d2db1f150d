"""Methods of estimation as values, one table for cells (`attribute`, `screen`) and for edges (`score_edges`).

    Atp()   IG(steps=16)   Relp(ah=False)   AtpStar(grad_drop=False)   Secant()

A name stands for a method with its defaults: "ig" is IG(). An option belongs to its method, so that one of
another method cannot be written down, and a wrong combination is a ValueError when the value is made.

| value      | cells, edges   | coefficient                                          | forwards | backwards |
|------------|----------------|------------------------------------------------------|----------|-----------|
| Atp        | atp, eap       | slope of the metric in the base run                  | 2        | 1         |
| IG         | ig, eap-ig     | mean slope over runs between base and source:        |          |           |
|            |                | "inputs": on the straight path between both inputs   | 2 + m    | m         |
|            |                | "activations": on that of each writer's own output   | 2 + pm   | pm        |
|            |                | "clean-corrupted": of the two runs                   | 3 (*)    | 2         |
| GradPath   | eap-gp         | edges: mean slope over runs whose input goes down    | 2 + 2m   | m (**)    |
|            |                | the gradient to the source run's logits              |          |           |
| AtpStar    | atp*           | atp, exact pattern changes for q and k (QK fix), one | 2        | layers    |
|            |                | layer's paths left out at a time (GradDrop)          |          |           |
| Relp       | relp, relp     | relevance: norm, activation, pattern and gate rules  | 2        | 1         |
| AttnLRP    | attnlrp        | relevance, attention-aware                           | 2        | 1         |
| GIM        | gim            | slopes with softmax and norms tamed                  | 2        | 1         |
| Secant     | secant, secant | slopes between the two runs                          | 2        | 1         |
| FlowRoutes | flow-routes    | edges: the writer's share of what the reader reads   | 1        | 0         |
| Exact      | exact          | edges: none, each edge is cut                        | see it   | 0         |

m = steps; p = the input, every attention and every MLP layer. (*) 4 for cells. (**) and m for
the path, whatever the metrics. Backwards are by metric.

Nanda 2023 and Syed et al. 2310.10348 (atp, eap), Hanna et al. 2403.17806 (ig), Zhang et al. 2502.06852
(eap-gp), Kramár et al. 2403.00745 (atp*), 2508.21258 (relp), Achtibat et al. 2402.05602 (attnlrp), Edin et
al. 2505.17630 (gim), Ferrando & Voita 2403.00824 (flow-routes). Neither torch nor a model is needed to make
a value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from interp._arguments import shown
from interp._method import Method as Method
from interp._method import Rules as Rules
from interp._verbs import settings
from interp.places import hint

if TYPE_CHECKING:
    from interp.tasks.metrics import Metric

RULES = ("midpoint", "left", "gauss")
VARIANTS = ("inputs", "activations", "clean-corrupted")


@dataclass(frozen=True)
class Atp(Method):
    """Attribution patching: the gradient."""

    name = "atp"
    edge_name = "eap"


@settings
@dataclass(frozen=True)
class IG(Method):
    """Integrated gradients.

    steps: points of the path. rule: where they lie, "midpoint", "gauss" (Gauss-Legendre) or "left" (as in
    published code, which omits the far end). variant: what moves along the path, see the table above; cells
    know "inputs" and "clean-corrupted", which has no steps and no rule.
    """

    steps: int = 8
    rule: str = "midpoint"
    variant: str = "inputs"
    name = "ig"
    edge_name = "eap-ig"

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps is {self.steps!r}; a whole number, at least 1, is needed.")
        for option, value, known in (("rule", self.rule, RULES), ("variant", self.variant, VARIANTS)):
            if value not in known:
                raise ValueError(f"{option} {value!r} is not one of {', '.join(known)}{hint(value, known)}")
        if self.variant == "clean-corrupted" and (self.steps, self.rule) != (8, "midpoint"):
            raise ValueError(
                "variant 'clean-corrupted' is the mean of two slopes, one of each run: it takes no steps= or "
                "rule=. Use variant='inputs' for points of the path between them."
            )

    @property
    def base_only(self) -> bool:  # type: ignore[override]
        """Whether the only point of its path is the base run itself."""
        return self.variant != "clean-corrupted" and self.rule == "left" and self.steps == 1

    @property
    def two_runs(self) -> bool:  # type: ignore[override]
        return self.variant != "activations"

    def cost(self, n_layers: int) -> tuple[int, int]:
        passes = 2 if self.variant == "clean-corrupted" else self.steps
        return 2 + passes, passes

    def edge_cost(self, n_layers: int, attn_only: bool) -> tuple[int, int]:
        parts = 1 + n_layers * (1 if attn_only else 2)
        passes = {"inputs": self.steps, "activations": self.steps * parts, "clean-corrupted": 2}[self.variant]
        return passes + (1 if self.variant == "clean-corrupted" else 2), passes

    def points(self) -> list[tuple[float, float]]:
        """(α, weight) of every run from base + α (source - base); the weights sum to 1.

        | rule     | α                    | error of the mean                                           |
        |----------|----------------------|-------------------------------------------------------------|
        | midpoint | (k + 1/2) / m        | O(1/m²)                                                     |
        | gauss    | Gauss-Legendre nodes | falls faster than any power of m where the metric is smooth |
        | left     | k / m, k from 0      | O(1/m): the sum in published code, which omits the far end  |
        """
        if self.variant == "clean-corrupted":
            return [(0.0, 0.5), (1.0, 0.5)]
        if self.rule == "gauss":
            from numpy.polynomial.legendre import leggauss

            nodes, weights = leggauss(self.steps)
            return list(zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist()))
        shift = 0.5 if self.rule == "midpoint" else 0.0
        return [((k + shift) / self.steps, 1 / self.steps) for k in range(self.steps)]

    def attrs(self) -> dict[str, Any]:
        path = {} if self.variant == "clean-corrupted" else {"steps": self.steps, "rule": self.rule}
        return {"variant": self.variant, **path}

    def check(self, metrics: Iterable[Metric], ablation: Any, direction: str, over: str = "cells") -> None:
        if over == "cells" and self.variant == "activations":
            raise ValueError(
                "variant 'activations' moves what writers write, one after the other: it scores edges. For "
                "cells use variant='inputs' or 'clean-corrupted'."
            )
        super().check(metrics, ablation, direction, over)
        if self.variant == "activations" and ablation.kind == "constants":
            raise ValueError(
                "variant 'activations' moves what heads and MLPs compute, and constants stand for what they "
                "write. Use eap, relp, or ablation='resample', 'zero' or 'mean'."
            )


@settings
@dataclass(frozen=True)
class GradPath(Method):
    """EAP-GP: slopes along a path of the input that follows the gradient to the source run; edges only.

    From the base input each step goes down the gradient of ‖logits − logits of the source‖², at the
    positions that the metric reads, so that the path leaves regions in which the straight line of IG is
    saturated. steps: points on the path. stride: the length of a step, in units of the stream (the paper's
    1); None: the distance between the two inputs over the number of steps, whatever a model's scale.
    """

    steps: int = 5
    stride: float | int | None = 1.0
    edge_name = "eap-gp"
    base_only = False
    two_runs = True

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps is {self.steps!r}; a whole number, at least 1, is needed.")
        if self.stride is not None and not 0 < self.stride < float("inf"):
            raise ValueError(f"stride is {self.stride!r}; it must be a length above 0, or None.")

    def edge_cost(self, n_layers: int, attn_only: bool) -> tuple[int, int]:
        return 2 + 2 * self.steps, self.steps

    def attrs(self) -> dict[str, Any]:
        stride = "distance / steps" if self.stride is None else self.stride
        return {"steps": self.steps, "stride": stride, "path_backwards": self.steps}


@settings
@dataclass(frozen=True)
class AtpStar(Method):
    """AtP*. With GradDrop the estimates are magnitudes, without a sign."""

    qk_fix: bool = True
    grad_drop: bool = True
    name = "atp*"

    def __post_init__(self) -> None:
        if not (self.qk_fix or self.grad_drop):
            raise ValueError("atp* without the QK fix and without GradDrop is atp. Use Atp().")

    def on(self, n_layers: int) -> AtpStar:
        """The method for a model of so many layers: one alone cannot be dropped, so GradDrop goes there."""
        if n_layers > 1 or not self.grad_drop:
            return self
        if not self.qk_fix:
            raise ValueError("GradDrop drops one layer at a time, and the model has only one. Use Atp().")
        return replace(self, grad_drop=False)

    def cost(self, n_layers: int) -> tuple[int, int]:
        return 2, n_layers if self.on(n_layers).grad_drop else 1

    def attrs(self) -> dict[str, Any]:
        return {"qk_fix": int(self.qk_fix), "grad_drop": int(self.grad_drop)}


@settings
@dataclass(frozen=True)
class Relp(Method):
    """Relevance patching. A rule is on where the model has such a part (None), on or an error, or off."""

    ln: bool | None = None
    identity: bool | None = None
    ah: bool | None = None
    half: bool | None = None
    name = edge_name = "relp"

    def __post_init__(self) -> None:
        _ = self.rules

    @property
    def rules(self) -> Rules:
        return Rules(self.ln, self.identity, self.ah, self.half)


@settings
@dataclass(frozen=True)
class AttnLRP(Method):
    """Attention-aware relevance: the products of attention share relevance too. Rules as in `Relp`."""

    ln: bool | None = None
    identity: bool | None = None
    half: bool | None = None
    name = "attnlrp"

    def __post_init__(self) -> None:
        _ = self.rules

    @property
    def rules(self) -> Rules:
        return Rules(self.ln, self.identity, False, self.half, qkv=True)


@settings
@dataclass(frozen=True)
class GIM(Method):
    """Gradient interaction modifications. temperature: of softmax's slope. Rules as in `Relp`."""

    ln: bool | None = None
    half: bool | None = None
    temperature: float | int = 2.0
    name = "gim"

    def __post_init__(self) -> None:
        _ = self.rules

    @property
    def rules(self) -> Rules:
        return Rules(self.ln, False, False, self.half, qkv=True, temperature=self.temperature)


@dataclass(frozen=True)
class Secant(Method):
    """Two-point coefficients: complete, and antisymmetric in the two runs."""

    name = edge_name = "secant"
    needs_weights = True
    base_only = False
    two_runs = True

    @property
    def norms(self) -> str:
        return "secant"


@dataclass(frozen=True)
class FlowRoutes(Method):
    """The writer's share of the reader's input in the clean run; edges only, and no metric in it."""

    edge_name = "flow-routes"
    needs_slope = False

    def edge_cost(self, n_layers: int, attn_only: bool) -> tuple[int, int]:
        return 1, 0


@dataclass(frozen=True)
class Exact(Method):
    """Every edge cut by itself, and measured."""

    edge_name = "exact"
    needs_slope = False
    base_only = False


METHODS: tuple[type[Method], ...] = (
    Atp, IG, GradPath, AtpStar, Relp, AttnLRP, GIM, Secant, FlowRoutes, Exact,
)  # fmt: skip
_HERE = {"cells": "cells are estimated by", "edges": "edges are scored by"}


def names(over: str = "cells") -> tuple[str, ...]:
    """The names of the methods for cells or for edges."""
    return tuple(kind().called(over) for kind in METHODS if kind().called(over))


def parse(method: object, over: str = "cells") -> Method:
    """The method of a name, with its defaults; a value as it is. ValueError for one that does not fit.

    over: "cells" or "edges". Where edges are scored, "atp" and "ig" stand for "eap" and "eap-ig".

    Example:
        >>> from interp import methods
        >>> methods.parse("ig")
        IG(steps=8, rule='midpoint', variant='inputs')
        >>> methods.names("edges")
        ('eap', 'eap-ig', 'eap-gp', 'relp', 'secant', 'flow-routes', 'exact')
    """
    known = names(over)
    if isinstance(method, Method):
        if not method.called(over):
            raise ValueError(f"method {method!r} does not fit: {_HERE[over]} {', '.join(known)}.")
        return method
    if isinstance(method, type) and issubclass(method, Method):
        raise ValueError(f"method is the class {method.__name__}; give a value of it: {method.__name__}().")
    by_name = {kind().called(over): kind for kind in METHODS if kind().called(over)}
    also = {kind.name: kind for kind in METHODS if kind.name and kind.edge_name} if over == "edges" else {}
    chosen = (also | by_name).get(method) if isinstance(method, str) else None
    if chosen is None:
        elsewhere = isinstance(method, str) and method in (*names("cells"), *names("edges"))
        if elsewhere:
            raise ValueError(f"method {method!r} does not fit: {_HERE[over]} {', '.join(known)}.")
        end = hint(method, known) if isinstance(method, str) else "."
        raise ValueError(f"method {shown(method)} is not one of {', '.join(known)}{end}")
    return chosen()


def rules_of(rules: Rules | str | Method) -> Rules:
    """The rules of a relevance method, by value or name ("relp", "attnlrp", "gim"), or rules as they are."""
    if isinstance(rules, Rules):
        return rules
    chosen = parse(rules)
    if chosen.rules is None:
        raise ValueError(f"method {chosen.name!r} has no relevance rules. Use Relp(), AttnLRP() or GIM().")
    return chosen.rules
