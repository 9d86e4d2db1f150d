"""`interp steer bake`: a model folder whose weights are steered, checked against steering with hooks."""

from __future__ import annotations

import argparse
from typing import Any

from interp.cli.steer_inputs import direction_of, one_place

_PROMPTS, _TOKENS = 4, 12  # of random tokens, for the check
_TOLERANCE = 1e-3  # of the largest logit


def run(args: argparse.Namespace) -> None:
    """The folder, whose path comes last; how far its logits are from those under hooks before."""
    import interp
    from interp import steering
    from interp.models.saving import require_free, save

    if (args.coefficient is None) != args.ablate:
        raise ValueError("give --coefficient or --ablate, one of them.")
    folder = args.out or args.direction.parent / "baked"
    require_free(folder)
    model = interp.load(args.model)
    edits = _edits(model, args)
    tokens = _tokens(model)
    hooked = _logits(model, tokens, edits)
    with steering.bake(model, edits):
        path = save(model, folder, source=args.model)
    error = _difference(hooked, _logits(interp.load(path), tokens, ()))
    if error > _TOLERANCE:
        raise ValueError(
            f"the model in {path} differs from the steered one by {error:.2g} of the largest logit. Its "
            "loading processes the weights; steer with hooks instead."
        )
    print(f"largest difference from steering with hooks: {error:.2g} of the largest logit")
    print(f"load it with interp.load({str(path)!r})")
    print(path)


def _edits(model: Any, args: argparse.Namespace) -> Any:
    from interp import steering
    from interp.models.anatomy import anatomy

    direction = one_place(direction_of(model, args))
    if args.ablate:
        return steering.ablate(direction.spread(steering.writers(anatomy(model))))
    return steering.add(direction, args.coefficient)


def _tokens(model: Any) -> Any:
    import torch

    from interp.tasks import vocabulary

    size, limit = vocabulary.size(model), vocabulary.context(model)
    length = _TOKENS if limit is None else min(_TOKENS, limit)
    return torch.randint(size, (_PROMPTS, length), generator=torch.Generator().manual_seed(0))


def _logits(model: Any, tokens: Any, edits: Any) -> Any:
    import torch

    from interp.models.anatomy import logits
    from interp.steering import steer

    with torch.no_grad(), steer(model, edits):
        return logits(model, tokens)


def _difference(one: Any, other: Any) -> float:
    return float((one - other).abs().max() / one.abs().max())
