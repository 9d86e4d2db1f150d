"""Sets of relevance rules, and those that published methods use.

| method  | families                | source                     |
|---------|-------------------------|----------------------------|
| relp    | ln, identity, ah, half  | RelP, 2508.21258           |
| attnlrp | ln, identity, half, qkv | Achtibat et al. 2402.05602 |
| gim     | ln, half, qkv, temperature = 2 | Edin et al. 2505.17630 and the authors' code |
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from interp.places import hint


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
    temperature: float | int = 1.0

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
