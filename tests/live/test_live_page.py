"""The file in a browser: clicks and keys give the right numbers, nothing is fetched, text stays text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import interp
from interp.live._arrays import unpack
from interp.plot._theme import visible

HOSTILE = "</script><img src=x onerror=alert(1)>"
MAP = 'section[aria-label="Map of effects"]'
CELL = 'section[aria-label="The chosen cell"]'
ATTENTION = f"{CELL} table.map td[data-at]"


@pytest.fixture(scope="module")
def page(model: Any, task: interp.Task, heads: Any, streams: Any, circuit: Any, direction: Any) -> Any:
    assert task.labels is not None
    labels = (tuple(HOSTILE if i == 1 else label for i, label in enumerate(task.labels[0])), *task.labels[1:])
    scores = interp.heads.scores(model, lengths=[5], n=2, progress=False)
    hostile, items = replace(task, labels=labels), [heads, streams, scores, circuit, direction]
    options: dict[str, Any] = {"coefficients": [-1.0, 2.0], "max_new_tokens": 2, "progress": False}
    return interp.explore(items, model, hostile, title=f"A {HOSTILE} title", **options)


@pytest.fixture(scope="module")
def url(page: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    return page.save(tmp_path_factory.mktemp("page") / "page.html").as_uri()


def lower(model: Any, task: interp.Task, prompt: int, layer: int, head: int) -> np.ndarray:
    """The model's attention where the page has a cell."""
    length = int(task.lengths[prompt])
    _, cache = model.run_with_cache(task.clean[[prompt], :length])
    pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0, head].detach().numpy()
    return pattern[np.tril_indices(length)]


def test_a_click_shows_that_heads_numbers(
    opened: Any, url: str, page: Any, model: Any, task: interp.Task, heads: Any
) -> None:
    tab = opened(url)
    first = heads.sel(metric="logit_diff")["value"]
    shown = np.array(tab.numbers(f"{MAP} td[data-at]")).reshape(3, 4)
    np.testing.assert_allclose(shown, first.mean("prompt").values, atol=1e-5)
    tab.cell(2, 3).click()
    tab.until(f"{CELL} h2", "L2H3")
    error = page.answers.ask("attention", {"layer": 2, "head": 3})["matrix"]["error"]
    expected = lower(model, task, 0, 2, 3)
    assert expected[1:].max() > 0.5
    assert np.abs(np.array(tab.numbers(ATTENTION)) - expected).max() <= error + 1e-5
    by_prompt = first.sel(layer=2, head=3).values
    np.testing.assert_allclose(tab.numbers(f"{CELL} li[data-prompt]"), np.sort(by_prompt)[::-1], rtol=2e-3)
    position = page.answers.ask("head", {"layer": 2, "head": 3, "prompt": 0})["positions"][0]["value"]
    np.testing.assert_allclose(
        tab.numbers(f"{CELL} ul.bars:not(.choices) li"), unpack(position)[: task.lengths[0]]
    )


def test_prompt_metric_weighting_and_result_can_be_chosen(
    opened: Any, url: str, page: Any, model: Any, task: interp.Task, heads: Any, streams: Any
) -> None:
    tab = opened(url)
    tab.cell(1, 2).click()
    tab.until(f"{CELL} h2", "L1H2")
    tab.choose("metric", "kl")
    tab.until(f"{CELL} p.fact", "nats")
    tab.choose("prompt", "4")
    tab.until(f"{CELL} h3", "on prompt 4")
    assert np.abs(np.array(tab.numbers(ATTENTION)) - lower(model, task, 4, 1, 2)).max() < 0.003
    tab.tab.click("text=This prompt")
    tab.until(f"{CELL} p.fact", "on prompt 4")
    one = heads["value"].sel(metric="kl").isel(prompt=4).values.ravel()
    np.testing.assert_allclose(tab.numbers(f"{MAP} td[data-at]"), one, rtol=2e-3, atol=2e-3)
    for label, name in (("Weighted by what is written", "value"), ("Clean − corrupt", "difference")):
        tab.tab.click(f"text={label}")
        tab.until(f"{CELL} h3", label)
        matrix = page.answers.ask("attention", {"layer": 1, "head": 2, "weighting": name, "prompt": 4})[
            "matrix"
        ]
        n = int(task.lengths[4])
        expected = unpack(matrix)[:n, :n][np.tril_indices(n)]
        np.testing.assert_allclose(tab.numbers(ATTENTION), expected, atol=1e-9)
    tab.choose("result", "r1")
    tab.until(f"{MAP} h2", "position")
    stream = streams["value"].sel(site="resid_pre").isel(prompt=4).values.ravel()
    np.testing.assert_allclose(tab.numbers(f"{MAP} td[data-at]"), stream, rtol=2e-3, atol=2e-3)


