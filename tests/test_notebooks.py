"""The notebooks run headless from a clean kernel, and the built files are those of the sources."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import interp

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
NAMES = ["circuits", "estimators", "features", "patching", "smollm2", "steering"]
RUN = [name for name in NAMES if name != "smollm2"]  # which takes the real model and minutes: make notebooks
LARGEST = 500_000


def cells(notebook: Any) -> list[tuple[str, str]]:
    return [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]


def test_every_source_is_tested() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "build") == NAMES


@pytest.mark.parametrize("name", RUN)
def test_it_runs_from_a_clean_kernel(name: str, tmp_path: Path) -> None:
    pytest.importorskip("ipykernel", reason="the notebooks extra is not installed")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(FOLDER / "build.py"), name, "--no-png", "--out", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    built = json.loads((tmp_path / f"{name}.ipynb").read_text(encoding="utf-8"))
    outputs = [output for cell in built["cells"] for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    drawn = [output for output in outputs if "application/vnd.plotly.v1+json" in output.get("data", {})]
    assert len(drawn) >= 5


@pytest.mark.parametrize("name", NAMES)
def test_the_built_file_has_the_cells_of_the_source(name: str) -> None:
    jupytext = pytest.importorskip("jupytext", reason="the notebooks extra is not installed")
    built = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert cells(built) == cells(jupytext.read(FOLDER / f"{name}.py")), "stale: run `make notebooks`"
    executed = [cell["execution_count"] for cell in built["cells"] if cell["cell_type"] == "code"]
    assert executed == list(range(1, len(executed) + 1))


@pytest.mark.parametrize("name", NAMES)
def test_the_built_file_is_small(name: str) -> None:
    assert (FOLDER / f"{name}.ipynb").stat().st_size < LARGEST


def test_what_the_text_of_patching_says_of_tiny_ioi() -> None:
    """One head of layer 0 through v, the heads of layer 2 through q, layer 1 next to nothing, in series."""
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=64, seed=0)
    parts = interp.patch(model, task, ("z", "q", "v"), progress=False)["value"].mean("prompt")
    z = parts.sel(site="z")
    first = int(z.sel(layer=0).argmax("head"))
    assert float(z.max()) == float(z[0, first])
    assert float(z.sel(layer=0).drop_sel(head=first).max()) < 0.1 < 1 < float(z.sel(layer=2).min())
    assert float(z.sel(layer=1).max()) < 0.5 * float(z.sel(layer=2).min())
    assert float(parts.sel(site="v")[0, first]) > 0.9 * float(z[0, first])
    assert (parts.sel(site="q", layer=2) > 0.9 * z.sel(layer=2)).all()
    second = int(z.sel(layer=2).argmax("head"))
    names = [f"L0H{first}", [f"L0H{first}", f"L2H{second}"]]
    alone, both = interp.patch(model, task, cells=names, progress=False)["value"].mean("prompt").values
    assert both == pytest.approx(alone, rel=0.02)
    assert float(z[2, second]) > 0.1 * alone


def test_what_the_text_of_estimators_says_of_tiny_world() -> None:
    """atp sees about half of the stream and is right for neurons; secant the other way round."""
    model = interp.load("tiny-world")
    task = interp.tasks.ioi(model, n=32, seed=0, template=0)
    error: dict[str, list[float]] = {}
    for sites in (("resid_pre", "attn_out", "mlp_out"), "post"):
        options: dict[str, Any] = {"progress": False}
        options |= {"neurons": range(0, 512, 8)} if sites == "post" else {}
        exact = interp.patch(model, task, sites, **options)
        for name in ("atp", "ig", "relp", "secant"):
            estimate = interp.attribute(model, task, sites, method=name, **options)
            found = interp.stats.agreement(estimate, exact).sel(cells="all")
            error.setdefault(name, []).append(float(found["relative_l1"]))
            if name == "atp" and sites != "post":
                assert 0.4 < float(found["slope"]) < 0.65
                assert 0.4 < error["atp"][0] < 0.5
    stream, neurons = ({name: both[i] for name, both in error.items()} for i in (0, 1))
    assert sorted(stream, key=stream.__getitem__) == ["secant", "ig", "relp", "atp"]
    assert sorted(neurons, key=neurons.__getitem__) == ["atp", "relp", "ig", "secant"]
    assert neurons["secant"] > 3 * neurons["atp"]


def test_what_the_text_of_estimators_says_of_the_screen() -> None:
    from interp.attribution import screen
    from interp.methods import Relp

    model = interp.load("tiny-world")
    task = interp.tasks.facts(model, n=32, seed=0)
    axes = ("layer", "pos", "head")
    found = screen(model, task, "z", 48, by=axes, method=Relp(ah=False), progress=False)
    exact = interp.patch(model, task, "z", by=axes, progress=False)["value"].mean("prompt")
    assert exact.size == 320
    assert found.attrs["sampled"] == 12
    assert (
        found.attrs["above_in_sample"]
        == 0
        < found.attrs["above"]
        == int((abs(exact) >= found.attrs["threshold"]).sum())
    )


def test_what_the_text_of_circuits_says() -> None:
    """Four of six edges of `reverse` have no slope; ACDC's circuit is inside the larger one, and good."""
    from interp import circuits
    from interp.circuits._select import mean_scores
    from interp.tasks.handmade import some_inputs

    reverse = interp.load("reverse")
    truth = circuits.known("reverse", ablation="resample")
    slopes = circuits.score_edges(reverse, some_inputs(reverse, "reverse", n=32))
    values = mean_scores(slopes, truth.graph)[truth.mask.numpy()]
    assert len(values) == 6
    assert (abs(values) < 1e-30).sum() == 4
    model = interp.load("tiny-ioi")
    task, fresh = (interp.tasks.ioi(model, n=32, seed=seed) for seed in (0, 1))
    scores = circuits.score_edges(model, task, method="eap-ig")
    larger = circuits.prune(circuits.top(scores, 40))
    small = circuits.acdc(model, task, threshold=0.03, progress=False)
    assert (small - larger).n_edges == 0 < small.n_edges
    chosen = [small, circuits.prune(circuits.top(scores, small.n_edges)), larger]
    found = circuits.evaluate(model, fresh, chosen)
    acdc, best, more = found["faithfulness"].values
    assert acdc > best + 0.05
    assert more > 0.95
    assert found["kl"].mean("prompt")[0] < 0.5 * found["kl"].mean("prompt")[1]
    rejected = circuits.hypothesis_tests(model, fresh, larger)["rejected"]
    assert bool(rejected.sel(test="independence"))


