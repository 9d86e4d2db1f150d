"""What every method of estimation answers, and the relevance rules that some take their slopes under.

A method is a frozen value. It has a name for cells, one for edges, or both; it knows its cost in passes, what
a result says of it, and what it cannot work with, which `check` refuses before any pass. `interp.methods` has
the table of them. A new one states only what differs from the defaults here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from interp._verbs import settings

if TYPE_CHECKING:
    from interp.tasks.metrics import Metric


@settings
@dataclass(frozen=True)
class Rules:
    """A set of relevance rules; `interp.attribution.relevance_rules` has the table of what each does.

    ln, identity, ah, half: None is on where the model has such a part, True is on and an error where it has
    none, False is off. qkv is on or off. temperature is that of softmax's slope, 1 for its own.
    """

    ln: bool | None = None
    identity: bool | None = None
    ah: bool | None = None
    half: bool | None = None
    qkv: bool = False
    temperature: float | int = 1.0

    def __post_init__(self) -> None:
        for name in ("ln", "identity", "ah", "half", "qkv"):
            if getattr(self, name) not in (True, False, None):
                raise ValueError(f"{name} is {getattr(self, name)!r}; use True or False.")
        if not self.temperature > 0:
            raise ValueError(
                f"temperature is {self.temperature!r}; it must be above 0, and 1 changes nothing."
            )
        if self.ah is not False and (self.qkv or self.temperature != 1.0):
            raise ValueError(
                f"ah={self.ah} holds the pattern constant; qkv={self.qkv} and temperature={self.temperature} "
                "give it relevance. Use ah=False, or neither of the others."
            )

    def asked(self, family: str) -> bool | None:
        """True if the family must be there, None if it is on where it can be, False if it is off."""
        return self.temperature != 1.0 if family == "temperature" else getattr(self, family)


@dataclass(frozen=True)
class Method:
    """What every method answers. `name` is that for cells, `edge_name` that for edges; "" for none."""

    name: ClassVar[str] = ""
    edge_name: ClassVar[str] = ""
    needs_slope: ClassVar[bool] = True  # of the metric in the logits
    needs_weights: ClassVar[bool] = False  # every step of the model must be known
    base_only: ClassVar[bool] = True  # the coefficient is read off the base run alone
    two_runs: ClassVar[bool] = False  # it works between two runs; an ablation has only one

    @property
    def rules(self) -> Rules | None:
        """The relevance rules that its slopes are taken under."""
        return None

    @property
    def norms(self) -> str:
        """The slope that it gives a norm: "gradient", "frozen" (a constant scale) or "secant"."""
        return "frozen" if self.rules is not None and self.rules.ln is not False else "gradient"

    def called(self, over: str = "cells") -> str:
        """Its name for cells or for edges."""
        return self.edge_name if over == "edges" else self.name

    def cost(self, n_layers: int) -> tuple[int, int]:
        """Forwards of a prompt for all cells, and backwards by metric."""
        return 2, 1

    def edge_cost(self, n_layers: int, attn_only: bool) -> tuple[int, int]:
        """Forwards of a prompt for all edges, and backwards by metric."""
        return 2, 1

    def attrs(self) -> dict[str, Any]:
        """What a result says of the settings: strings and numbers."""
        return {} if self.rules is None else {"rules": repr(self.rules)}

    def check(self, metrics: Iterable[Metric], ablation: Any, direction: str, over: str = "cells") -> None:
        """Raise ValueError for a metric without a useful slope, or an ablation without a second run.

        ablation: of `interp.ablation`. over: "cells" or "edges".
        """
        for metric in metrics:
            self._check_metric(metric, direction, over)
        if self.two_runs and ablation.kind not in ("resample", "gaussian"):
            more = " or IG(variant='activations')" if over == "edges" else ""
            raise ValueError(
                f"method {self.called(over)!r} works between two runs, and ablation {ablation.kind!r} has "
                f"only one. Use ablation='resample', or a method of the base run alone (atp, relp){more}."
            )

    def _check_metric(self, metric: Metric, direction: str, over: str) -> None:
        name, exact = self.called(over), "method='exact'" if over == "edges" else "interp.patch"
        if self.needs_slope and not metric.differentiable:
            raise ValueError(
                f"metric {metric.name!r} has no gradient (it counts), and method {name!r} needs one. "
                f"Use LogitDiff or LogProb, or {exact}, which needs none."
            )
        if self.base_only and self.needs_slope and metric.flat_at_clean and direction == "noise":
            path = "eap-ig" if over == "edges" else "ig"
            raise ValueError(
                f"metric {metric.name!r} is at its minimum in the clean run, where its slope is 0: "
                f"{name!r} with direction='noise' would be 0 everywhere. Use direction='denoise', or "
                f"method={path!r} or 'secant'."
            )
