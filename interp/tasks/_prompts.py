"""From strings to token ids, with an error that names the prompt and the word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch

from interp._arguments import shown
from interp.tasks import _spans, _tokens, vocabulary
from interp.tasks._validate import require

Answers = Sequence[str | Sequence[str]]


def tokenize(
    model: Any,
    *,
    clean: Sequence[Any],
    corrupt: Sequence[Any] | None,
    answer: Answers | None,
    wrong: Answers | None,
    prepend_bos: bool | None = None,
    forced: bool = False,
    positions: Any = None,
    spans: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The arguments of `Task.from_tokens` for these strings: ids on the model's device, and labels.

    forced: answers of several tokens, which are put behind the prompts.
    """
    vocabulary.tokenizer_of(model)
    _require_counts(clean=clean, corrupt=corrupt, answer=answer, wrong=wrong)
    _require_texts(clean=clean, corrupt=corrupt)
    require(unknown_words(model, "clean", clean) + unknown_words(model, "corrupt", corrupt or ()))
    rows = vocabulary.encode_all(model, clean, prepend_bos)
    others = None if corrupt is None else vocabulary.encode_all(model, corrupt, prepend_bos)
    require(_empty_problems("clean", rows) + _empty_problems("corrupt", others or []))
    if forced:
        if wrong is not None:
            raise ValueError("the metric 'seq_log_prob' reads no wrong answers; leave wrong= out.")
        fields = _forced(model, rows, others, answer or [])
        return {**fields, "spans": _named(model, fields, spans, (clean, rows), (corrupt, others))}
    fields = from_ids(
        model,
        clean=rows,
        corrupt=others,
        answer=None if answer is None else answer_ids(model, "answer", answer),
        wrong=None if wrong is None else answer_ids(model, "wrong", wrong),
    )
    fields |= {} if positions is None else {"positions": positions}
    return {**fields, "spans": _named(model, fields, spans, (clean, rows), (corrupt, others))}


def _named(
    model: Any,
    fields: dict[str, Any],
    spans: Mapping[str, Any] | None,
    *sides: tuple[Sequence[str] | None, list[list[int]] | None],
) -> dict[str, Any]:
    """Masks of named positions; words are looked for in the texts of both sides."""
    texts: dict[str, tuple[Sequence[str] | None, list[list[int]] | None]]
    texts = {"clean": sides[0], "corrupt": sides[1]}
    stop = torch.tensor([len(row) for row in sides[0][1] or ()])

    def find(side: str, i: int, words: str) -> list[int]:
        written, rows = texts[side]
        if written is None or rows is None:
            raise ValueError(f"prompt {i}: there is no {side} prompt in which {words!r} could stand.")
        return words_at(model, f"prompt {i}, {side}", written[i], rows[i], words)

    reader = _spans.Reader(torch.zeros_like(stop), stop, fields["clean"].shape[1], find)
    return {name: mask.to(fields["clean"].device) for name, mask in reader.masks(spans).items()}


def words_at(model: Any, where: str, text: str, ids: list[int], words: str) -> list[int]:
    """The tokens of words that stand once in a text. ValueError where they stand in none, or twice."""
    inside = words.strip()
    count = text.count(inside) if inside else 0
    if count != 1:
        times = "not at all" if not count else f"{count} times"
        raise ValueError(
            f"{where}: the words {words!r} stand {times} in {text!r:.80}. Give words that stand there once, "
            "or positions."
        )
    offsets = vocabulary.offsets(model, text, ids)
    if offsets is None:
        raise ValueError(
            f"{where}: this tokenizer does not say where its tokens stand in a text, so {words!r} cannot be "
            "found. Give positions."
        )
    start = text.index(inside)
    return vocabulary.columns(offsets, (start, start + len(inside)))


def _forced(
    model: Any, rows: list[list[int]], others: list[list[int]] | None, answer: Answers
) -> dict[str, Any]:
    """The answers behind both prompts, but for their last tokens, and a read-out position for each token."""
    problems = [
        f"prompt {i}: answer is {text!r}; the metric 'seq_log_prob' reads one string a prompt."
        for i, text in enumerate(answer)
        if not isinstance(text, str) or not text
    ]
    if not answer:
        problems = ["answer is not given; the metric 'seq_log_prob' reads one string a prompt."]
    require(problems)
    said = [vocabulary.pieces(model, str(text)) for text in answer]
    behind = [[[*row, *ids[:-1]] for row, ids in zip(side, said)] for side in (rows, others or [])]
    fields = from_ids(
        model, clean=behind[0], corrupt=behind[1] if others is not None else None, answer=None, wrong=None
    )
    starts = [[len(row) - 1 + i for i in range(len(ids))] for row, ids in zip(rows, said)]
    device = vocabulary.device(model)
    width = max(map(len, said))
    positions, answers = (
        _tokens.pad_rows([[*row, *[-1] * (width - len(row))] for row in table], -1, device)
        for table in (starts, said)
    )
    return {**fields, "positions": positions, "answer": answers}


