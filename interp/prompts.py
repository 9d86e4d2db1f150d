"""Prompts as right-padded token ids with their lengths, read from texts, token ids, chat messages or a Task.

Causal attention lets nothing flow from the right to the left, so right padding needs no mask, and column i
is the i-th real token of every row: columns are absolute positions.

Messages are put into words by the tokenizer's own chat template, with nothing added: its beginning token is
the only one, and a conversation that ends with the user's turn ends with the words that begin the
assistant's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp._arguments import shown
from interp.models import Model
from interp.tasks import vocabulary
from interp.tasks._prompts import unknown_words
from interp.tasks._spans import Spans
from interp.tasks._tokens import real_tokens
from interp.tasks._validate import require

Mask = tuple[Tensor | None, Tensor | None] | Tensor | None  # of two classes, or one for both


@dataclass(frozen=True, eq=False)
class Prompts:
    """Rows of token ids; row i has `lengths[i]` real tokens, then padding.

    spans: named positions as masks [prompt, pos]: those of a task; of conversations "last_user" and
    "response" (where there is one), the words alone, without the template's marks.
    """

    tokens: Int[Tensor, "prompt pos"]
    lengths: Int[Tensor, "prompt"]
    texts: tuple[str, ...] | None = field(default=None)
    spans: Spans = field(default_factory=dict)
    chat: bool = False  # whether they are conversations, written by the tokenizer's template

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def real(self) -> Bool[Tensor, "prompt pos"]:
        """Which columns are tokens of the prompt."""
        return torch.arange(self.tokens.shape[1], device=self.tokens.device) < self.lengths[:, None]

    def __getitem__(self, rows: Int[Tensor, "row"]) -> Prompts:
        spans = {name: span[rows] for name, span in self.spans.items()}
        return Prompts(self.tokens[rows], self.lengths[rows], None, spans, self.chat)

    def batches(self, size: int, *, padded: bool = True) -> Iterator[tuple[Tensor, Prompts]]:
        """Row numbers and rows, longest first, cut to the longest of the batch.

        padded: whether rows of several lengths may stand together; not where attention goes both ways.
        """
        order = self.lengths.argsort(descending=True, stable=True)
        parts = [order]
        if not padded:
            parts = order.split(self.lengths.unique(return_counts=True)[1].flip(0).tolist())
        for rows in (rows for part in parts for rows in part.split(size)):
            longest = int(self.lengths[rows].max())
            yield rows, Prompts(self.tokens[rows, :longest], self.lengths[rows])

    def data_hash(self) -> str:
        """sha256 of the real tokens; the same whatever the padding."""
        digest = hashlib.sha256()
        for row, length in zip(self.tokens.tolist(), self.lengths.tolist()):
            digest.update(f"{row[:length]}".encode())
        return digest.hexdigest()


def read(model: Model, data: Any, mask: Tensor | None = None, what: str = "prompts") -> Prompts:
    """Prompts from a string, strings, token ids [prompt, pos] (or [pos]), rows of ids, messages, or a Task.

    What it gives is read as it is, by every verb. Messages are one conversation, [{"role": "user", "content":
    "..."}, ...], or a list of them. mask: 1 where a token is real, for ids padded on the left or the right;
    without it, padding is recognised where the tokenizer has a token for nothing else. Raises
    ValueError for no prompts, an empty prompt, ids outside the vocabulary, padding that could be text, a
    prompt longer than the model's context.
    """
    if mask is not None:
        prompts = _from_ids(model, _maskable(data, what), mask, what)
    elif isinstance(data, Prompts):
        prompts = data
    elif isinstance(data, Tensor):
        prompts = _from_ids(model, data, mask, what)
    elif hasattr(data, "clean") and hasattr(data, "lengths"):
        prompts = Prompts(data.clean, data.lengths, None, getattr(data, "spans", {}))
    else:
        prompts = _from_rows(model, data, what)
    return _checked(model, prompts, what)


def read_classes(model: Model, positive: Any, negative: Any, mask: Mask = None) -> tuple[Prompts, Prompts]:
    """The prompts of two classes. mask: a pair, or one tensor for both."""
    if mask is not None and not isinstance(mask, Tensor) and len(mask) != 2:
        raise ValueError(
            f"mask has {len(mask)} parts; give a pair, (positive, negative), None for no padding."
        )
    one, other = (mask, mask) if mask is None or isinstance(mask, Tensor) else mask
    return read(model, positive, one, "positive"), read(model, negative, other, "negative")


def written(model: Model, tokens: Int[Tensor, "row pos"]) -> list[list[int]]:
    """What a model wrote, row by row, up to the end of the text and without padding; a token at least."""
    ends, pad = vocabulary.ends(model), vocabulary.pad(model)
    rows = []
    for row in tokens.tolist():
        length = next((i for i, token in enumerate(row) if token in ends), len(row))
        while length > 1 and row[length - 1] == pad:
            length -= 1
        rows.append(row[: max(length, 1)])
    return rows


def from_left(tokens: Int[Tensor, "row pos"], mask: Tensor | None, lengths: Int[Tensor, "row"]) -> Prompts:
    """Prompts of a pass's tokens, perhaps padded on the left: the first `lengths` real ones of each row."""
    if mask is None:
        return Prompts(tokens, lengths)
    order = (~mask.bool()).long().argsort(dim=1, stable=True)
    return Prompts(tokens.gather(1, order), lengths)


