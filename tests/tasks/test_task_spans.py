"""Named positions of a task: how they are given, what keeps them, what the families and chats name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import interp
from interp import positions
from interp.tasks import Task

CLEAN = [[1, 2, 3, 4, 5], [1, 2, 3]]
CORRUPT = [[1, 9, 3, 4, 5], [1, 9, 3]]


def ragged(**spans: Any) -> Task:
    return Task.from_tokens(clean=CLEAN, corrupt=CORRUPT, answer=[6, 6], wrong=[7, 7], spans=spans)


def at(task: Task, name: str) -> list[list[int]]:
    return [row.nonzero().flatten().tolist() for row in task.spans[name]]


def said(model: Any, task: Task, name: str) -> list[str]:
    rows = zip(task.clean, task.spans[name])
    return [model.tokenizer.decode(tokens[mask]).strip() for tokens, mask in rows]


def answers(model: Any, task: Task, ids: torch.Tensor) -> list[str]:
    return [model.tokenizer.decode([int(row[0])]).strip() for row in ids]


def test_an_entry_may_be_given_in_many_ways() -> None:
    task = ragged(
        one=[1, -1],
        several=[[0, 2], None],
        window=[(1, -1), (0, 2)],
        numbers=[range(2), slice(1, None)],
        pair=[{"clean": 3, "corrupt": [-2]}, None],
        tensor=torch.tensor([[0, 1, 0, 0, 1], [1, 0, 0, 0, 0]]).bool(),
        index=torch.tensor([4, 2]),
    )
    assert {name: at(task, name) for name in task.spans} == {
        "one": [[1], [2]],
        "several": [[0, 2], []],
        "window": [[1, 2, 3], [0, 1]],
        "numbers": [[0, 1], [1, 2]],
        "pair": [[3], []],
        "tensor": [[1, 4], [0]],
        "index": [[4], [2]],
    }


def test_positions_of_masked_ids_count_as_the_ids_were_given() -> None:
    task = Task.from_tokens(
        clean=[[0, 0, 1, 2], [3, 4, 5, 6]], corrupt=[[0, 0, 1, 9], [3, 9, 5, 6]], answer=[6, 7], wrong=[7, 8],
        mask=[[0, 0, 1, 1], [1, 1, 1, 1]], spans={"verb": [3, 1], "end": [-1, -1]},
    )  # fmt: skip
    assert at(task, "verb") == [[1], [1]]
    assert at(task, "end") == [[1], [3]]


def test_slices_sums_and_exchanges_keep_them() -> None:
    task = ragged(verb=[1, 1], rest=[[2, 3], None])
    assert at(task[1:], "verb") == [[1]]
    assert "rest" not in task[1:].spans
    wide = Task.from_tokens(
        clean=[[1, 2, 3, 4, 5, 6]],
        corrupt=[[1, 2, 3, 4, 5, 9]],
        answer=[[3, 4]],
        wrong=[7],
        spans={"end": [-1]},
    )
    both = task + wide
    assert both.lengths.tolist() == [5, 3, 6]
    assert both.answers.tolist() == [[6, -1], [6, -1], [3, 4]]
    assert {name: at(both, name) for name in both.spans} == {
        "verb": [[1], [1], []], "rest": [[2, 3], [], []], "end": [[], [], [5]],
    }  # fmt: skip
    assert (both[:2].clean[:, :5] == task.clean).all()
    with pytest.raises(ValueError, match="the tasks differ in metric: LogitDiff"):
        task + Task.from_tokens(clean=CLEAN, corrupt=CORRUPT, answer=[6, 6], metric="log_prob")


def test_the_roles_of_a_mirrored_pair_are_exchanged_with_it() -> None:
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=4, seed=0, template=0)
    swapped = task.swap()
    assert said(model, swapped, "io") == answers(model, swapped, swapped.answers)
    assert at(swapped, "s2") == at(task, "s2")


def test_ioi_names_its_parts() -> None:
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=24, seed=0)
    assert said(model, task, "io") == answers(model, task, task.answers)
    assert said(model, task, "s1") == said(model, task, "s2") == answers(model, task, task.wrongs)
    after = [[column + 1 for column in row] for row in at(task, "s1")]
    assert at(task, "s1+1") == after
    assert at(task, "end") == [[int(length) - 1] for length in task.lengths]
    assert all(a < b for a, b in zip(at(task, "s1"), at(task, "s2")))


def test_the_other_families_name_theirs() -> None:
    model = interp.load("tiny-world")
    family = {name: getattr(interp.tasks, name)(model, n=8, seed=0) for name in (
        "greater_than", "docstring", "coloured_objects", "agreement", "facts", "induction", "requests",
        "sentiment", "pronouns", "register",
    )}  # fmt: skip
    task = family["docstring"]
    assert said(model, task, "C_def") == answers(model, task, task.answers)
    assert said(model, task, "D_def") == answers(model, task, task.wrongs)
    assert said(model, task, "A_doc") == said(model, task, "A_def")
    task = family["coloured_objects"]
    assert said(model, task, "colour") == answers(model, task, task.answers)
    assert said(model, task, "listed") == said(model, task, "object")
    task = family["induction"]
    assert said(model, task, "answer") == answers(model, task, task.answers)
    assert said(model, task, "previous") == said(model, task, "end")
    task = family["greater_than"]
    assert all(year.isdigit() and len(year) == 2 for year in said(model, task, "year"))
    assert said(model, task, "century") == said(model, task, "end")
    first = [int(task.answers[i][0]) for i in range(8)]
    later = [model.to_single_token(f"{int(year) + 1:02d}") for year in said(model, task, "year")]
    assert first == later
    for name, span in (("agreement", "subject"), ("facts", "subject"), ("sentiment", "adjective")):
        task = family[name]
        assert ((task.clean != task.corrupt) == task.spans[span]).all(), name
    task = family["requests"]
    assert all(len(row) == 1 for row in at(task, "verb"))
    assert ((task.clean != task.corrupt) == task.spans["changed"]).all()
    assert (task.spans["changed"] <= task.spans["verb"] | task.spans["object"]).all()


def test_words_of_a_text_are_found() -> None:
    model = interp.load("tiny-ioi")
    task = Task.from_prompts(
        model, clean=["When Mary and John went to the store, John gave a book to"],
        corrupt=["When Mary and John went to the store, Mary gave a book to"], answer=[" Mary"],
        wrong=[" John"], spans={"place": ["to the store"], "giver": [{"clean": -5, "corrupt": -5}]},
    )  # fmt: skip
    assert said(model, task, "place") == ["to the store"]
    assert said(model, task, "giver") == ["John"]
    with pytest.raises(ValueError, match=r"prompt 0, clean: the words 'John' stand 2 times in"):
        Task.from_prompts(
            model, clean=["When Mary and John went to the store, John gave a book to"], answer=[" Mary"],
            wrong=[" John"], spans={"giver": ["John"]},
        )  # fmt: skip


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_files_keep_them(tmp_path: Path, suffix: str) -> None:
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=6, seed=0)
    path = task.to_file(model, tmp_path / f"prompts.{suffix}")
    again = Task.from_file(model, path)
    assert list(again.spans) == list(task.spans)
    assert all(torch.equal(again.spans[name], task.spans[name]) for name in task.spans)


def test_files_of_ids_keep_them_and_name_the_line(tmp_path: Path) -> None:
    model = interp.load("tiny-ioi")
    task = ragged(verb=[1, 1], rest=[[2, 3], None])
    path = task.to_file(None, tmp_path / "ids.jsonl", tokens=True)
    again = Task.from_file(model, path)
    assert {name: at(again, name) for name in again.spans} == {"verb": [[1], [1]], "rest": [[2, 3], []]}
    path.write_text(path.read_text().replace('"verb": 1}', '"verb": 8}'))
    with pytest.raises(
        ValueError, match="line 2: span 'verb' has the position 8, but the prompt has 3 tokens"
    ):
        Task.from_file(model, path)
    path.write_text(path.read_text().replace('{"verb": 8}', "[8]"))
    with pytest.raises(ValueError, match=r"line 2: spans is \[8\]; it must be an object from names"):
        Task.from_file(model, path)


def test_frames_take_them() -> None:
    class Frame:
        columns = ("clean", "corrupt", "answer", "wrong", "spans")

        def to_dict(self, kind: str) -> list[dict[str, Any]]:
            row = {"clean": "Mary gave a book to", "corrupt": "John gave a book to", "answer": " John"}
            return [{**row, "wrong": " Mary", "spans": {"thing": "book"}}]

    model = interp.load("tiny-ioi")
    assert said(model, Task.from_frame(model, Frame()), "thing") == ["book"]


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ({"verb": [1, 7]}, "prompt 1: span 'verb' has the position 7, but the prompt has 3 tokens"),
        ({"verb": [1, -4]}, "prompt 1: span 'verb' has the position -1, but"),
        ({"verb": [1, []]}, r"prompt 1: span 'verb' is empty \(\[\]\). Give None where"),
        ({"verb": [(3, 3), 1]}, r"prompt 0: span 'verb' is empty \(\(3, 3\)\)"),
        ({"verb": [None, None]}, "span 'verb' marks nothing in any of the 2 prompts"),
        ({"verb": [1]}, "span 'verb' has 1 entries for 2 prompts. Give one a prompt"),
        ({"verb": 1}, "span 'verb' has no entries for 2 prompts"),
        ({"verb": [1.5, 1]}, "prompt 0: span 'verb' is 1.5; give a position"),
        ({"verb": [True, 1]}, "prompt 0: span 'verb' is True; give a position"),
        (
            {"verb": ["word", 1]},
            "prompt 0: span 'verb' is given by the words 'word', and these prompts have no",
        ),
        (
            {"verb": [{"clean": 1, "corrupt": 2}, 1]},
            "prompt 0: span 'verb' is at positions 1 of the clean prompt and at 2 of the corrupt one",
        ),
        ({"verb": [{"clean": 1}, 1]}, "prompt 0: span 'verb' has the keys 'clean'; an entry for both"),
        ({"last": [1, 1]}, "a span cannot be called 'last'"),
        ({"verb": torch.ones(2, 4).bool()}, r"span 'verb' is a mask of shape \(2, 4\)"),
        ({"verb": torch.ones(2, 5).bool()}, "prompt 1: span 'verb' marks position 3, but the prompt has 3"),
    ],
)
def test_a_span_that_cannot_be_is_a_sentence(spans: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ragged(**spans)


def test_spans_are_positions_wherever_positions_are_taken() -> None:
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=6, seed=0)
    place = "L1.resid_pre"
    every = interp.activations(model, task, place, "all")
    rows = torch.cat([mask[: int(n)] for mask, n in zip(task.spans["s2"], task.lengths)])
    torch.testing.assert_close(interp.activations(model, task, place, "s2"), every[rows])
    both = interp.activations(model, task, place, positions.span("s1") | positions.span("s2"))
    parts = [interp.activations(model, task, place, name) for name in ("s1", "s2")]
    torch.testing.assert_close(both, sum(parts) / 2)
    assert torch.equal(positions.marked("s2", task), task.spans["s2"])
    assert positions.marked("all", task).sum() == task.lengths.sum()
    assert positions.marked(-1, task).equal(task.spans["end"])
    with pytest.raises(ValueError, match=r"pos is 's3'; did you mean 's2'.*named positions are: io, s1"):
        interp.activations(model, task, place, "s3")
    with pytest.raises(ValueError, match="no span 's3'; did you mean 's2'"):
        positions.marked("s3", task)


def test_an_intervention_acts_at_a_span() -> None:
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=4, seed=0, template=0)
    d = interp.steering.mean_difference(model, task.clean[:2], task.clean[2:], layer=1)
    column = at(task, "s2")[0][0]
    named, counted = (
        interp.steering.sweep(model, d, task, [4.0], when=when, progress=False)["value"].values
        for when in ("s2", positions.at(column))
    )
    assert abs(named).max() > 1e-3
    torch.testing.assert_close(torch.tensor(named), torch.tensor(counted))
    with pytest.raises(ValueError, match="no span 's4'"):
        interp.steering.sweep(model, d, task, [4.0], when="s4", progress=False)
    with pytest.raises(ValueError, match="no span 's2': these prompts have no named positions"):
        interp.steering.generate(model, task.clean, interp.steering.add(d, 1.0, when="s2"), max_new_tokens=1)
