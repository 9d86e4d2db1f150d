"""`python -m interp.models.train tiny-ioi`: train a bundled model and write its folder."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from interp.models.files import data_dir
from interp.models.train import evaluate, export, network, optimise
from interp.models.train.language import Language

NAMES = ("tiny-ioi",)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, train, evaluate, write."""
    parser = argparse.ArgumentParser(prog="python -m interp.models.train", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--out", type=Path, help="folder to write (default: the bundled one)")
    parser.add_argument("--steps", type=int, default=optimise.Schedule.steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="cores; the weights depend on it")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    train(args.name, args.out or data_dir() / args.name, args.steps, args.seed)


def train(name: str, folder: Path, steps: int, seed: int) -> None:
    """Train with the standard sizes and write the model's folder."""
    language = Language(seed)
    sizes = network.Sizes(d_vocab=len(language.vocabulary()))
    schedule = optimise.Schedule(steps=steps)
    began = time.monotonic()
    result = optimise.train(language, sizes, schedule, seed, log=lambda line: print(line, flush=True))
    training = {
        "command": f"python -m interp.models.train {name}",
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
    card = export.card(name, sizes, result.parameters, figures, training)
    export.write(folder, card, result.parameters, sizes)
    print(f"{folder}: {figures}")


if __name__ == "__main__":
    main()
