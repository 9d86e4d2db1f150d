"""How a model does on the task families, written into its card: what `interp tasks` shows."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROMPTS = 400
SEED = 1


def add(folder: Path, families: Sequence[str]) -> None:
    """Write the accuracy of each family into the card of the folder."""
    path = folder / "card.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    card["tasks"] = measured(folder, families)
    path.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def measured(folder: Path, families: Sequence[str]) -> dict[str, float]:
    """Share of clean prompts that the model gets right, by family, with a family's default options."""
    from interp import tasks
    from interp.models import load

    model, found = load(folder), {}
    for name in families:
        task = tasks.families()[name].build(model, n=PROMPTS, seed=SEED)
        found[name] = round(_accuracy(task, model), 4)
    return found


def _accuracy(task: Any, model: Any) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the accuracy is written down, low or not
        return task.check(model).accuracy
