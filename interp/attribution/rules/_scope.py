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

With ln, identity, ah and half all on, the model is linear around a prompt: for a metric that is linear in
the logits, the relevance of the stream at any depth, plus that of the biases downstream, is the metric.

With ah nothing flows through queries and keys: what acts by moving the attention of later heads gets little
relevance, however large its effect (ah=False lets it through).

What is left with its true slope: the clamp of clip_qkv and the soft cap on attention scores.

How the rules are attached for the duration of the `with` block:

1. Rules of an outer block on the same model sleep until this one ends: sets of rules do not add up.
2. Each rule is attached at its place, before or behind all other hooks there, whoever attached those.
3. Every block of the model is watched: a pass that goes through it and not by all of its rules is an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from interp._verbs import verb
from interp.attribution.rules._hooks import RuleHook
from interp.attribution.rules._places import Placed, Places, Report, place
from interp.methods import Method, Rules, rules_of
from interp.models import Model, anatomy, is_bridge
from interp.models._placement import without_slopes


@verb
@contextmanager
def relevance_rules(model: Model, rules: Rules | Method | str = "relp") -> Iterator[Report]:
    """Rules on a model for the duration of a `with` block; yields a report of the modules they touch.

    rules: a relevance method by name or value ("relp", `Relp(ah=False)`, `AttnLRP()`), or `methods.Rules`.

    Within the block, differentiate any quantity of a forward pass. Forward values do not change (on a bridge,
    by rounding). Rules come before other hooks wherever they replace a tensor, and behind them wherever they
    read one, so hooks of your own may stand inside or outside the block. Blocks on one model can be nested:
    the innermost set of rules holds alone. The model is left as it was, errors included.

    Raises ValueError before any pass: for a family that was asked for and matches no module, an activation
    whose gate is not known, a model that is compiled or checkpoints activations; and at the first pass, for a
    model that does not compute what its config says or bypasses a rule's hook point.

    Example:
        >>> from interp.attribution import relevance_rules
        >>> model = interp.load("tiny-ioi")
        >>> with relevance_rules(model, "relp") as report:
        ...     logits = model(interp.tasks.ioi(model, n=2).clean)
        >>> report["ah"]
        ('blocks.0.attn', 'blocks.1.attn', 'blocks.2.attn')
    """
    places, report = _placed(model, rules_of(rules))
    with attached(model, places):
        yield report


def check_rules(model: Model, rules: Rules | None) -> None:
    """Raise ValueError for rules that the model has no place for."""
    if rules is not None:
        _placed(model, rules)


def _placed(model: Model, rules: Rules) -> tuple[Places, Report]:
    anatomy(model)
    check_hooks(model)
    if getattr(model, "compatibility_mode", True) is False:
        raise ValueError(
            "the bridge is not in compatibility mode, and its hook points are not those of the rules. "
            "Call model.enable_compatibility_mode() first."
        )
    return place(model, rules)


def ruled(model: Model, rules: Rules | Method | str | None) -> AbstractContextManager[Any]:
    """The model under relevance rules, or as it is for None."""
    return nullcontext() if rules is None else relevance_rules(model, rules)


def check_hooks(model: Model) -> None:
    """Raise ValueError for a compiled or checkpointed model: hooks or their graph would be bypassed."""
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise ValueError(
            "the model was made in inference mode (torch.inference_mode()), so no gradient can pass through "
            "its parameters. Load or build it outside of that mode."
        )
    if isinstance(model, nn.Module) and (forward_only := without_slopes(model)):
        raise ValueError(
            f"no gradient passes this model: {forward_only}, which is quantised for forwards alone. Use "
            "interp.patch, or quantise with a library that has a way back (bitsandbytes)."
        )
    modules = [model, *(model.modules() if isinstance(model, nn.Module) else ())]
    for module in modules:
        kind = type(module).__name__
        if kind == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None:
            raise ValueError(
                "the model is compiled (torch.compile), and a compiled graph does not keep to hooks. "
                "Give the model as it was before compiling."
            )
        if kind == "CheckpointWrapper" or getattr(module, "gradient_checkpointing", False) is True:
            raise ValueError(
                "the model uses activation checkpointing, which runs hooks a second time in the backward "
                "pass. Switch it off, or load the model without it."
            )


