"""The fast engine against the reference, on every architecture, site, grid and direction."""

from __future__ import annotations

import architectures
import numpy as np
import pytest
import torch
from sides import (
    GATED,
    PLAIN,
    all_cells,
    both,
    effect,
    gap,
    grids,
    make_runs,
    mixed,
    model_of,
    quickly,
    sample,
)

from interp.engine.cells import table
from interp.models import anatomy, unsupported
from interp.tasks import KL, LogitDiff, LogProb, Loss, Prob, Rank

NAMES = [name for name, _ in architectures.grid()]
FULL = [PLAIN, GATED, "sandwich-norm", "post-norm", "attn-only", "LN-relu-plain-parallel-mha-rotary"]


@pytest.mark.parametrize("name", NAMES)
def test_equals_reference_at_every_site(name):
    model = model_of(name)
    assert unsupported(model) is None
    seed = NAMES.index(name)
    for turn, direction in enumerate(("denoise", "noise")):
        cells = mixed(model, 1, seed + turn)  # other cells of each grid
        fast, slow = both(model, make_runs(direction, first=seed % 4), cells)
        assert gap(fast, slow) <= 1e-12, direction
        assert sum(effect(slow, cells, site) > 0 for site in cells.sites) >= len(cells.sites) - 1


@pytest.mark.slow
@pytest.mark.parametrize("name", [PLAIN, GATED])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_every_cell_of_every_grid(name, direction):
    model = model_of(name)
    for site in anatomy(model).sites():
        for by in grids(site)[:2]:
            cells = sample(all_cells(model, site, by), 30, 0)
            fast, slow = both(model, make_runs(direction, first=1), cells)
            assert gap(fast, slow) <= 1e-12, (site, by)
            assert effect(slow, cells, site) > 1e-6


@pytest.mark.parametrize("name", [PLAIN, "attn-only", "RMS-relu-gated-parallel-gqa-rotary"])
def test_chunk_size_and_order_do_not_matter(name):
    model, runs = model_of(name), make_runs()
    cells = mixed(model, 6, 0)
    whole, slow = both(model, runs, cells)
    assert gap(whole, slow) <= 1e-12
    for batch_size in (1, 7, 64):
        order = np.random.default_rng(batch_size).permutation(len(cells))
        chunked = quickly(model, runs, cells.take(order), batch_size=batch_size)
        assert np.abs(chunked.patched - whole.patched[order]).max() <= 1e-12, batch_size


@pytest.mark.parametrize("name", [PLAIN, "RMSPre-silu-gated-parallel-gqa-rotary"])
def test_float32(name):
    model = architectures.build(dict(architectures.grid())[name] | {"dtype": torch.float32})
    cells = mixed(model, 4, 0)
    fast, slow = both(model, make_runs(), cells)
    assert gap(fast, slow) <= 1e-5
    assert min(effect(slow, cells, site) for site in cells.sites) > 1e-3


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_all_metrics_in_one_run(name, direction):
    """Metrics that read every position and every column, at per-prompt middle positions."""
    metrics = (LogitDiff(), Prob(), LogProb(), KL(), Rank(), Loss())
    model, runs = model_of(name), make_runs(direction, positions=[5, 7])
    fast, slow = both(model, runs, mixed(model, 3, 1), metrics)
    assert gap(fast, slow) <= 1e-12
    assert (np.abs(slow.patched - slow.base).max((0, 1)) > 1e-9).all()


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("window", [2, 3])
def test_windows_of_layers(name, window):
    model = model_of(name)
    cells = mixed(model, 4, window, depth=1, window=window)
    fast, slow = both(model, make_runs(), cells)
    assert gap(fast, slow) <= 1e-12
    assert min(effect(slow, cells, site) for site in cells.sites) > 1e-9


def test_cells_of_several_patches():
    """Heads of different layers, a stream position and neurons, patched together."""
    sites = ["z", "q", "resid_mid", "post", "v", "pattern", "attn_out"]
    cells = table(
        sites,
        7,
        cell=np.array([0, 0, 1, 1, 1, 2, 2]),
        layer=np.array([0, 2, 1, 1, 2, 1, 0]),
        head=np.array([1, 3, -1, -1, 1, 2, -1]),
        pos=np.array([-1, 6, 4, -1, -1, -1, 3]),
        neuron=np.array([-1, -1, -1, 5, -1, -1, -1]),
        dst=np.array([-1, -1, -1, -1, -1, 6, -1]),
    )
    fast, slow = both(model_of(GATED), make_runs(), cells)
    assert gap(fast, slow) <= 1e-12
    assert (np.abs(slow.patched - slow.base).max((1, 2)) > 1e-6).all()


def test_one_token_prompts():
    model = model_of(PLAIN)
    runs = make_runs(first=0, n_pos=1)
    cells = mixed(model, 6, 0, n_pos=1)
    fast, slow = both(model, runs, cells)
    assert gap(fast, slow) <= 1e-12
    assert effect(slow, cells, "resid_pre") > 1e-3
