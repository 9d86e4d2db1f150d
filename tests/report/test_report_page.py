"""The report: one file, whole, escaped, and it says where its numbers came from."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import interp
from interp import plot, report, stats


class Page(HTMLParser):
    """Text by tag, and every address that the page would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.fetched: list[str] = []
        self.scripts = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.scripts += tag == "script"
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "br", "link", "img", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in self.open:
            self.texts.setdefault(tag, []).append(data)

    def text(self, tag: str) -> str:
        return " ".join(self.texts.get(tag, []))


def written(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_in_a_browser_it_fits_and_turns_dark(result, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine: the page is not opened")
    wide = result(by=("layer", "pos"), sites=("resid_pre", "attn_out"), sizes={"pos": 50})
    items = [plot.positions(wide), wide, plot.tokens([" word"] * 80, np.linspace(-1, 1, 80))]
    path = report.write(items, tmp_path / "page.html")
    script = "document.title = `${innerWidth} ${document.documentElement.scrollWidth}`"
    page, end, rest = path.read_text().rpartition("</body>")
    path.write_text(f"{page}<script>{script}</script>{end}{rest}")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [
        "--window-size=800,1000",
        "--blink-settings=preferredColorScheme=0",
        "--dump-dom",
        path.as_uri(),
    ]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "<title>800 800</title>" in dom
    assert re.search(r'<svg class="main-svg"[^>]*background: rgb\(20, 24, 29\)', dom)


def test_every_kind_of_item_in_order(result, tmp_path: Path) -> None:
    data = result(by=("layer", "pos"), site="resid_pre")
    strip = plot.tokens(["<s>", " Mary"], [0.5, -1.0])
    items = [("heading", "Heads & tails"), "First.\n\nSecond.", plot.positions(data), data, strip]
    items += [(plot.bars(data), "Own <caption>")]
    path = report.write(items, tmp_path / "out.html", title="IOI <1>")
    page = written(path)
    assert page.open == []
    assert page.text("title") == page.text("h1") == "IOI <1>"
    assert page.texts["h2"][0] == "Heads & tails"
    assert page.texts["p"][:2] == ["First.", "Second."]
    assert "Figure 1. Effect by position (resid_pre)." in page.text("figcaption").replace("  ", " ")
    assert "Own <caption>" in page.text("figcaption")
    assert "·Mary" in page.text("span")
    text = path.read_text()
    at = [
        text.index(word)
        for word in ("Heads &amp; tails", "First.", "figure-1", "<dl>", "token-strip", "figure-2")
    ]
    assert at == sorted(at)


def test_the_library_is_inside_once_and_nothing_is_fetched(result, tmp_path: Path) -> None:
    fig = plot.heads(result())
    one = report.write(["text", fig], tmp_path / "one.html")
    two = report.write([fig, fig, fig], tmp_path / "two.html")
    assert written(two).fetched == []
    assert two.stat().st_size - one.stat().st_size < 100_000 < 1_000_000 < one.stat().st_size


def test_cdn_on_request_and_no_script_without_figures(result, tmp_path: Path) -> None:
    fetched = written(report.write([plot.heads(result())], tmp_path / "cdn.html", cdn=True)).fetched
    assert [re.sub(r"[0-9.]+\.min\.js", "", address) for address in fetched] == [
        "https://cdn.plot.ly/plotly-"
    ]
    assert written(report.write(["no figure"], str(tmp_path / "plain.html"))).scripts == 0


def test_a_result_is_shown_with_its_largest_cells_and_intervals(result, tmp_path: Path) -> None:
    data = result()
    page = written(report.write([data], tmp_path / "table.html"))
    cells = page.texts["td"]
    found = stats.bootstrap(data)
    at = np.abs(found["estimate"]).argmax(...)
    assert cells[0] == f"L{int(at['layer'])}H{int(at['head'])}"
    for name, text in zip(("estimate", "low", "high"), cells[1:4]):
        assert float(text.replace("−", "-")) == pytest.approx(float(found[name][at]), rel=1e-3)
    tested = stats.test(data)
    assert cells[4] == f"{float(tested['p'][at]):.2g}{' *' if tested['significant'][at] else ''}"
    assert len(cells) == 50
    words = stats.summary(data).splitlines()
    assert page.texts["li"][: len(words)] == words
    for words in ("toy", "ioi", "denoise", "fast", "20"):
        assert words in page.texts["dd"]
    mean = float(data["clean"].mean())
    assert f"of the clean prompts {mean:+.4g}" in page.text("p")


def test_a_table_for_every_metric(result, tmp_path: Path) -> None:
    page = written(report.write([result(metrics=("logit_diff", "kl"))], tmp_path / "two.html"))
    assert "Effects on logit_diff: the 10 largest, in logits" in page.text("p")
    assert "Effects on kl: the 10 largest, in nats" in page.text("p")


def test_one_prompt_has_a_table_without_intervals(result, tmp_path: Path) -> None:
    page = written(report.write([result(n_prompts=1)], tmp_path / "one.html"))
    assert page.texts["th"] == ["cell", "effect"]


def test_the_footer_has_the_provenance_once(result, tmp_path: Path) -> None:
    data = result()
    page = written(report.write([data, data, result(site="q")], tmp_path / "page.html"))
    footer = page.text("footer")
    assert footer.count("task fingerprint " + "0f" * 32) == 2
    assert "site q" in footer
    assert footer.count("transformer-lens 3.9.0, torch 2.9.0") == 1
    assert footer.count("positive: the component helps the metric") == 1
    assert "footer" not in written(report.write(["text"], tmp_path / "text.html")).texts


def test_text_cannot_become_markup(result, tmp_path: Path) -> None:
    nasty = "<script>alert(1)</script>"
    data = result(task=nasty, model=nasty, versions=nasty)
    page = written(report.write([nasty, ("heading", nasty), data], tmp_path / "x.html", title=nasty))
    assert page.scripts == 0
    assert nasty in page.text("p")
    assert nasty in page.text("footer")


def test_items_of_other_kinds_are_refused_before_writing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.html"
    with pytest.raises(ValueError, match="item 1 is a int"):
        report.write(["text", 5], path)
    with pytest.raises(ValueError, match="item 0 is a tuple"):
        report.write([("header", "text")], path)
    assert not path.parent.exists()


def test_a_page_is_not_written_under_another_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.pdf' does not end in \.html"):
        report.write(["text"], tmp_path / "x.pdf")
    assert not list(tmp_path.iterdir())


def test_the_folder_is_made_and_holds_only_the_page(tmp_path: Path) -> None:
    path = report.write(["text"], tmp_path / "a" / "b" / "page.html")
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]
    assert path == report.write(["other"], str(path))
    assert "other" in path.read_text()


def test_a_circuit_is_a_list_of_its_edges(tmp_path: Path) -> None:
    model = interp.load("tiny-ioi")
    scores = interp.circuits.score_edges(model, interp.tasks.ioi(model, n=4), progress=False)
    circuit = interp.circuits.top(scores, 40)
    page = written(report.write([plot.circuit(circuit), circuit], tmp_path / "circuit.html"))
    cells = np.array(page.texts["td"]).reshape(-1, 3)
    sizes = [abs(float(score.replace("−", "-"))) for score in cells[:, 2]]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == 30 < circuit.n_edges
    best = scores["value"].mean("prompt")
    assert sizes[0] == pytest.approx(float(np.abs(best).max()), rel=1e-3)
    assert "the 30 largest of 40 edges" in page.text("p")
