"""Training batches of token ids: sentences of the language, and random words that repeat.

A copying row is `<bos> x … w1 … wk w1 … wk w1 …`: all words distinct but for the repeats, whose period and
start differ from row to row, so that from its second word on a repeat can be told only by looking back.
Only predictable tokens are targets: in copying rows the repeat from its second word on, in sentences
every token, of which the last word (whom, or which year) counts more.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.tasks.world import SPECIAL
from training.language import Language

PAD, BOS, EOS = (SPECIAL.index(token) for token in ("<pad>", "<bos>", "<eos>"))
LAST_WORD = 5.0


@dataclass(frozen=True, eq=False)
class Batch:
    """Tokens, and how much the prediction of each counts (the first never does)."""

    tokens: Int[Tensor, "row pos"]
    weight: Float[Tensor, "row pos"]

    @property
    def targets(self) -> Bool[Tensor, "row pos"]:
        """The tokens that count at all."""
        return self.weight > 0


def text_batch(language: Language, ids: dict[str, int], rng: random.Random, rows: int, test: bool) -> Batch:
    """Sentences, each `<bos> words <eos>`, padded on the right."""
    texts = [[BOS, *(ids[word] for word in language.sentence(rng, test)), EOS] for _ in range(rows)]
    width = max(map(len, texts))
    tokens = torch.tensor([[*text, *[PAD] * (width - len(text))] for text in texts])
    weight = (tokens != PAD).float()
    weight[:, 0] = 0
    last_word = torch.tensor([len(text) - 3 for text in texts])  # before the full stop and <eos>
    weight[torch.arange(rows), last_word] = LAST_WORD
    return Batch(tokens, weight)


def copy_batch(n_words: int, n_ctx: int, rng: random.Random, rows: int) -> Batch:
    """Repeated random words; every row has its own period and start, the batch its own width."""
    width = rng.randint(12, n_ctx)
    generator = torch.Generator().manual_seed(rng.getrandbits(62))
    start = torch.randint(1, 7, (rows, 1), generator=generator)
    start = torch.where(torch.rand(rows, 1, generator=generator) < 0.5, 1, start)
    spread = torch.rand(rows, 1, generator=generator)
    period = 2 + (spread * (width - start) * 2 / 3).long()
    return copy_rows(n_words, rng, width, start, period)


def copy_rows(
    n_words: int, rng: random.Random, width: int, start: Int[Tensor, "row 1"], period: Int[Tensor, "row 1"]
) -> Batch:
    """Rows whose words repeat with a period from position `start` on, random and distinct until then."""
    generator = torch.Generator().manual_seed(rng.getrandbits(62))
    scores = torch.rand(len(start), n_words - len(SPECIAL), generator=generator)
    words = scores.argsort(-1) + len(SPECIAL)  # (row, word)
    pos = torch.arange(width)
    repeated = torch.where(pos < start, pos, start + (pos - start) % period)  # (row, pos)
    tokens = words.gather(1, repeated)
    tokens[:, 0] = BOS
    return Batch(tokens, (pos > start + period).float())
