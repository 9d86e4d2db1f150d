"""A model whose layers lie on several devices: every verb gives what it gives of the same model on one.

The devices are none (`two_devices`): whatever meets across them is refused, as CUDA would.
"""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Callable
from typing import Any

import architectures
import numpy as np
import pytest
import small
import torch
import two_devices
import xarray as xr

import interp
from interp import circuits, heads, lens, sae, steering
from interp.engine.forward import forward
from interp.models import anatomy, unsupported, weights
from interp.models.parts import gathered, in_place

QUIET: dict[str, Any] = {"progress": False}
SITES = ("resid_post", "z", "k", "pattern", "post")
OTHERS = (
    "LN-gelu_new-plain-serial-mha-learned", "LNPre-relu-gated-parallel-gqa-rotary", "sandwich-norm",
    "post-norm", "local", "soft-cap", "qk-norm",
)  # fmt: skip


def direction(layer: int = 1) -> Any:
    return steering.Direction.from_tensor(torch.linspace(-1, 2, 24).double(), "resid_post", layer)


def dictionary(model: Any, place: str) -> Any:
    generator = torch.Generator().manual_seed(3)
    shapes = ((24, 12), (12,), (12, 24), (24,))
    parts = [0.3 * torch.randn(shape, generator=generator).double() for shape in shapes]
    W_enc, b_enc, W_dec, b_dec = (part.to(model.W_E.device) for part in parts)
    return sae.Dictionary(W_enc, b_enc, W_dec, b_dec, place=place)


def masks(model: Any) -> Any:
    allowed = circuits.Graph.of(model).allowed.expand(6, -1, -1)
    return allowed & (torch.rand(allowed.shape, generator=torch.Generator().manual_seed(0)) < 0.7)


def steered(model: Any, task: Any, **options: Any) -> Any:
    edit = steering.add(direction(), 2.0, **options)
    return steering.generate(model, task.clean, edit, max_new_tokens=5, stop=())


def baked(model: Any, task: Any) -> Any:
    edit = steering.ablate(steering.Direction.from_tensor(torch.linspace(-1, 2, 24).double(), "attn_out", 1))
    with steering.bake(model, edit):
        return model(task.clean)


def edges(model: Any, task: Any, method: str, **options: Any) -> Any:
    return circuits.score_edges(model, task, method=method, **options, **QUIET)


