"""Files of dictionaries: those that SAELens and sparsify wrote, and the layouts that others publish."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import interp
from interp import sae
from interp.sae._load import sniff

WRITTEN = Path(__file__).parent / "written"
OUTPUTS = load_file(WRITTEN / "outputs.safetensors")
KINDS = sorted(folder for maker in ("saelens", "sparsify") for folder in (WRITTEN / maker).iterdir())
FOLDED = ("topk_rescaled", "abstopk_rescaled")
D, F = 8, 20


def inputs(name: str) -> torch.Tensor:
    return OUTPUTS["x"].view(-1, 2, 4) if name.endswith("_z") else OUTPUTS["x"]


@pytest.mark.parametrize("folder", KINDS, ids=lambda folder: folder.name)
def test_files_of_their_own_makers_give_their_features(folder: Path) -> None:
    d, x = sae.load(folder), inputs(folder.name)
    f = OUTPUTS[f"{folder.name}.f"]
    torch.testing.assert_close(d.encode(x), f, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(d(x), OUTPUTS[f"{folder.name}.out"].flatten(1), atol=2e-6, rtol=1e-6)
    assert 0 < int((f != 0).sum()) < f.numel()


@pytest.mark.parametrize("folder", KINDS, ids=lambda folder: folder.name)
def test_tensors_are_those_of_the_file(folder: Path) -> None:
    d = sae.load(folder)
    theirs = load_file(next(folder.glob("*.safetensors")))
    turned = (
        theirs["encoder.weight"].T if "encoder.weight" in theirs else theirs.get("W_enc", theirs["W_dec"].T)
    )
    same = torch.equal(d.W_enc, turned) and torch.equal(d.W_dec, theirs["W_dec"])
    assert same != (folder.name in FOLDED)
    assert torch.equal(d.b_dec, theirs["b_dec"])


@pytest.mark.parametrize("folder", [f for f in KINDS if f.parent.name == "saelens"], ids=lambda f: f.name)
def test_what_is_saved_is_loaded(folder: Path, tmp_path: Path) -> None:
    d, x = sae.load(folder), inputs(folder.name)
    again = sae.load(d.save(tmp_path / "again"))
    assert torch.equal(again.encode(x), d.encode(x))
    assert torch.equal(again(x), d(x))
    assert (again.place, again.reads, again.centre, again.norm) == (d.place, d.reads, d.centre, d.norm)


def test_places_come_from_the_files() -> None:
    spots = {folder.name: (str(sae.load(folder).place), sae.load(folder).reads) for folder in KINDS}
    assert spots["standard"] == ("L1.resid_pre", None)
    assert spots["standard_z"] == ("L1.z", None)
    assert spots["skip_transcoder"] == ("MLP1", "mlp_normed")
    assert spots["layers.2"] == ("L2.resid_post", None)
    assert spots["layers.2.mlp"] == ("MLP2", "mlp_in")
    listed = sae.load_set(WRITTEN / "sparsify")
    assert isinstance(listed, tuple)
    assert [each.place.layer for each in listed if each.place] == [1, 2, 2, 3, 10]


def tensors(seed: int = 0, d: int = D, out: int | None = None, n: int = F) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    r = lambda *size: torch.randn(*size, generator=g)  # noqa: E731
    return {
        "W_enc": r(d, n), "W_dec": r(n, out or d), "b_enc": r(n), "b_dec": r(out or d),
        "threshold": r(n).abs(),
    }  # fmt: skip


def saelens(folder: Path, cfg: dict[str, Any], files: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(cfg))
    save_file({name: each.contiguous() for name, each in files.items()}, folder / "sae_weights.safetensors")
    return folder


OLD = {"d_in": D, "d_sae": F, "hook_point": "blocks.3.hook_resid_pre", "model_name": "gpt2-small"}
NEW = {
    "architecture": "standard",
    "d_in": D,
    "d_sae": F,
    "metadata": {"hook_name": "blocks.3.hook_resid_pre"},
}


def plain(**more: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name: each for name, each in tensors().items() if name != "threshold"} | more


def test_a_config_before_version_6(tmp_path: Path) -> None:
    topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}}
    old = sae.load(saelens(tmp_path / "a", OLD | topk, plain()))
    assert (old.activation, old.k, old.centre, str(old.place)) == ("topk", 3, True, "L3.resid_pre")
    assert old.metadata["metadata"]["model_name"] == "gpt2-small"
    plain_old = sae.load(saelens(tmp_path / "b", OLD | {"apply_b_dec_to_input": False}, plain()))
    assert (plain_old.centre, plain_old.activation) == (False, "relu")


def test_factors_of_finetuning_are_folded(tmp_path: Path) -> None:
    factors = torch.linspace(0.5, 2, F)
    d = sae.load(saelens(tmp_path, OLD | {"finetuning_scaling_factor": True}, plain(scaling_factor=factors)))
    x, t = OUTPUTS["x"], plain()
    f = ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    torch.testing.assert_close(d(x), (f * factors) @ t["W_dec"] + t["b_dec"])
    with pytest.raises(ValueError, match="says finetuning_scaling_factor is off"):
        sae.load(saelens(tmp_path, OLD | {"finetuning_scaling_factor": False}, plain(scaling_factor=factors)))


def test_a_scale_that_no_file_holds(tmp_path: Path) -> None:
    cfg = NEW | {"normalize_activations": "expected_average_only_in"}
    folder = saelens(tmp_path, cfg, plain())
    with pytest.raises(ValueError, match="Give scale="):
        sae.load(folder)
    c, x, t = 0.3, OUTPUTS["x"], plain()
    f = ((c * x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    d = sae.load(folder, scale=c)
    torch.testing.assert_close(d.encode(x), f, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(d(x), (f @ t["W_dec"] + t["b_dec"]) / c, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rescaled", [True, False])
def test_a_batch_top_k_of_training_is_a_threshold(rescaled: bool, tmp_path: Path) -> None:
    cfg = NEW | {"architecture": "batchtopk", "k": 3.5, "rescale_acts_by_decoder_norm": rescaled}
    d = sae.load(saelens(tmp_path, cfg, plain(topk_threshold=torch.tensor(0.7, dtype=torch.float64))))
    x, t = OUTPUTS["x"], plain()
    norms = t["W_dec"].norm(dim=1) if rescaled else 1.0
    h = ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]) * norms
    f = h * (h > 0.7)
    torch.testing.assert_close(d.encode(x), f, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(d(x), (f / norms) @ t["W_dec"] + t["b_dec"], atol=1e-5, rtol=1e-5)


def npz(folder: Path, files: dict[str, torch.Tensor]) -> None:
    arrays: dict[str, Any] = {name: each.numpy() for name, each in files.items()}
    np.savez(folder / "params.npz", **arrays)


def test_gemma_scope(tmp_path: Path) -> None:
    folder = tmp_path / "gemma-scope-2b-pt-res" / "layer_20" / "width_16k" / "average_l0_71"
    folder.mkdir(parents=True)
    t = tensors()
    npz(folder, t)
    d, x = sae.load(folder), OUTPUTS["x"]
    h = x @ t["W_enc"] + t["b_enc"]
    torch.testing.assert_close(d(x), (h * (h > t["threshold"])) @ t["W_dec"] + t["b_dec"])
    assert str(d.place) == "L20.resid_post"
    assert torch.equal(d.W_enc, t["W_enc"])
    embedding = tmp_path / "gemma-scope-2b-pt-res" / "embedding" / "width_4k" / "average_l0_6"
    embedding.mkdir(parents=True)
    npz(embedding, t)
    root = D**0.5
    torch.testing.assert_close(sae.load(embedding)(x * root), d(x) * root, atol=1e-5, rtol=1e-5)


def test_gemma_scope_2(tmp_path: Path) -> None:
    t, skip = tensors(out=6), torch.randn(D, 6, generator=torch.Generator().manual_seed(1))
    names = {"W_enc": "w_enc", "W_dec": "w_dec"}
    save_file(
        {names.get(n, n): e for n, e in t.items()} | {"affine_skip_connection": skip},
        tmp_path / "params.safetensors",
    )
    hooks = {"hf_hook_point_in": "model.layers.5.pre_feedforward_layernorm.output"}
    hooks |= {"hf_hook_point_out": "model.layers.5.post_feedforward_layernorm.output"}
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "jump_relu", "model_name": "g", **hooks})
    )
    d, x = sae.load(tmp_path), OUTPUTS["x"]
    h = x @ t["W_enc"] + t["b_enc"]
    torch.testing.assert_close(d(x), h.relu() * (h > t["threshold"]) @ t["W_dec"] + t["b_dec"] + x @ skip)
    assert (str(d.place), d.reads) == ("MLP5", "mlp_in")


def test_a_set_of_circuit_tracer(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "model_name: toy\nmodel_kind: transcoder_set\nfeature_input_hook: ln2.hook_normalized\n"
        "feature_output_hook: hook_mlp_out\n"
    )
    every = []
    for layer in range(11):
        t = tensors(layer)
        t["threshold"] = t["threshold"] - 0.5
        every.append(t | {"W_skip": torch.randn(D, D, generator=torch.Generator().manual_seed(99))})
        named = {n: e for n, e in every[-1].items() if n != "threshold"} | {
            "W_enc": t["W_enc"].T.contiguous()
        }
        save_file(
            named | {"activation_function.threshold": t["threshold"]}, tmp_path / f"layer_{layer}.safetensors"
        )
    layers, x = sae.load_set(tmp_path), OUTPUTS["x"]
    assert isinstance(layers, tuple)
    assert [str(each.place) for each in layers] == [f"MLP{layer}" for layer in range(11)]
    assert {each.reads for each in layers} == {"mlp_normed"}
    t = every[10]
    h = x @ t["W_enc"] + t["b_enc"]
    f = h * (h > t["threshold"])  # as circuit-tracer has it, below 0 as well
    assert bool((f < 0).any())
    torch.testing.assert_close(layers[10](x), f @ t["W_dec"] + t["b_dec"] + x @ t["W_skip"].T)
    torch.testing.assert_close(sae.load(tmp_path, layer=10).W_enc, layers[10].W_enc)


def test_cross_layer_transcoders(tmp_path: Path) -> None:
    n, g = 3, torch.Generator().manual_seed(3)
    reads = [tensors(layer) for layer in range(n)]
    writes = [torch.randn(F, n - layer, D, generator=g) for layer in range(n)]
    ours, scope = tmp_path / "tracer", tmp_path / "scope"
    ours.mkdir()
    for i, (t, w) in enumerate(zip(reads, writes)):
        encoder = {
            f"W_enc_{i}": t["W_enc"].T.contiguous(),
            f"b_enc_{i}": t["b_enc"],
            f"b_dec_{i}": t["b_dec"],
        }
        save_file(encoder | {f"threshold_{i}": t["threshold"]}, ours / f"W_enc_{i}.safetensors")
        save_file({f"W_dec_{i}": w}, ours / f"W_dec_{i}.safetensors")
        whole = torch.cat((torch.full((F, i, D), 9.0), w), 1)  # slots below the own layer are not used
        (scope / f"layer_{i}").mkdir(parents=True)
        parts = {"w_enc": t["W_enc"], "w_dec": whole} | {k: t[k] for k in ("b_enc", "b_dec", "threshold")}
        save_file(parts, scope / f"layer_{i}" / "params.safetensors")
    xs = [OUTPUTS["x"] + i for i in range(n)]
    fs = []
    for t, x in zip(reads, xs):
        h = x @ t["W_enc"] + t["b_enc"]
        fs.append(h * (h > t["threshold"]))
    wanted = [sum(fs[i] @ writes[i][:, k - i] for i in range(k + 1)) + reads[k]["b_dec"] for k in range(n)]
    for folder in (ours, scope):
        found = sae.load_set(folder)
        assert isinstance(found, sae.CrossLayer)
        for k, out in enumerate(found.decode(found.encode(xs))):
            torch.testing.assert_close(out, wanted[k], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"use sae\.load_set"):
        sae.load(ours)


class Theirs:
    """The face of a SAELens object."""

    def __init__(self) -> None:
        self.cfg = type(
            "Cfg", (), {"to_dict": lambda self: NEW, "architecture": classmethod(lambda cls: "standard")}
        )()

    def state_dict(self) -> dict[str, torch.Tensor]:
        return plain()

    encode = decode = None


def test_an_object_of_saelens() -> None:
    d = sae.load(Theirs())
    assert str(d.place) == "L3.resid_pre"
    assert torch.equal(d.W_dec, plain()["W_dec"])
    with pytest.raises(ValueError, match="path is a int; give a folder or file, or a SAELens object"):
        sae.load(3)


WRONG: dict[str, tuple[dict[str, Any], dict[str, torch.Tensor], str]] = {
    "missing": (NEW, {n: e for n, e in plain().items() if n != "b_enc"}, r"lacks b_enc; expected are W_dec"),
    "extra": (NEW, plain(W_skip=torch.zeros(D, D)), "also has W_skip"),
    "transposed": (NEW, plain(W_enc=torch.randn(F, D)), r"W_enc is \[20, 8\].*d_in 8"),
    "width": (NEW | {"d_in": 9}, plain(), r"W_enc is \[8, 20\].*says d_in 9"),
    "features": (NEW | {"d_sae": 21}, plain(), r"says d_sae 21"),
    "rows": (NEW, plain(b_enc=torch.zeros(F - 1)), r"b_enc is \[19\].*asks for \[20\]"),
    "nan": (NEW, plain(b_dec=torch.full((D,), torch.nan)), "b_dec has values that are not finite"),
    "whole numbers": (NEW, plain(b_enc=torch.zeros(F, dtype=torch.int64)), "b_enc is torch.int64"),
    "k": (NEW | {"architecture": "topk", "k": -2}, plain(), "k is -2; of 20 features 1 to 20"),
    "no k": (NEW | {"architecture": "topk"}, plain(), "k is None"),
    "kind": (NEW | {"architecture": "standart"}, plain(), "did you mean 'standard'"),
    "temporal": (NEW | {"architecture": "temporal"}, plain(), "reads other positions"),
    "whitened": (NEW | {"normalize_activations": "covariance_whitening"}, plain(), "whitened"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_file_that_does_not_fit_is_a_sentence(what: str, tmp_path: Path) -> None:
    cfg, files, said = WRONG[what]
    with pytest.raises(ValueError, match=said):
        sae.load(saelens(tmp_path, cfg, files))


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    torch.save({"W": torch.zeros(1)}, tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text("{}")
    for path in (tmp_path, tmp_path / "ae.pt"):
        with pytest.raises(ValueError, match=r"is a pickle.*SAELens reads dictionary_learning's"):
            sae.load(path)
    np.savez(tmp_path / "params.npz", W_enc=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"params\.npz is not an npz"):
        sae.load(tmp_path / "params.npz")


LAYOUTS = {
    ("cfg.json", "sae_weights.safetensors"): "SAELens",
    ("cfg.json", "sae.safetensors"): "sparsify",
    ("params.npz",): "Gemma Scope",
    ("config.json", "params.safetensors"): "Gemma Scope 2",
    ("config.yaml", "layer_0.safetensors", "layer_1.safetensors"): "circuit-tracer",
    ("W_enc_0.safetensors", "W_dec_0.safetensors"): "cross-layer",
    ("notes.txt",): None,
}  # fmt: skip


@pytest.mark.parametrize("files", LAYOUTS, ids=lambda files: files[-1])
def test_a_kind_is_told_by_what_is_there_and_not_by_the_folders_name(
    files: tuple[str, ...], tmp_path: Path
) -> None:
    for name in ("sparsify", "gemma-scope-2b-pt-res", "transcoders", "sae.safetensors"):
        folder = tmp_path / name
        folder.mkdir()
        for each in files:
            (folder / each).write_text("")
        assert sniff(folder) == LAYOUTS[files]


def test_gemma_scope_2_without_its_config(tmp_path: Path) -> None:
    t = tensors()
    named = {{"W_enc": "w_enc", "W_dec": "w_dec"}.get(name, name): each for name, each in t.items()}
    save_file(named, tmp_path / "params.safetensors")
    d, x = sae.load(tmp_path), OUTPUTS["x"]
    h = x @ t["W_enc"] + t["b_enc"]
    torch.testing.assert_close(d(x), h.relu() * (h > t["threshold"]) @ t["W_dec"] + t["b_dec"])
    assert d.place is None


def test_nothing_but_the_converter_opens_a_pickle() -> None:
    """And that one lets no code run."""
    root = Path(interp.__file__).parent
    opened = []
    for path in [
        root / "files.py",
        *(p for part in ("sae", "lens", "probes") for p in (root / part).rglob("*.py")),
    ]:
        text = path.read_text(encoding="utf-8")
        assert "import pickle" not in text
        assert "allow_pickle=True" not in text
        opened += [line for line in text.splitlines() if "torch.load(" in line]
    assert len(opened) == 1
    assert "weights_only=True" in opened[0]


def test_files_that_lie_take_no_memory(tmp_path: Path) -> None:
    saelens(tmp_path, NEW, plain())
    (tmp_path / "sae_weights.safetensors").write_bytes(struct.pack("<Q", 64 * 2**30) + b"{}")
    with pytest.raises(ValueError, match="not a safetensors file, or is damaged"):
        sae.load(tmp_path)
    (tmp_path / "cfg.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match=r"cfg\.json cannot be read"):
        sae.load(tmp_path)
    with pytest.raises(ValueError, match="there is no file or folder"):
        sae.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    for read in (sae.load, sae.load_set):
        with pytest.raises(ValueError, match="holds no dictionary of a kind that is known"):
            read(tmp_path / "empty")