@contextmanager
def attached(model: Model, places: Places) -> Iterator[None]:
    """The rules at their places; the model as it was afterwards, whatever happens."""
    with ExitStack() as stack:
        if is_bridge(model):
            _silence(stack)
        for hook in _present(model):
            hook.asleep += 1
            stack.callback(_wake, hook)
        for one in places:
            stack.callback(_attach(model.hook_dict[one.hook.point], one))
        for layer, block in enumerate(model.blocks):
            inside = [one.hook for one in places if one.layer == layer]
            stack.callback(block.register_forward_pre_hook(partial(_start, inside)).remove)
            stack.callback(block.register_forward_hook(partial(_finish, inside)).remove)
        if is_bridge(model):
            _order(stack, model, places)
        yield


def _silence(stack: ExitStack) -> None:
    """A bridge warns that a norm whose scale a hook replaces is computed anew, to rounding. That is meant."""
    stack.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", message="A forward hook edited hook_scale")


def _present(model: Model) -> list[RuleHook]:
    points = {id(point): point for point in model.hook_dict.values()}.values()
    hooks = [handle.user_hook for point in points for handle in point.fwd_hooks]
    return [hook for hook in hooks if isinstance(hook, RuleHook)]


def _wake(hook: RuleHook) -> None:
    hook.asleep -= 1


def _attach(point: Any, one: Placed) -> Callable[[], object]:
    """Add the rule to a hook point; the function returned takes it away."""
    if not one.last:
        point.add_hook(one.hook, prepend=True)
        return partial(_detach, point, one.hook)
    point.add_hook(one.hook)
    mover = point.register_forward_pre_hook(partial(_to_the_end, one.hook))

    def detach() -> None:
        mover.remove()
        _detach(point, one.hook)

    return detach


def _to_the_end(hook: RuleHook, point: Any, inputs: tuple) -> None:
    """Before a pass through the point: behind hooks that came later."""
    handles = point.fwd_hooks
    if handles and handles[-1].user_hook is not hook and _detach(point, hook):
        point.add_hook(hook)


def _detach(point: Any, hook: RuleHook) -> bool:
    """Whether the hook was there: `model.reset_hooks()` may have taken it."""
    for number, handle in enumerate(point.fwd_hooks):
        if handle.user_hook is hook:
            handle.hook.remove()
            del point.fwd_hooks[number]
            return True
    return False


def _start(inside: list[RuleHook], block: nn.Module, inputs: tuple) -> None:
    for hook in inside:
        hook.ran = False


def _finish(inside: list[RuleHook], block: nn.Module, inputs: tuple, output: Any) -> None:
    missed = [hook.point for hook in inside if not hook.ran]
    if missed:
        raise ValueError(
            f"the pass did not go by {missed[0]}, where a rule is attached: a fused kernel or a setting of "
            "the model bypasses the hook point, or the hooks were reset. Load the model with eager attention "
            "and all hook points on."
        )


def _order(stack: ExitStack, model: Model, places: Places) -> None:
    """Some bridges report a pattern after attention has used another: it must come before z, and reach it."""
    for one in places:
        name = f"{one.module}.hook_z"
        if one.hook.point.endswith("hook_pattern") and name in model.hook_dict:
            one.hook.unproved = True
            watch = RuleHook(name, partial(_require_in_path, one.hook))
            stack.callback(_attach(model.hook_dict[name], Placed(watch, one.module)))


def _require_in_path(pattern: RuleHook, z: Tensor) -> None:
    reached = pattern.ran
    if reached and pattern.unproved and pattern.probe.requires_grad:
        slopes = [None]
        if z.requires_grad:
            slopes = torch.autograd.grad(z.sum(), [pattern.probe], retain_graph=True, allow_unused=True)
        reached = slopes[0] is not None
        pattern.unproved, pattern.probe = False, torch.zeros(())
    if not reached:
        raise ValueError(
            f"{pattern.point} is not what attention goes on with (it hands over its pattern after it has "
            "used it, or another), so a rule there has no effect. Use a method that leaves attention alone "
            "(atp, ig, Relp(ah=False)), or load the model with eager attention, in compatibility mode."
        )
