"""The methods that score edges, with their settings. A wrong combination is a ValueError at once.

| name        | coefficient of the reader's input                                | forwards | backwards |
|-------------|------------------------------------------------------------------|----------|-----------|
| eap         | slope of the metric in the base run                              | 2        | 1         |
| eap-ig      | mean slope over runs between base and source, by `variant`:      |          |           |
|             | "inputs": along the straight path between both runs' inputs      | 2 + m    | m         |
|             | "activations": along the path of each writer's own output        | 2 + pm   | pm        |
|             | "clean-corrupted": of the two runs                               | 3        | 2         |
| relp        | relevance: norm, activation, pattern and gate rules              | 2        | 1         |
| secant      | slopes between the two runs                                      | 2        | 1         |
| flow-routes | none: the writer's share of the reader's input, in the clean run | 1        | 0         |
| exact       | none: the edge is cut                                            | see exact | 0        |

m = steps; p = the input, every attention and every MLP layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interp.circuits._graph import Graph
from interp.circuits._run.ablation import Ablation
from interp.methods import IG, RULES, Relp
from interp.models import Model, unsupported
from interp.places import hint
from interp.tasks.metrics import Metric

VARIANTS = ("inputs", "activations", "clean-corrupted")
NAMES = ("eap", "eap-ig", "relp", "secant", "flow-routes", "exact")
_OPTIONS = {"eap-ig": ("variant", "steps", "rule"), "relp": ("ln", "identity", "ah", "half")}


@dataclass(frozen=True)
class EdgeMethod:
    """A method that reads slopes. `two_runs`: it works between two runs, and an ablation has only one."""

    name: str = "eap"
    variant: str | None = None
    steps: int = 1
    rule: str | None = None
    rules: Any = None  # `interp.methods.Rules`

    def __post_init__(self) -> None:
        if self.variant is not None and self.variant not in VARIANTS:
            end = hint(self.variant, VARIANTS)
            raise ValueError(f"variant {self.variant!r} is not one of {', '.join(VARIANTS)}{end}")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; at least 1 is needed.")
        if self.rule is not None and self.rule not in RULES:
            raise ValueError(f"rule {self.rule!r} is not one of {', '.join(RULES)}{hint(self.rule, RULES)}")

    @property
    def two_runs(self) -> bool:
        return self.name == "secant" or self.variant in ("inputs", "clean-corrupted")

    @property
    def norms(self) -> str:
        """The kind of slopes through norms, see `edge_norms`."""
        if self.rules is not None and self.rules.ln is not False:
            return "frozen"
        return "secant" if self.name == "secant" else "gradient"

    @property
    def base_only(self) -> bool:
        """Whether all slopes are those of the base run."""
        return self.name in ("eap", "relp")

    def cost(self, graph: Graph) -> tuple[int, int]:
        """Forwards and backwards of a prompt."""
        parts = 1 + graph.n_layers * (1 if graph.attn_only else 2)
        passes = {"inputs": self.steps, "activations": self.steps * parts, "clean-corrupted": 2}
        backwards = passes.get(self.variant or "", 1)
        return 1 + backwards + (self.variant in ("inputs", "activations")), backwards

    def attrs(self) -> dict[str, str | int]:
        """What a result says of the settings."""
        if self.rules is not None:
            return {"rules": repr(self.rules)}
        if self.variant is None:
            return {}
        found: dict[str, str | int] = {"variant": self.variant}
        return found if self.rule is None else found | {"steps": self.steps, "rule": self.rule}


def parse(name: str, options: Mapping[str, Any]) -> EdgeMethod:
    """A method from the arguments of `score_edges`."""
    if name not in NAMES:
        raise ValueError(f"method {name!r} is not one of {', '.join(NAMES)}{hint(name, NAMES)}")
    known = _OPTIONS.get(name, ())
    for option in options:
        if option not in known:
            may = f"it takes {', '.join(f'{k}=' for k in known)}" if known else "it has no options"
            raise ValueError(f"method {name!r} does not know {option}=; {may}.")
    if name == "relp":
        return EdgeMethod(name, rules=Relp(**options).rules)
    return _integrated(**options) if name == "eap-ig" else EdgeMethod(name)


def _integrated(variant: str = "inputs", steps: int | None = None, rule: str | None = None) -> EdgeMethod:
    if variant == "clean-corrupted":
        if steps is not None or rule is not None:
            raise ValueError(
                "variant 'clean-corrupted' is the mean of two slopes, one of each run: it takes no steps= or "
                "rule=. Use variant='inputs' for points of the path between them."
            )
        return EdgeMethod("eap-ig", variant)
    return EdgeMethod("eap-ig", variant, IG().steps if steps is None else steps, rule or "midpoint")


def check_method(
    method: EdgeMethod, model: Model, metric: Metric, ablation: Ablation, direction: str
) -> None:
    """Raise ValueError for a metric without a useful slope, or a method that needs a second run."""
    if not metric.differentiable:
        raise ValueError(
            f"metric {metric.name!r} has no gradient (it counts), and method {method.name!r} needs one. "
            "Use LogitDiff or LogProb, or method='exact', which needs none."
        )
    if metric.flat_at_clean and direction == "noise" and (method.base_only or _starts_at_base(method)):
        raise ValueError(
            f"metric {metric.name!r} is at its minimum in the clean run, where its slope is 0: "
            f"{method.name!r} with direction='noise' would be 0 everywhere. Use direction='denoise', or "
            "method='eap-ig' or 'secant'."
        )
    if method.two_runs and ablation.kind != "resample":
        which = method.name if method.variant is None else f"{method.name} ({method.variant})"
        raise ValueError(
            f"method {which} works between two runs, and ablation {ablation.kind!r} has only one. "
            "Use ablation='resample', or eap, relp or eap-ig with variant='activations'."
        )
    if method.variant == "activations" and ablation.kind == "learned":
        raise ValueError(
            "variant 'activations' moves what heads and MLPs compute, and constants stand for what they "
            "write. Use eap, relp, or ablation='resample', 'zero' or 'mean'."
        )
    if method.name == "secant" and (reason := unsupported(model)):
        raise ValueError(f"method 'secant' has to know every step of the model, and does not: {reason}.")


def _starts_at_base(method: EdgeMethod) -> bool:
    """Whether the only point of its path is the base run itself."""
    return method.rule == "left" and method.steps == 1
