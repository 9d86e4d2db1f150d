"""tiny-world from scratch: train, evaluate, write."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from interp.tasks.world import vocabulary
from training import accuracy, export, network, world_card, world_evaluate, world_optimise

NAME = "tiny-world"
STEPS = world_optimise.Schedule.steps
FAMILIES = (
    "ioi", "coloured_objects", "induction", "greater_than", "agreement", "docstring", "facts", "conflict",
    "sentiment", "pronouns", "languages", "register", "requests",
)  # fmt: skip


def train(folder: Path, steps: int, seed: int) -> None:
    """Train with the standard sizes and write the model's folder."""
    schedule, began = world_optimise.Schedule(steps=steps), time.monotonic()
    log = world_optimise.progress(every=50)
    parameters = world_optimise.train(schedule, world_optimise.sizes(), seed, log)
    training = {
        "command": f"python -m training {NAME}",
        "seed": seed,
        "steps": steps,
        "documents": steps * schedule.rows,
        "prompts": world_evaluate.PROMPTS,
        "seconds": round(time.monotonic() - began),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    write(folder, parameters, training)


def write(folder: Path, parameters: network.Parameters, training: dict[str, Any]) -> None:
    """Evaluate on what was held out, and write the folder."""
    found = world_evaluate.figures(lambda tokens: network.logits(parameters, tokens), training["prompts"])
    sizes, words = world_optimise.sizes(), vocabulary()
    card = world_card.card(NAME, sizes, parameters, found, training)
    export.write(folder, card, world_card.readme(card), words, parameters, sizes)
    accuracy.add(folder, FAMILIES)
    print(f"{folder}: {found}")
