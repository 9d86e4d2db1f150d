"""The page with a model behind it: who is refused, which of two questions counts, what a click measures."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import interp
from interp.live._arrays import unpack
from interp.live._serve import LARGEST, Asking

CELL = 'section[aria-label="The chosen cell"]'


@pytest.fixture(scope="module")
def server(model: Any, task: interp.Task, heads: Any, circuit: Any) -> Iterator[Any]:
    page = interp.explore([heads, circuit], model, task, progress=False)
    with interp.live.serve(page) as running:
        yield running


class Reply:
    def __init__(self, reply: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = reply.status, reply.headers, reply.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def send(server: Any, method: str, path: str, body: Any = None, **headers: str) -> Reply:
    link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    given = {"Content-Type": "application/json"} | {
        name.replace("_", "-"): text for name, text in headers.items()
    }
    link.request(method, path, data, given)
    return Reply(link.getresponse())


@pytest.fixture
def path(server: Any) -> str:
    return server.url.removeprefix(f"http://127.0.0.1:{server.port}")


META = {"kind": "meta", "args": {}}


def test_the_page_and_its_answers(server: Any, path: str) -> None:
    page = send(server, "GET", path)
    assert page.status == 200
    assert "connect-src 'self'" in page.body.decode()
    assert page.headers["Referrer-Policy"] == "no-referrer"
    for origin in (
        {},
        {"Origin": f"http://127.0.0.1:{server.port}"},
        {"Origin": f"http://localhost:{server.port}"},
    ):
        reply = send(server, "POST", f"{path}ask", META, **origin)
        assert (reply.status, reply.json["live"], reply.json["model"]) == (200, True, "tiny-ioi")


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"path": "/"}, 404, "nothing here"),
        ({"path": "/wrong-token/ask"}, 404, "nothing here"),
        ({"Host": "example.org"}, 403, "its own address only"),
        ({"Host": "127.0.0.1:1"}, 403, "its own address only"),
        ({"Origin": "https://example.org"}, 403, "its own page only"),
        ({"Origin": "null"}, 403, "its own page only"),
        ({"Content_Type": "text/plain"}, 415, "application/json"),
        ({"body": b" " * (LARGEST + 1)}, 413, "65,536 bytes"),
        ({"body": b"{"}, 400, "a question is"),
        ({"body": b"[" * 60_000}, 400, "a question is"),
        ({"body": [1]}, 400, "a question is"),
        ({"body": {"kind": "meta", "args": [1]}}, 400, "a question is"),
        ({"body": {"kind": "files"}}, 400, "kind is 'files'; ask for one of"),
    ],
)  # fmt: skip
def test_who_is_refused(server: Any, path: str, change: dict[str, Any], status: int, words: str) -> None:
    where, body = change.pop("path", f"{path}ask"), change.pop("body", META)
    reply = send(server, "POST", where, body, **change)
    assert reply.status == status
    assert words in reply.json["error"]
    assert send(server, "POST", f"{path}ask", META).status == 200, "and it goes on"


def test_other_methods_and_the_ask_page_are_not_there(server: Any, path: str) -> None:
    assert send(server, "PUT", f"{path}ask", META).status == 501
    assert send(server, "GET", f"{path}ask").status == 404
    assert send(server, "GET", path, Host="example.org").status == 403


def test_a_mistake_in_a_question_is_an_answer(server: Any, path: str) -> None:
    reply = send(server, "POST", f"{path}ask", {"kind": "head", "args": {"layer": 9, "head": 0}})
    assert reply.status == 200
    assert "there is no head 0 in layer 9" in reply.json["error"]


class Slow:
    """Answers that wait at a gate, and look between steps whether they are still wanted."""

    def __init__(self) -> None:
        self.begun, self.gate = threading.Event(), threading.Event()
        self.asked: list[int] = []

    def ask(self, kind: str, args: dict[str, int], checkpoint: Callable[[], None]) -> dict[str, int]:
        checkpoint()
        self.asked.append(args["number"])
        self.begun.set()
        self.gate.wait(10)
        checkpoint()
        return {"number": args["number"]}


def test_of_two_quick_questions_the_newer_one_is_answered() -> None:
    slow = Slow()
    asking, answers = Asking(slow), {}  # type: ignore[arg-type]
    kinds = ("head", "head", "head", "grid")

    def ask(number: int) -> None:
        answers[number] = asking.ask(kinds[number], {"number": number})

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    threads[0].start()
    assert slow.begun.wait(10)
    for thread in threads[1:]:
        thread.start()
        while sum(asking._newest.values()) < 1 + threads.index(thread):
            pass
    slow.gate.set()
    for thread in threads:
        thread.join(10)
    assert answers[0]["superseded"], "it ran, and stopped at its next step"
    assert answers[1]["superseded"], "it waited, and never ran"
    assert answers[2] == {"number": 2}
    assert answers[3] == {"number": 3}, "another kind is another question"
    assert 1 not in slow.asked


def test_a_click_asks_the_model(
    opened: Any, server: Any, model: Any, task: interp.Task, circuit: Any
) -> None:
    tab = opened(server.url)
    tab.tab.click('section[aria-label="Map of effects"] td[data-at="0,0"]')
    tab.until(f"{CELL} h2", "L0H0")
    tab.tab.click("text=Measure exactly")
    tab.until(CELL, "exact patching, logit_diff (logits), prompt 0")
    cells = [f"L0H0@{pos}" for pos in range(int(task.lengths[0]))]
    exact = interp.patch(model, task[:1], cells=cells, progress=False)["value"].values[0]
    assert np.abs(exact).max() > 1
    np.testing.assert_allclose(tab.numbers(f"{CELL} ul.bars:not(.choices) li"), exact, atol=1e-4)
    text = "When Mary and John went to the store"
    tab.tab.fill("input[data-key=text]", text)
    tab.tab.click("text=Ask the model")
    tab.until(f"{CELL} h3", "on your prompt")
    pattern = interp.heads.attention(model, text)["value"].sel(layer=0, head=0).values[0]
    shown = tab.numbers(f"{CELL} table.map td[data-at]")
    np.testing.assert_allclose(shown, pattern[np.tril_indices(len(pattern))], atol=1e-5)
    two = ["a2.h1->logits", "a2.h2->logits"]
    for name in two:
        tab.tab.click(f'tr[data-edge="{name}"] button >> nth=1')
    changed = circuit
    for name in two:
        one = interp.circuits.Circuit.from_edges(circuit.graph, [name])
        changed = changed - one if name in changed else changed | one
    judged = interp.circuits.evaluate(model, task, changed, progress=False)["faithfulness"]
    tab.until("[data-part=toggled]", f"{changed.n_edges} edges")
    tab.until("[data-part=toggled]", "L2H2 → logits")
    assert tab.numbers("[data-part=toggled]") == pytest.approx([float(judged[0])], abs=1e-4)
    assert abs(float(judged[0])) > 0.01
    assert {address.split("/")[2] for address in tab.asked} == {f"127.0.0.1:{server.port}"}


def test_exact_effects_and_new_prompts_are_those_of_the_verbs(
    server: Any, path: str, model: Any, task: interp.Task
) -> None:
    args = {"layer": 2, "head": 1, "prompt": 3, "metric": "kl"}
    row = send(server, "POST", f"{path}ask", {"kind": "measure", "args": args}).json["positions"][0]
    cells = [f"L2H1@{pos}" for pos in range(int(task.lengths[3]))]
    exact = interp.patch(model, task[[3]], cells=cells, metric="kl", progress=False)["value"].values[0]
    assert np.abs(exact).max() > 0.01
    np.testing.assert_allclose(unpack(row["value"]), exact, atol=1e-5)
    for text in ("", "xyzzy plugh"):
        asked = {"kind": "attention", "args": {"layer": 0, "head": 0, "text": text}}
        assert "error" in send(server, "POST", f"{path}ask", asked).json


def test_a_page_without_a_model_cannot_be_served(heads: Any) -> None:
    with pytest.raises(ValueError, match="this page has no model to ask"):
        interp.live.serve(interp.explore([heads]))
