"""Files: whole, self-contained, not blank."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import plotly.graph_objects as go
import pytest

from interp import plot
from interp.plot._frame import refitted
from interp.plot._theme import themed


def pixels(path: Path) -> tuple[int, int, int]:
    """Width, height and the number of different bytes in the filtered rows of a PNG."""
    data = path.read_bytes()
    width, height = struct.unpack(">II", data[16:24])
    body, at = b"", 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            body += data[at + 8 : at + 8 + length]
        at += 12 + length
    return width, height, len(set(zlib.decompress(body)))


def test_html_is_one_file_with_plotly_inside(result, tmp_path: Path) -> None:
    path = plot.save_html(plot.heads(result()), tmp_path / "new" / "heads.html")
    text = path.read_text()
    assert len(text) > 1_000_000
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=.?http", text)
    assert sorted(p.name for p in path.parent.iterdir()) == ["heads.html"]


def test_html_from_the_network_on_request(result, tmp_path: Path) -> None:
    text = plot.save_html(plot.heads(result()), tmp_path / "heads.html", cdn=True).read_text()
    assert len(text) < 200_000
    assert re.search(r"<script[^>]+src=.https://cdn.plot.ly", text)


def test_a_page_is_called_one(result, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.pdf' does not end in \.html"):
        plot.save_html(plot.heads(result()), tmp_path / "x.pdf")
    assert not list(tmp_path.iterdir())


def test_the_dark_theme_changes_colours_and_nothing_else(result, tmp_path: Path) -> None:
    fig = plot.heads(result())
    light, dark = (
        plot.save_html(fig, tmp_path / f"{theme}.html", cdn=True, theme=theme).read_text()
        for theme in ("light", "dark")
    )
    for colour in ("#ffffff", "#1f2933", "#f7f7f7"):
        assert colour in light
        assert colour not in dark
    with pytest.raises(ValueError, match="theme is 'night'"):
        plot.save_html(fig, tmp_path / "x.html", theme="night")


def test_every_figure_takes_a_theme_and_turns_back(result) -> None:
    light, dark = (plot.heads(result(), theme=theme) for theme in ("light", "dark"))
    assert light.layout.template.layout.paper_bgcolor == "#ffffff"
    assert dark.layout.template.layout.paper_bgcolor == "#14181d"
    assert dark.layout.coloraxis.colorscale[5][1] == "#20252b"
    assert themed(dark, "light") == light
    assert themed(light, "dark") == dark
    assert themed(dark, "auto") == dark
    other = go.Figure(go.Bar(x=[1], marker_color="#ffffff"))
    assert themed(other, "dark") == other  # of another hand
    with pytest.raises(ValueError, match="theme is 'night'"):
        plot.bars(result(), theme="night")


def test_a_page_follows_the_readers_system_unless_told(result, tmp_path: Path) -> None:
    fig = plot.heads(result())
    auto, light = (
        plot.save_html(fig, tmp_path / "page.html", cdn=True, theme=theme).read_text()
        for theme in ("auto", "light")
    )
    assert "prefers-color-scheme" in auto
    assert "Plotly.react" in auto
    assert "prefers-color-scheme" not in light
    made = plot.save_html(plot.heads(result(), theme="dark"), tmp_path / "page.html", cdn=True).read_text()
    assert "prefers-color-scheme" not in made
    assert "#14181d" in made


def test_png_arguments_are_checked(result, tmp_path: Path) -> None:
    fig = plot.heads(result())
    with pytest.raises(ValueError, match="2 figures and 1 paths"):
        plot.save_image([fig, fig], tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"does not end in \.png, \.svg or \.pdf"):
        plot.save_image(fig, tmp_path / "a.jpg")


def test_an_image_has_its_subtitle_set_for_its_width(result) -> None:
    fig = plot.heads(result(model="a & b"))
    narrow, wide = (refitted(fig, width) for width in (400, 1200))
    text = [each.layout.title.subtitle.text for each in (narrow, fig, wide)]
    counts = [each.count("<br>") for each in text]
    assert counts == sorted(counts, reverse=True)
    assert max(map(len, text[0].split("<br>"))) < 60
    assert narrow.layout.height > fig.layout.height
    assert "a &amp; b on ioi" in text[0]
    assert refitted(narrow, 800) == fig == refitted(fig, 800)


def test_svg_and_pdf(result, tmp_path: Path, browser) -> None:
    fig = plot.bars(result())
    svg, pdf = plot.save_image([fig, fig], [tmp_path / "a.svg", tmp_path / "a.PDF"], width=640)
    assert 'width="640"' in svg.read_text()[:300]
    assert "L2H1" in svg.read_text()
    assert pdf.read_bytes().startswith(b"%PDF")


def test_without_kaleido_the_error_says_what_to_install(result, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(RuntimeError, match=r"pip install 'kaleido>=1\.0'"):
        plot.save_image(plot.heads(result()), tmp_path / "a.png")


def test_without_a_browser_the_error_says_what_to_install(result, tmp_path: Path, monkeypatch) -> None:
    kaleido = pytest.importorskip("kaleido")

    def no_browser(*args: object, **options: object) -> None:
        raise FileNotFoundError("no browser")

    monkeypatch.setattr(kaleido, "write_fig_from_object_sync", no_browser)
    with pytest.raises(RuntimeError, match=r"Chromium or Chrome browser.*no browser"):
        plot.save_image(plot.heads(result()), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_every_figure_draws_something(result, tmp_path: Path, browser) -> None:
    figures = {
        "heads": plot.heads(result(), normalise=True),
        "sites": plot.heads(result(sites=("q", "k", "v", "pattern", "z"))),
        "positions": plot.positions(result(by=("layer", "pos"), sites=("resid_pre", "attn_out", "mlp_out"))),
        "bars": plot.bars(result()),
    }
    paths = plot.save_image(list(figures.values()), [tmp_path / f"{name}.png" for name in figures], scale=1.0)
    for path, fig in zip(paths, figures.values()):
        width, height, shades = pixels(path)
        assert (width, height) == (800, fig.layout.height)
        assert shades > 100


def test_plot_loads_no_torch() -> None:
    code = "import sys, interp.cli._files, interp.stats; interp.stats.mean; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
