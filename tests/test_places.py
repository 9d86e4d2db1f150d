"""Names of places: every style prints what it parses, and a mistake names the nearest valid form."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from interp import places
from interp.places import AXES, SITES, STYLES, Place

INDICES = {"head": (None, 0, 11), "expert": (None, 0, 7), "neuron": (None, 0, 3071), "pos": (None, 0, 12, -1)}
INDICES |= {"dst": INDICES["pos"], "src": INDICES["pos"]}


def all_places() -> list[Place]:
    places = [Place(end, pos=pos) for end in ("embed", "logits") for pos in INDICES["pos"]]
    for site, layer in itertools.product(SITES, (0, 9, 31)):
        grid = itertools.product(*(INDICES[axis] for axis in AXES[site]))
        places.extend(Place(site, layer, **dict(zip(AXES[site], index))) for index in grid)
    return places


def named(style: str, place: Place) -> str | None:
    try:
        return place.format(style)
    except ValueError:
        return None


@pytest.mark.parametrize("style", STYLES)
def test_parse_inverts_format(style: str) -> None:
    written = {place: named(style, place) for place in all_places()}
    for place, text in written.items():
        assert text is None or places.parse(text) == place
    texts = [text for text in written.values() if text is not None]
    assert len(set(texts)) == len(texts) > 20


@pytest.mark.parametrize("style", ["interp", "short"])
def test_own_styles_name_every_place(style: str) -> None:
    assert all(named(style, place) for place in all_places())


def test_transformer_lens_names_every_place_but_the_logits() -> None:
    assert {place.site for place in all_places() if named("tl", place) is None} == {"logits"}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("L9H6", Place("z", 9, head=6)),
        ("L9H6.z", Place("z", 9, head=6)),
        ("L9H6.q", Place("q", 9, head=6)),
        ("L9.k", Place("k", 9)),
        ("MLP9", Place("mlp_out", 9)),
        ("MLP 9", Place("mlp_out", 9)),
        ("L9.mlp_out", Place("mlp_out", 9)),
        ("m9", Place("mlp_out", 9)),
        ("<m9>", Place("mlp_out", 9)),
        ("L3N17", Place("post", 3, neuron=17)),
        ("L3N17@2", Place("post", 3, neuron=17, pos=2)),
        ("L3.resid_pre@5", Place("resid_pre", 3, pos=5)),
        ("L9H6@-1", Place("z", 9, head=6, pos=-1)),
        ("L9H6.pattern@7<-2", Place("pattern", 9, head=6, dst=7, src=2)),
        ("L9H6.pattern@-1<--2", Place("pattern", 9, head=6, dst=-1, src=-2)),
        ("L9H6.pattern@7", Place("pattern", 9, head=6, dst=7)),
        ("L9H6.pattern@*<-2", Place("pattern", 9, head=6, src=2)),
        ("blocks.9.attn.hook_z[:, :, 6]", Place("z", 9, head=6)),
        ("blocks.9.attn.hook_result[:, :, 6]", Place("z", 9, head=6)),
        ("blocks.9.attn.hook_pattern[:, 6, 7, 2]", Place("pattern", 9, head=6, dst=7, src=2)),
        ("blocks.9.hook_resid_pre[:,5]", Place("resid_pre", 9, pos=5)),
        ("blocks.9.hook_resid_pre@5", Place("resid_pre", 9, pos=5)),
        ("blocks.9.mlp.hook_post", Place("post", 9)),
        ("hook_embed", Place("embed")),
        ("hook_embed@3", Place("embed", pos=3)),
        ("9.6", Place("z", 9, head=6)),
        ("9.6.q", Place("q", 9, head=6)),
        ("a9.h6", Place("z", 9, head=6)),
        ("a9.h6<q>", Place("q", 9, head=6)),
        ("input", Place("embed")),
        ("A9.6", Place("z", 9, head=6)),
        ("A9.6.Q", Place("q", 9, head=6)),
        ("Resid Start", Place("embed")),
        ("Resid End", Place("logits")),
        ("<a9.6_q>", Place("q", 9, head=6)),
        ("a9.6_q", Place("q", 9, head=6)),
        ("<a9.6>", Place("z", 9, head=6)),
        ("<embed>", Place("embed")),
        ("<resid_post>", Place("logits")),
    ],
)
def test_parses(text: str, place: Place) -> None:
    assert places.parse(text) == place


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ("interp", "L9H6.q"),
        ("tl", "blocks.9.attn.hook_q[:, :, 6]"),
        ("eap", "a9.h6<q>"),
        ("autocircuit", "A9.6.Q"),
        ("acdc", "<a9.6_q>"),
        ("short", "9.6.q"),
    ],
)
def test_formats_one_place_in_each_style(style: str, text: str) -> None:
    assert Place("q", 9, head=6).format(style) == text


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("l9h6", "L9H6"),
        ("L9.H6", "L9H6"),
        ("9H6", "L9H6"),
        ("L9.resid", "L9.resid_pre"),
        ("L3.resid_pr@5", "L3.resid_pre@5"),
        ("mlp 3", "MLP3"),
        ("L9H6.patern", "L9H6.pattern"),
        ("Logits", "logits"),
        ("blocks.9.hook_z", "blocks.9.attn.hook_z"),
        ("blocks.2.hook_resid_prev", "blocks.2.hook_resid_pre"),
        ("blocks.2.attn.hook_post", "blocks.2.mlp.hook_post"),
    ],
)
def test_a_mistake_names_the_nearest_form(text: str, meant: str) -> None:
    with pytest.raises(ValueError, match="did you mean") as error:
        places.parse(text)
    assert f"did you mean {meant!r}" in str(error.value)
    assert places.parse(meant)


@pytest.mark.parametrize(
    "text", ["", "foo", "@", "@5", "L9H6@", "L9H6@x", "L9H6@1<-", "L-1H0", "a9.h6<z>", "9."]
)
def test_what_names_no_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="names no place"):
        places.parse(text)


@pytest.mark.parametrize("text", ["L9H6@7<-2", "MLP3@*", "L1.resid_pre@3<-1"])
def test_only_a_pattern_has_a_source(text: str) -> None:
    with pytest.raises(ValueError, match="only a pattern has"):
        places.parse(text)


SIZES = {"n_layers": 12, "n_heads": 8, "n_key_value_heads": 2, "d_mlp": 64, "n_pos": 10}


@pytest.mark.parametrize(
    "text", ["L11H7.q@9", "L0H1.k", "L11N63", "MLP11@-10", "L0H0.pattern@9<-0", "embed@9"]
)
def test_check_passes_what_is_in_range(text: str) -> None:
    assert str(places.parse(text, **SIZES)) == text


@pytest.mark.parametrize(
    ("text", "valid", "closest"),
    [
        ("L12H3", "12 layers, 0 to 11", "L11H3"),
        ("L3H8", "8 heads, 0 to 7", "L3H7"),
        ("L3H2.v", "2 key-value heads (site v), 0 to 1", "L3H1.v"),
        ("L3N64", "64 neurons, 0 to 63", "L3N63"),
        ("L3.resid_pre@10", "10 positions, 0 to 9", "L3.resid_pre@9"),
        ("L3.resid_pre@-11", "10 positions, 0 to 9", "L3.resid_pre@-10"),
        ("L3H0.pattern@3<-10", "10 positions, 0 to 9", "L3H0.pattern@3<-9"),
    ],
)
def test_out_of_range_says_the_range(text: str, valid: str, closest: str) -> None:
    with pytest.raises(ValueError, match="out of range") as error:
        places.parse(text, **SIZES)
    assert valid in str(error.value)
    assert closest in str(error.value)
    assert places.parse(closest, **SIZES)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"site": "resid_prre", "layer": 1}, "did you mean 'resid_pre'"),
        ({"site": "z"}, "needs a layer"),
        ({"site": "logits", "layer": 1}, "has no layer"),
        ({"site": "mlp_out", "layer": 1, "head": 2}, "no head"),
        ({"site": "pattern", "layer": 1, "pos": 2}, "no pos"),
        ({"site": "z", "layer": 1, "head": -2}, "count from 0"),
    ],
)
def test_an_impossible_place_is_refused(values: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Place(**values)


def test_a_style_without_a_name_says_so() -> None:
    with pytest.raises(ValueError, match=r"'eap' has no name for 'L3\.resid_mid'"):
        Place("resid_mid", 3).format("eap")
    with pytest.raises(ValueError, match="did you mean 'acdc'"):
        Place("z", 3, head=1).format("acdcc")


@pytest.mark.parametrize("site", SITES)
def test_hook_names_invert(site: str) -> None:
    assert places.from_hook_name(places.hook_name(site, 7)) == (site, 7)


def test_hook_name_of_the_ends() -> None:
    assert places.from_hook_name(places.hook_name("embed")) == ("embed", None)
    with pytest.raises(ValueError, match="no hook point for the logits"):
        places.hook_name("logits")
    with pytest.raises(ValueError, match="at layer None has no hook point"):
        places.hook_name("z")


def test_nearest() -> None:
    assert places.nearest("resid_prre", SITES) == "resid_pre"
    assert places.nearest("MLP_OUT", SITES) == "mlp_out"
    assert places.nearest("qqqqqq", ["alpha", "beta"]) is None


def test_places_order_and_hash() -> None:
    assert len({places.parse("L9H6"), places.parse("a9.h6"), places.parse("9.6")}) == 1


def test_names_loads_no_torch() -> None:
    code = "import sys, interp.places; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
