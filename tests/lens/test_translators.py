"""Tuned and Jacobian lenses: against finite differences, planted maps, published files, and controls."""

from __future__ import annotations

from typing import Any

import architectures
import numpy as np
import pytest
import small
import torch

import interp
from interp import lens


@pytest.fixture(scope="module")
def model() -> Any:
    return small.model()


@pytest.fixture(scope="module")
def text() -> torch.Tensor:
    return torch.randint(1, architectures.VOCAB, (60, 12), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def tuned(model: Any, text: torch.Tensor) -> lens.TunedLens:
    return lens.tuned(model, text.tolist(), progress=False)


@pytest.fixture(scope="module")
def jacobian(model: Any, text: torch.Tensor) -> lens.JacobianLens:
    return lens.jacobian(model, text[:1].tolist(), skip=2, progress=False)


def ends(
    model: Any, tokens: torch.Tensor, layer: int, change: torch.Tensor | None, at: slice
) -> torch.Tensor:
    """The last stream [pos, d_model] with a change added after a layer."""
    kept = []

    def add(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        out = tensor.clone()
        out[:, at] += change
        return out

    hooks = [] if change is None else [(f"blocks.{layer}.hook_resid_post", add)]
    hooks.append(("blocks.2.hook_resid_post", lambda tensor, hook: kept.append(tensor)))
    with torch.no_grad():
        model.run_with_hooks(tokens, fwd_hooks=hooks)
    return kept[0][0]


@pytest.mark.parametrize("layer", [0, 1])
def test_a_jacobian_is_the_mean_response_to_a_small_change(
    model: Any, text: torch.Tensor, jacobian: Any, layer: int
) -> None:
    tokens, at = text[:1], slice(2, 11)  # V: from skip on, without the last
    delta = torch.randn(24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    small_one = 1e-5 * delta / 9
    up, down = (ends(model, tokens, layer, sign * small_one, at)[at].sum(0) for sign in (1, -1))
    measured = (up - down) / 2e-5
    np.testing.assert_allclose(jacobian.matrices[layer] @ delta, measured, atol=1e-6)
    assert float((measured - delta).abs().max()) > 1e-2  # the identity would not do


def test_a_jacobian_is_the_same_by_hooks_and_in_any_batch(
    model: Any, text: torch.Tensor, jacobian: Any
) -> None:
    other = lens.jacobian(model, text[:1].tolist(), skip=2, batch_size=5, engine="reference", progress=False)
    for layer, J in jacobian.matrices.items():
        np.testing.assert_allclose(other.matrices[layer], J, atol=1e-9)


def test_the_last_layer_is_read_as_it_is(model: Any, text: torch.Tensor, jacobian: Any, tuned: Any) -> None:
    with torch.no_grad():
        last = model(text[:2]).log_softmax(-1)
    ids = list(range(architectures.VOCAB))
    for through in (jacobian, tuned):
        found = lens.logit(model, text[:2].tolist(), ids, through=through)
        np.testing.assert_allclose(found["value"].values[:, -1], last, atol=1e-9)
        assert found.attrs["method"] == through.method
    assert lens.logit(model, text[:2].tolist(), through=jacobian)["layer"].values.tolist() == [0, 1, 2]


def test_a_jacobian_lens_reads_its_own_product(model: Any, text: torch.Tensor, jacobian: Any) -> None:
    _, cache = model.run_with_cache(text[:2])
    stream = cache["blocks.1.hook_resid_post"] @ jacobian.matrices[1].T
    expected = model.unembed(model.ln_final(stream)).detach().log_softmax(-1)
    found = lens.logit(model, text[:2].tolist(), list(range(architectures.VOCAB)), through=jacobian, layer=1)
    np.testing.assert_allclose(found["value"].values[:, 0], expected, atol=1e-9)
    vectors = jacobian.vectors(model, 1)
    assert tuple(vectors.shape) == (architectures.VOCAB, 24)


def test_ridge_finds_a_planted_map(model: Any) -> None:
    from interp.lens._fit import _ridge
    from interp.lens._readout import readout_of

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 24, dtype=torch.float64, generator=generator)
    A = 0.3 * torch.randn(24, 24, dtype=torch.float64, generator=generator)
    shift = 3 * torch.randn(24, dtype=torch.float64, generator=generator)
    end = x + x @ A + shift
    said = [readout_of(model).logits(rows).log_softmax(-1) for rows in end[300:].split(64)]
    found, b, cost = _ridge(readout_of(model), (x[:300], end[:300]), x[300:], said, [1e-9, 1e-1])
    np.testing.assert_allclose(found, A, atol=1e-6)
    np.testing.assert_allclose(b, shift, atol=1e-6)
    assert cost["ridge"] == 1e-9
    assert cost["kl"] < 1e-9 < cost["kl_shift"] < cost["kl_logit"]


def test_a_tuned_lens_is_nearer_to_the_end_and_a_random_one_is_not() -> None:
    world = interp.load("tiny-ioi")
    seen, fresh = (interp.tasks.ioi(world, n=48, seed=seed) for seed in (0, 1))
    fitted = lens.tuned(world, seen, progress=False)
    plain, better = lens.logit(world, fresh), lens.logit(world, fresh, through=fitted)
    generator = torch.Generator().manual_seed(0)
    drawn = {
        layer: (noise := torch.randn(A.shape, generator=generator)) / noise.norm() * A.norm()
        for layer, A in fitted.matrices.items()
    }
    control = lens.TunedLens(drawn, fitted.n_layers, biases=fitted.biases)
    random = lens.logit(world, fresh, through=control)
    for layer in (1, 2):
        kl = [float(found["kl"].sel(layer=layer).mean()) for found in (plain, better, random)]
        assert kl[1] < 0.8 * kl[0]
        assert kl[1] < 0.5 * kl[2]


def test_a_tuned_lens_is_kept_under_tuned_lens_names(
    model: Any, text: torch.Tensor, tuned: Any, tmp_path: Any
) -> None:
    from safetensors.torch import load_file

    path = tuned.save(tmp_path / "lens.safetensors")
    again = lens.TunedLens.load(path, model)
    kept = load_file(path)
    assert sorted(kept) == sorted(f"{layer}.{part}" for layer in range(3) for part in ("weight", "bias"))
    for layer, A in tuned.matrices.items():
        assert torch.equal(again.matrices[layer], A)
        assert torch.equal(kept[f"{layer}.weight"], A.T)
    x = torch.randn(2, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    by_name = x + torch.nn.functional.linear(x, kept["1.weight"], kept["1.bias"])
    np.testing.assert_allclose(again.carry("resid_pre", 1, x), by_name, atol=1e-12)
    with pytest.raises(ValueError, match="is for 3 layers of width 24"):
        lens.TunedLens.load(path, interp.load("tiny-ioi"))


def test_a_jacobian_lens_is_kept(model: Any, jacobian: Any, tmp_path: Any) -> None:
    again = lens.JacobianLens.load(jacobian.save(tmp_path / "lens.safetensors"), model)
    assert all(torch.equal(again.matrices[layer], J) for layer, J in jacobian.matrices.items())
    assert again.facts == jacobian.facts
    with pytest.raises(ValueError, match="has format 'interp-jacobian-lens-1'"):
        lens.TunedLens.load(tmp_path / "lens.safetensors")


def changed_file(path: Any, out: Any, change: dict[str, torch.Tensor | None]) -> Any:
    """A file with some tensors put in, or taken out (None)."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()} | change  # noqa: SIM118
    save_file({name: each for name, each in tensors.items() if each is not None}, out, metadata=metadata)
    return out


WRONG_FILES: dict[str, tuple[dict[str, torch.Tensor | None], str]] = {
    "extra": ({"more": torch.zeros(2)}, "also has more; expected are"),
    "no layer's name": ({"J.x": torch.zeros(24, 24), "x.weight": torch.zeros(24, 24)}, "also has J.x"),
    "whole numbers": ({"J.0": torch.zeros(24, 24).long(), "0.weight": torch.zeros(24, 24).long()}, "int64"),
    "bias missing": ({"0.bias": None}, "lacks 0.bias"),
    "matrix missing": ({"0.weight": None}, "lacks 0.weight"),
    "bias of another width": ({"0.bias": torch.zeros(23)}, r"a bias \[24\] for each matrix"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG_FILES)
def test_a_file_with_other_tensors_is_a_sentence(what: str, jacobian: Any, tuned: Any, tmp_path: Any) -> None:
    change, said = WRONG_FILES[what]
    for lens_ in (tuned, jacobian)[: 1 if "0.bias" in change or what == "matrix missing" else 2]:
        path = lens_.save(tmp_path / "lens.safetensors")
        type(lens_).load(path)
        with pytest.raises(ValueError, match=said):
            type(lens_).load(changed_file(path, tmp_path / "changed.safetensors", change))


def published(folder: Any, **more: Any) -> Any:
    J = {
        layer: torch.randn(24, 24, generator=torch.Generator().manual_seed(layer)).half() for layer in (0, 1)
    }
    payload = {"J": J, "n_prompts": 3, "source_layers": [0, 1], "d_model": 24, **more}
    torch.save(payload, folder / "lens.pt")
    return J


def test_a_published_lens_is_converted_bit_for_bit(model: Any, text: torch.Tensor, tmp_path: Any) -> None:
    J = published(tmp_path, metadata={"corpus": "wiki"})
    lens.convert(tmp_path / "lens.pt", tmp_path / "lens.safetensors")
    read = lens.JacobianLens.load(tmp_path / "lens.safetensors", model)
    assert all(torch.equal(read.matrices[layer], each.float()) for layer, each in J.items())
    assert read.facts["corpus"] == "wiki"
    assert lens.logit(model, text[:1].tolist(), through=read)["value"].notnull().all()


def test_sums_of_a_checkpoint_become_means(tmp_path: Any) -> None:
    sums = {0: torch.full((4, 4), 6.0)}
    torch.save({"jacobian_sum": sums, "n_done": 3, "target_layer": 1}, tmp_path / "lens.pt")
    assert float(lens.convert(tmp_path / "lens.pt", tmp_path / "out.safetensors").matrices[0].max()) == 2


def test_what_is_no_lens_is_not_opened(tmp_path: Any) -> None:
    import os
    import pickle

    class Runs:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    path, out = tmp_path / "lens.pt", tmp_path / "out.safetensors"
    path.write_bytes(pickle.dumps(Runs()))
    with pytest.raises(ValueError, match="is no file of tensors"):
        lens.convert(path, out)
    assert not (tmp_path / "ran").exists()
    torch.save({"a": 1}, path)
    with pytest.raises(ValueError, match="neither 'J' nor"):
        lens.convert(path, out)
    published(tmp_path, target_layer=1)
    with pytest.raises(ValueError, match="was fitted to layer 1"):
        lens.convert(path, out)
    published(tmp_path, d_model=25)
    with pytest.raises(ValueError, match="expected \\(25, 25\\)"):
        lens.convert(path, out)
    assert not out.exists()


def test_a_layer_without_a_matrix_and_another_site(model: Any, text: torch.Tensor, jacobian: Any) -> None:
    part = lens.JacobianLens({1: jacobian.matrices[1]}, 3)
    with pytest.raises(ValueError, match="has no layer 0"):
        lens.logit(model, text[:1].tolist(), through=part)
    assert lens.logit(model, text[:1].tolist(), through=part, layer=[1, 2]).sizes["layer"] == 2
    with pytest.raises(ValueError, match="reads 'resid_post'"):
        lens.logit(model, text[:1].tolist(), through=part, site="resid_mid")