CELLS = [["L0H0.z", "L1H1.z"], ["L1H2.z", "L1H0.q"], ["L0.mlp_out@3", "L1.resid_pre@4"]]
Verb = Callable[[Any, Any], Any]
VERBS: dict[str, Verb] = {
    **{f"patch {site}": lambda m, t, site=site: interp.patch(m, t, site, **QUIET) for site in SITES},
    "patch of several places": lambda m, t: interp.patch(m, t, cells=CELLS, **QUIET),
    "patch of several places by hooks": lambda m, t: interp.patch(
        m, t, cells=CELLS, engine="reference", **QUIET
    ),
    "patch, windows": lambda m, t: interp.patch(m, t, "resid_pre", window=2, **QUIET),
    "patch, means": lambda m, t: interp.patch(m, t, "z", ablation="mean", **QUIET),
    "patch, all positions read": lambda m, t: interp.patch(m, t, "z", metric=interp.tasks.Loss(), **QUIET),
    "patch, little memory": lambda m, t: interp.patch(m, t, "z", memory=200_000, **QUIET),
    "patch, features": lambda m, t: interp.patch(m, t, features=dictionary(m, "L0.resid_post"), **QUIET),
    **{
        f"attribute {method}": lambda m, t, method=method: interp.attribute(m, t, "z", method=method, **QUIET)
        for method in ("atp", "secant", "relp")
    },
    "attribute atp*": lambda m, t: interp.attribute(m, t, "q", method="atp*", **QUIET),
    "attribute by hooks": lambda m, t: interp.attribute(m, t, "z", engine="reference", **QUIET),
    "attribute, block by block": lambda m, t: interp.attribute(m, t, "resid_pre", memory=200_000, **QUIET),
    "direct": lambda m, t: interp.attribution.direct(m, t),
    "path_patch": lambda m, t: interp.path_patch(m, t, senders="heads", receivers=["L1H0.q"], **QUIET),
    **{f"score_edges {kind}": functools.partial(edges, method=kind) for kind in ("eap", "relp", "exact")},
    "score_edges by hooks": functools.partial(edges, method="eap", engine="reference"),
    "circuits.run": lambda m, t: circuits.run(m, t, masks(m), **QUIET),
    "acdc": lambda m, t: circuits.acdc(m, t, threshold=0.05, **QUIET).mask,
    "train_mask": lambda m, t: circuits.train_mask(m, t, steps=3, **QUIET).mask,
    "activations": lambda m, t: steering.activations(m, t.clean, ["L0.resid_pre", "L1.z"]),
    "generate": lambda m, t: steering.generate(m, t.clean, max_new_tokens=5, stop=()),
    "generate by hooks": lambda m, t: steering.generate(
        m, t.clean, max_new_tokens=5, stop=(), engine="reference"
    ),
    "generate, steered": steered,
    "generate, gated": lambda m, t: steered(m, t, gate=steering.gates.cosine_gate(direction(), 0.0)),
    "generate, steered at the end": lambda m, t: steered(m, t, when=steering.when.at(-1)),
    "steering.sweep": lambda m, t: steering.sweep(m, direction(), t, coefficients=[-1.0, 1.0]),
    "bake": baked,
    "attention_knockout": lambda m, t: steering.methods.attention_knockout(m, t, {"back": (4, 2)}),
    "lens.logit": lambda m, t: lens.logit(m, t.clean),
    "lens.jacobian": lambda m, t: lens.jacobian(m, t.clean, skip=1, progress=False).matrices,
    "heads.attention": lambda m, t: heads.attention(m, t),
    "heads.composition": lambda m, t: heads.composition(m),
    "heads.telemetry": lambda m, t: heads.telemetry(m, t),
    "sae.through_attention": lambda m, t: sae.through_attention(m, t, dictionary(m, "L1.attn_out"), [0, 1]),
}


@functools.cache
def sides(name: str) -> tuple[Any, Any]:
    """The model on the CPU, and on two devices that are none."""
    config: dict[str, Any] = dict(architectures.grid())[name] | {"n_layers": 2}
    if "attn_types" in config:
        config["attn_types"] = config["attn_types"][-2:]
    plain = architectures.build(config)
    return plain, two_devices.spread(copy.deepcopy(plain))


def task(place: str, least: int = 0) -> Any:
    """least: of the ids, where a tokenizer has its own below."""
    clean, corrupt = (each.clamp(min=least).to(place) for each in architectures.tokens(n_pos=5))
    answer, wrong = torch.tensor([5, 6]).to(place), torch.tensor([7, 8]).to(place)
    return interp.Task.from_tokens(clean=clean, corrupt=corrupt, answer=answer, wrong=wrong)


def numbers(found: Any) -> list[np.ndarray]:
    """Every array of floats, whole numbers or truths in a result."""
    if isinstance(found, torch.Tensor):
        return [found.detach().cpu().double().numpy()]
    if isinstance(found, xr.Dataset):
        return [each.values.astype(float) for each in found.data_vars.values() if each.dtype.kind in "fib"]
    return [each for part in found.values() for each in numbers(part)]


def require_same(near: Any, far: Any) -> None:
    ours, theirs = numbers(far), numbers(near)
    assert len(ours) == len(theirs) > 0
    assert any(np.nanmax(np.abs(each)) > 0 for each in theirs if each.size)
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("verb", VERBS)
def test_a_model_on_two_devices_is_the_model(verb: str) -> None:
    run = VERBS[verb]
    with two_devices.devices():
        near, far = sides("RMS-silu-gated-serial-gqa-rotary")
        require_same(run(near, task("cpu")), run(far, task("lazy:0")))