def test_an_edge_has_its_exact_effect_and_can_be_cut(
    opened: Any, url: str, model: Any, task: interp.Task, circuit: Any
) -> None:
    tab = opened(url)
    exact = interp.circuits.exact(model, task, progress=False)["value"].mean("prompt")
    name = "a0.h0->m0"
    writer, reader = circuit.graph.edge(name)
    tab.tab.click(f'tr[data-edge="{name}"] button >> nth=0')
    tab.until("[data-part=edge] h3", "L0H0 → MLP0")
    expected = float(exact.isel(writer=writer, reader=reader))
    assert abs(expected) > 1
    assert tab.numbers("[data-part=edge] p.fact") == pytest.approx([expected], rel=1e-4)
    cut = circuit - interp.circuits.Circuit.from_edges(circuit.graph, [name])
    judged = interp.circuits.evaluate(model, task, cut, progress=False)
    tab.tab.click(f'tr[data-edge="{name}"] button >> nth=1')
    tab.until("[data-part=toggled]", f"faithfulness {float(judged['faithfulness'][0]):.3g}")
    assert tab.tab.locator(f'g.edge.cut[data-edge="{name}"]').count() == 1
    tab.tab.click("text=Restore")
    tab.tab.wait_for_function("!document.querySelector('[data-part=toggled]')")
    tab.tab.locator('g.edge[data-edge="input->a0.h0<v>"] path.reach').dispatch_event("click")
    tab.until("[data-part=edge] h3", "input → L0H0.v")


def test_the_ladder_shows_the_controls_beside_each_text(opened: Any, url: str, page: Any) -> None:
    tab = opened(url)
    for prompt in (0, 2):
        tab.choose("steered", str(prompt))
        rungs = page.answers.ask("generate", {"direction": "d0", "prompt": prompt})["rungs"]
        tab.until('[data-rung="0 base"] .written', rungs[0]["runs"]["base"]["text"])
        for rung, step in zip(rungs, ("-1", "2")):
            for run in ("steered", "random", "shuffled"):
                cell = f'[data-rung="{step} {run}"]'
                assert tab.text(f"{cell} .written") == rung["runs"][run]["text"]
                assert tab.numbers(cell) == [rung["runs"][run]["kl"]]
    order = tab.tab.locator("section[aria-label=Steering] tbody th").all_text_contents()
    assert order == ["−1", "0", "+2"]


def test_the_keyboard_reaches_the_same(opened: Any, url: str) -> None:
    tab = opened(url, reduced_motion="reduce")
    press, active = tab.tab.keyboard.press, "document.activeElement"
    for _ in range(12):
        press("Tab")
        if tab.tab.evaluate(f"{active}.dataset.at") == "0,0":
            break
    for name in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowDown", "ArrowRight"):
        press(name)
    assert tab.tab.evaluate(f"{active}.dataset.at") == "2,2"
    assert tab.tab.evaluate(f"{active}.getAttribute('aria-label')").startswith("L2H2: ")
    assert tab.tab.evaluate(f"getComputedStyle({active}).outlineStyle") == "solid"
    press("Enter")
    tab.until(f"{CELL} h2", "L2H2")
    tab.tab.wait_for_function(f"{active}.textContent === 'L2H2'")
    press("Escape")
    assert tab.tab.evaluate(f"{active}.dataset.at") == "2,2"
    assert tab.tab.evaluate(f"{active}.getAttribute('aria-selected')") == "true"


def test_nothing_leaves_the_page_and_text_stays_text(opened: Any, url: str) -> None:
    tab = opened(url)
    tab.cell(0, 0).click()
    tab.until(f"{CELL} h2", "L0H0")
    assert tab.asked == [url]
    assert tab.tab.title() == f"A {HOSTILE} title"
    assert tab.tab.locator("img").count() == 0
    assert tab.text(".prompt .token:nth-child(2)") == visible(HOSTILE)
    blocked = "fetch('https://example.org').then(() => 'fetched', () => 'refused')"
    assert tab.tab.evaluate(blocked) == "refused"
    assert "Content Security Policy" in tab.said.pop(0)
    tab.said.clear()


@pytest.mark.parametrize("width", [360, 800, 1900])
def test_nothing_runs_off_the_page(opened: Any, url: str, width: int) -> None:
    tab = opened(url, width=width, color_scheme="dark")
    tab.cell(2, 1).click()
    tab.until(f"{CELL} h2", "L2H1")
    assert tab.tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 29)"


def test_a_notebook_shows_the_page_in_a_frame(opened: Any, page: Any, tmp_path: Path) -> None:
    shown = page._repr_html_()
    assert 'sandbox="allow-scripts"' in shown
    file = tmp_path / "notebook.html"
    file.write_text(
        f"<!doctype html><meta charset=utf-8><div id=interp data-ready=true></div>{shown}", encoding="utf-8"
    )
    tab = opened(file.as_uri())
    frame = tab.tab.frame_locator("iframe")
    frame.locator('td[data-at="1,1"]').first.click()
    assert frame.locator(f"{CELL} h2").text_content() == "L1H1"
