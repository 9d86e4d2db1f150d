"""What a check does: three kinds of cases, the usual mistakes, and a message that says what differs and
where.

1. The function is called on small tensors by hand, then on random ones, then on the lab's model.
2. Where its answer is not the lab's, every usual mistake is run on the same case: the one that gives the same
   answer is the likely cause.
3. The message says what differs, at which index, both values, and the cause.

The lab's answer is worked out after the function has returned, and the lab's own functions refuse to run
while it runs, so that nothing can be copied from them by name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch

from interp.labs._compare import difference, relation, same, snapshot

_RUNNING: ContextVar[str] = ContextVar("_RUNNING", default="")


class Wrong(AssertionError):
    """An answer that is not right yet; its text says what differs, where, and the likely cause."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the text, without the lines of the check."""
        return [str(self)]


class NotYet(Wrong):
    """A stub that was not filled in; its text is the hint."""


@dataclass(frozen=True)
class Case:
    """One call: arguments that are made anew each time, what they are, and the answer by hand if it is
    short.
    """

    args: Callable[[], tuple[Any, ...]]
    what: str
    by_hand: str = ""


@dataclass(frozen=True)
class Mistake:
    """A usual mistake as a function, and what to say to it."""

    run: Callable[..., Any]
    message: str


@dataclass
class Exercise:
    """An exercise: the lab's own function, the cases, the mistakes, and what to remember.

    cases: makes the cases, those by hand first and the lab's model last. remember: the line after success,
    from the answer on the last case. may_change: arguments that the function may change in place. tolerance:
    relative to the largest number of the answer.
    """

    name: str
    reference: Callable[..., Any]
    cases: Callable[[], list[Case]]
    remember: Callable[[Any], str]
    may_change: tuple[int, ...] = ()
    tolerance: float = 1e-4
    measure: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda fn: fn
    in_place: str = "you changed {what} in place: clone it first"
    mistakes: list[Mistake] = field(default_factory=list)

    def mistake(self, message: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Enter a usual mistake: a decorator of the function that makes it."""

        def enter(run: Callable[..., Any]) -> Callable[..., Any]:
            self.mistakes.append(Mistake(run, message))
            return run

        return enter

    def __call__(self, fn: Callable[..., Any]) -> None:
        """Check a function: a line of success, or `Wrong`."""
        print(self.judge(fn))

    def judge(self, fn: Callable[..., Any]) -> str:
        """The line of success. Raises Wrong, or NotYet for a stub."""
        if not callable(fn):
            raise Wrong(f"✗ {self.name}: give the function itself, check.{self.name}({self.name}).")
        if getattr(fn, "__module__", "").startswith("interp."):
            raise Wrong(f"✗ {self.name}: this is the lab's own function. Write yours.")
        right: Any = None
        for case in self.cases():
            right = self._one(fn, case)
        return f"✓ {self.name}: {self.remember(right)}"

    def _one(self, fn: Callable[..., Any], case: Case) -> Any:
        """The right answer of one case. Raises Wrong."""
        args = case.args()
        before = [snapshot(value) for value in args]
        yours = self._call(fn, args, case)
        for index, (value, old) in enumerate(zip(args, before)):
            if index not in self.may_change and (said := difference(snapshot(value), old, 0.0)):
                raise Wrong(self._text(case, self.in_place.format(what=f"argument {index + 1}"), said))
        right = self.measure(self.reference)(*case.args())
        said = difference(yours, right, self.tolerance)
        if said is None:
            return right
        raise Wrong(self._text(case, self._cause(yours, right, case), said))

    def _call(self, fn: Callable[..., Any], args: tuple[Any, ...], case: Case) -> Any:
        try:
            with _running(self.name), leaves_no_hooks(args, self.name):
                return self.measure(fn)(*args)
        except NotImplementedError as error:
            raise NotYet(f"… {self.name}: not written yet. Hint: {error}") from None
        except Wrong:
            raise
        except Exception as error:
            text = f"your function stopped with {type(error).__name__}: {error}"
            raise Wrong(self._text(case, self._stopping(error, case), text)) from error

    def _stopping(self, error: Exception, case: Case) -> str:
        """The message of the mistake that stops with the same error."""
        for mistake in self.mistakes:
            _, other = _try(self.measure(mistake.run), case)
            if (type(other), str(other)) == (type(error), str(error)):
                return mistake.message
        return ""

    def _cause(self, yours: Any, right: Any, case: Case) -> str:
        """The message of the mistake that gives the same answer; a word on sign and scale otherwise."""
        for mistake in self.mistakes:
            value, error = _try(self.measure(mistake.run), case)
            if not error and same(value, yours, self.tolerance) and not same(value, right, self.tolerance):
                return mistake.message
        return relation(yours, right)

    def _text(self, case: Case, cause: str, said: str) -> str:
        lines = [f"✗ {self.name}, on {case.what}: {said}."]
        if case.by_hand:
            lines.append(f"  By hand: {case.by_hand}")
        if cause:
            lines.append(f"  Likely cause: {cause}.")
        return "\n".join(lines)


def _try(run: Callable[..., Any], case: Case) -> tuple[Any, Exception | None]:
    """What a mistake gives, or how it stops."""
    try:
        return run(*case.args()), None
    except Exception as error:
        return None, error


def reference(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the lab's own: it refuses to run while a student's function is being checked."""

    def run(*args: Any, **options: Any) -> Any:
        if name := _RUNNING.get():
            raise Wrong(f"✗ {name}: your function calls the lab's own. Write the lines yourself.")
        return fn(*args, **options)

    run.__name__, run.__doc__, run.__module__ = fn.__name__, fn.__doc__, fn.__module__
    return run


@contextmanager
def _running(name: str) -> Iterator[None]:
    token = _RUNNING.set(name)
    try:
        yield
    finally:
        _RUNNING.reset(token)


@contextmanager
def leaves_no_hooks(args: tuple[Any, ...], name: str) -> Iterator[None]:
    """Raise Wrong where a function leaves hooks on a model that it was given; they are taken away."""
    models = [value for value in args if hasattr(value, "run_with_hooks")]
    yield
    for model in models:
        if any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values()):
            model.reset_hooks()
            raise Wrong(
                f"✗ {name}: hooks are still on the model. Use model.run_with_hooks(...), "
                "which takes its hooks away."
            )


@functools.cache
def model(name: str) -> Any:
    """A model of the labs, loaded once a process."""
    import interp

    return interp.load(name)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal random numbers of a shape; the state of torch's own generator stays."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
