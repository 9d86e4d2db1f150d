"""What can be asked gives the numbers of the verbs; what cannot gets a sentence."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp import stats
from interp.live._arrays import unpack
from interp.models import final_norm


@pytest.fixture(scope="module")
def page(model: Any, task: interp.Task, heads: Any, streams: Any) -> Any:
    return interp.explore([heads, streams], model, task)


@pytest.fixture(scope="module")
def ask(page: Any) -> Any:
    return page.answers.ask


def test_meta_lists_what_there_is(ask: Any, task: interp.Task) -> None:
    meta = ask("meta")
    assert [result["site"] for result in meta["results"]] == ["z", "resid_pre", "mlp_out"]
    assert [metric["name"] for metric in meta["results"][0]["metrics"]] == ["logit_diff", "kl"]
    assert len(meta["prompts"]) == len(task)
    assert meta["prompts"][0]["at"] == int(task.positions[0])
    assert all(prompt["shown"] for prompt in meta["prompts"])


@pytest.mark.parametrize("metric", ["logit_diff", "kl"])
def test_a_grid_has_means_intervals_and_values_by_prompt(ask: Any, heads: Any, metric: str) -> None:
    grid, chosen = ask("grid", {"result": "r0", "metric": metric, "at": {}}), heads.sel(metric=metric)
    interval, tested = stats.bootstrap(heads).sel(metric=metric), stats.test(heads).sel(metric=metric)
    assert abs(chosen["value"]).max() > 1
    for name, expected in (
        ("mean", chosen["value"].mean("prompt")), ("low", interval["low"]), ("high", interval["high"]),
        ("p", tested["p"]), ("value", chosen["value"]),
    ):  # fmt: skip
        gap = np.abs(unpack(grid[name]) - expected.values).max()
        assert gap <= grid[name]["error"] + 1e-6, name
    assert grid["family"] == tested.attrs["family"]
    one = ask("grid", {"result": "r0", "metric": metric, "at": {}, "prompt": 2})
    np.testing.assert_array_equal(unpack(one["value"]), unpack(grid["value"])[2])


def test_a_map_of_positions(ask: Any, streams: Any) -> None:
    grid = ask("grid", {"result": "r1", "metric": "logit_diff", "at": {}})
    expected = streams["value"].sel(site="resid_pre").mean("prompt").transpose("layer", "pos")
    assert expected.values.max() > 1
    assert np.abs(unpack(grid["mean"]) - expected.values).max() <= grid["mean"]["error"] + 1e-6
    assert grid["columns"][1].startswith("1 ")


@pytest.mark.parametrize("weighting", ["plain", "value", "difference"])
def test_attention_is_the_models(ask: Any, model: Any, task: interp.Task, weighting: str) -> None:
    layer, head, prompt = 1, 2, 3
    kept: dict[str, torch.Tensor] = {}
    for side in ("clean", "corrupt"):
        _, cache = model.run_with_cache(getattr(task, side)[[prompt]])
        kept[side] = cache[f"blocks.{layer}.attn.hook_pattern"][0, head]
        written = cache[f"blocks.{layer}.attn.hook_v"][0, :, head] @ model.W_O[layer, head]
        kept[f"{side} norm"] = written.norm(dim=-1)
    expected = {
        "plain": kept["clean"], "value": kept["clean"] * kept["clean norm"],
        "difference": kept["clean"] - kept["corrupt"],
    }[weighting]  # fmt: skip
    args = {"layer": layer, "head": head, "weighting": weighting, "prompt": prompt}
    matrix = ask("attention", args)["matrix"]
    assert expected.abs().max() > 0.1
    gap = np.abs(unpack(matrix) - expected.detach().numpy()).max()
    assert gap <= matrix["error"] + 1e-5
    assert matrix["error"] <= 0.51 * matrix["scale"]


def test_a_head_by_position_is_an_estimate_and_says_so(ask: Any, model: Any, task: interp.Task) -> None:
    row = ask("head", {"layer": 2, "head": 1, "prompt": 0})["positions"][0]
    estimate = interp.attribute(model, task, "z", by=("layer", "pos", "head"), progress=False)
    expected = estimate["value"].sel(layer=2, head=1).isel(prompt=0).values
    assert row["source"] == "AtP estimate"
    assert np.abs(expected).max() > 0.1
    assert np.abs(unpack(row["value"]) - expected).max() <= row["value"]["error"] + 1e-5


def test_a_head_by_position_is_exact_where_a_result_is(model: Any, task: interp.Task) -> None:
    exact = interp.patch(model, task, "z", by=("layer", "pos", "head"), progress=False)
    ask = interp.explore([exact], model, task).answers.ask
    row = ask("head", {"layer": 0, "head": 0, "prompt": 1})["positions"][0]
    expected = exact["value"].sel(layer=0, head=0).isel(prompt=1).values
    assert row["source"] == "exact patching"
    assert np.abs(expected).max() > 1
    assert np.abs(unpack(row["value"]) - expected).max() <= row["value"]["error"] + 1e-6
    meta = ask("meta")["results"][0]
    assert [choice["dim"] for choice in meta["choices"]] == ["pos"]
    grid = ask("grid", {"result": "r0", "metric": "logit_diff", "at": {"pos": 9}})
    mean = exact["value"].sel(pos=9).mean("prompt").values
    assert np.abs(unpack(grid["mean"]) - mean).max() < 1e-5


def test_top_tokens_are_those_of_the_direct_path(ask: Any, model: Any, task: interp.Task) -> None:
    """A head's write through the final norm, its scale that of the run, and the unembedding, by hand."""
    from interp.live._heads import top_tokens

    with torch.no_grad():
        _, cache = model.run_with_cache(task.clean)
    rows = torch.arange(len(task))
    z = cache["blocks.2.attn.hook_z"][rows, task.positions, 1]
    stream = cache["blocks.2.hook_resid_post"][rows, task.positions]
    centred = stream - stream.mean(-1, keepdim=True)
    write = z @ model.W_O[2, 1]
    write = (write - write.mean(-1, keepdim=True)) / (
        centred.pow(2).mean(-1, keepdim=True) + model.cfg.eps
    ).sqrt()
    norm = final_norm(model)
    written = ((1 if norm.gain is None else norm.gain) * write @ model.W_U).detach()
    named = top_tokens(model, task)[2][1][4]
    best = written[4].argmax()
    assert named["up"][0] == [
        model.to_single_str_token(int(best)).strip(),
        pytest.approx(float(written[4].max()), abs=2e-3),
    ]
    assert named["down"][0][1] == pytest.approx(float(written[4].min()), abs=2e-3)
    assert ask("head", {"layer": 2, "head": 1, "prompt": 4})["tokens"] == named


