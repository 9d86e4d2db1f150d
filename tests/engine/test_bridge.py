"""Both engines on TransformerBridge, where a few hook points mean less than they say."""

from __future__ import annotations

import numpy as np
import pytest
import small
import torch
from sides import all_cells, both, effect, gap, grids, make_runs

from interp.models import anatomy, logits

# Hugging Face's RMSNorm computes in float32 inside a float64 model.
TOLERANCE = {"gpt2": 1e-12, "neox": 1e-12, "llama": 2e-5}


@pytest.mark.parametrize("family", small.FAMILIES)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_equals_reference_at_every_site(family, direction):
    model = small.bridge(family)
    for site in anatomy(model).sites():
        for by in grids(site)[:2]:
            cells = all_cells(model, site, by)
            cells = cells.take(np.random.default_rng(0).permutation(len(cells))[:12])
            fast, slow = both(model, make_runs(direction), cells)
            assert gap(fast, slow) <= TOLERANCE[family], (site, by)
            assert effect(slow, cells, site) > 1e-4, (site, by)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_resid_mid_is_the_stream(family):
    """Patching resid_mid everywhere leaves of the base run only what the MLP and later layers recompute."""
    model = small.bridge(family)
    runs = make_runs()
    with torch.inference_mode():
        _, slow = both(model, runs, all_cells(model, "resid_mid", ("layer",)))
        clean = logits(model, runs.source)
    np.testing.assert_allclose(slow.patched, np.broadcast_to(slow.source, slow.patched.shape), atol=2e-5)
    assert np.abs(slow.source - slow.base).max() > 1e-2
    assert torch.isfinite(clean).all()
