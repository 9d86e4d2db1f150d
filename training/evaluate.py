"""What a trained model can do, on prompts it was not trained on; every figure needs only its logits."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from training.batches import BOS, PAD, Batch, copy_rows, text_batch
from training.language import Language
from training.optimise import loss

Logits = Callable[[Tensor], Tensor]
COPY_LENGTH = 10


def figures(logits: Logits, language: Language, n: int = 1000, seed: int = 1) -> dict[str, float | int]:
    """Accuracy and loss: held-out pairs of names, and fresh random sequences."""
    with torch.inference_mode():
        better, best = ioi(logits, language, n, seed)
        copied = copying(logits, language, n, seed)
        held_out = held_out_loss(logits, language, n, seed)
        later = greater_than(logits, language, min(n, 400), seed)
    return {
        "n": n,
        "seed": seed,
        "ioi_answer_above_wrong": better,
        "ioi_answer_first": best,
        "copying_argmax": copied,
        "copying_tokens": n * (COPY_LENGTH - 1),
        "text_loss": held_out,
        "greater_than_probability_difference": later,
    }


def ioi(logits: Logits, language: Language, n: int, seed: int) -> tuple[float, float]:
    """Share of held-out prompts with the answer above the wrong name, and above every other token."""
    ids, rng = _ids(language), random.Random(seed)
    prompts = [language.ioi_prompt(rng, test=True) for _ in range(n)]
    rows = [[BOS, *(ids[word] for word in prompt.words)] for prompt in prompts]
    at_end = _last(logits, rows)
    answer = torch.tensor([ids[prompt.answer] for prompt in prompts])
    wrong = torch.tensor([ids[prompt.wrong] for prompt in prompts])
    each = torch.arange(n)
    return _share(at_end[each, answer] > at_end[each, wrong]), _share(at_end.argmax(-1) == answer)


def copying(logits: Logits, language: Language, n: int, seed: int) -> float:
    """Share of repeated words, from the second on, that are the model's first choice."""
    batch = copying_rows(language, n, seed)
    wanted = batch.targets[:, 1:]
    predicted = logits(batch.tokens)[:, :-1].argmax(-1)
    return _share(predicted[wanted] == batch.tokens[:, 1:][wanted])


def copying_rows(language: Language, n: int, seed: int) -> Batch:
    """`<bos>`, COPY_LENGTH random words, and the same words again."""
    start = torch.ones(n, 1, dtype=torch.long)
    width = 1 + 2 * COPY_LENGTH
    return copy_rows(len(language.vocabulary()), random.Random(seed), width, start, start * COPY_LENGTH)


def held_out_loss(logits: Logits, language: Language, n: int, seed: int) -> float:
    """Mean cross-entropy of sentences with held-out pairs, in nats a token."""
    batch = text_batch(language, _ids(language), random.Random(seed), n, test=True)
    return float(loss(logits(batch.tokens), Batch(batch.tokens, batch.targets.float())))


def greater_than(logits: Logits, language: Language, n: int, seed: int) -> float:
    """Mean probability of the years after the first one, minus that of the others."""
    ids, rng = _ids(language), random.Random(seed)
    rows, starts = [], []
    for _ in range(n):
        words, start = language.years_prompt(rng)
        rows.append([BOS, *(ids[word] for word in words)])
        starts.append(start)
    years = torch.tensor([ids[f"{year:02d}"] for year in range(100)])
    p = _last(logits, rows).softmax(-1)[:, years]  # (prompt, year)
    later = torch.arange(100) > torch.tensor(starts)[:, None]
    return float((p * later - p * ~later).sum(-1).mean())


def _ids(language: Language) -> dict[str, int]:
    return {word: i for i, word in enumerate(language.vocabulary())}


def _last(logits: Logits, rows: list[list[int]]) -> Float[Tensor, "prompt vocab"]:
    """Logits at the last word of each prompt."""
    width = max(map(len, rows))
    tokens = torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows])
    ends = torch.tensor([len(row) - 1 for row in rows])
    return logits(tokens)[torch.arange(len(rows)), ends]


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())
