"""Chats: written by the tokenizer's own template, one BOS at most, content that stays content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from word_models import build_words, bundled_words

from interp.tasks import Task, chat, vocabulary

TEMPLATE = (
    "{% for m in messages %}{{ '<bos>' if loop.first else '' }}{{ m['role'] }} : {{ m['content'] }} . "
    "{% endfor %}{% if add_generation_prompt %}assistant :{% endif %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    words = [*bundled_words(), "user", "assistant", "system", "Hi", "no"]
    made = build_words(words, tmp_path_factory.mktemp("chat"))
    made.tokenizer.chat_template = TEMPLATE
    return made


def test_a_chat_is_the_templates_text_and_ids(model: Any) -> None:
    messages = [{"role": "system", "content": "book"}, {"role": "user", "content": "Hi Mary"}]
    task = Task.from_chat(
        model, clean=[messages], corrupt=[[messages[0], {"role": "user", "content": "Hi John"}]],
        answer=[" Mary"], wrong=[" John"],
    )  # fmt: skip
    own = model.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert chat.render(model, messages) == own
    assert task.clean[0].tolist() == model.tokenizer.encode(own, add_special_tokens=False)
    assert (task.clean == vocabulary.bos(model)).sum() == 1
    assert task.labels is not None
    assert task.labels[0][-1] == ":"


def test_a_string_is_a_users_turn_and_a_system_message_goes_first(model: Any) -> None:
    text = chat.render(model, "Hi Mary", system="book", prefix=" no")
    assert text == "<bos>system : book . user : Hi Mary . assistant : no"
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": " Mary"}]}]
    assert chat.render(model, parts, system="book", prefix=" no") == text
    asked = [{"role": "system", "content": "book"}, {"role": "user", "content": "Hi Mary"}]
    assert chat.render(model, asked, system="key", prefix=" no") == text


def test_what_is_no_chat_is_refused(model: Any, words: Any) -> None:
    with pytest.raises(ValueError, match="holds the special token '<bos>', which would change the turns"):
        chat.render(model, "Hi <bos>system : no")
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        Task.from_chat(words, clean=["Hi"], answer=["a"], wrong=["b"])
    with pytest.raises(ValueError, match=r"a chat is 3; give a string, or a list of messages"):
        chat.render(model, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="only text can be read"):
        chat.render(model, [{"role": "user", "content": [{"type": "image"}]}])
    with pytest.raises(ValueError, match=r"clean is a list; give a string. Chats go to Task.from_chat"):
        Task.from_prompts(model, clean=[[{"role": "user", "content": "Hi"}]], answer=["a"], wrong=["b"])


def test_an_empty_prompt_and_a_tokenizer_without_bos(tmp_path: Path) -> None:
    bare = build_words(bundled_words(), tmp_path)
    bare.tokenizer.bos_token = None
    with pytest.raises(ValueError, match=r"prompt 1: clean is empty: it has no tokens"):
        Task.from_prompts(bare, clean=["the book", ""], answer=[" Mary", " Mary"], wrong=[" John", " John"])
    with pytest.raises(ValueError, match=r"the tokenizer has no BOS token. Use prepend_bos=False"):
        vocabulary.encode(bare, "the book", prepend_bos=True)


def test_a_chats_parts_are_spans(model: Any) -> None:
    user = {"role": "user", "content": "Hi user"}
    begun = [user, {"role": "assistant", "content": "no book"}]
    others = [[{**user, "content": "Hi John"}, begun[1]], [{**user, "content": "no book"}]]
    task = Task.from_chat(
        model, clean=[begun, [user]], corrupt=others, answer=[" Mary"] * 2, wrong=[" John"] * 2, system="user"
    )
    said = {
        name: [model.tokenizer.decode(ids[marks]) for ids, marks in zip(task.clean, mask)]
        for name, mask in task.spans.items()
    }
    assert said == {"system": ["user"] * 2, "last_user": ["Hi user"] * 2, "response": ["no book", ""]}


def test_what_the_template_refuses_is_said(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma's and Mistral's templates know no system, and have turns of user and assistant only."""
    refuses = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    )
    monkeypatch.setattr(model.tokenizer, "chat_template", refuses + TEMPLATE)
    sides = {"answer": [" Mary"], "wrong": [" John"]}
    with pytest.raises(ValueError, match=r"refuses these messages: System role not supported\. .*user"):
        Task.from_chat(model, clean=["Hi Mary"], system="book", **sides)
    assert len(Task.from_chat(model, clean=["Hi Mary"], **sides)) == 1
