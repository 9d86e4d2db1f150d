"""What a task needs of a model's tokenizer and vocabulary.

The only file of this folder that calls a model's tokenizer, for a HookedTransformer and a TransformerBridge
alike (both have `tokenizer`, `to_tokens` and `cfg`). Strings are encoded one by one: none is padded or cut.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp._arguments import shown


def tokenizer_of(model: Any) -> Any:
    """The model's tokenizer; a `ValueError` when it has none."""
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None and not hasattr(model, "cfg") and not hasattr(model, "tokenizer"):
        raise ValueError(
            f"model is {shown(model)}; give a TransformerLens model (interp.load(...)), for its tokenizer."
        )
    if tokenizer is None:
        raise ValueError(
            "this model has no tokenizer, so it cannot read strings. Use Task.from_tokens with token ids, "
            "or load the model with its tokenizer."
        )
    return tokenizer


def has_tokenizer(model: Any) -> bool:
    """Whether the model reads strings."""
    return getattr(model, "tokenizer", None) is not None


def size(model: Any) -> int:
    """Number of token ids that the model embeds."""
    return int(model.cfg.d_vocab)


def output_size(model: Any) -> int:
    """Number of logits: the unembedding's columns. A bridge's `cfg` does not know of a changed head."""
    if (W_U := getattr(model, "W_U", None)) is not None:
        return int(W_U.shape[-1])
    columns = getattr(model.cfg, "d_vocab_out", -1)
    return int(columns) if columns and columns > 0 else size(model)


def context(model: Any) -> int | None:
    """Longest prompt, in tokens."""
    limit = getattr(model.cfg, "n_ctx", None)
    return int(limit) if limit else None


def device(model: Any) -> torch.device:
    """Where the model's parameters lie."""
    return next(model.parameters()).device


def bos(model: Any) -> int | None:
    """The id of the beginning-of-sequence token."""
    return getattr(getattr(model, "tokenizer", None), "bos_token_id", None)


def ends(model: Any) -> set[int]:
    """The ids that end a text: the tokenizer's, and those of the model's own settings for generation."""
    inner = getattr(model, "original_model", model)  # a HookedTransformer has them from `interp.load`
    settings = (getattr(model, "tokenizer", None), getattr(inner, "generation_config", None))
    listed = [getattr(each, "eos_token_id", None) for each in settings]
    ids = [each for given in listed for each in (given if isinstance(given, (list, tuple)) else [given])]
    return {int(each) for each in ids if each is not None and 0 <= each < size(model)}


def pad(model: Any) -> int:
    """The id used for padding: the tokenizer's, or 0."""
    token = getattr(getattr(model, "tokenizer", None), "pad_token_id", None)
    return 0 if token is None or not 0 <= token < size(model) else int(token)


def require_ids(model: Any, ids: Tensor, what: str = "tokens") -> None:
    """Raise ValueError for ids [..., pos] outside of the vocabulary, and for more than the context holds."""
    if not ids.numel():
        raise ValueError(f"{what}: there are no tokens. Give at least one.")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= size(model):
        raise ValueError(
            f"{what}: token id {low if low < 0 else high} is outside the vocabulary of {size(model)} tokens."
        )
    limit = context(model)
    if limit is not None and ids.shape[-1] > limit:
        raise ValueError(f"{what}: {ids.shape[-1]} tokens, the model's context is {limit}. Cut them.")


def encode(model: Any, text: str, prepend_bos: bool | None = None) -> list[int]:
    """The token ids of a string. `prepend_bos=None` does as the model does by default.

    ValueError for prepend_bos=True where the tokenizer has no BOS token.
    """
    tokenizer_of(model)
    if bos(model) is None:
        if prepend_bos:
            raise ValueError("the tokenizer has no BOS token. Use prepend_bos=False, or leave it out.")
        prepend_bos = False
    if not text and not prepend_bos:
        return []
    return model.to_tokens(text, prepend_bos=prepend_bos, truncate=False)[0].tolist()


def encode_all(model: Any, texts: Sequence[str], prepend_bos: bool | None = None) -> list[list[int]]:
    """`encode` of every string, each different one once, and all in one call where that gives the same ids.

    The tokenizer reads them at once; one string for each way to begin, and the longest, are read by the model
    too, and where any differs all are read one by one.
    """
    distinct = list(dict.fromkeys(texts))
    samples = {text[:1]: text for text in distinct} | {"longest": max(distinct, key=len, default="")}
    if len(samples) >= len(distinct) or "" in samples:
        ids = {text: encode(model, text, prepend_bos) for text in distinct}
        return [list(ids[text]) for text in texts]
    ids = dict(zip(distinct, tokenizer_of(model)(distinct, add_special_tokens=False)["input_ids"]))
    read = {text: encode(model, text, prepend_bos) for text in samples.values()}
    first = next(iter(read))
    start = read[first][: len(read[first]) - len(ids[first])]
    if any([*start, *ids[text]] != read[text] for text in read):
        ids, start = {text: encode(model, text, prepend_bos) for text in distinct}, []
    return [[*start, *ids[text]] for text in texts]


def pieces(model: Any, text: str) -> list[int]:
    """The tokens by which the string continues a prompt."""
    ids = encode(model, text, prepend_bos=False)
    if len(ids) > 1:  # a tokenizer that puts a space before every text (SentencePiece) adds it once only
        before, whole = (encode(model, start, prepend_bos=False) for start in ("a", "a" + text))
        ids = whole[len(before) :] if whole[: len(before)] == before else ids
    return ids


