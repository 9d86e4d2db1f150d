"""The notebook's transport: its messages in Python, and the page's end of them in a browser."""

from __future__ import annotations

import json
from typing import Any

import pytest

import interp
from interp.live._page import module, source
from interp.live._serve import Asking
from interp.live._widget import reply

# What anywidget's front end does with a widget's module: a model of messages, and an element to draw in.
RENDER = """async (code) => {
  const widget = await import(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  let heard;
  const model = { on: (name, listen) => { heard = listen; },
                  send: async (message) => heard(await window.kernel(message)) };
  widget.default.render({ model, el: document.getElementById("cell") });
}"""


@pytest.fixture(scope="module")
def page(model: Any, task: interp.Task, heads: Any) -> Any:
    return interp.explore([heads], model, task)


def test_a_question_gets_the_answer_with_its_number(page: Any) -> None:
    asking = Asking(page.answers)
    args = {"result": "r0", "metric": "kl", "at": {}}
    message = reply(asking, {"id": 7, "kind": "grid", "args": args})
    assert message == {"id": 7, "answer": page.answers.ask("grid", args)}
    assert json.loads(json.dumps(message, allow_nan=False)) == message
    meta = reply(asking, {"id": 8, "kind": "meta"})
    assert meta is not None
    assert meta["answer"]["live"] is True


def test_what_is_no_question_gets_a_sentence_or_nothing(page: Any) -> None:
    asking = Asking(page.answers)
    for message in ("text", None, {}, {"id": "7", "kind": "meta"}):
        assert reply(asking, message) is None
    for message in (
        {"id": 1},
        {"id": 1, "kind": "meta", "args": [1]},
        {"id": 1, "kind": "head", "args": {"x": "y" * 70_000}},
    ):
        answer = reply(asking, message)
        assert answer is not None
        assert "a question is" in answer["answer"]["error"]
    unknown = reply(asking, {"id": 1, "kind": "files"})
    assert unknown is not None
    assert "kind is 'files'" in unknown["answer"]["error"]


def test_without_anywidget_the_error_says_what_to_install(page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(ImportError, match=r"pip install 'interp-workbench\[widget\]'"):
        page.widget()


def test_the_widget_draws_the_same_page_from_messages(
    opened: Any, browser: Any, page: Any, heads: Any
) -> None:
    asking, context = Asking(page.answers), browser.new_context()
    tab = context.new_page()
    said: list[str] = []
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.expose_function("kernel", lambda message: reply(asking, message))
    tab.set_content("<div id=cell></div>")
    tab.add_style_tag(content=source("page.css"))
    tab.evaluate(
        RENDER,
        module(),
    )
    tab.click('td[data-at="2,3"]')
    tab.wait_for_selector("text=Measure exactly")
    shown = tab.eval_on_selector_all(
        'section[aria-label="Map of effects"] td[data-at]',
        "all => all.map(each => Number(each.dataset.value))",
    )
    expected = heads["value"].sel(metric="logit_diff").mean("prompt").values.ravel()
    assert shown == pytest.approx(expected.tolist(), abs=1e-5)
    assert said == []
    context.close()


def test_anywidgets_own_widget_carries_the_page_and_answers(
    browser: Any, page: Any, heads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("anywidget", reason="the widget extra is not installed")
    widget = page.widget()
    state, replies = widget.get_state(), list[Any]()
    monkeypatch.setattr(type(widget), "send", lambda self, content, buffers=None: replies.append(content))

    def kernel(message: Any) -> Any:
        widget._handle_custom_msg(message, [])  # as ipywidgets does with what the browser sends
        return replies.pop()

    tab = browser.new_context().new_page()
    tab.expose_function("kernel", kernel)
    tab.set_content("<div id=cell></div>")
    tab.add_style_tag(content=str(state["_css"]))
    tab.evaluate(RENDER, str(state["_esm"]))
    tab.click('td[data-at="2,3"]')
    tab.wait_for_selector("text=Measure exactly")
    shown = tab.eval_on_selector_all(
        'section[aria-label="Map of effects"] td[data-at]',
        "all => all.map(each => Number(each.dataset.value))",
    )
    expected = heads.sel(metric="logit_diff")["value"].mean("prompt").values.ravel()
    assert shown == pytest.approx(expected.tolist(), abs=1e-5)
    tab.context.close()
