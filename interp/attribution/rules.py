"""Relevance rules on an unmodified model: gradients through it become relevance coefficients.

Inside `relevance_rules` every value of a forward pass stays as it is, and the slopes are those of the rules.
Gradient times input is then the relevance of the input for whatever was differentiated, positive where the
input raises it.

| family      | rule                                                | where                                  |
|-------------|-----------------------------------------------------|----------------------------------------|
| ln          | a norm's scale is constant; its centring stays      | every hook_scale, those of q and k too |
| identity    | an activation is the linear gate act(x) / x         | MLPs, experts, soft cap of the logits  |
| ah          | an attention pattern is constant                    | every hook_pattern                     |
| half        | both factors of a product get half of the relevance | gated MLPs; routers' weights constant  |
| qkv         | the same for the two products of attention:         | q, k, v, pattern                       |
|             | 1/4 for q and k, 1/2 for v                          |                                        |
| temperature | softmax's slope at a higher temperature             | every hook_pattern                     |

| method  | families                | source                     |
|---------|-------------------------|----------------------------|
| relp    | ln, identity, ah, half  | RelP, 2508.21258           |
| attnlrp | ln, identity, half, qkv | Achtibat et al. 2402.05602 |
| gim     | ln, half, qkv, temperature = 2 | Edin et al. 2505.17630 and the authors' code |

With ln, identity, ah and half all on, the model is linear around a prompt: for a metric that is linear in
the logits, the relevance of the stream at any depth, plus that of the biases downstream, is the metric.

What is left with its true slope: the clamp of clip_qkv and the soft cap on attention scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from interp.attribution.rule_places import place
from interp.attribution.rule_report import Report
from interp.attribution.rule_scope import attached
from interp.models.anatomy import Model, anatomy
from interp.sites import hint


@dataclass(frozen=True)
class Rules:
    """A set of rules.

    ln, identity, ah, half: None is on where the model has such a part, True is on and an error where it has
    none, False is off. qkv is on or off. temperature is that of softmax's slope, 1 for its own.
    """

    ln: bool | None = None
    identity: bool | None = None
    ah: bool | None = None
    half: bool | None = None
    qkv: bool = False
    temperature: float = 1.0

    def __post_init__(self) -> None:
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


_METHODS = {
    "relp": Rules(),
    "attnlrp": Rules(ah=False, qkv=True),
    "gim": Rules(identity=False, ah=False, qkv=True, temperature=2.0),
}


def rules_for(method: str, **switches: Any) -> Rules:
    """The rules of "relp", "attnlrp" or "gim", some of them set otherwise: `rules_for("relp", ah=False)`."""
    if method not in _METHODS:
        raise ValueError(f"method {method!r} is not one of {', '.join(_METHODS)}{hint(method, _METHODS)}")
    known = [field.name for field in fields(Rules)]
    for name, value in switches.items():
        if name not in known:
            raise ValueError(f"method {method!r} does not know {name}=; it takes {', '.join(known)}.")
        if name != "temperature" and value not in (True, False, None):
            raise ValueError(f"{name} is {value!r}; use True or False.")
    base = _METHODS[method]
    return Rules(**{name: switches.get(name, getattr(base, name)) for name in known})


@contextmanager
def relevance_rules(model: Model, rules: Rules | None = None, **switches: Any) -> Iterator[Report]:
    """Rules on a model for the duration of a `with` block; yields a report of the modules they touch.

    rules: of `rules_for`; or switches, those of `Rules`: `relevance_rules(model, ah=False)`.

    Within the block, differentiate any quantity of a forward pass. Forward values do not change (on a bridge,
    by rounding). Rules come before other hooks wherever they replace a tensor, and behind them wherever they
    read one, so hooks of your own may stand inside or outside the block. Blocks on one model can be nested:
    the innermost set of rules holds alone. The model is left as it was, errors included.

    Raises ValueError before any pass: for a family that was asked for and matches no module, an activation
    whose gate is not known, a model that is compiled or checkpoints activations; and at the first pass, for a
    model that does not compute what its config says or bypasses a rule's hook point.
    """
    from interp.attribution.checks import check_model

    if rules is not None and switches:
        raise ValueError(f"give rules or switches, not both: rules is {rules}, switches are {switches}.")
    chosen = rules_for("relp", **switches) if rules is None else rules
    anatomy(model)
    check_model(model)
    if getattr(model, "compatibility_mode", True) is False:
        raise ValueError(
            "the bridge is not in compatibility mode, and its hook points are not those of the rules. "
            "Call model.enable_compatibility_mode() first."
        )
    places, report = place(model, chosen)
    with attached(model, places):
        yield report