def continuation(model: Any, text: str) -> int | None:
    """The token by which the string continues a prompt, or None when it takes several or none.

    The string's own token; or, for tokenizers that put a space before every text (SentencePiece), the one
    that it adds after another word.
    """
    ids = pieces(model, text)
    return ids[0] if len(ids) == 1 and ids[0] != _unknown(model) else None


def decode(model: Any, ids: list[int]) -> str:
    """The string of the token ids, special tokens included."""
    return tokenizer_of(model).decode(ids, clean_up_tokenization_spaces=False)


def strings(
    model: Any, tokens: Int[Tensor, "prompt pos"], lengths: Int[Tensor, "prompt"]
) -> tuple[tuple[str, ...], ...]:
    """The string of each token; "" for padding. U+0000, which no file of results can hold, becomes ␀.

    What is outside the vocabulary is `#id`, for whoever says so.
    """
    known, n = tokens.unique().tolist(), size(model)
    names = {t: decode(model, [t]).replace("\0", "␀") if 0 <= t < n else f"#{t}" for t in known}
    return tuple(
        tuple(names[token] if at < length else "" for at, token in enumerate(row))
        for row, length in zip(tokens.tolist(), lengths.tolist())
    )


def content(tokenizer: Any, text: str) -> str:
    """What a message says. ValueError where it holds one of the tokenizer's special tokens."""
    special = next((token for token in tokenizer.all_special_tokens if token and token in text), None)
    if special is not None:
        raise ValueError(
            f"the content {text!r:.80} holds the special token {special!r}, which would change the turns "
            "of the chat. Take it out, or give the whole chat as text."
        )
    return text


def templated(tokenizer: Any, messages: Iterable[Mapping[str, str]], **options: bool) -> str:
    """Messages in the words of the tokenizer's chat template. ValueError where it refuses them."""
    listed = [dict(message) for message in messages]
    try:
        return tokenizer.apply_chat_template(listed, tokenize=False, **options)
    except Exception as error:  # jinja2's errors, whose module need not be there
        raise ValueError(
            f"the tokenizer's chat template refuses these messages: {str(error).rstrip('.')}. They have the "
            f"roles {', '.join(message['role'] for message in listed)}."
        ) from None


def offsets(model: Any, text: str, ids: Sequence[int]) -> list[tuple[int, int]] | None:
    """Start and stop of every token in the text, (0, 0) for what stands before it (BOS).

    None where the tokenizer does not say where its tokens stand, or reads the text as other tokens.
    """
    tokenizer = tokenizer_of(model)
    if not getattr(tokenizer, "is_fast", False):
        return None
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    before = len(ids) - len(coded["input_ids"])
    if before < 0 or list(ids[before:]) != list(coded["input_ids"]):
        return None
    return [(0, 0)] * before + [(int(start), int(stop)) for start, stop in coded["offset_mapping"]]


def columns(tokens: Sequence[tuple[int, int]], letters: tuple[int, int]) -> list[int]:
    """The tokens, by their offsets, that hold some of the letters."""
    return [i for i, (start, stop) in enumerate(tokens) if start < letters[1] and stop > letters[0]]


def unknown_words(model: Any, text: str) -> list[str]:
    """The words of the text that the vocabulary lacks (word-level vocabularies only), in order."""
    unknown, tokenizer = _unknown(model), tokenizer_of(model)
    # not model.to_tokens: a TransformerBridge strips an end-of-sequence token, which can be the unknown one
    if unknown is None or unknown not in tokenizer.encode(text, add_special_tokens=False):
        return []
    words = dict.fromkeys(_split(tokenizer, text))
    return [word for word in words if unknown in tokenizer.encode(word, add_special_tokens=False)]


def nearest(model: Any, word: str, count: int = 3) -> list[str]:
    """Words of the vocabulary that look like this one."""
    tokenizer = tokenizer_of(model)
    words = [known for known in tokenizer.get_vocab() if known not in tokenizer.all_special_tokens]
    return difflib.get_close_matches(word, words, n=count)


def words(model: Any) -> list[str]:
    """The texts of all tokens but special ones and parts of a character, without spaces around them."""
    tokenizer = tokenizer_of(model)
    known = (each for each in tokenizer.get_vocab() if each not in tokenizer.all_special_tokens)
    texts = (tokenizer.convert_tokens_to_string([each]).strip() for each in known)
    return [each for each in dict.fromkeys(texts) if each and "\ufffd" not in each]


def _split(tokenizer: Any, text: str) -> list[str]:
    """The words and marks of a text, as a word-level tokenizer splits them."""
    if _is_word_level(tokenizer) and tokenizer.backend_tokenizer.pre_tokenizer is not None:
        return [word for word, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)]
    return re.findall(r"\w+|[^\w\s]", text)


def _unknown(model: Any) -> int | None:
    """The id for words outside the vocabulary; None where every string can be spelt (as in GPT-2)."""
    tokenizer = tokenizer_of(model)
    token = tokenizer.unk_token_id
    shared = token in (tokenizer.bos_token_id, tokenizer.eos_token_id)
    return None if shared and not _is_word_level(tokenizer) else token


def _is_word_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return type(getattr(backend, "model", None)).__name__ == "WordLevel"
