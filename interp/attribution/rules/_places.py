"""Where in a model each family of rules applies, and what is an error.

A family that is asked for (True) and has nothing to apply to is a ValueError. One that is on by default
(None) is skipped, and the report says so, if the architecture has no such part (no norm, no MLP, no gate);
if the architecture has the part and its hook points are missing, that is a ValueError too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from interp.attribution.rules._gates import check_activation
from interp.attribution.rules._hooks import Activation, Normed, RuleHook, SoftMax, capped, constant, halved
from interp.methods import Rules
from interp.models import Model, anatomy
from interp.models.hook_points import MLPPoints, mlp_points, router_points


@dataclass(frozen=True, eq=False)
class Placed:
    """A rule at its hook point: before all other hooks there, or (`last`) behind them.

    What replaces a tensor comes first, so that other hooks see and may edit what the rule gives; what reads a
    tensor, or halves its slope, comes last, so that it acts on what the model goes on with.
    """

    hook: RuleHook
    module: str
    last: bool = False
    layer: int | None = None  # the block that cannot be passed without passing here


Places = list[Placed]


@dataclass(frozen=True)
class Report:
    """Modules by family of rules, and why a family touched none. `print(report)` lists both."""

    touched: Mapping[str, tuple[str, ...]]
    skipped: Mapping[str, str]

    def __getitem__(self, family: str) -> tuple[str, ...]:
        """The modules that a family touched; none for one that was skipped."""
        if family not in self.touched and family not in self.skipped:
            raise KeyError(f"{family!r} is no family of rules; there are {', '.join(self._families)}.")
        return self.touched.get(family, ())

    @property
    def _families(self) -> tuple[str, ...]:
        return (*self.touched, *self.skipped)

    def __str__(self) -> str:
        lines = [
            f"{family}: {len(modules)} modules: {', '.join(modules)}"
            for family, modules in self.touched.items()
        ]
        return "\n".join([*lines, *(f"{family}: none, {reason}" for family, reason in self.skipped.items())])


def place(model: Model, rules: Rules) -> tuple[Places, Report]:
    """Every rule of the set at its place, and the report. No forward pass."""
    finders: dict[str, Callable[[Model, Rules], tuple[Places, str]]] = {
        "ln": _norms,
        "half": _products,  # before identity, which reads the halved factors
        "identity": _activations,
        "ah": _patterns,
        "qkv": _attention_products,
        "temperature": _softmaxes,
    }
    places: Places = []
    touched: dict[str, tuple[str, ...]] = {}
    skipped: dict[str, str] = {}
    for family, find in finders.items():
        asked = rules.asked(family)
        if asked is False:
            skipped[family] = "it is off"
            continue
        found, missing = find(model, rules)
        if not found and asked:
            raise ValueError(f"{family}={getattr(rules, family)} matches no module: {missing}. Leave it out.")
        if found:
            touched[family] = tuple(dict.fromkeys(one.module for one in found))
        else:
            skipped[family] = missing
        places += found
    return places, Report(touched, skipped)


def _norms(model: Model, rules: Rules) -> tuple[Places, str]:
    points = {id(point): name for name, point in model.hook_dict.items() if name.endswith("hook_scale")}
    if not points and model.cfg.normalization_type is not None:
        raise ValueError(
            f"the model has norms ({model.cfg.normalization_type}) but no hook_scale to hold them constant "
            "at. Use ln=False."
        )
    if model.cfg.attn_only:  # TransformerLens may leave a second norm there, which no pass goes by
        points = {key: name for key, name in points.items() if ".ln2." not in name}
    placed = [each for name in points.values() for each in _norm(model, name)]
    return placed, "the model has no norms"


def _norm(model: Model, name: str) -> Places:
    """The rule of a norm: at its scale, or behind it where a bridge cannot rebuild what follows the scale."""
    module, layer = name.rpartition(".")[0], _layer(name)
    inner = getattr(_module(model, module), "original_component", None)
    rebuilt = inner is None or getattr(inner, "weight", None) is not None
    if rebuilt or f"{module}.hook_out" not in model.hook_dict:
        return [Placed(RuleHook(name, constant), module, layer=layer)]
    rule = Normed(module, bool(getattr(_module(model, module), "uses_rms_norm", False)))
    return [
        Placed(RuleHook(f"{module}.hook_in", rule.stream), module, last=True, layer=layer),
        Placed(RuleHook(name, rule.scale), module, last=True, layer=layer),
        Placed(RuleHook(f"{module}.hook_out", rule), module, layer=layer),
    ]


def _module(model: Model, path: str) -> Any:
    part: Any = model
    for name in path.split("."):
        part = part[int(name)] if name.isdigit() else getattr(part, name, None)
    return part


def _activations(model: Model, rules: Rules) -> tuple[Places, str]:
    found: Places = []
    act_fn = anatomy(model).act_fn
    for mlp in mlp_points(model):
        check_activation(act_fn)
        rule, layer = Activation(mlp, str(act_fn)), None if mlp.is_expert else mlp.layer
        found.append(Placed(RuleHook(mlp.pre, rule.pre), mlp.module, last=True, layer=layer))
        if mlp.linear is not None:
            found.append(Placed(RuleHook(mlp.linear, rule.linear), mlp.module, last=True, layer=layer))
        found.append(Placed(RuleHook(mlp.post, rule), mlp.module, layer=layer))
    cap = float(getattr(model.cfg, "output_logits_soft_cap", None) or 0.0)
    if cap > 0:
        _require(model, ["unembed.hook_out"], "identity")
        found.append(Placed(RuleHook("unembed.hook_out", capped(cap)), "unembed", last=True))
    return found, "the model has no MLP and no soft cap on its logits"


def _patterns(model: Model, rules: Rules) -> tuple[Places, str]:
    names = _attention(model, "hook_pattern", "ah")
    return [
        Placed(RuleHook(f"{module}.hook_pattern", constant), module, layer=layer) for layer, module in names
    ], "the model has no attention"


def _products(model: Model, rules: Rules) -> tuple[Places, str]:
    found: Places = []
    for mlp in mlp_points(model):
        found += _factors(mlp)
    for layer, name in router_points(model):
        found.append(Placed(RuleHook(name, constant), name.rpartition(".")[0], layer=layer))
    return found, "the model has no gated MLP"


def _factors(mlp: MLPPoints) -> Places:
    if mlp.linear is None:
        return []
    layer = None if mlp.is_expert else mlp.layer
    return [
        Placed(RuleHook(point, halved), mlp.module, last=True, layer=layer) for point in (mlp.pre, mlp.linear)
    ]


def _attention_products(model: Model, rules: Rules) -> tuple[Places, str]:
    found = [
        Placed(RuleHook(f"{module}.{point}", halved), module, last=True, layer=layer)
        for point in ("hook_q", "hook_k", "hook_v", "hook_pattern")
        for layer, module in _attention(model, point, "qkv")
    ]
    return found, "the model has no attention"


def _softmaxes(model: Model, rules: Rules) -> tuple[Places, str]:
    found: Places = []
    _attention(model, "hook_attn_scores", "temperature")
    for layer, module in _attention(model, "hook_pattern", "temperature"):
        rule = SoftMax(module, rules.temperature)
        scores = RuleHook(f"{module}.hook_attn_scores", rule.scores)
        found.append(Placed(scores, module, last=True, layer=layer))
        found.append(Placed(RuleHook(f"{module}.hook_pattern", rule), module, layer=layer))
    return found, "the model has no attention"


def _attention(model: Model, point: str, family: str) -> list[tuple[int, str]]:
    """(layer, module) of every attention; all of them must have the hook point."""
    modules = [
        (layer, f"blocks.{layer}.attn")
        for layer, block in enumerate(model.blocks)
        if getattr(block, "attn", None) is not None
    ]
    _require(model, [f"{module}.{point}" for _, module in modules], family)
    return modules


def _require(model: Model, names: list[str], family: str) -> None:
    missing = [name for name in names if name not in model.hook_dict]
    if missing:
        raise ValueError(
            f"the model has no hook point {missing[0]}, so {family} cannot be applied there. "
            f"Use {family}={'1.0' if family == 'temperature' else 'False'}."
        )


def _layer(name: str) -> int | None:
    """The block that a hook point belongs to; None for those outside, and for experts, which may idle."""
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "blocks" and "experts" not in parts else None
