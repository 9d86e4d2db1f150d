"""Small random models, and what the tests of steering share."""

from __future__ import annotations

import architectures
import pytest
import small
import torch

HOOKED = {
    "ln-learned": {},
    "rms-rotary": {"normalization_type": "RMS", "n_key_value_heads": 2, **architectures.ROTARY},
    "none-learned": {"normalization_type": None},
}
BRIDGES = ("gpt2", "llama")
D, N_POS = 24, 6


@pytest.fixture(params=[*HOOKED, *(f"bridge-{family}" for family in BRIDGES)])
def toy(request):
    """A random model in float64: LayerNorm, RMS and no norm; learned and rotary positions; two bridges."""
    name = request.param
    return small.bridge(name[7:]) if name.startswith("bridge") else architectures.build(HOOKED[name])


@pytest.fixture
def model():
    """One random model, HookedTransformer or, on release 4, a bridge."""
    return small.model()


@pytest.fixture
def draw():
    """Random normal float64 tensors, reproducible."""
    generator = torch.Generator().manual_seed(7)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def ids():
    """Random token ids [4, 6]."""
    return torch.randint(3, architectures.VOCAB, (4, N_POS), generator=torch.Generator().manual_seed(8))


@pytest.fixture
def within(toy):
    """Tolerance: a Llama of transformers takes norms and softmax in float32, whatever its dtype."""
    return 3e-5 if "llama" in toy.cfg.model_name else 1e-9
