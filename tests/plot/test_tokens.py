"""Tokens as text: everything visible, nothing interpreted."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from interp import plot
from interp.plot import _theme as labels


class Text(HTMLParser):
    """Collects text and tags."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: list[str] = []

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" Mary", "·Mary"),
        ("ĠMary", "·Mary"),
        ("▁Mary", "·Mary"),
        ("\n", "\\n"),
        ("<s>", "<s>"),
        ("a" * 30, "a" * 17 + "…"),
    ],
)
def test_visible(token: str, shown: str) -> None:
    assert labels.visible(token) == shown


def test_escape_leaves_no_tag_and_no_dollar() -> None:
    assert labels.escape("<b>$x$ & y") == "&lt;b&gt;&#36;x&#36; &amp; y"


def test_repeated_tokens_keep_their_ticks() -> None:
    axis = labels.token_axis([" and", " and", "<s>"])
    assert axis["tickvals"] == [0, 1, 2]
    assert len(axis["ticktext"]) == 3


def test_a_strip_shows_every_token_once_and_escapes_it() -> None:
    given = ["<s>", " Mary", "<b>x", "$", "\n", " Mary", "&lt;"]
    strip = plot.tokens(given, np.linspace(-1, 2, 7), title="<i>title", unit="logits")
    page = Text()
    page.feed(strip._repr_html_())
    assert set(page.tags) == {"div", "span", "br", "wbr"}
    assert [t for t in page.text if t in {labels.visible(g) for g in given}] == [
        labels.visible(g) for g in given
    ]
    assert "<i>title" in page.text
    assert "−2 (red) to +2 (blue) logits" in page.text


def grounds_and_inks(strip: plot.TokenStrip) -> list[tuple[str, str]]:
    return re.findall(r"<span style='background:([^;]*);color:([^;]*);", strip.html())


def test_colours_go_from_red_over_white_to_blue() -> None:
    blue, red, white, none = grounds_and_inks(plot.tokens(list("abcd"), [1.0, -1.0, 0.0, np.nan]))
    assert blue == ("rgb(5,48,97)", "#ffffff")
    assert red[0] == "rgb(103,0,31)"
    assert white[0] == "rgb(247,247,247)"
    assert none[0] == "#c3c9d1"
    assert "d: no value" in plot.tokens(list("abcd"), [1.0, -1.0, 0.0, np.nan]).html()


def grounds_and_inks_in_dark(strip: plot.TokenStrip) -> list[tuple[str, str]]:
    """The dark part of light-dark(light, dark), of tokens and of the words around."""
    two = r"light-dark\((rgb\([^)]*\)|#\w+),(rgb\([^)]*\)|#\w+)\)"
    pairs = re.findall(f"background:{two};color:{two}", strip.html())
    return [(ground, ink) for _, ground, _, ink in pairs]


def luminance(colour: str) -> float:
    """As WCAG 2 defines it."""
    if colour.startswith("#"):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    else:
        parts = [int(part) / 255 for part in colour[4:-1].split(",")]
    linear = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_every_token_is_readable_whatever_the_notebook() -> None:
    """Ground and ink come together, at a contrast of 4.5 or more; so do those of the words around."""
    values = np.linspace(-1, 1, 201)
    strip = plot.tokens(["x"] * 201, values, title="title")
    words = re.findall(r"px;(?:line-height:2;)?background:(#\w+);color:(#\w+)", strip.html())
    assert len(words) == 2
    dark = grounds_and_inks_in_dark(strip)
    assert len({ground for ground, _ in dark}) > 100
    pairs = [*grounds_and_inks(strip), *words, *dark]
    assert len(pairs) == 2 * 203
    for ground, ink in pairs:
        low, high = sorted((luminance(ground), luminance(ink)))
        assert (high + 0.05) / (low + 0.05) >= 4.5


def test_a_line_may_break_between_tokens_and_not_within() -> None:
    text = plot.tokens([" Mary", " gave"], [0.0, 1.0]).html()
    assert text.count("</span><wbr><span") == 1
    assert "white-space:pre" in text


def test_one_value_a_token() -> None:
    with pytest.raises(ValueError, match="there are 2 tokens"):
        plot.tokens(["a", "b"], [1.0])
