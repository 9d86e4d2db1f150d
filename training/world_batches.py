"""Training batches of tiny-world: documents of like length together, and random words that repeat."""

from __future__ import annotations

import random

import torch

from interp.tasks.world import World, split_marked
from training.batches import BOS, EOS, PAD, Batch, copy_batch

MARKED = 5.0  # how much a word that follows from the text counts; others 1
PARTS = 4


def document_batches(world: World, ids: dict[str, int], rng: random.Random, rows: int) -> list[Batch]:
    """Documents, each `<bos> words <eos>`, sorted by length into a few batches, padded on the right."""
    texts = sorted((encoded(world.document(rng), ids) for _ in range(rows)), key=lambda text: len(text[0]))
    size = -(-rows // PARTS)
    return [padded(texts[start : start + size]) for start in range(0, rows, size)]


def copying(n_words: int, n_ctx: int, rng: random.Random, rows: int) -> Batch:
    """Random words that repeat; every repeat counts as a marked word."""
    batch = copy_batch(n_words, n_ctx, rng, rows)
    return Batch(batch.tokens, batch.weight * MARKED)


def encoded(document: str, ids: dict[str, int]) -> tuple[list[int], list[float]]:
    words, marked = split_marked(document)
    weight = [0.0, *(MARKED if mark else 1.0 for mark in marked), 1.0]
    return [BOS, *(ids[word] for word in words), EOS], weight


def padded(texts: list[tuple[list[int], list[float]]]) -> Batch:
    width = max(len(tokens) for tokens, _ in texts)
    tokens = torch.tensor([[*row, *[PAD] * (width - len(row))] for row, _ in texts])
    weight = torch.tensor([[*row, *[0.0] * (width - len(row))] for _, row in texts])
    return Batch(tokens, weight)
