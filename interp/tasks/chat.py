"""Chats as text, written by the tokenizer's own template.

The template writes BOS and the marks of turns itself, so that a rendered chat is encoded without BOS. Content
is text: where it holds one of the tokenizer's special tokens, it would change the turns, and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from interp.tasks import _prompts, vocabulary

_MARKER = "¤content¤"  # stands for what a turn says
_NAMES = {"system": "system", "user": "last_user", "assistant": "response"}
Messages = str | Sequence[Mapping[str, Any]]


def is_chat(given: Any) -> bool:
    """Whether this is a list of messages, each with a role and a content."""
    return (
        isinstance(given, Sequence)
        and not isinstance(given, str)
        and len(given) > 0
        and all(isinstance(each, Mapping) and "role" in each and "content" in each for each in given)
    )


def render(model: Any, messages: Any, *, system: str | None = None, prefix: str = "") -> str:
    """The chat as text, up to where the assistant's answer begins, or after its `prefix`.

    messages: one string (a user's turn), or messages {"role": ..., "content": ...}; content in parts of type
    "text" is joined. A last message of the assistant is left open: the answer goes on there. Raises
    ValueError for a tokenizer without a chat template, and for content that holds a special token.
    """
    tokenizer = vocabulary.tokenizer_of(model)
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "the tokenizer has no chat template, so it cannot write chats. Give texts, written as the model "
            "was trained to read them."
        )
    turns = _turns(tokenizer, messages)
    if system is not None and turns[0]["role"] != "system":
        turns = [{"role": "system", "content": _plain(tokenizer, system)}, *turns]
    return _written(tokenizer, turns) + _plain(tokenizer, prefix)


def tokenize(
    model: Any,
    clean: Sequence[Any],
    corrupt: Sequence[Any] | None,
    answer: Any,
    wrong: Any,
    *,
    system: str | None,
    prefix: str,
    forced: bool,
) -> dict[str, Any]:
    """The token ids and the spans of pairs of chats, as `Task.from_tokens` takes them."""
    written = partial(render, model, system=system, prefix=prefix)
    texts = [written(each) for each in clean]
    others = None if corrupt is None else [written(each) for each in corrupt]
    fields = _prompts.tokenize(
        model, clean=texts, corrupt=others, answer=answer, wrong=wrong, prepend_bos=False, forced=forced
    )
    fields["spans"] = spans(model, fields, (clean, texts), (corrupt, others), system, prefix)
    return fields


def _written(tokenizer: Any, turns: Sequence[Mapping[str, str]]) -> str:
    """The turns in the template's words; a last one of the assistant is left open."""
    goes_on = turns[-1]["role"] == "assistant"
    options = {"continue_final_message": True} if goes_on else {}
    return vocabulary.templated(tokenizer, turns, add_generation_prompt=not goes_on, **options)


def spans(
    model: Any,
    fields: Mapping[str, Any],
    clean: tuple[Sequence[Any], Sequence[str]],
    corrupt: tuple[Sequence[Any] | None, Sequence[str] | None],
    system: str | None,
    prefix: str,
) -> dict[str, Tensor]:
    """Where the system's words, the user's last ones and the answer's first ones stand: masks [prompt, pos].

    clean, corrupt: the chats as given, and as written. A part that stands at other positions in the corrupt
    prompt is left out of that pair.
    """
    tokens, lengths = fields["clean"], fields["lengths"].tolist()
    masks = {name: torch.zeros_like(tokens, dtype=torch.bool) for name in ("system", "last_user", "response")}
    for i, length in enumerate(lengths):
        sides = [_columns(model, clean[0][i], clean[1][i], tokens[i, :length].tolist(), system, prefix)]
        if corrupt[0] is not None and corrupt[1] is not None:
            ids = fields["corrupt"][i, :length].tolist()
            sides.append(_columns(model, corrupt[0][i], corrupt[1][i], ids, system, prefix))
        for name, mask in masks.items():
            if all(side.get(name) == sides[0].get(name) for side in sides):
                mask[i, sides[0].get(name, [])] = True
    return {name: mask for name, mask in masks.items() if bool(mask.any())}


def _columns(
    model: Any, given: Any, text: str, ids: list[int], system: str | None, prefix: str
) -> dict[str, list[int]]:
    """The tokens of the named parts of one chat."""
    offsets = vocabulary.offsets(model, text, ids)
    if offsets is None:  # an answer that was put behind the prompt
        offsets = _begun(model, text, ids)
    tokenizer = vocabulary.tokenizer_of(model)
    turns = _turns(tokenizer, given)
    if system is not None and turns[0]["role"] != "system":
        turns = [{"role": "system", "content": system}, *turns]
    letters = _letters(tokenizer, turns, text, prefix)
    columns = {name: vocabulary.columns(offsets or [], where) for name, where in letters.items()}
    return {name: at for name, at in columns.items() if at}


def _begun(model: Any, text: str, ids: list[int]) -> list[tuple[int, int]] | None:
    """Offsets where the tokens of the text are followed by others."""
    count = len(vocabulary.encode(model, text, prepend_bos=False))
    return vocabulary.offsets(model, text, ids[:count])


def _letters(
    tokenizer: Any, turns: Sequence[Mapping[str, str]], text: str, prefix: str
) -> dict[str, tuple[int, int]]:
    """Where the contents of the last turn of each role stand: where a marker in their place would stand."""
    where: dict[str, tuple[int, int]] = {}
    for number, turn in enumerate(turns):
        name = _NAMES.get(turn["role"])
        content = turn["content"].strip()
        if name is None or not content:
            continue
        marked = [*turns[:number], {**turn, "content": _MARKER}, *turns[number + 1 :]]
        start = _written(tokenizer, marked).find(_MARKER)
        start = text.find(content, start, start + len(turn["content"])) if start >= 0 else -1
        if start >= 0:
            where[name] = (start, start + len(content))
    if turns[-1]["role"] != "assistant":
        where.pop("response", None)
    if prefix:
        where["response"] = (where.get("response", (len(text) - len(prefix),))[0], len(text))
    return where


def _turns(tokenizer: Any, messages: Any) -> list[dict[str, str]]:
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not is_chat(messages):
        raise ValueError(
            f"a chat is {messages!r:.80}; give a string, or a list of messages such as "
            '{"role": "user", "content": "Hi"}.'
        )
    return [{"role": str(m["role"]), "content": _plain(tokenizer, m["content"])} for m in messages]


def _plain(tokenizer: Any, content: Any) -> str:
    """The content as text without special tokens."""
    if not isinstance(content, str):
        parts = list(content) if isinstance(content, Sequence) else [content]
        if not all(isinstance(part, Mapping) and part.get("type") == "text" for part in parts):
            raise ValueError(f"the content of a message is {content!r:.80}; only text can be read.")
        content = "".join(str(part["text"]) for part in parts)
    return vocabulary.content(tokenizer, content)