def _from_ids(model: Model, ids: Tensor, mask: Tensor | None, what: str) -> Prompts:
    ids = ids[None] if ids.ndim == 1 else ids
    if ids.ndim != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(f"{what}: token ids have shape {tuple(ids.shape)}, {ids.dtype}; give [prompt, pos].")
    mask = _padding(model, ids, what) if mask is None else mask
    if mask is None:
        lengths = torch.full((ids.shape[0],), ids.shape[1], device=ids.device)
        return Prompts(ids.long(), lengths)
    mask = mask if isinstance(mask, Tensor) else torch.as_tensor(mask)
    marks = real_tokens(mask[None] if mask.ndim == 1 else mask, tuple(ids.shape), f"{what}: ").to(ids.device)
    order = (~marks).long().argsort(dim=1, stable=True)  # real tokens first, in their order
    return Prompts(ids.long().gather(1, order), marks.sum(1))


def _maskable(data: Any, what: str) -> Tensor:
    """Token ids that a mask can stand beside. ValueError for what holds no padding."""
    if isinstance(data, Tensor):
        return data
    listed = isinstance(data, Sequence) and not isinstance(data, str) and conversations(data) is None
    rows = data if listed else []
    if len(rows) and all(isinstance(row, (Tensor, Sequence)) and not isinstance(row, str) for row in rows):
        ids = [_row(row, i, what) for i, row in enumerate(rows)]
        if len({len(row) for row in ids}) == 1:
            return torch.tensor(ids)
    raise ValueError(
        f"{what}: mask= says which of token ids [prompt, pos] are padding, and there are no such ids here "
        f"({type(data).__name__}). Leave it out: texts, messages, rows of several lengths and a Task know "
        "their tokens."
    )


def _padding(model: Model, ids: Tensor, what: str) -> Tensor | None:
    """Which tokens are real, of ids with padding that can be nothing else; None where there is none.

    Where the token for padding also begins or ends texts, a run of it at the end of a prompt, or of two and
    more at its beginning, could be either: ValueError.
    """
    tokenizer = getattr(model, "tokenizer", None)
    pad = getattr(tokenizer, "pad_token_id", None)
    if tokenizer is None or pad is None or not bool((ids == pad).any()):
        return None
    here = (ids == pad).long()
    leading, trailing = (run.cumprod(1).sum(1) for run in (here, here.flip(1)))
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    if pad not in special:
        return ids != pad
    least = 2 if pad == tokenizer.bos_token_id else 1
    padded = ((leading >= least) | (trailing > 0)) & (leading < ids.shape[1])
    if len(ids) > 1 and bool(padded.any()):
        row = int(padded.nonzero()[0])
        raise ValueError(
            f"{what}: prompt {row} begins or ends with token {pad}, which is padding and also ends texts. "
            "Say which tokens are real with mask=, or give strings or rows without padding."
        )
    return None


