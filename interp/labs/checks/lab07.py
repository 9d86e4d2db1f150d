"""Lab 07, what heads do: checks of `previous_token`, `induction`, `copying`, `composition`."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from interp.labs._exercise import Case, Exercise, drawn, model, reference

_LENGTH = 6  # words that are repeated


@cache
def _patterns() -> tuple[Tensor, Tensor]:
    """Of the model by hand on repeats: the attention of both layers, [prompt, head, query, key]."""
    loaded = model("induction")
    special = set(loaded.tokenizer.all_special_ids)
    words = torch.tensor([i for i in range(loaded.cfg.d_vocab) if i not in special])
    order = torch.stack([drawn(len(words), seed=seed).argsort()[:_LENGTH] for seed in range(4)])
    x = words[order]
    tokens = torch.cat([torch.full((4, 1), loaded.tokenizer.bos_token_id), x, x], 1)
    with torch.no_grad():
        cache = loaded.run_with_cache(tokens)[1]
    return cache["blocks.0.attn.hook_pattern"], cache["blocks.1.attn.hook_pattern"]


def _random(prompts: int, n_heads: int, length: int, seed: int = 0) -> Tensor:
    """Random causal attention."""
    scores = 2 * drawn(prompts, n_heads, length, length, seed=seed)
    later = torch.ones(length, length).triu(1).bool()
    return scores.masked_fill(later, -torch.inf).softmax(-1)


# previous_token: [prompt, head, query, key] → [head]


@reference
def _previous_token(pattern: Tensor) -> Tensor:
    return pattern.diagonal(-1, 2, 3)[..., 1:].mean((0, 2))


def _previous_cases() -> list[Case]:
    def by_hand() -> tuple[Any, ...]:
        rows = [[1.0, 0, 0, 0], [0.9, 0.1, 0, 0], [0.2, 0.6, 0.2, 0], [0.1, 0.1, 0.8, 0.0]]
        return (torch.tensor(rows)[None, None],)

    text = "query 2 looks at 1 with 0.6, query 3 at 2 with 0.8: 0.7 (query 1 looks at key 0 and is left out)"
    return [
        Case(by_hand, "one head and four tokens by hand", text),
        Case(lambda: (_random(3, 2, 7),), "random attention"),
        Case(lambda: (_patterns()[0].clone(),), "layer 0 of the model by hand"),
    ]


previous_token = Exercise(
    "previous_token",
    _previous_token,
    _previous_cases,
    lambda right: f"in the model by hand L0H0 has {right[0]:.2f}",
)


@previous_token.mistake("the token itself is scored: the one before is one diagonal lower")
def _previous_self(pattern: Tensor) -> Tensor:
    return pattern.diagonal(0, 2, 3)[..., 2:].mean((0, 2))


@previous_token.mistake("query and key are exchanged: in [query, key] the key is the last")
def _previous_turned(pattern: Tensor) -> Tensor:
    return _previous_token(pattern.transpose(2, 3))


@previous_token.mistake("key 0 is counted, where attention rests for no reason: begin at query 2")
def _previous_first(pattern: Tensor) -> Tensor:
    return pattern.diagonal(-1, 2, 3).mean((0, 2))


@previous_token.mistake("the mean goes over heads as well; each head has its own score")
def _previous_heads(pattern: Tensor) -> Tensor:
    return _previous_token(pattern).mean()


@previous_token.mistake("this is a sum over queries; take the mean")
def _previous_sum(pattern: Tensor) -> Tensor:
    return pattern.diagonal(-1, 2, 3)[..., 1:].sum(2).mean(0)


# induction: [prompt, head, query, key] and R → [head]


@reference
def _induction(pattern: Tensor, R: int) -> Tensor:
    return _offset(pattern, torch.arange(R + 2, 2 * R + 1), R - 1)


def _offset(pattern: Tensor, q: Tensor, back: int) -> Tensor:
    return pattern[:, :, q, (q - back).clamp(min=0)].mean((0, 2))


def _induction_cases() -> list[Case]:
    def by_hand() -> tuple[Any, ...]:
        pattern = torch.zeros(1, 1, 7, 7)
        pattern[..., 0] = 1.0
        for query, key, share in (
            (5, 3, 0.9),
            (6, 4, 0.5),
            (4, 2, 0.3),
            (6, 3, 0.2),
            (3, 1, 0.4),
            (5, 1, 0.08),
        ):
            pattern[0, 0, query, key], pattern[0, 0, query, 0] = share, 0.02
        return pattern, 3

    text = "R = 3: query 5 looks at 3 with 0.9, query 6 at 4 with 0.5: 0.7"
    return [
        Case(by_hand, "one head on [BOS, x, x] with three words by hand", text),
        Case(lambda: (_random(3, 2, 9), 4), "random attention"),
        Case(lambda: (_patterns()[1].clone(), _LENGTH), "layer 1 of the model by hand"),
    ]


induction = Exercise(
    "induction",
    _induction,
    _induction_cases,
    lambda right: f"in the model by hand L1H0 has {right[0]:.2f}, and the idle L1H1 {right[1]:.2f}",
)


@induction.mistake("this scores the first copy, where nothing has come before: queries are R + 2, ..., 2R")
def _induction_first(pattern: Tensor, R: int) -> Tensor:
    return _offset(pattern, torch.arange(2, R + 1), R - 1)


@induction.mistake("this is the twin itself, q − R, which is what duplicate-token heads look at; add 1")
def _induction_twin(pattern: Tensor, R: int) -> Tensor:
    return _offset(pattern, torch.arange(R + 2, 2 * R + 1), R)


@induction.mistake("this is the word before the twin, q − R − 1; the word after it is q − R + 1")
def _induction_before(pattern: Tensor, R: int) -> Tensor:
    return _offset(pattern, torch.arange(R + 2, 2 * R + 1), R + 1)


@induction.mistake("the first query of the second copy is counted too: begin at R + 2")
def _induction_early(pattern: Tensor, R: int) -> Tensor:
    return _offset(pattern, torch.arange(R + 1, 2 * R + 1), R - 1)


@induction.mistake("query and key are exchanged: in [query, key] the key is the last")
def _induction_turned(pattern: Tensor, R: int) -> Tensor:
    return _induction(pattern.transpose(2, 3), R)


# copying: [word, word] → a number


@reference
def _copying(M: Tensor) -> float:
    values = torch.linalg.eigvals(M)
    return float(values.real.sum() / values.abs().sum())


@cache
def _weights() -> tuple[Tensor, Tensor, Tensor]:
    """Of the model by hand: embed-OV-unembed of L1H0, QK of L1H0, OV of L0H0."""
    loaded = model("induction")
    first, second = loaded.blocks[0].attn, loaded.blocks[1].attn
    W = {name: getattr(second, f"W_{name}")[0].detach() for name in "QKVO"}
    whole = loaded.W_E.detach() @ W["V"] @ W["O"] @ loaded.W_U.detach()
    return whole, W["Q"] @ W["K"].T, first.W_V[0].detach() @ first.W_O[0].detach()


def _copying_cases() -> list[Case]:
    text = "eigenvalues 3 and −1: (3 − 1) / (3 + 1) = 0.5"
    return [
        Case(lambda: (torch.tensor([[3.0, 7.0], [0.0, -1.0]]),), "two words by hand", text),
        Case(lambda: (torch.tensor([[1.0, 1, 0], [-1, 1, 0], [0, 0, -0.5]]),), "eigenvalues 1 ± i and −½"),
        Case(lambda: (drawn(6, 6),), "a random matrix"),
        Case(lambda: (_weights()[0].clone(),), "L1H0 of the model by hand"),
    ]


copying = Exercise(
    "copying",
    _copying,
    _copying_cases,
    lambda right: f"L1H0 of the model by hand has {right:.2f}: it copies",
    tolerance=1e-3,
)


@copying.mistake("these are singular values, which have no sign; take eigenvalues")
def _copying_singular(M: Tensor) -> float:
    values = torch.linalg.svdvals(M)
    return float(M.trace() / values.sum())


@copying.mistake("this is the share of positive eigenvalues; weigh them with their size")
def _copying_share(M: Tensor) -> float:
    return float((torch.linalg.eigvals(M).real > 0).float().mean())


@copying.mistake("the eigenvalues are summed and not divided by Σ |λ|")
def _copying_bare(M: Tensor) -> float:
    return float(torch.linalg.eigvals(M).real.sum())


@copying.mistake(
    "real parts are divided by real parts: below the line stands the size |λ| of a complex number"
)
def _copying_real(M: Tensor) -> float:
    values = torch.linalg.eigvals(M)
    return float(values.real.sum() / values.real.abs().sum())


# composition: [d, d] twice → a number


@reference
def _composition(qk: Tensor, ov: Tensor) -> float:
    return float((qk @ ov.T).norm() / (qk.norm() * ov.norm()))


def _composition_cases() -> list[Case]:
    def by_hand() -> tuple[Any, ...]:
        return torch.tensor([[0.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 3.0], [0.0, 4.0]])

    text = "QK · OVᵀ = [[6, 8], [0, 0]] has norm 10, QK 2 and OV 5: 10 / (2 · 5) = 1"
    return [
        Case(by_hand, "two dimensions by hand", text),
        Case(lambda: (drawn(5, 5), 3 * drawn(5, 5, seed=1)), "random matrices"),
        Case(lambda: (_weights()[1].clone(), _weights()[2].clone()), "L1H0 and L0H0 of the model by hand"),
    ]


composition = Exercise(
    "composition",
    _composition,
    _composition_cases,
    lambda right: f"the keys of L1H0 hear L0H0 with {right:.2f} in the model by hand",
)


@composition.mistake("OV is not turned: x QK (y OV)ᵀ = x QK · OVᵀ · yᵀ")
def _composition_straight(qk: Tensor, ov: Tensor) -> float:
    return float((qk @ ov).norm() / (qk.norm() * ov.norm()))


@composition.mistake("this is Q-composition: OV stands before QK, where the query is read")
def _composition_query(qk: Tensor, ov: Tensor) -> float:
    return float((ov @ qk).norm() / (qk.norm() * ov.norm()))


@composition.mistake("nothing is divided: large weights alone would count")
def _composition_bare(qk: Tensor, ov: Tensor) -> float:
    return float((qk @ ov.T).norm())


@composition.mistake("the largest singular value is taken for the norm; use the Frobenius norm, .norm()")
def _composition_spectral(qk: Tensor, ov: Tensor) -> float:
    norm = lambda M: torch.linalg.matrix_norm(M, 2)  # noqa: E731
    return float(norm(qk @ ov.T) / (norm(qk) * norm(ov)))
