"""The contract of verbs: the same argument has the same name, order and default everywhere.

And every public docstring has an example, which runs.
"""

from __future__ import annotations

import doctest
import inspect

import pytest
from words import DEFAULTS, GONE, ORDER, POSITIONS_OF_PAPERS, REQUIRED_IN_SWEEPS, verbs

import interp

VERBS = dict(verbs())


def arguments(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(VERBS[name]).parameters)


def test_there_are_verbs() -> None:
    assert len(VERBS) > 80
    assert {"interp.patch", "interp.circuits.acdc", "interp.steering.sweep", "interp.stats.bootstrap"} <= set(
        VERBS
    )


@pytest.mark.parametrize("name", sorted(VERBS))
def test_one_word_one_default_one_order(name: str) -> None:
    parameters = arguments(name)
    assert not [gone for gone in GONE if gone in parameters]
    kinds = {parameter.kind for parameter in parameters.values()}
    if name != "interp.load":  # whose flags are TransformerLens's, checked by name against its loader's
        assert inspect.Parameter.VAR_KEYWORD not in kinds, "an open end takes any misspelling"
    for argument, default in DEFAULTS.items():
        given = parameters.get(argument)
        if given is None or given.default is inspect.Parameter.empty:
            continue
        if argument == "site" and name.rpartition(".")[2] in REQUIRED_IN_SWEEPS:
            continue
        if argument == "pos" and name.rpartition(".")[2] in POSITIONS_OF_PAPERS:
            continue
        assert given.default == default, f"{argument}={given.default!r}, elsewhere {default!r}"
    named = [a for a, given in parameters.items() if given.kind is inspect.Parameter.KEYWORD_ONLY]
    shared = [argument for argument in named if argument in ORDER]
    assert shared == sorted(shared, key=ORDER.index)


@pytest.mark.parametrize("name", sorted(VERBS))
def test_a_wrong_name_gets_the_nearest_right_one(name: str) -> None:
    parameters = arguments(name)
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        pytest.skip("hands its flags on, and checks them itself")
    known = next((a for a in ("progress", "metric", "seed", *parameters) if a in parameters), None)
    if known is None:
        pytest.skip("takes nothing")
    with pytest.raises(TypeError, match=rf"has no argument '{known}_'; did you mean '{known}'"):
        VERBS[name](**{f"{known}_": None})


@pytest.mark.parametrize("name", sorted(VERBS))
def test_the_docstring_has_an_example_that_runs(name: str) -> None:
    examples = doctest.DocTestFinder(recurse=False).find(
        inspect.unwrap(VERBS[name]), name, globs={"interp": interp, **vars(interp)}
    )
    found = [test for test in examples if test.examples]
    assert found, "no example"
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    out: list[str] = []
    result = doctest.DocTestRunner(optionflags=flags).run(found[0], out=out.append)
    assert result.failed == 0, "".join(out)