def from_ids(
    model: Any,
    *,
    clean: list[list[int]],
    corrupt: list[list[int]] | None,
    answer: list[list[int]] | None,
    wrong: list[list[int]] | None,
) -> dict[str, Any]:
    """The arguments of `Task.from_tokens` for rows of ids; labels where the model has a tokenizer."""
    device, pad = vocabulary.device(model), vocabulary.pad(model)
    rows = _tokens.pad_pairs(clean, corrupt, None, pad)
    labels = vocabulary.strings(model, rows.clean, rows.lengths) if vocabulary.has_tokenizer(model) else None
    return {
        "clean": rows.clean.to(device),
        "corrupt": None if corrupt is None else rows.corrupt.to(device),
        "lengths": rows.lengths.to(device),
        "answer": None if answer is None else _compact(answer, device),
        "wrong": None if wrong is None else _compact(wrong, device),
        "labels": labels,
    }


def answer_ids(model: Any, field: str, answers: Answers) -> list[list[int]]:
    """The tokens of each prompt's answers; each string must be one token."""
    rows = [[texts] if isinstance(texts, str) else list(texts) for texts in answers]
    known = {
        text: vocabulary.continuation(model, text) for text in dict.fromkeys(t for row in rows for t in row)
    }
    require(
        [
            problem
            for i, row in enumerate(rows)
            for text in row
            if known[text] is None and (problem := _answer_problem(model, i, field, text))
        ]
    )
    return [[ids for text in row if (ids := known[text]) is not None] for row in rows]


def require_single(model: Any, field: str, words: Sequence[str]) -> None:
    """Each of a caller's words is one token after a space."""
    found = [_token_problem(model, field, f"{field}:", f" {word}", "each") for word in words]
    require([problem for problem in found if problem])


def _compact(rows: list[list[int]], device: Any) -> Any:
    """(prompt,) when every prompt has one answer, else (prompt, k)."""
    single = all(len(row) == 1 for row in rows)
    return _tokens.pad_ids("answer", [row[0] for row in rows] if single else rows, device)


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
    lacking = {text: vocabulary.unknown_words(model, text) for text in dict.fromkeys(texts)}
    return [
        _unknown_problem(model, f"prompt {i}, {field}", word)
        for i, text in enumerate(texts)
        for word in lacking[text]
    ]


def _unknown_problem(model: Any, place: str, word: str) -> str:
    near = vocabulary.nearest(model, word)
    offer = (
        f"the nearest words are {', '.join(map(repr, near))}" if near else "no word of it looks like this one"
    )
    return f"{place}: {word!r} is not in the vocabulary of {vocabulary.size(model)} words; {offer}."


def _require_texts(**fields: Sequence[Any] | None) -> None:
    for name, texts in fields.items():
        for i, text in enumerate(texts or ()):
            if not isinstance(text, str):
                raise ValueError(
                    f"prompt {i}: {name} is a {type(text).__name__}; give a string. Chats go to "
                    "Task.from_chat, token ids to Task.from_tokens."
                )


def _empty_problems(name: str, rows: list[list[int]]) -> list[str]:
    return [
        f"prompt {i}: {name} is empty: it has no tokens. Give a text of one token or more."
        for i, row in enumerate(rows)
        if not row
    ]


def _require_counts(**fields: Sequence[Any] | None) -> None:
    for name, values in fields.items():
        if isinstance(values, str):
            raise ValueError(f"{name} is one string; give a list of strings, one per prompt: [{values!r}].")
        if values is None and name == "clean":
            raise ValueError("clean is None; give a list of strings, one per prompt.")
        listed = hasattr(values, "__len__") and not isinstance(values, (Mapping, Set, bytes))
        if values is not None and (
            not listed or hasattr(values, "columns") or getattr(values, "ndim", 1) != 1
        ):
            raise ValueError(f"{name} is {shown(values)}; give a list of strings, one per prompt.")
    counts = {name: len(values) for name, values in fields.items() if values is not None}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise ValueError(f"the lists differ in length: {listed}. Give one entry per prompt.")
    if not counts["clean"]:
        raise ValueError("clean has 0 prompts; a task needs at least one.")
