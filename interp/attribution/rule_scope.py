"""Attaching rules to a model for the duration of a `with` block, and taking them off again.

1. Rules of an outer block on the same model sleep until this one ends: sets of rules do not add up.
2. Each rule is attached at its place, before or behind all other hooks there, whoever attached those.
3. Every block of the model is watched: a pass that goes through it and not by all of its rules is an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from interp.attribution.rule_hooks import RuleHook
from interp.attribution.rule_places import Placed, Places
from interp.models import Model, is_bridge


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
    """Some bridges report a pattern after attention has used another: it must come before z."""
    for one in places:
        name = f"{one.module}.hook_z"
        if one.hook.point.endswith("hook_pattern") and name in model.hook_dict:
            watch = RuleHook(name, partial(_require_earlier, one.hook))
            stack.callback(_attach(model.hook_dict[name], Placed(watch, one.module)))


def _require_earlier(pattern: RuleHook, z: Tensor) -> None:
    if not pattern.ran:
        raise ValueError(
            f"{pattern.point} comes after attention has used its pattern, so a rule there has no effect. "
            "Load the model with eager attention, in compatibility mode."
        )
