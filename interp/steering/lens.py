"""A direction in the words of the model: through the final norm and the unembedding."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from interp.models import Model, final_norm
from interp.steering.direction import Direction
from interp.tasks import vocabulary


def lens(model: Model, vector: Float[Tensor, "d_model"]) -> Float[Tensor, "vocab"]:
    """Logits of a vector of the stream: centred where the norm centres, times its gain, unembedded.

    Linear in the vector: neither the norm's scale, its bias nor the unembedding's is applied.
    """
    W_U = model.W_U.detach()
    if len(vector) != W_U.shape[0]:
        raise ValueError(
            f"the lens reads vectors of the stream, width {W_U.shape[0]}; this has {len(vector)}."
        )
    x, norm = vector.to(W_U), final_norm(model)
    if norm is not None:
        x = x - x.mean() if norm.centred else x
        x = x if norm.gain is None else x * norm.gain.detach()
    out = x @ W_U
    return out if out.dtype == torch.float64 else out.float()


def top_tokens(model: Model, direction: Direction, k: int = 10) -> list[tuple[str, float]]:
    """The k tokens that the direction raises most, with their logits (see `Direction.lens`).

    `top_tokens(model, -direction)` gives those that it lowers most.
    """
    values, ids = direction.lens(model).topk(k)
    return [(vocabulary.decode(model, [token]), value) for token, value in zip(ids.tolist(), values.tolist())]
