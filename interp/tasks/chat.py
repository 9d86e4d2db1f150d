"""Chats as text, written by the tokenizer's own template.

The template writes BOS and the marks of turns itself, so that a rendered chat is encoded without BOS. Content
is text: where it holds one of the tokenizer's special tokens, it would change the turns, and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from interp.tasks import vocabulary

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
    goes_on = turns[-1]["role"] == "assistant"
    text = tokenizer.apply_chat_template(
        turns,
        tokenize=False,
        add_generation_prompt=not goes_on,
        **({"continue_final_message": True} if goes_on else {}),
    )
    return text + _plain(tokenizer, prefix)


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
    special = next((token for token in tokenizer.all_special_tokens if token and token in content), None)
    if special is not None:
        raise ValueError(
            f"the content {content!r:.80} holds the special token {special!r}, which would change the turns "
            "of the chat. Take it out, or write the whole chat as text (Task.from_prompts)."
        )
    return content
