"""Tokens as text: everything visible, nothing interpreted."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

from interp import plot
from interp.plot import _theme as labels
from interp.plot._tokens import colours


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
    assert set(page.tags) == {"div", "span", "br"}
    assert [t for t in page.text if t in {labels.visible(g) for g in given}] == [
        labels.visible(g) for g in given
    ]
    assert "<i>title" in page.text
    assert "−2 (red) to +2 (blue) logits" in page.text


def test_colours_go_from_red_over_white_to_blue() -> None:
    assert colours(1.0, 1.0) == ("rgb(5,48,97)", "#ffffff")
    assert colours(-1.0, 1.0)[0] == "rgb(103,0,31)"
    assert colours(0.0, 1.0)[0] == "rgb(247,247,247)"
    assert colours(float("nan"), 1.0)[0] == "transparent"


def test_one_value_a_token() -> None:
    with pytest.raises(ValueError, match="there are 2 tokens"):
        plot.tokens(["a", "b"], [1.0])
