"""The methods by name, with their settings. A wrong combination is a ValueError before anything runs.

| name    | coefficient                                               | forwards | backwards, by metric |
|---------|-----------------------------------------------------------|----------|----------------------|
| atp     | slope of the metric in the base run                       | 2        | 1                    |
| ig      | mean slope along the path between both runs' embeddings   | 2 + m    | m                    |
| atp*    | atp, exact pattern changes for q and k, one layer dropped | 2        | layers (1 without)   |
| relp    | relevance: norm, activation, pattern and gate rules       | 2        | 1                    |
| attnlrp | relevance, attention-aware                                | 2        | 1                    |
| gim     | slopes with softmax and norms tamed                       | 2        | 1                    |
| secant  | slopes between the two runs                               | 2        | 1                    |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interp.attribution import integrated
from interp.attribution.rule_set import Rules, rules_for
from interp.places import hint

STEPS = 8
RELEVANCE = ("relp", "attnlrp", "gim")
NAMES = ("atp", "ig", "atp*", *RELEVANCE, "secant")


@dataclass(frozen=True)
class Method:
    """What all methods answer. `one_sided`: the coefficient is read off the base run alone."""

    name: str = "atp"
    rules: Rules | None = None
    one_sided: bool = True

    def cost(self, n_layers: int) -> tuple[int, int]:
        """Forwards, and backwards by metric."""
        return 2, 1

    def attrs(self) -> dict[str, Any]:
        """What a result says of the settings: strings and numbers."""
        return {} if self.rules is None else {"rules": repr(self.rules)}


@dataclass(frozen=True)
class Integrated(Method):
    """Integrated gradients with `steps` points of a rule."""

    name: str = "ig"
    one_sided: bool = False
    steps: int = STEPS
    rule: str = "midpoint"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; at least 1 is needed.")
        if self.rule not in integrated.RULES:
            raise ValueError(
                f"rule {self.rule!r} is not one of {', '.join(integrated.RULES)}"
                f"{hint(self.rule, integrated.RULES)}"
            )

    def cost(self, n_layers: int) -> tuple[int, int]:
        return 2 + self.steps, self.steps

    def attrs(self) -> dict[str, Any]:
        return {"steps": self.steps, "rule": self.rule}


@dataclass(frozen=True)
class Star(Method):
    """AtP*: with GradDrop the estimates are magnitudes, without a sign."""

    name: str = "atp*"
    qk_fix: bool = True
    grad_drop: bool = True

    def __post_init__(self) -> None:
        if not (self.qk_fix or self.grad_drop):
            raise ValueError("atp* without the QK fix and without GradDrop is atp. Use method='atp'.")

    def cost(self, n_layers: int) -> tuple[int, int]:
        return 2, n_layers if self.grad_drop else 1

    def attrs(self) -> dict[str, Any]:
        return {"qk_fix": int(self.qk_fix), "grad_drop": int(self.grad_drop)}


@dataclass(frozen=True)
class Secant(Method):
    """Two-point coefficients."""

    name: str = "secant"
    one_sided: bool = False


def parse(name: str, steps: int | None, rule: str | None, switches: Mapping[str, Any]) -> Method:
    """A method from the arguments of `attribute`."""
    if name not in NAMES:
        raise ValueError(f"method {name!r} is not one of {', '.join(NAMES)}{hint(name, NAMES)}")
    if name != "ig" and (steps is not None or rule is not None):
        raise ValueError(f"steps= and rule= belong to method='ig'; the method is {name!r}.")
    if name in RELEVANCE:
        return Method(name, rules=rules_for(name, **switches))
    known = ("qk_fix", "grad_drop") if name == "atp*" else ()
    wrong = [switch for switch in switches if switch not in known]
    if wrong:
        may = f"it takes {' and '.join(f'{k}=' for k in known)}" if known else "it has no switches"
        raise ValueError(f"method {name!r} does not know {wrong[0]}=; {may}.")
    if name == "atp*":
        return Star(**switches)
    if name == "ig":
        return Integrated(steps=STEPS if steps is None else steps, rule=rule or "midpoint")
    return Secant() if name == "secant" else Method()
