"""Files of prompts: what is written is read back; a mistake names the file, the line and the key."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from interp.tasks import KL, Task, _writing, agreement, docstring, greater_than, ioi

ROW = {
    "clean": "When Mary and John went to the store, John gave a book to",
    "corrupt": "When Mary and John went to the store, Mary gave a book to",
    "answer": " Mary",
    "wrong": " John",
}


def jsonl(path: Path, *rows: Any) -> Path:
    file = path / "prompts.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
@pytest.mark.parametrize("family", [ioi, greater_than, agreement, docstring])
@pytest.mark.parametrize("name", ["words", "gpt2"])
def test_round_trip(
    name: str, family: Any, suffix: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(name)
    task = family(model, n=6, seed=1)
    path = task.to_file(model, tmp_path / f"task{suffix}")
    again = Task.from_file(model, path, metric=task.metric)
    assert again.fingerprint() == task.fingerprint()
    assert again.template == task.template
    assert again.labels == task.labels
    assert again.name == "task"


def test_round_trip_without_bos(words: Any, tmp_path: Path) -> None:
    task = ioi(words, n=4, prepend_bos=False)
    assert words.tokenizer.bos_token_id not in task.clean
    path = task.to_file(words, tmp_path / "a.jsonl", prepend_bos=False)
    assert Task.from_file(words, path, prepend_bos=False).fingerprint() == task.fingerprint()
    with pytest.raises(
        ValueError, match="prompt 0: no text gives the tokens of clean again with prepend_bos=True"
    ):
        task.to_file(words, tmp_path / "b.jsonl", prepend_bos=True)


def test_an_answer_that_no_text_gives_again_is_refused(stories: Any) -> None:
    starts, inside = (stories.tokenizer.convert_tokens_to_ids(piece) for piece in ("▁he", "he"))
    assert starts != inside
    assert _writing._answer(stories, 0, "answer", starts) == "he"
    with pytest.raises(ValueError, match=rf"prompt 0: answer is the token {inside} \('he'\), which no text"):
        _writing._answer(stories, 0, "answer", inside)


def test_options_positions_templates_and_lists(words: Any, tmp_path: Path) -> None:
    row = {**ROW, "answer": [" Mary", " Anna"], "template": "shop", "position": 5}
    task = Task.from_file(words, jsonl(tmp_path, row, "", row), metric=KL())
    assert task.positions.tolist() == [5, 5]
    assert task.template == ("shop", "shop")
    assert task.answers.shape == (2, 2)
    assert task.metric == KL()
    assert task.name == "prompts"


def test_csv_with_several_answers_and_empty_optional_columns(words: Any, tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text(
        f'clean,corrupt,answer,wrong,template\n"{ROW["clean"]}","{ROW["corrupt"]}", Mary| Anna, John,\n',
        encoding="utf-8-sig",
    )
    task = Task.from_file(words, file)
    whole = Task.from_prompts(words, **{k: [v] for k, v in {**ROW, "answer": [" Mary", " Anna"]}.items()})
    assert torch.equal(task.clean, whole.clean)
    assert task.answers.tolist() == whole.answers.tolist()


CASES = {
    "missing key": (
        [ROW, {k: v for k, v in ROW.items() if k != "wrong"}],
        "line 2: the key 'wrong' is missing; it has",
    ),
    "not JSON": ([ROW, "", '{"clean": '], "line 3: not JSON (Expecting value at column"),
    "not an object": (["[1]"], "line 1: a list; each line is an object"),
    "not a string": ([{**ROW, "clean": 3}], "line 1: clean is a int; it must be a string."),
    "answer not a string": (
        [{**ROW, "answer": [1]}],
        "line 1: answer is [1]; it must be a string or a list of strings.",
    ),
    "position": ([{**ROW, "position": "last"}], "line 1: position is 'last'; it must be a whole number."),
    "some templates": (
        [{**ROW, "template": "a"}, ROW],
        "line 2: the key 'template' is missing, but line 1 has it.",
    ),
    "empty": ([""], "has no prompts. Each line gives clean, corrupt, answer, wrong."),
    "position outside": (
        [{**ROW, "position": 99}],
        "line 1: the metric's position is 99, but the prompt has",
    ),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_mistake(case: str, words: Any, tmp_path: Path) -> None:
    rows, message = CASES[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        Task.from_file(words, jsonl(tmp_path, *rows))


def test_csv_mistakes(words: Any, tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text("clean,corrupt,answer,wrong\nWhen Mary, John,a,b,c\n")
    with pytest.raises(ValueError, match=r"line 2: more fields than the 4 of the first line. Put texts"):
        Task.from_file(words, file)
    file.write_text("clean,corrupt,answer\nWhen,After,a\n")
    with pytest.raises(
        ValueError, match=r"line 2: the key 'wrong' is missing; it has clean, corrupt, answer"
    ):
        Task.from_file(words, file)


def test_no_such_file_and_no_such_kind(words: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none.jsonl does not exist. Give a .jsonl or .csv file"):
        Task.from_file(words, tmp_path / "none.jsonl")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=r"ends in '.txt'; files of prompts end in .jsonl or .csv"):
        Task.from_file(words, tmp_path / "a.txt")


def test_a_word_outside_the_vocabulary_and_the_nearest(words: Any, tmp_path: Path) -> None:
    path = jsonl(tmp_path, ROW, {**ROW, "corrupt": ROW["corrupt"].replace("Mary gave", "Marie gvae")})
    with pytest.raises(ValueError, match=r"line 2, corrupt: 'gvae' is not in the vocabulary .*'gave'"):
        Task.from_file(words, path)
    path = jsonl(tmp_path, {**ROW, "answer": [" Mary", " Jhon"]})
    with pytest.raises(ValueError, match=r"line 1, answer: 'Jhon' is not in the vocabulary .*'John'"):
        Task.from_file(words, path)


def test_any_separator_case_of_header_and_empty_rows(words: Any, tmp_path: Path) -> None:
    cells = [[" Clean ", "CORRUPT", "answer", "Wrong"], list(ROW.values())]
    expected = Task.from_prompts(words, **{key: [value] for key, value in ROW.items()}).fingerprint()
    for mark in ",;\t":
        file = tmp_path / "p.csv"
        with file.open("w", newline="", encoding="utf-8-sig") as out:
            csv.writer(out, delimiter=mark).writerows([*cells, [""] * 4])
        assert Task.from_file(words, file).fingerprint() == expected


def test_text_that_is_not_utf8_is_refused_with_advice(words: Any, tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    line = json.dumps({**ROW, "template": "é"}, ensure_ascii=False)
    file.write_bytes(f"{json.dumps(ROW)}\n{line}\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"p.jsonl, line 2: byte 0xe9 is not UTF-8 .*Save the file as UTF-8"):
        Task.from_file(words, file)
    file.write_text(line, encoding="utf-16")
    with pytest.raises(ValueError, match=r"p.jsonl is UTF-16 text, .* Save it as UTF-8"):
        Task.from_file(words, file)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
@pytest.mark.parametrize("mark", ["\u2028", "\u0085", "\x0b", "|"])
def test_separators_of_lines_and_of_answers_survive(
    gpt2: Any, tmp_path: Path, suffix: str, mark: str
) -> None:
    texts = {"clean": [f"a{mark}b The cat"], "corrupt": [f"a{mark}b The dog"]}
    answer, wrong = (["|", " is"], [" was"]) if mark == "|" else ([" is"], [" was"])
    task = Task.from_prompts(gpt2, **texts, answer=[answer], wrong=[wrong])
    path = task.to_file(gpt2, tmp_path / f"p{suffix}")
    assert Task.from_file(gpt2, path).fingerprint() == task.fingerprint()


def test_an_unwritten_file_leaves_the_old_one(words: Any, tmp_path: Path) -> None:
    path = ioi(words, n=4).to_file(words, tmp_path / "p.jsonl")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="no text gives the tokens"):
        ioi(words, n=4, prepend_bos=False).to_file(words, path, prepend_bos=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_token_ids_need_no_tokenizer(words: Any, tmp_path: Path) -> None:
    task = Task.from_tokens(
        clean=[[1, 2, 3], [4, 5, 6, 7]], corrupt=[[1, 9, 3], [4, 5, 8, 7]],
        answer=[[5], [6, 7]], wrong=[1, 2], template=["a", "b"], positions=[1, 3],
    )  # fmt: skip
    path = task.to_file(None, tmp_path / "ids.jsonl")
    again = Task.from_file(Bare(), path)
    assert again.fingerprint() == task.fingerprint()
    assert again.template == task.template
    assert torch.equal(Task.from_file(words, path).lengths, task.lengths)
    with pytest.raises(ValueError, match=r"token ids are written as .jsonl only"):
        task.to_file(None, tmp_path / "ids.csv")
    Task.from_tokens(clean=[[1], [2]], answer=[3, 12], wrong=[4, 4]).to_file(None, path)
    with pytest.raises(ValueError, match=r"line 2: answer has the token id 12, but the model has 10 tokens"):
        Task.from_file(Bare(), path)


def test_several_read_outs_survive_as_token_ids(tmp_path: Path) -> None:
    task = Task.from_tokens(
        clean=[[1, 2, 3], [4, 5, 6]], corrupt=[[1, 9, 3], [4, 8, 6]],
        positions=[[0, 2], [1]], answer=[[1, [2, 3]], [4]], wrong=[[5, 6], [7]],
    )  # fmt: skip
    path = task.to_file(None, tmp_path / "ids.jsonl")
    assert Task.from_file(Bare(), path).fingerprint() == task.fingerprint()


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_a_table_is_a_file(words: Any, kind: str) -> None:
    frames = pytest.importorskip(kind)
    rows = {key: [value, value] for key, value in ROW.items()}
    task = Task.from_frame(words, frames.DataFrame(rows), name="mine")
    assert task.fingerprint() == Task.from_prompts(words, **rows).fingerprint()
    assert task.name == "mine"
    with pytest.raises(ValueError, match="the frame, row 1, answer: 'Jhon' is not in the vocabulary"):
        Task.from_frame(words, frames.DataFrame({**rows, "answer": [" Mary", " Jhon"]}))
    with pytest.raises(ValueError, match="frame is a dict; give a DataFrame of pandas or polars"):
        Task.from_frame(words, rows)


def test_a_long_file_is_read_at_once(words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's own reader is asked for samples only: 1,000 pairs in less than a hundred calls."""
    path = ioi(words, n=1000).to_file(words, tmp_path / "p.jsonl")
    calls, own = [], type(words).to_tokens
    monkeypatch.setattr(type(words), "to_tokens", lambda *a, **k: calls.append(1) or own(*a, **k))
    assert len(Task.from_file(words, path)) == 1000
    assert len(calls) < 400


class Bare(torch.nn.Module):
    """A model of ten tokens without a tokenizer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.cfg = SimpleNamespace(d_vocab=10, n_ctx=8)


def test_what_csv_cannot_hold_and_ids_that_are_none(words: Any, tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text('clean,answer\n"' + "a" * 200_000 + '",Mary\n')
    with pytest.raises(ValueError, match=r"long\.csv, line \d: no CSV that can be read"):
        Task.from_file(words, path)
    path = tmp_path / "ids.jsonl"
    path.write_text(json.dumps({"clean": [1, -2], "corrupt": [1, 2], "answer": 3, "wrong": 4}))
    with pytest.raises(ValueError, match=r"ids\.jsonl, line 1: .*-2"):
        Task.from_file(words, path)
