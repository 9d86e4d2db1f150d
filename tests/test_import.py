"""What loads what: the front door is cheap, and pictures need no torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformer_lens", "transformers", "xarray", "plotly", "numpy", "scipy")


def modules_after(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after some code, beyond those it starts with."""
    script = (
        "import sys, json, io, contextlib\nbefore = set(sys.modules)\n"
        f"with contextlib.redirect_stdout(io.StringIO()):\n    {code}\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_interp_loads_nothing_heavy() -> None:
    loaded = modules_after("import interp")
    assert "interp" in loaded
    assert loaded.isdisjoint(HEAVY)
    assert {name for name in loaded if name.startswith("interp")} == {"interp", "interp._lazy"}
    assert len(loaded) < 60


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["patch", "--help"], ["path", "--help"], ["models"]]
)
def test_the_command_line_loads_nothing_heavy(arguments: list[str]) -> None:
    loaded = modules_after(
        f"from interp.cli import main\n    with contextlib.suppress(SystemExit): main({arguments})"
    )
    assert "interp.cli._parser" in loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("name", ["plot", "report", "stats"])
def test_what_takes_results_needs_no_torch(name: str) -> None:
    everything = f"[getattr(interp.{name}, name) for name in interp.{name}.__all__]"
    loaded = modules_after(f"import interp.{name}; {everything}")
    assert "xarray" in loaded
    assert loaded.isdisjoint(("torch", "transformer_lens", "transformers"))


def test_every_public_name_resolves() -> None:
    import interp

    assert set(interp.__all__) <= set(dir(interp))
    for name in interp.__all__:
        assert getattr(interp, name) is not None
    with pytest.raises(AttributeError, match=r"no attribute 'patchh'; it has .*patch.* Did you mean 'patch'"):
        interp.patchh  # noqa: B018