def test_what_the_text_of_steering_says() -> None:
    """Sentiment is steered at layer 3, cached or not; lda moves little; ablation ends refusal."""
    from interp import positions, probes, steering
    from interp.models import anatomy
    from interp.tasks import KL, LogitDiff

    model = interp.load("tiny-world")

    def sides(family: str, word: str, n: int, seed: int, held_out: bool) -> list[Any]:
        task = getattr(interp.tasks, family)(model, n=n, seed=seed, held_out=held_out)
        of_word = (task.answers == model.to_single_token(word)).any(1)
        return [task[rows.nonzero().flatten()] for rows in (of_word, ~of_word)]

    up, down = sides("sentiment", "wonderful", 96, 0, held_out=False)
    bright, dull = sides("sentiment", "wonderful", 48, 1, held_out=True)
    found, _ = probes.fit(model, up, down, layer=[0, 3], held_out=(bright, dull), draws=1)
    assert found["accuracy"].values.tolist() == [pytest.approx(0.5, abs=0.1), 1.0]  # by chance, then all
    effects = {}
    for make in (steering.mean_difference, steering.lda):
        part = make(model, up, down, layer=3)
        c = steering.calibrate(model, part, dull, 0.2).coefficient
        swept = steering.sweep(
            model, part, dull, [c], metric=LogitDiff(), with_controls=False, progress=False
        )
        effects[part.method] = -float(swept["value"].mean())  # towards the good words
    assert effects["mean_difference"] > 5 > 2 > effects["lda"]
    edit = steering.add(steering.mean_difference(model, up, down, layer=3), 2.0, when=positions.generated)
    cached, uncached = (
        steering.generate(model, dull[:8], edit, max_new_tokens=16, use_cache=use, stop=())
        for use in (True, False)
    )
    assert (cached == uncached).all()
    assert (cached != steering.generate(model, dull[:8], max_new_tokens=16, stop=())).any()

    refusal = steering.mean_difference(model, *sides("requests", "sorry", 96, 0, held_out=False), layer=3)
    refused = sides("requests", "sorry", 48, 1, held_out=True)[0]
    places = steering.writers(anatomy(model))
    removed = steering.sweep(
        model, refusal, refused, [0.0, 1.0], metric=[LogitDiff(), KL()], progress=False,
        intervene=lambda part, share: steering.ablate(part.spread(places), share),
    ).sel(metric="logit_diff", coefficient=1.0)  # fmt: skip
    assert bool((removed["raw"] < 0).all())
    assert bool((removed["clean"] + removed["random"] > 0).all())
