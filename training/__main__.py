"""`python -m training NAME`: train a bundled model and write its folder."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from interp.files import data_dir
from training import tiny_ioi, tiny_world

RECIPES = {"tiny-ioi": tiny_ioi, "tiny-world": tiny_world}


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, train, evaluate, write."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--out", type=Path, help="folder to write (default: the bundled one)")
    parser.add_argument("--steps", type=int, help="default: those of the bundled model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="cores; the weights depend on it")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    recipe = RECIPES[args.name]
    steps = recipe.STEPS if args.steps is None else args.steps
    recipe.train(args.out or data_dir() / args.name, steps, args.seed)


if __name__ == "__main__":
    main()