def _from_rows(model: Model, data: Any, what: str) -> Prompts:
    if isinstance(data, str):
        data = [data]
    if not isinstance(data, Sequence) or isinstance(data, bytes) or not len(data):
        got = shown(data) if isinstance(data, bytes) or not isinstance(data, Sequence) else "no prompts"
        raise ValueError(f"{what}: got {got}. Give strings, token ids [prompt, pos], messages, or a Task.")
    chats = conversations(data)
    if chats is not None:
        return _from_chats(model, chats, what)
    texts = tuple(data) if all(isinstance(each, str) for each in data) else None
    if texts is not None:
        require(unknown_words(model, what, texts))
        return _padded(model, [_encoded(model, text) for text in texts], texts)
    return _padded(model, [_row(row, i, what) for i, row in enumerate(data)], None)


def _row(row: Any, i: int, what: str) -> list[int]:
    """A row of token ids; ValueError for anything else."""
    try:
        ids = torch.as_tensor(row)
    except (TypeError, ValueError, RuntimeError):
        ids = torch.zeros(1)
    if isinstance(row, bytes) or ids.dtype == torch.bool or (ids.is_floating_point() and ids.numel()):
        raise ValueError(
            f"{what}: prompt {i} is {str(row)[:60]}; give strings, rows of token ids, or messages, all of "
            "one kind."
        )
    return ids.long().flatten().tolist()


def _padded(model: Model, rows: list[list[int]], texts: tuple[str, ...] | None) -> Prompts:
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), max(1, int(lengths.max()))), vocabulary.pad(model))
    for row, target in zip(rows, ids):
        target[: len(row)] = torch.tensor(row, dtype=torch.long)
    return Prompts(ids, lengths, texts)


def _encoded(model: Model, text: str) -> list[int]:
    """The ids of a text as the model reads it; a beginning token that is written out stays the only one."""
    ids, bos = vocabulary.encode(model, text), vocabulary.bos(model)
    twice = len(ids) > 1 and bos is not None and ids[0] == bos and ids[1] == bos
    return ids[1:] if twice else ids


def conversations(data: Any) -> list[list[dict[str, str]]] | None:
    """Chat messages as a list of conversations; None for what holds no messages.

    Raises ValueError for messages without role and content.
    """
    if not isinstance(data, Sequence) or isinstance(data, str) or not len(data):
        return None
    one = all(isinstance(each, Mapping) for each in data)
    several = all(
        isinstance(each, Sequence) and len(each) and all(isinstance(m, Mapping) for m in each)
        for each in data
    )
    if not one and not several:
        return None
    chats = [list(data)] if one else [list(each) for each in data]
    for message in (message for chat in chats for message in chat):
        if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
            raise ValueError(
                f"the message {dict(message)!r} has no role or no content; a message is "
                '{"role": "user", "content": "..."}.'
            )
    return chats


def template(model: Model, messages: Sequence[Mapping[str, str]]) -> str:
    """A conversation in the words of the tokenizer's own chat template, ready for the next turn.

    Where it ends with the user, the words follow that begin the assistant's turn. Raises ValueError where the
    tokenizer has no template, or the template refuses the messages.
    """
    tokenizer = vocabulary.tokenizer_of(model)
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "this tokenizer has no chat template, so it cannot read messages. Give the prompt as a string."
        )
    for message in messages:
        if message["role"] != "assistant":  # the model's own words may hold what it wrote
            vocabulary.content(tokenizer, message["content"])
    opened = messages[-1]["role"] != "assistant"
    return vocabulary.templated(tokenizer, messages, add_generation_prompt=opened)


