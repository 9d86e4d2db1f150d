"""The older words of `interp.ablation`, until attribution and circuits speak the new ones."""

from __future__ import annotations

from interp import ablation as ablations
from interp.ablation import DIRECTIONS as DIRECTIONS
from interp.ablation import Ablation as Corruption
from interp.ablation import Gaussian as Gaussian
from interp.ablation import Mean as Mean
from interp.ablation import Resample as Tokens
from interp.ablation import Zero as Zero
from interp.ablation import make_runs as make_runs
from interp.tasks import Task


def parse(corruption: str | Corruption) -> Corruption:
    return Tokens() if corruption == "tokens" else ablations.parse(corruption)


def direction_of(corruption: Corruption, direction: str | None, task: Task) -> str:
    return ablations.check_direction(corruption, direction, task, "denoise")
