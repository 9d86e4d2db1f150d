"""A page of the bundled model, and a browser to open it in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

import interp
from interp import circuits, steering
from interp.tasks import KL, LogitDiff

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def model() -> Any:
    return interp.load("tiny-ioi")


@pytest.fixture(scope="session")
def task(model: Any) -> interp.Task:
    return interp.tasks.ioi(model, n=6, seed=0, template=0)


@pytest.fixture(scope="session")
def heads(model: Any, task: interp.Task) -> Any:
    return interp.patch(model, task, "z", metric=[LogitDiff(), KL()], progress=False)


@pytest.fixture(scope="session")
def streams(model: Any, task: interp.Task) -> Any:
    return interp.patch(model, task, ["resid_pre", "mlp_out"], progress=False)


@pytest.fixture(scope="session")
def circuit(model: Any, task: interp.Task) -> Any:
    scores = circuits.score_edges(model, task, method="eap-ig", progress=False)
    return circuits.prune(circuits.top(scores, 12))


@pytest.fixture(scope="session")
def direction(model: Any, task: interp.Task) -> Any:
    return steering.mean_difference(model, task.clean[:3], task.clean[3:], layer=1)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium; without one, or without Playwright, the tests of the page are skipped and say so."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the page is tested with Playwright")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("the page is tested in a browser, and there is no Chromium: install chromium")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


class Tab:
    """A page in the browser, with all that it said and asked for."""

    def __init__(self, browser: Any, url: str, width: int = 1000, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        self.tab = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.tab.on("console", lambda message: self.said.append(message.text))
        self.tab.on("pageerror", lambda error: self.said.append(str(error)))
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.goto(url)
        self.tab.set_default_timeout(10_000)
        self.tab.wait_for_selector('#interp[data-ready="true"]', state="attached")

    def numbers(self, selector: str) -> list[float]:
        """The numbers behind some elements, not as they are written but as they are."""
        return self.tab.eval_on_selector_all(selector, "all => all.map(each => Number(each.dataset.value))")

    def cell(self, row: int, column: int) -> Any:
        return self.tab.locator(f'section[aria-label="Map of effects"] td[data-at="{row},{column}"]')

    def choose(self, label: str, value: str) -> None:
        self.tab.select_option(f'select[data-key="{label}"]', value)

    def text(self, selector: str) -> str:
        return self.tab.text_content(selector) or ""

    def until(self, selector: str, text: str) -> None:
        self.tab.wait_for_function(
            "([selector, text]) => document.querySelector(selector)?.textContent.includes(text)",
            arg=[selector, text],
        )

    def close(self) -> None:
        """No error was said, and nothing was asked for but the page itself."""
        self.context.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    """Opens tabs, and closes them; each must have been silent."""
    tabs: list[Tab] = []

    def open_tab(url: str, **options: Any) -> Tab:
        tabs.append(Tab(browser, url, **options))
        return tabs[-1]

    yield open_tab
    for tab in tabs:
        tab.close()
    assert [line for tab in tabs for line in tab.said] == []
