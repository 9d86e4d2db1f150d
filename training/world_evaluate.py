"""What tiny-world can do, on what was held out of its training; every figure needs only its logits.

For each behaviour three shares: `right`, the answers together have more probability than the wrong answers;
`first`, the likeliest word of all is an answer; `mass`, the mean probability of the answers.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp.tasks.world import Behaviour, Pair, Stories, behaviours, split, vocabulary
from training.batches import BOS, PAD, copy_rows
from training.world_batches import encoded, padded

Logits = Callable[[Tensor], Tensor]
COPY_LENGTH = 10
PROMPTS = 1000
BARS = {
    "ioi": ("right", 0.99), "coloured_objects": ("first", 0.97), "induction": ("first", 0.95),
    "greater_than": ("mass", 0.95), "agreement": ("right", 0.98), "docstring": ("first", 0.95),
    "capital": ("first", 0.98), "born": ("first", 0.98), "two_hop": ("first", 0.80),
    "conflict_fiction": ("first", 0.95), "conflict_truth": ("first", 0.95),
}  # fmt: skip


def figures(logits: Logits, n: int = PROMPTS, seed: int = 1) -> dict[str, dict[str, float]]:
    """The shares of every behaviour, and the loss of held-out stories in nats a word."""
    ids = {word: i for i, word in enumerate(vocabulary())}
    with torch.inference_mode():
        found = {name: shares(logits, each, ids, n, seed) for name, each in behaviours().items()}
        found["induction"] = {"first": copying(logits, len(ids), n, seed)}
        loss = story_loss(logits, ids, n, seed)
    found["stories"] = {"loss": loss, "perplexity": float(torch.tensor(loss).exp())}
    return found


def shares(logits: Logits, behaviour: Behaviour, ids: dict[str, int], n: int, seed: int) -> dict[str, float]:
    """`right`, `first` and `mass` over n held-out prompts."""
    rng = random.Random(seed)
    pairs = [behaviour.pair(rng, test=True) for _ in range(n)]
    probability = _at_end(logits, [pair.clean for pair in pairs], ids)
    answer, wrong = (_total(probability, pairs, kind, ids) for kind in ("answer", "wrong"))
    first = probability.argmax(-1).tolist()
    hits = [words[0] in words[1] for words in zip(first, ([ids[word] for word in p.answer] for p in pairs))]
    right = float((answer > wrong).double().mean())
    return {"right": right, "first": sum(hits) / n, "mass": float(answer.mean())}


def copying(logits: Logits, n_words: int, n: int, seed: int) -> float:
    """Share of repeated random words, from the second on, that are the likeliest word."""
    start = torch.ones(n, 1, dtype=torch.long)
    batch = copy_rows(n_words, random.Random(seed), 1 + 2 * COPY_LENGTH, start, start * COPY_LENGTH)
    wanted = batch.targets[:, 1:]
    hits = logits(batch.tokens)[:, :-1].argmax(-1) == batch.tokens[:, 1:]
    return float(hits[wanted].double().mean())


def story_loss(logits: Logits, ids: dict[str, int], n: int, seed: int) -> float:
    """Mean cross-entropy of stories about held-out pairs of people, in nats a word."""
    rng, stories = random.Random(seed), Stories()
    batch = padded([encoded(stories.document(rng, test=True), ids) for _ in range(n)])
    real = batch.targets[:, 1:]
    return float(F.cross_entropy(logits(batch.tokens)[:, :-1][real], batch.tokens[:, 1:][real]))


def _at_end(logits: Logits, texts: list[str], ids: dict[str, int]) -> Float[Tensor, "prompt vocab"]:
    """Probabilities after the last word of each prompt."""
    rows = [[BOS, *(ids[word] for word in split(text))] for text in texts]
    width = max(map(len, rows))
    tokens = torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows])
    ends = torch.tensor([len(row) - 1 for row in rows])
    return logits(tokens)[torch.arange(len(rows)), ends].double().softmax(-1)


def _total(probability: Tensor, pairs: list[Pair], kind: str, ids: dict[str, int]) -> Float[Tensor, "prompt"]:
    columns = [[ids[word] for word in getattr(pair, kind)] for pair in pairs]
    return torch.stack([row[found].sum() for row, found in zip(probability, columns)])
