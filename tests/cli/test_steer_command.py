"""`interp steer`: what each verb writes is what the library returns, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import interp
from interp import steering
from interp.cli import main
from interp.cli.steer._prompts import NAMES, classes
from interp.models import logits

MODEL = "tiny-world"
WORDS = {
    "sentiment": ("superb", "terrible"),
    "requests": ("sorry", "sure"),
    "register": ("purchase", "buy"),
    "languages": ("dog", "kanu"),
    "pronouns": ("her", "his"),
}
FIT = ("steer", "fit", MODEL, "--task", "sentiment", "--n", "16")
FILE = "out/tiny-world-sentiment-mean_difference/direction.safetensors"


@pytest.fixture(scope="module")
def world():
    return interp.load(MODEL)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every command runs in an empty folder, so that its default output goes there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def loaded(world, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is read once for all tests."""
    load = interp.load
    monkeypatch.setattr(interp, "load", lambda name, **o: world if name == MODEL else load(name, **o))


@pytest.fixture
def fitted(world, folder: Path) -> str:
    """A direction's file, of layers 2 and 3."""
    found = classes(world, "sentiment", 16, 0, held_out=False)
    made = steering.mean_difference(world, found.positive, found.negative, layer=[2, 3])
    return str(made.save(folder / "d" / "direction.safetensors").relative_to(folder))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], list[str]]:
    status = main(arguments)
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err.splitlines()


@pytest.mark.parametrize("family", NAMES)
def test_the_classes_of_a_family_are_pairs_of_mirrored_prompts(world, family: str) -> None:
    found = classes(world, family, 12, 0, held_out=True)
    assert len(found.positive) == len(found.negative) == 6
    assert torch.equal(found.positive.clean, found.negative.corrupt)
    assert torch.equal(found.positive.answers, found.negative.wrongs)
    up, down = (
        {world.to_string([token]) for token in side.answers.flatten().tolist() if token >= 0}
        for side in (found.positive, found.negative)
    )
    assert WORDS[family][0] in up
    assert WORDS[family][1] in down
    assert not up & down
    assert torch.equal(found.turned.answers, found.negative.wrongs)
    assert torch.equal(found.turned.clean, found.negative.clean)


def test_fit_writes_the_direction_of_the_library(capsys: pytest.CaptureFixture[str], world) -> None:
    status, out, err = run(capsys, *FIT)
    assert status == 0, err
    assert out[-1] == FILE
    found = classes(world, "sentiment", 16, 0, held_out=False)
    expected = steering.mean_difference(world, found.positive, found.negative)
    written = steering.Direction.load(FILE, world)
    assert [str(where) for where in written.places] == ["L1.resid_pre", "L2.resid_pre", "L3.resid_pre"]
    assert "the classes do not differ at L0.resid_pre" in out[1]  # the last word is the same in both
    for where in written.places:
        torch.testing.assert_close(written.vectors[where], expected.vectors[where])
        assert written.norms[where] == pytest.approx(expected.norms[where])
    assert out[-2] == FILE.replace("direction.safetensors", "fit.html")
    place, length, auroc = out[-4].split()
    assert place == "L3.resid_pre"
    last = expected.at("L3.resid_pre")
    assert float(length) == pytest.approx(float(last.vector.norm()) / last.norms[last.place], abs=1e-3)
    assert float(auroc) > 0.95


def test_fit_takes_files_of_prompts(capsys: pytest.CaptureFixture[str], world, folder: Path) -> None:
    up, down = (
        ["The film was great", "The song was great"],
        ["The film was bad", "The cast was bad", "It was bad"],
    )
    for name, rows in (("up.txt", up), ("down.txt", down)):
        (folder / name).write_text("\n\n".join(rows) + "\n")
    arguments = ("--positive", "up.txt", "--negative", "down.txt", "--layer", "1,2", "--pos", "mean")
    status, out, err = run(capsys, "steer", "fit", MODEL, *arguments, "--method", "lda", "--out", "own")
    assert status == 0, err
    assert out[-1] == "own/direction.safetensors"
    assert "2 positive and 3 negative prompts" in out[0]
    expected = steering.lda(world, up, down, layer=[1, 2], pos="mean")
    written = steering.Direction.load(folder / out[-1])
    for where in expected.places:
        torch.testing.assert_close(written.vectors[where], expected.vectors[where])


