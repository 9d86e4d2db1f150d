"""Which engine runs a model: `fast` where it proves itself, else `reference`, saying so.

At the first use of a model at a site, two random live cells of the first prompt are run by both engines. The
verdict is remembered for as long as the model lives.
"""

from __future__ import annotations

import warnings
from weakref import WeakKeyDictionary

import numpy as np
import torch

from interp.engine.cells import Cells
from interp.engine.fast import Prepared
from interp.engine.memory import Budget
from interp.engine.reference import Reference
from interp.engine.runs import Runs
from interp.models import Model, is_bridge, unsupported, weights
from interp.models.parts import Weights
from interp.tasks.metrics import Metric

ENGINES = ("auto", "fast", "reference")
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 3e-4}
_verdicts: WeakKeyDictionary[Model, dict[tuple, str | None]] = WeakKeyDictionary()


def choose(
    model: Model, runs: Runs, cells: Cells, metrics: tuple[Metric, ...], budget: Budget, engine: str
) -> str:
    """ "fast" or "reference". With `engine="auto"` a fall-back warns why; with "fast" it raises ValueError.

    Cost of the check: two forwards of the model on one prompt more than the cells themselves.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r} is not one of {', '.join(ENGINES)}.")
    if engine == "reference":
        return engine
    reason = unsupported(model) or _verdict(model, runs, cells, metrics, budget)
    if reason is None:
        return "fast"
    if engine == "fast":
        raise ValueError(f"the fast engine cannot run this model: {reason}. Use engine='reference'.")
    warnings.warn(
        f"using the reference engine (one forward pass per cell): {reason}. The values are the same.",
        UserWarning,
        stacklevel=3,
    )
    return "reference"


def flags(model: Model) -> tuple[tuple[str, str], ...]:
    """TransformerLens's switches of hook points: a verdict holds for one setting of them."""
    return tuple(sorted((k, str(v)) for k, v in vars(model.cfg).items() if k.startswith("use_")))


def close(model: Model, ours: torch.Tensor, whole: torch.Tensor) -> bool:
    """Whether logits by the weights are those of the model, as far as its dtype lets them."""
    gap = (ours.double() - whole.double()).abs() / (1 + whole.double().abs().max())
    return bool((gap <= _tolerance(model, model.W_E.dtype)).all())


def _tolerance(model: Model, dtype: torch.dtype) -> float:
    """Hugging Face's norms inside a bridge compute in float32, whatever the dtype."""
    dtype = torch.float32 if is_bridge(model) and dtype == torch.float64 else dtype
    return _TOLERANCE.get(dtype, 0.1)


def _verdict(
    model: Model, runs: Runs, cells: Cells, metrics: tuple[Metric, ...], budget: Budget
) -> str | None:
    key = (cells.sites, cells.single, budget.facts.dtype, flags(model))
    known = _verdicts.setdefault(model, {})
    if key not in known:
        known[key] = self_check(model, runs.take(slice(0, 1)), cells, metrics, budget)
    return known[key]


def self_check(
    model: Model, runs: Runs, cells: Cells, metrics: tuple[Metric, ...], budget: Budget
) -> str | None:
    """Compare the engines on two random live cells; what differs, or None."""
    try:
        parts: Weights = weights(model)
        fast = Prepared(parts, runs, cells.sites, metrics, budget)
        live = fast.live(cells)
    except (AttributeError, RuntimeError, TypeError, IndexError) as error:
        return f"its parts are not laid out as expected ({type(error).__name__}: {error})"
    picked = np.unique(live.cell) if len(live) else np.arange(len(cells))
    picked = np.random.default_rng(0).permutation(picked)[:2]
    quick = fast.run(cells.take(picked))
    slow = Reference(model, runs, cells.sites, metrics).run(cells.take(picked))
    tolerance = _tolerance(model, budget.facts.dtype)
    for name in ("base", "source", "patched"):
        a, b = getattr(quick, name), getattr(slow, name)
        gap = np.abs(a - b) / (1 + np.abs(b))
        if not (gap <= tolerance).all():
            worst = gap.argmax()
            return (
                f"its self-check failed at {', '.join(cells.sites)}: {name} metric "
                f"{a.ravel()[worst]:.6g} against {b.ravel()[worst]:.6g}"
            )
    return None
