"""Steering of blocks of other kinds, against plain hooks on transformers' own model.

Gemma 2 norms what its layers write before it reaches the stream, Phi's attention and MLP read the same
stream, and Mixtral's MLP is a mixture of experts. A change of `attn_out` is of what reaches the stream.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
import two_sides
import zoo
from oracle import Oracle, Throughout64
from torch import Tensor, nn

import interp
from interp import Task, steering
from interp.models import logits
from interp.places import parse
from interp.steering import Direction, methods

pytestmark = pytest.mark.filterwarnings("ignore:using the reference engine")
FAMILIES = ("Gemma 2", "Phi 2", "Mixtral")
LAYER = 1


class Kind:
    """A family's model here and in transformers, and the modules whose outputs reach the stream there."""

    def __init__(self, name: str) -> None:
        self.model, self.oracle = (
            interp.load(zoo.folder(name), dtype=zoo.dtype_of(name)),
            Oracle(zoo.folder(name), zoo.dtype_of(name)),
        )
        self.within = 1e-9 if zoo.dtype_of(name) == torch.float64 else 2e-4
        self.tokens, corrupt = zoo.prompts()
        self.task = Task.from_tokens(clean=self.tokens, corrupt=corrupt, answer=[5, 6, 7], wrong=[8, 9, 10])

    def writers(self, layer: int) -> tuple[nn.Module, nn.Module]:
        """What attention and the MLP of a layer write to the stream with."""
        block = self.oracle.layers[layer]
        attention = getattr(block, "post_attention_layernorm", None)
        after = getattr(block, "post_feedforward_layernorm", None)
        if after is not None:
            return attention, after
        return block.self_attn, getattr(block, "mlp", None) or block.block_sparse_moe

    def run(self, *hooks: tuple[nn.Module, Callable[..., Any]]) -> Tensor:
        """Logits of transformers under forward hooks."""
        with ExitStack() as stack:
            for module, hook in hooks:
                stack.callback(module.register_forward_hook(hook).remove)
            return self.oracle.logits(self.tokens)

    def margin(self, out: Tensor) -> Tensor:
        row = torch.arange(len(self.tokens))
        return (out[row, -1, self.task.answers[:, 0]] - out[row, -1, self.task.wrongs[:, 0]]).double()


@pytest.fixture(scope="module", params=FAMILIES)
def kind(request: pytest.FixtureRequest) -> Any:
    with torch.no_grad(), Throughout64():
        yield Kind(request.param)


def vector(n: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plus(v: Tensor) -> Callable[..., Any]:
    """A hook that adds a vector to what a module gives, alone or first of several."""

    def hook(module: nn.Module, args: Any, out: Any) -> Any:
        return (out[0] + v.to(out[0]), *out[1:]) if isinstance(out, tuple) else out + v.to(out)

    return hook


@pytest.mark.parametrize("site", ["resid_pre", "resid_post", "attn_out", "mlp_out"])
def test_an_addition_is_one_to_what_reaches_the_stream(kind: Kind, site: str) -> None:
    v = vector(kind.model.cfg.d_model)
    attention, mlp = kind.writers(LAYER)
    modules = {"attn_out": attention, "mlp_out": mlp, "resid_post": kind.oracle.layers[LAYER]}
    right = kind.run((modules.get(site, kind.oracle.layers[LAYER - 1]), plus(v)))
    made = steering.add(Direction.from_tensor(v, site, LAYER), 1.0)
    with steering.steer(kind.model, made):
        ours = logits(kind.model, kind.tokens)
    torch.testing.assert_close(ours, right, rtol=0, atol=kind.within)
    assert (right - kind.run()).abs().max() > 1e-2
    written = steering.generate(kind.model, kind.tokens, made, max_new_tokens=1, stop=())
    assert torch.equal(written[:, -1], right[:, -1].argmax(-1))


def test_a_head_is_changed_before_its_output_matrix(kind: Kind) -> None:
    width = kind.model.cfg.d_head
    v, at = vector(width), slice(2 * width, 3 * width)

    def change(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = args[0].clone()
        x[..., at] += v.to(x)
        return (x, *args[1:])

    handle = kind.oracle.outputs[LAYER].register_forward_pre_hook(change)
    right = kind.run()
    handle.remove()
    with steering.steer(kind.model, steering.add(Direction.from_tensor(v, f"L{LAYER}H2"), 1.0)):
        torch.testing.assert_close(logits(kind.model, kind.tokens), right, rtol=0, atol=kind.within)


def test_what_a_vector_acts_through(kind: Kind) -> None:
    """Four runs with attention and MLPs held at what they wrote without the vector."""
    v, kept = vector(kind.model.cfg.d_model), {}
    first = kind.oracle.layers[LAYER - 1]
    groups = [[kind.writers(layer)[part] for layer in range(LAYER, zoo.N_LAYERS)] for part in (0, 1)]

    def keep(module: nn.Module, args: Any, out: Any) -> None:
        kept[module] = out

    base = kind.margin(kind.run(*((module, keep) for group in groups for module in group)))

    def effect(*held: nn.Module) -> Tensor:
        frozen = ((module, lambda m, args, out: kept[m]) for module in held)
        return kind.margin(kind.run((first, plus(v)), *frozen)) - base

    attention, mlp = groups
    direct = effect(*attention, *mlp)
    whole, by_attention, by_mlp = effect(), effect(*mlp) - direct, effect(*attention) - direct
    right = torch.stack((whole, direct, by_attention, by_mlp, whole - direct - by_attention - by_mlp), 1)
    direction = Direction.from_tensor(v, "resid_pre", LAYER)
    out = methods.vector_paths(kind.model, direction, kind.task, progress=False)
    torch.testing.assert_close(torch.tensor(out["value"].values), right, rtol=0, atol=10 * kind.within)
    assert (right.abs().amax(0) > 1e-4).all()
    last = zoo.N_LAYERS - 1
    lost = torch.tensor(out["layer_value"].sel(layer=last, part="mlp").values)
    torch.testing.assert_close(lost, whole - effect(mlp[-1]), rtol=0, atol=10 * kind.within)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("Gemma 2", "norms what its layers write"), ("Mixtral", "no output matrix of its own")],
    indirect=["kind"],
)  # fmt: skip
def test_a_matrix_that_does_not_write_alone_takes_no_edit(kind: Kind, reason: str) -> None:
    model, ids = kind.model, kind.tokens
    vector = torch.ones(model.cfg.d_model)
    planned = methods.WeightEdits({parse(f"L{LAYER}.mlp_out"): torch.ones(4, model.cfg.d_model)})
    for edit in (
        lambda: methods.steer2edit(model, Direction.from_tensor(vector, "L1.resid_pre"), ids[:2], ids[2:]),
        lambda: methods.redirect(model, LAYER, ids[:2], vector, ids[2:]),
        lambda: methods.link(model, LAYER, ids[:2], vector, ids[2:]),
        lambda: planned.apply(model),
    ):
        with two_sides.no_pass(model), pytest.raises(ValueError, match=reason):
            edit()