def test_sweep_writes_the_sweep_of_the_library(
    capsys: pytest.CaptureFixture[str], world, fitted: str, folder: Path
) -> None:
    arguments = (fitted, "--task", "sentiment", "--n", "12", "--coefficients=-1,0,1")
    status, out, err = run(capsys, "steer", "sweep", MODEL, *arguments)
    assert status == 0, err
    assert out[-3:] == [f"d/{name}" for name in ("sweep.nc", "sweep.html", "sweep-report.html")]
    written = xr.load_dataset(folder / out[-3], engine="h5netcdf")
    task = classes(world, "sentiment", 12, 1, held_out=True).turned
    metrics = [interp.tasks.LogitDiff(), interp.tasks.KL()]
    direction = steering.Direction.load(folder / fitted)
    expected = steering.sweep(world, direction, task, [-1.0, 0.0, 1.0], metric=metrics)
    np.testing.assert_allclose(written["value"], expected["value"], atol=1e-5)
    np.testing.assert_allclose(written["shuffled"], expected["shuffled"], atol=1e-5)
    assert written.sizes["neutral_prompt"] == 32
    best = steering.measures.select(expected, "logit_diff", kl_limit=0.5)
    assert f"layer {best['layer']}, coefficient {best['coefficient']:g}" in out[1]
    assert best["effect"] > 1.5
    band = steering.measures.band(expected, "logit_diff", {"kl": 0.5})
    assert f"At this layer {band['verdict'].sel(layer=best['layer']).item()}." in out[1]
    page = (folder / out[-1]).read_text(encoding="utf-8")
    assert all(word in page for word in ("perplexity of neutral text", "wrong way", "Best within a KL"))


def test_generate_prints_and_writes_the_texts(
    capsys: pytest.CaptureFixture[str], world, fitted: str, folder: Path
) -> None:
    prompts = ["Review : The film was bad. The song was", "Review : I found the story dull. I found the"]
    given = [part for text in prompts for part in ("--prompt", text)]
    arguments = (*given, "--layer", "3", "--coefficient", "1.5", "--tokens", "6", "--out", "here")
    status, out, err = run(capsys, "steer", "generate", MODEL, fitted, *arguments)
    assert status == 0, err
    assert out[-2:] == ["here/generations.nc", "here/generations.html"]
    found = xr.load_dataset(folder / out[-2], engine="h5netcdf")
    d = steering.Direction.load(folder / fitted).at("L3.resid_pre")
    whole = steering.generate(world, prompts, steering.add(d, 1.5), max_new_tokens=6)
    first = found["text"].sel(run="steered", prompt=0).item()
    length = len(world.to_tokens(prompts[0])[0])
    assert first == world.tokenizer.decode(whole[0, length : length + 6].tolist()).split("<eos>")[0].strip()
    assert prompts[0] in out
    assert any(line.split()[:1] == ["steered"] and first in line for line in out)
    assert first in (folder / out[-1]).read_text(encoding="utf-8")
    assert first != found["text"].sel(run="base", prompt=0).item()


def test_calibrate_prints_a_coefficient_for_each_layer(
    capsys: pytest.CaptureFixture[str], world, fitted: str, folder: Path
) -> None:
    status, out, err = run(
        capsys, "steer", "calibrate", MODEL, fitted, "--task", "sentiment", "--n", "8", "--kl", "0.2"
    )
    assert status == 0, err
    assert out[-2:] == ["d/calibration.nc", "d/calibration.html"]
    place, coefficient, kl, _ = out[-3].split()
    assert place == "L3.resid_pre"
    assert float(kl) == pytest.approx(0.2, rel=0.01)
    task = classes(world, "sentiment", 8, 1, held_out=True).turned
    d = steering.Direction.load(folder / fitted).at("L3.resid_pre")
    assert float(coefficient) == pytest.approx(steering.calibrate(world, d, task, 0.2).coefficient, rel=1e-4)
    assert out[-4].split()[0] == "L2.resid_pre"
    written = xr.load_dataset(folder / out[-2], engine="h5netcdf")
    assert float(written["coefficient"][-1]) == pytest.approx(float(coefficient), rel=1e-4)
    assert written.attrs["target_kl"] == 0.2
    assert "L3.resid_pre" in (folder / out[-1]).read_text(encoding="utf-8")


