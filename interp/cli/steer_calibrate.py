"""`interp steer calibrate`: the coefficient that gives a KL, for each layer of a direction."""

from __future__ import annotations

import argparse

from interp.cli.steer_inputs import direction_of, prompts_of, when_of


def run(args: argparse.Namespace) -> None:
    """One line a layer: the coefficient, the KL that it gives, and its length in median norms."""
    import interp
    from interp import steering

    model = interp.load(args.model, device=args.device)
    direction = direction_of(model, args)
    prompts, told = prompts_of(model, args)
    print(told)
    print(f"{'place':<14}{'coefficient':>12}{'KL':>9}{'norms':>9}")
    for part in direction.split():
        found = steering.calibrate(model, part, prompts, args.kl, sign=args.sign, when=when_of(args))
        norm = part.norms.get(part.place, float("nan"))
        length = abs(found.coefficient) * float(part.vector.norm()) / norm
        print(f"{part.place!s:<14}{found.coefficient:>12.5g}{found.kl:>9.4f}{length:>9.3f}")
