"""Causal variables of a task: what each prompt's answer depends on, and what it would be otherwise.

A variable has a value in every prompt (0, 1, ..., n_values - 1) and, in every prompt, the answer that each of
its values would give while everything else stays: the outcomes. Indirect object: `position` (is the indirect
object the first name or the second) has, in `When Mary and John ...`, the outcomes ` Mary` and ` John`.

So an intervention is a look-up: with the variable's value from a source prompt, the answer of a prompt is its
outcome at that value. Interchange interventions and high-level models: Geiger et al. 2303.02536.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp.places import hint


@dataclass(frozen=True, eq=False)
class Variable:
    """values: [prompt]. outcomes: token ids [prompt, value], -1 where a prompt has no answer for a value.

    levels: what each value is called, by default its number. Raises ValueError where shapes do not fit, or a
    value has no column.

    Example:
        >>> Variable = interp.tasks.Variable
        >>> Variable(values=[0, 1], outcomes=[[5, 6], [7, 8]]).intervene(own=[0], source=[1]).tolist()
        [6]
    """

    values: Int[Tensor, "prompt"]
    outcomes: Int[Tensor, "prompt value"]
    levels: tuple[str, ...] = ()

    def __init__(self, values: Any, outcomes: Any, levels: Sequence[str] | None = None) -> None:
        object.__setattr__(self, "values", _ids(values, "values", 1))
        object.__setattr__(self, "outcomes", _ids(outcomes, "outcomes", 2))
        n, n_values = self.outcomes.shape
        names = [str(each) for each in (range(n_values) if levels is None else levels)]
        object.__setattr__(self, "levels", tuple(names))
        if len(names) != n_values:
            raise ValueError(f"a variable has {len(names)} levels and {n_values} columns of outcomes.")
        if len(self.values) != n:
            raise ValueError(f"a variable has {len(self.values)} values and outcomes for {n} prompts.")
        if n and not (int(self.values.min()) >= 0 and int(self.values.max()) < n_values):
            raise ValueError(
                f"the values of a variable run from {int(self.values.min())} to {int(self.values.max())}; "
                f"with {n_values} columns of outcomes they must lie between 0 and {n_values - 1}."
            )

    def __len__(self) -> int:
        return len(self.values)

    def intervene(self, own: Any, source: Any) -> Int[Tensor, "pair"]:
        """The answers of prompts `own` with the value from prompts `source`: token ids, -1 for none."""
        own, source = torch.as_tensor(own), torch.as_tensor(source)
        return self.outcomes[own, self.values[source]]

    def take(self, rows: Tensor) -> Variable:
        """The variable of some prompts."""
        return Variable(self.values[rows], self.outcomes[rows], self.levels)


Variables = Mapping[str, Variable]


def require(variables: Variables, answers: Int[Tensor, "prompt k"]) -> None:
    """ValueError for a variable that is none, does not vary, or contradicts the task's answers."""
    for name, variable in variables.items():
        if not isinstance(variable, Variable):
            raise ValueError(
                f"variable {name!r} is {type(variable).__name__}; give a tasks.Variable(values, outcomes)."
            )
        if len(variable) != len(answers):
            raise ValueError(f"variable {name!r} is of {len(variable)} prompts, the task has {len(answers)}.")
        own = variable.outcomes.gather(1, variable.values[:, None])
        wrong = (~(own == answers.cpu()).any(1)).nonzero().flatten()
        if len(wrong):
            i = int(wrong[0])
            raise ValueError(
                f"prompt {i}: variable {name!r} has the value {int(variable.values[i])}, whose outcome is "
                f"token {int(own[i])}, but the prompt's answer is {answers[i].tolist()}. The outcome at a "
                "prompt's own value is its answer."
            )


def variable(variables: Variables, name: str) -> Variable:
    """A task's variable by name. ValueError with the nearest name, or where it does not vary."""
    if not variables:
        raise ValueError(
            f"the task has no causal variables, so none is called {name!r}. Families such as "
            "interp.tasks.ioi have some; give yours: task.with_variables(name=Variable(values, outcomes))."
        )
    if name not in variables:
        raise ValueError(
            f"no variable {name!r}{hint(str(name), variables)} The task has: {', '.join(variables)}."
        )
    if len(variables[name].values.unique()) < 2:
        raise ValueError(
            f"variable {name!r} has the value {int(variables[name].values[0])} in all {len(variables[name])} "
            "prompts: it does not vary, and there is nothing to exchange."
        )
    return variables[name]


def take(variables: Variables, rows: Tensor) -> dict[str, Variable]:
    """The variables of some prompts."""
    return {name: each.take(rows.cpu()) for name, each in variables.items()}


def join(parts: Sequence[Variables]) -> dict[str, Variable]:
    """The variables that all parts have with the same levels, one task below the other."""
    shared = [name for name in parts[0] if all(name in each for each in parts)]
    out: dict[str, Variable] = {}
    for name in shared:
        every = [each[name] for each in parts]
        if len({each.levels for each in every}) == 1:
            values, outcomes = torch.cat([e.values for e in every]), torch.cat([e.outcomes for e in every])
            out[name] = Variable(values, outcomes, every[0].levels)
    return out


def _ids(given: Any, what: str, ndim: int) -> Tensor:
    try:
        tensor = torch.as_tensor(given).cpu()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{what} of a variable are {given!r}; give whole numbers.") from None
    if tensor.ndim != ndim or tensor.is_floating_point() or tensor.dtype == torch.bool or tensor.is_complex():
        axes = "[prompt]" if ndim == 1 else "[prompt, value]"
        raise ValueError(
            f"{what} of a variable are {tensor.dtype} {list(tensor.shape)}; give whole numbers {axes}."
        )
    return tensor.long().clone()
