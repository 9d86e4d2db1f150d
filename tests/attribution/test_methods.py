"""Methods as values: one table for cells and edges, and what cannot be written down."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from interp import methods
from interp.methods import GIM, IG, Atp, AtpStar, AttnLRP, Exact, FlowRoutes, GradPath, Relp, Secant
from interp.tasks import KL, LogitDiff, Rank

EVERY = (Atp(), IG(), AtpStar(), Relp(), AttnLRP(), GIM(), Secant(), FlowRoutes(), Exact(), GradPath())


def test_names_stand_for_defaults() -> None:
    for over in ("cells", "edges"):
        for name in methods.names(over):
            value = methods.parse(name, over)
            assert value in EVERY
            assert value.called(over) == name
            assert methods.parse(value, over) is value
    assert methods.parse("atp", "edges") == methods.parse("eap", "edges") == Atp()
    assert methods.parse("ig", "edges") == methods.parse("eap-ig", "edges") == IG()


@pytest.mark.parametrize(
    ("method", "over", "words"),
    [
        ("apt", "cells", "method 'apt' is not one of atp, ig.*did you mean 'atp'"),
        ("eap_ig", "edges", "did you mean 'eap-ig'"),
        ("eap", "cells", "'eap' does not fit: cells are estimated by atp"),
        ("atp*", "edges", r"'atp\*' does not fit: edges are scored by eap"),
        (GIM(), "edges", "does not fit: edges are scored by eap"),
        (Exact(), "cells", "does not fit: cells are estimated by atp"),
        (IG, "cells", r"is the class IG; give a value of it: IG\(\)"),
        (3, "cells", "method 3 is not one of"),
        (None, "edges", "method None is not one of"),
    ],
)
def test_what_is_no_method(method: object, over: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        methods.parse(method, over)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: IG(steps=0), "steps is 0"),
        (lambda: IG(steps=True), "steps is True"),
        (lambda: GradPath(steps=0), "steps is 0"),
        (lambda: GradPath(stride=0), "stride is 0; it must be a length above 0, or None"),
        (lambda: IG(rule="simpson"), "'simpson' is not one of midpoint, left, gauss"),
        (lambda: IG(variant="input"), "did you mean 'inputs'"),
        (lambda: IG(4, variant="clean-corrupted"), "it takes no steps= or rule="),
        (lambda: AtpStar(False, False), r"Use Atp\(\)"),
        (lambda: AtpStar(qk_fix=False).on(1), "the model has only one"),
        (lambda: GIM(temperature=0.0), "temperature is 0.0"),
    ],
)
def test_wrong_combinations_are_refused_when_made(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("make", [lambda: Atp(window=2), lambda: IG(ah=False), lambda: Relp(steps=3)])  # type: ignore[call-arg]
def test_an_option_of_another_method_cannot_be_written_down(make: object) -> None:
    with pytest.raises(TypeError, match=r"has no argument|unexpected keyword argument"):
        make()  # type: ignore[operator]


def test_what_a_method_needs() -> None:
    zero, resample, constants = (SimpleNamespace(kind=kind) for kind in ("zero", "resample", "constants"))
    for value in EVERY:
        for over in ("cells", "edges"):
            if value.called(over):
                value.check([LogitDiff()], resample, "noise", over)
    for value in (Secant(), IG(), IG(variant="clean-corrupted")):
        with pytest.raises(ValueError, match=r"works between two runs, and ablation 'zero' has only one"):
            value.check([LogitDiff()], zero, "noise", "edges")
    IG(variant="activations").check([LogitDiff()], zero, "noise", "edges")
    with pytest.raises(ValueError, match="constants stand for what they"):
        IG(variant="activations").check([LogitDiff()], constants, "noise", "edges")
    with pytest.raises(ValueError, match="'rank' has no gradient"):
        Relp().check([LogitDiff(), Rank()], resample, "denoise")
    for value in (Atp(), Relp(), GIM(), AtpStar(), IG(1, "left")):
        with pytest.raises(ValueError, match="at its minimum in the clean run"):
            value.check([KL()], resample, "noise")
        value.check([KL()], resample, "denoise")
    for value in (IG(), Secant()):
        value.check([KL()], resample, "noise")
    for value in (Exact(), FlowRoutes()):
        value.check([Rank(), KL()], zero, "noise", "edges")


def test_costs() -> None:
    assert [value.cost(3) for value in EVERY[:7]] == [(2, 1), (10, 8), (2, 3), (2, 1), (2, 1), (2, 1), (2, 1)]
    assert AtpStar().cost(1) == (2, 1)
    assert IG(4).edge_cost(3, attn_only=False) == (6, 4)
    assert IG(4, variant="activations").edge_cost(3, attn_only=False) == (30, 28)
    assert IG(4, variant="activations").edge_cost(3, attn_only=True) == (18, 16)
    assert IG(variant="clean-corrupted").edge_cost(3, attn_only=False) == (3, 2)
    assert FlowRoutes().edge_cost(3, attn_only=False) == (1, 0)


def test_no_torch() -> None:
    """The command line lists the methods; it may not load torch for it."""
    code = "import sys, interp.methods as m; m.names(); print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