def turn_end(model: Model) -> int | None:
    """The token by which the chat template ends the assistant's turn; None where that is several."""
    asked, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "@"}
    text, tokenizer = template(model, [asked, answer]), vocabulary.tokenizer_of(model)
    after = tokenizer(text[text.rfind("@") + 1 :], add_special_tokens=False)["input_ids"]
    special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
    return after[0] if after and after[0] in special else None


def _from_chats(model: Model, chats: list[list[dict[str, str]]], what: str) -> Prompts:
    texts = [template(model, chat) for chat in chats]
    tokenizer, rows, spans = vocabulary.tokenizer_of(model), [], {"last_user": [], "response": []}
    for chat, text in zip(chats, texts):
        fast = bool(getattr(tokenizer, "is_fast", False))
        coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=fast)
        rows.append(list(coded["input_ids"]))
        for name, role in (("last_user", "user"), ("response", "assistant")):
            letters = _letters(model, chat, text, role)
            spans[name].append(_columns(coded["offset_mapping"], letters) if fast and letters else (0, 0))
    prompts = _padded(model, rows, tuple(texts))
    masks = {name: _marked(ends, prompts.tokens.shape[1]) for name, ends in spans.items()}
    return Prompts(prompts.tokens, prompts.lengths, prompts.texts, masks, chat=True)


def _marked(ends: Sequence[tuple[int, int]], n_pos: int) -> Bool[Tensor, "prompt pos"]:
    """Positions from start to stop of every prompt."""
    start, stop = torch.tensor(ends).unsqueeze(-1).unbind(1)  # [prompt, 1] each
    pos = torch.arange(n_pos)
    return (pos >= start) & (pos < stop)


def _letters(model: Model, chat: list[dict[str, str]], text: str, role: str) -> tuple[int, int] | None:
    """Where the content of a role's last message stands in the text; of an answer, only the very last."""
    at = [i for i, message in enumerate(chat) if message["role"] == role]
    if not at or (role == "assistant" and at[-1] != len(chat) - 1):
        return None
    content = chat[at[-1]]["content"].strip()
    after = len(text)
    for later in chat[: at[-1] : -1]:  # step back over what later messages say
        found = text.rfind(later["content"].strip(), 0, after)
        after = found if found >= 0 else after
    start = text.rfind(content, 0, after)
    return None if start < 0 or not content else (start, start + len(content))


def _columns(offsets: Sequence[tuple[int, int]], letters: tuple[int, int]) -> tuple[int, int]:
    """First and one past the last of the tokens that hold some of the letters."""
    inside = vocabulary.columns(offsets, letters)
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def _checked(model: Model, prompts: Prompts, what: str) -> Prompts:
    if not len(prompts):
        raise ValueError(f"{what}: there are 0 prompts. Give at least one.")
    if int(prompts.lengths.min()) < 1:
        raise ValueError(f"{what}: prompt {int(prompts.lengths.argmin())} has no tokens.")
    low, high = int(prompts.tokens.min()), int(prompts.tokens.max())
    if low < 0 or high >= vocabulary.size(model):
        raise ValueError(
            f"{what}: token id {low if low < 0 else high} is outside the vocabulary of "
            f"{vocabulary.size(model)} tokens."
        )
    limit, longest = vocabulary.context(model), int(prompts.lengths.max())
    if limit is not None and longest > limit:
        raise ValueError(f"{what}: a prompt has {longest} tokens, the model's context is {limit}. Cut it.")
    device = vocabulary.device(model)
    with torch.inference_mode(False):
        tokens, lengths = (t.clone().to(device) for t in (prompts.tokens, prompts.lengths))
        spans = {name: mask[:, :longest].clone().to(device) for name, mask in prompts.spans.items()}
    return Prompts(tokens[:, :longest], lengths, prompts.texts, spans, prompts.chat)
