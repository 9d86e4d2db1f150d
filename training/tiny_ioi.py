"""tiny-ioi from scratch: train, evaluate, write."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from training import accuracy, evaluate, export, ioi_card, network, optimise
from training.language import Language

NAME = "tiny-ioi"
STEPS = optimise.Schedule.steps
FAMILIES = ("ioi", "induction", "greater_than")


def train(folder: Path, steps: int, seed: int) -> None:
    """Train with the standard sizes and write the model's folder."""
    language = Language(seed)
    sizes = network.Sizes(d_vocab=len(language.vocabulary()))
    schedule = optimise.Schedule(steps=steps)
    began = time.monotonic()
    result = optimise.train(language, sizes, schedule, seed, log=lambda line: print(line, flush=True))
    training = {
        "command": f"python -m training {NAME}",
        "seed": seed,
        "steps": steps,
        "rows": schedule.rows,
        "seconds": round(time.monotonic() - began),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "text_loss": result.text_loss,
        "copying_loss": result.copying_loss,
    }
    figures = evaluate.figures(lambda tokens: network.logits(result.parameters, tokens), language)
    card = ioi_card.card(NAME, sizes, result.parameters, figures, training)
    words = language.vocabulary()
    export.write(folder, card, ioi_card.readme(card), words, result.parameters, sizes)
    accuracy.add(folder, FAMILIES)
    print(f"{folder}: {figures}")
