"""The page for those who do not see it or use no mouse: axe-core's rules, names, the way of the Tab key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import interp

# Every control that the keyboard should reach, one name each; cells of a map are walked with the arrows.
CONTROLS = """() => {
  const all = document.querySelectorAll('#interp :is(button, select, input, textarea, a[href], [tabindex])');
  const stops = [...all].filter((each) => each.tabIndex >= 0 && !each.disabled && each.checkVisibility());
  const named = (each) => each.getAttribute("aria-label") || each.textContent.trim()
    || each.closest("label")?.textContent.trim() || "";
  return stops.map((each, i) => { each.dataset.stop = i;
    return { stop: i, tag: each.tagName, positive: each.tabIndex > 0, name: named(each) }; });
}"""


@pytest.fixture(scope="module")
def url(
    model: Any,
    task: interp.Task,
    heads: Any,
    streams: Any,
    circuit: Any,
    direction: Any,
    tmp_path_factory: Any,
) -> str:
    options: dict[str, Any] = {"coefficients": [-1.0, 2.0], "max_new_tokens": 2, "progress": False}
    page = interp.explore([heads, streams, circuit, direction], model, task, **options)
    return page.save(tmp_path_factory.mktemp("access") / "page.html").as_uri()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1000), ("dark", 400)])
def test_axe_finds_no_fault(opened: Any, url: str, scheme: str, width: int) -> None:
    rules = pytest.importorskip("axe_playwright_python", reason="axe-core comes with axe-playwright-python")
    tab = opened(url, width=width, color_scheme=scheme, bypass_csp=True)
    tab.cell(2, 3).click()
    tab.until('section[aria-label="The chosen cell"] h2', "L2H3")
    tab.tab.evaluate((Path(rules.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    found = tab.tab.evaluate("async () => (await axe.run()).violations")
    faults = [(fault["id"], node["target"], node["html"][:80]) for fault in found for node in fault["nodes"]]
    assert faults == []


def test_the_tab_key_reaches_every_control_once_and_each_has_a_name(opened: Any, url: str) -> None:
    tab = opened(url)
    tab.cell(2, 3).click()
    tab.until('section[aria-label="The chosen cell"] h2', "L2H3")
    controls = tab.tab.evaluate(CONTROLS)
    assert len(controls) > 20
    assert [each for each in controls if each["positive"] or not each["name"]] == []
    tab.tab.evaluate("document.activeElement.blur(); window.getSelection().removeAllRanges()")
    tab.tab.mouse.click(1, 1)
    stops = []
    for _ in controls:
        tab.tab.keyboard.press("Tab")
        stops.append(tab.tab.evaluate("Number(document.activeElement.dataset.stop ?? -1)"))
    assert stops == [each["stop"] for each in controls]