@pytest.mark.parametrize(
    ("kind", "args", "words"),
    [
        ("grids", {}, "kind is 'grids'; ask for one of meta, grid"),
        ("grid", {"result": "r9", "metric": "kl"}, "result is 'r9'; this page has r0, r1, r2"),
        ("grid", {"result": "r0", "metric": "loss"}, "metric is 'loss'; this result has logit_diff, kl"),
        ("grid", {"result": "r0"}, "metric"),
        ("attention", {"layer": 3, "head": 0}, "there is no head 0 in layer 3: the last is L2H3"),
        ("attention", {"layer": 1.0, "head": True}, "there is no head True"),
        ("attention", {"layer": 0, "head": 0, "weighting": "loud"}, "weighting is 'loud'"),
        ("attention", {"layer": 0, "head": 0, "prompt": 6}, "prompt is 6; prompts 0 to 5"),
        ("head", {"layer": 0, "head": 0, "wrong": 1}, "unexpected keyword argument 'wrong'"),
    ],
)
def test_what_cannot_be_asked_gets_a_sentence(ask: Any, kind: str, args: dict, words: str) -> None:
    answer = ask(kind, args)
    assert list(answer) == ["error"]
    assert words in answer["error"]


def test_a_file_holds_every_answer_that_a_click_asks_for(page: Any) -> None:
    from interp.live._page import key, stored

    answers = stored(page.answers)
    assert {kind: len(each) for kind, each in answers.items()} == {
        "meta": 1,
        "grid": 4,
        "head": 12,
        "attention": 36,
    }
    for kind, each in answers.items():
        for name, answer in each.items():
            assert "error" not in answer
            assert key(json.loads(name)) == name
            assert page.answers.ask(kind, json.loads(name)) == answer


def test_prompts_that_are_not_the_tasks_are_not_shown_by_prompt(model: Any, task: interp.Task) -> None:
    other = interp.patch(model, interp.tasks.ioi(model, n=4, seed=5), "z", progress=False)
    ask = interp.explore([other], model, task).answers.ask
    assert ask("meta")["results"][0]["why"] == "measured on other prompts than those of this page"
    assert "value" not in ask("grid", {"result": "r0", "metric": "logit_diff"})


def test_results_alone_make_a_page(heads: Any) -> None:
    ask = interp.explore([heads]).answers.ask
    assert ask("meta")["prompts"] == []
    assert "interp.explore" in ask("attention", {"layer": 0, "head": 0})["error"]
    assert ask("head", {"layer": 0, "head": 0})["elsewhere"][0]["mean"] == pytest.approx(
        float(heads["value"].sel(metric="logit_diff", layer=0, head=0).mean()), rel=1e-5
    )


def test_what_is_no_page_is_refused_before_any_pass(model: Any, task: interp.Task, heads: Any) -> None:
    edges = interp.circuits.score_edges(model, task, progress=False)
    for items, words in (
        ([5], "item 0 is a int"), ([heads, edges], "item 1 has the dims .*writer, reader"),
        ([heads.assign_attrs(model="gpt2")], "item 0 is of model 'gpt2', and the page of 'tiny-ioi'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            interp.explore(items, model, task)
    with pytest.raises(ValueError, match="task is missing"):
        interp.explore([heads], model)
    with pytest.raises(ValueError, match="prompts is 7; give a number from 0 to 6"):
        interp.explore([heads], model, task, prompts=7)
    with pytest.raises(ValueError, match=r"does not end in \.html"):
        interp.explore([heads], model, task).save("page.pdf")