@pytest.mark.parametrize("how", [("--coefficient", "2"), ("--ablate",)])
def test_bake_writes_a_model_that_loads_steered(
    capsys: pytest.CaptureFixture[str], world, fitted: str, folder: Path, how: tuple[str, ...]
) -> None:
    command = ("steer", "bake", MODEL, fitted, "--layer", "3", *how)
    status, out, err = run(capsys, *command)
    assert status == 0, err
    assert out[-1] == "d/baked"
    baked = interp.load(folder / out[-1])
    d = steering.Direction.load(folder / fitted).at("L3.resid_pre")
    tokens = torch.randint(4, 700, (2, 9), generator=torch.Generator().manual_seed(3))
    from interp.models import anatomy

    edit = steering.add(d, 2.0)
    if how == ("--ablate",):
        edit = steering.ablate(d.spread(steering.writers(anatomy(world))))
    with torch.no_grad():
        plain, ours = logits(world, tokens), logits(baked, tokens)
        with steering.steer(world, edit):
            hooked = logits(world, tokens)
    assert (ours - hooked).abs().max() < 1e-4 * hooked.abs().max()
    assert (ours - plain).abs().max() > 0.1
    assert torch.equal(baked.to_tokens("The king")[0], world.to_tokens("The king")[0])
    with pytest.raises(ValueError, match="was found on model 'tiny-world'"):
        d.check(baked)
    status, _, err = run(capsys, *command)
    assert status == 2
    assert "has a config.json already" in err[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("fit tiny-world", "give --task, or --positive and --negative"),
        ("fit tiny-world --positive a.txt", "give --task, or --positive and --negative"),
        ("fit tiny-world --task sentiment --positive a.txt --negative b.txt", "give --task, or"),
        ("fit tiny-world --task sentimnt", "did you mean 'sentiment'"),
        ("fit tiny-world --task ioi", "has no two classes"),
        ("fit tiny-world --task sentiment --n 7", "--n is 7"),
        ("fit tiny-world --task sentiment --layer 9", "layer 9 is out of range"),
        ("fit tiny-world --task sentiment --n 8 --layer 0", "the same activations at L0.resid_pre"),
        ("fit tiny-world --positive a.txt --negative empty.txt", "empty.txt has no prompts"),
        ("fit tiny-world --positive a.txt --negative b.txt", "b.txt does not exist"),
        ("fit tiny-world --positive a.txt --negative two.txt --method pca", "pairs them"),
        ("sweep tiny-world missing.safetensors --task sentiment", "no file missing.safetensors"),
        ("sweep tiny-world {} --task sentiment --prompts a.txt", "--task or --prompts, one of them"),
        ("sweep tiny-world {}", "--task or --prompts, one of them"),
        ("sweep tiny-world {} --task sentiment --layer 1", "no vector at layer 1; it has L2.resid_pre"),
        ("sweep tiny-world {} --task sentiment --metric speed", "unknown metric 'speed'"),
        ("sweep tiny-world {} --task sentiment --n 8 --coefficients=0,nan", "must be finite"),
        ("sweep tiny-ioi {} --prompts a.txt", "was found on model 'tiny-world'"),
        ("generate tiny-world {} --prompt Review --layer 2", "give --coefficient or --kl"),
        (
            "generate tiny-world {} --prompt Review --layer 2 --coefficient 1 --top-k 5",
            "--top-k is 5 at --temperature 0",
        ),
        (
            "generate tiny-world {} --prompt Review --coefficient 1",
            "has layers 2, 3. Choose one with --layer",
        ),
        ("generate tiny-world {} --prompt Review --layer 2 --coefficient 1 --tokens 99", "the model has 64"),
        ("calibrate tiny-world {} --prompts a.txt --kl 0", "above 0"),
        ("bake tiny-world {} --layer 2", "give --coefficient or --ablate"),
        ("bake tiny-world {} --layer 2 --coefficient 1 --ablate", "one of them"),
        ("bake tiny-world {} --coefficient 1", "Choose one with --layer"),
        ("sweep no-such-model {} --task sentiment --out a.txt", "a.txt is a file. Give a folder"),
        ("fit no-such-model --task sentiment --out /proc/here", "--out /proc/here cannot be written"),
        ("fit tiny-world --positive a.txt --negative latin.txt", "latin.txt, line 1: byte 0xe9 is not UTF-8"),
        ("fit tiny-world --positive a.txt --negative utf16.txt", "utf16.txt is UTF-16 text"),
        ("fit tiny-world --positive bom.txt --negative a.txt", "have the same activations"),
        ("fit tiny-world --positive a.txt --negative two.txt --site z", "has heads"),
        ("sweep no-such-model {} --prompts a.txt --kl-limit nan", "--kl-limit is nan"),
        ("sweep no-such-model {} --prompts a.txt --kl-limit -1", "--kl-limit is -1"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    capsys: pytest.CaptureFixture[str], fitted: str, folder: Path, arguments: str, message: str
) -> None:
    for name, text in (
        ("a.txt", "The film was bad\n"),
        ("two.txt", "The song was bad\nThe cast was bad\n"),
        ("empty.txt", "\n \n"),
    ):
        (folder / name).write_text(text)
    (folder / "latin.txt").write_bytes("café".encode("latin-1"))
    (folder / "utf16.txt").write_bytes("The film was bad".encode("utf-16"))
    (folder / "bom.txt").write_bytes("The film was bad".encode("utf-8-sig"))
    before = sorted(folder.rglob("*"))
    status, _, err = run(capsys, "steer", *arguments.format(fitted).split())
    assert status == 2
    assert err[-1].startswith("interp: error: ")
    assert message in err[-1]
    assert sorted(folder.rglob("*")) == before


def test_json_of_every_verb(capsys: pytest.CaptureFixture[str], fitted: str, folder: Path) -> None:
    def told(*arguments: str) -> dict:
        assert main(["steer", *arguments, "--json", "--quiet"]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        result = json.loads(line)
        assert all((folder / path).exists() for path in result["files"].values())
        return result

    fit = told("fit", MODEL, "--task", "sentiment", "--n", "16")
    assert fit["command"] == "steer fit"
    assert fit["places"][-1]["auroc"] > 0.95
    sweep = told("sweep", MODEL, fitted, "--task", "sentiment", "--n", "8", "--coefficients=0,1")
    assert sweep["best"]["coefficient"] == 1
    assert set(sweep["files"]) == {"result", "picture", "report", "summary"}
    texts = told("generate", MODEL, fitted, "--prompt", "Review : The", "--layer", "3", "--coefficient", "1")
    assert [run["run"] for run in texts["runs"]][:2] == ["base", "steered"]
    calibrated = told("calibrate", MODEL, fitted, "--task", "sentiment", "--n", "8", "--kl", "0.2")
    assert [row["place"] for row in calibrated["places"]] == ["L2.resid_pre", "L3.resid_pre"]
    baked = told("bake", MODEL, fitted, "--layer", "3", "--coefficient", "1")
    assert baked["largest_difference"] < 1e-3


def test_lists_that_are_none_are_refused_by_the_parser(capsys: pytest.CaptureFixture[str]) -> None:
    for more, said in (
        (("--layer", "x"), "list of layers"),
        (("--layer", ""), "has an empty name"),  # not every layer
        (("--layer", "2,,3"), "has an empty name"),
        (("--pos", "first"), "last, mean or an index"),
    ):
        with pytest.raises(SystemExit):
            main([*FIT, *more])
        assert said in capsys.readouterr().err