@pytest.mark.parametrize("name", OTHERS)
def test_architectures_are_followed(name: str) -> None:
    with two_devices.devices():
        near, far = sides(name)
        for site in ("resid_pre", "q"):
            require_same(
                interp.patch(near, task("cpu"), site, engine="fast", **QUIET),
                interp.patch(far, task("lazy:0"), site, engine="fast", **QUIET),
            )
        require_same(
            interp.attribute(near, task("cpu"), "q", engine="fast", **QUIET),
            interp.attribute(far, task("lazy:0"), "q", engine="fast", **QUIET),
        )


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_bridge_under_accelerates_hooks_is_the_model(family: str) -> None:
    from transformers import AutoTokenizer

    from interp.models import _hub
    from interp.models._same import Expected

    hf_model = copy.deepcopy(small.transformers_model(family))
    with tempfile.TemporaryDirectory() as folder, two_devices.devices():
        small.save_tokenizer(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)

        def bridge(model: Any) -> Any:
            with torch.no_grad():
                return _hub._proved(folder, "tiny", model, tokenizer, {}, Expected.of(model))

        near = bridge(copy.deepcopy(hf_model))
        far = bridge(two_devices.spread_as_accelerate_does(hf_model))
        assert len({block.device for block in weights(far).blocks}) == 2
        assert unsupported(far) is None
        for run in (VERBS["patch z"], VERBS["attribute atp"], VERBS["score_edges eap"], VERBS["lens.logit"]):
            require_same(run(near, task("cpu", least=3)), run(far, task("lazy:0", least=3)))
        require_same(
            VERBS["generate"](near, task("cpu", least=3)), VERBS["generate"](far, task("lazy:0", least=3))
        )


def test_the_stream_moves_once_between_two_devices() -> None:
    with two_devices.devices() as moves:
        _, far = sides("RMS-silu-gated-serial-gqa-rotary")
        parts = weights(far)
        x = parts.embed(task("lazy:0").clean)
        moves.clear()
        with torch.no_grad():
            forward(parts, x)
        assert moves == {("lazy:0", "lazy:1"): 1}


def test_layers_are_brought_one_at_a_time_and_given_back() -> None:
    with two_devices.devices() as moves:
        _, far = sides("RMS-silu-gated-serial-gqa-rotary")
        parts = weights(far)
        home = gathered(parts)
        moves.clear()
        block = home.blocks[1]
        assert block.device == parts.W_E.device != parts.blocks[1].device
        assert moves[("lazy:1", "lazy:0")] > 0
        assert home.blocks[0].attn is parts.blocks[0].attn, "what lies there is not copied"
        assert in_place(home).blocks is parts.blocks
        near, _ = sides("RMS-silu-gated-serial-gqa-rotary")
        own = weights(near)
        assert gathered(own) is own


def test_a_layer_in_two_places_is_refused_in_a_sentence() -> None:
    with two_devices.devices():
        near, _ = sides("LN-gelu_new-plain-serial-mha-learned")
        torn = two_devices.spread(copy.deepcopy(near))
        two_devices.place_module(torn.blocks[0].mlp, two_devices.device(1))
        with pytest.raises(ValueError, match=r"block 0 lies on several devices \(lazy:0, lazy:1\)"):
            interp.patch(torn, task("lazy:0"), "z", engine="fast", **QUIET)


def test_devices_that_are_none_refuse_to_meet() -> None:
    with two_devices.devices() as moves:
        one, two = torch.ones(3, device="lazy:0"), torch.ones(3, device="lazy:1")
        with pytest.raises(RuntimeError, match="one device"):
            _ = one + two
        with pytest.raises(RuntimeError, match="indices"):
            _ = one[torch.zeros(1, dtype=torch.long, device="lazy:1")]
        with pytest.raises(TypeError, match="numpy"):
            one.numpy()
        assert (one + two.to("lazy:0")).tolist() == [2.0, 2.0, 2.0]
        assert moves["lazy:1", "lazy:0"] == 1


def test_an_offloaded_weight_is_said() -> None:
    near, _ = sides("LN-gelu_new-plain-serial-mha-learned")
    model = copy.deepcopy(near)
    model.blocks[0].mlp.W_in = torch.nn.Parameter(model.blocks[0].mlp.W_in.to("meta"), requires_grad=False)
    assert anatomy(model).n_layers == 2
    assert "offloaded" in (unsupported(model) or "")
