"""From strings to token ids, with an error that names the prompt and the word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from interp.tasks import _tokens, vocabulary
from interp.tasks._validate import require

Answers = Sequence[str | Sequence[str]]


def tokenize(
    model: Any,
    *,
    clean: Sequence[str],
    corrupt: Sequence[str] | None,
    answer: Answers,
    wrong: Answers,
    prepend_bos: bool | None = None,
) -> dict[str, Any]:
    """The arguments of `Task.from_tokens` for these strings: ids on the model's device, and labels."""
    vocabulary.tokenizer_of(model)
    _require_counts(clean=clean, corrupt=corrupt, answer=answer, wrong=wrong)
    require(unknown_words(model, "clean", clean) + unknown_words(model, "corrupt", corrupt or ()))
    rows = [vocabulary.encode(model, text, prepend_bos) for text in clean]
    others = None if corrupt is None else [vocabulary.encode(model, text, prepend_bos) for text in corrupt]
    return from_ids(
        model,
        clean=rows,
        corrupt=others,
        answer=answer_ids(model, "answer", answer),
        wrong=answer_ids(model, "wrong", wrong),
    )


def from_ids(
    model: Any,
    *,
    clean: list[list[int]],
    corrupt: list[list[int]] | None,
    answer: list[list[int]],
    wrong: list[list[int]],
) -> dict[str, Any]:
    """The arguments of `Task.from_tokens` for rows of ids; labels where the model has a tokenizer."""
    device, pad = vocabulary.device(model), vocabulary.pad(model)
    rows = _tokens.pad_pairs(clean, corrupt, None, pad)
    labels = vocabulary.strings(model, rows.clean, rows.lengths) if vocabulary.has_tokenizer(model) else None
    tokens = rows.clean.to(device)
    return {
        "clean": tokens,
        "corrupt": None if corrupt is None else rows.corrupt.to(device),
        "lengths": rows.lengths.to(device),
        "answer": _compact(answer, device),
        "wrong": _compact(wrong, device),
        "labels": labels,
    }


def answer_ids(model: Any, field: str, answers: Answers) -> list[list[int]]:
    """The tokens of each prompt's answers; each string must be one token."""
    found, ids = [], []
    for i, texts in enumerate(answers):
        row = [texts] if isinstance(texts, str) else list(texts)
        found += [problem for text in row if (problem := _answer_problem(model, i, field, text))]
        ids.append([vocabulary.continuation(model, text) for text in row])
    require(found)
    return ids


def require_single(model: Any, field: str, words: Sequence[str]) -> None:
    """Each of a caller's words is one token after a space."""
    found = [_token_problem(model, field, f"{field}:", f" {word}", "each") for word in words]
    require([problem for problem in found if problem])


def _compact(rows: list[list[int]], device: Any) -> Any:
    """(prompt,) when every prompt has one answer, else (prompt, k)."""
    single = all(len(row) == 1 for row in rows)
    return _tokens.pad_answers([row[0] for row in rows] if single else rows, device)


def _answer_problem(model: Any, i: int, field: str, text: str) -> str | None:
    return _token_problem(model, f"prompt {i}, {field}", f"prompt {i}: {field}", text, "an answer")


def _token_problem(model: Any, place: str, subject: str, text: str, what: str) -> str | None:
    """What keeps the text from being one token of the vocabulary; None if it is one."""
    if vocabulary.continuation(model, text) is not None:
        return None
    if words := vocabulary.unknown_words(model, text):
        return _unknown_problem(model, place, words[0])
    ids = vocabulary.encode(model, text, prepend_bos=False)
    if not ids:
        return f"{subject} {text!r} is no token; {what} must be one token."
    pieces = ", ".join(repr(vocabulary.decode(model, [token])) for token in ids)
    spaced = " " + text.lstrip()
    if spaced != text and vocabulary.continuation(model, spaced) is not None:
        advice = f"{spaced!r}, with a leading space, is one: use it."
    else:
        advice = "Choose another word, or score the first token that differs."
    return f"{subject} {text!r} is {len(ids)} tokens ({pieces}); {what} must be one token. {advice}"


def unknown_words(model: Any, field: str, texts: Sequence[str]) -> list[str]:
    """A sentence for every word of the texts that is not in the vocabulary, with the nearest that are."""
    return [
        _unknown_problem(model, f"prompt {i}, {field}", word)
        for i, text in enumerate(texts)
        for word in vocabulary.unknown_words(model, text)
    ]


def _unknown_problem(model: Any, place: str, word: str) -> str:
    near = vocabulary.nearest(model, word)
    offer = (
        f"the nearest words are {', '.join(map(repr, near))}" if near else "no word of it looks like this one"
    )
    return f"{place}: {word!r} is not in the vocabulary of {vocabulary.size(model)} words; {offer}."


def _require_counts(**fields: Sequence[Any] | None) -> None:
    counts = {name: len(values) for name, values in fields.items() if values is not None}
    for name, values in fields.items():
        if isinstance(values, str):
            raise ValueError(f"{name} is one string; give a list of strings, one per prompt: [{values!r}].")
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise ValueError(f"the lists differ in length: {listed}. Give one entry per prompt.")
    if not counts["clean"]:
        raise ValueError("clean has 0 prompts; a task needs at least one.")
