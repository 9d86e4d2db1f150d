"""The plan's counts against the work that is done."""

from __future__ import annotations

import architectures
import pytest
import torch
from sides import GATED, LOGIT_DIFF, PLAIN, all_cells, make_runs, model_of
from torch.utils.flop_counter import FlopCounterMode

from interp.engine.memory import Budget
from interp.engine.plan import forward_flops, make_plan
from interp.engine.readout import Reads
from interp.engine.wavefront import Prepared
from interp.models import anatomy, logits, weights

# d_model 768, 12 layers, 12 heads: the shape of GPT-2 small with a small vocabulary, on the meta device.
SMALL = {"n_layers": 12, "d_model": 48, "d_head": 4, "n_heads": 12, "d_mlp": 192, "dtype": torch.float32}


def counted(function) -> float:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        function()
    return counter.get_total_flops()


def sweep(model, runs, cells):
    return Prepared(weights(model), runs, cells.sites, LOGIT_DIFF, Budget(anatomy(model))).run(cells)


@pytest.mark.parametrize("name", [PLAIN, GATED, "attn-only", "LN-relu-plain-parallel-mha-rotary"])
@pytest.mark.parametrize("first", [0, 5])
@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "z", "mlp_out"])
def test_planned_flops_are_those_done(name, first, site):
    model, runs = model_of(name), make_runs(first=first)
    facts = anatomy(model)
    if site not in facts.sites():
        pytest.skip("the model has no such site")
    cells = all_cells(model, site, ("layer", "pos"))
    gated = model.cfg.gated_mlp
    plan = make_plan(facts, gated, cells, Reads(runs, LOGIT_DIFF), Budget(facts), "fast")
    done = counted(lambda: sweep(model, runs, cells))
    assert done <= plan.flops * 1.15  # entering cells cost a little of their own
    assert done >= plan.flops * 0.6  # values can rule out cells that tokens cannot


@pytest.mark.parametrize("name", [PLAIN, GATED])
def test_flops_of_a_forward(name):
    model = model_of(name)
    tokens = make_runs().base[:1]
    facts = anatomy(model)
    n_pos = tokens.shape[1]
    planned = forward_flops(facts, model.cfg.gated_mlp, n_pos, facts.d_vocab, n_pos)
    assert counted(lambda: logits(model, tokens)) == pytest.approx(planned, rel=1e-9)


@pytest.mark.parametrize(("first", "least"), [(0, 4.0), (10, 20.0)])
def test_residual_grid_saves_what_the_mathematics_allow(first, least):
    """15 tokens, 12 layers: a naive loop does over 4 and 20 times the FLOPs of the whole sweep."""
    model = architectures.build(SMALL)
    runs = make_runs(first=first, n_prompts=1, n_pos=15)
    cells = all_cells(model, "resid_pre", ("layer", "pos"), n_pos=15)
    naive = len(cells) * counted(lambda: logits(model, runs.base))
    assert naive / counted(lambda: sweep(model, runs, cells)) > least


def test_no_ops_and_chunks():
    model, facts = model_of(PLAIN), anatomy(model_of(PLAIN))
    runs = make_runs(first=6)
    cells = all_cells(model, "resid_pre", ("layer", "pos"))
    plan = make_plan(facts, False, cells, Reads(runs, LOGIT_DIFF), Budget(facts), "fast")
    differing = (runs.base != runs.source)[:, 6:].sum().item()
    assert (
        plan.live == differing + 2 * 2 * 3
    )  # layer 0 by the tokens; two layers, two prompts, three positions
    assert plan.live + plan.no_ops == plan.cells * 2
    assert plan.chunks == 1
    tight = make_plan(facts, False, cells, Reads(runs, LOGIT_DIFF), Budget(facts, limit=1), "fast")
    assert tight.chunks == 2
    assert "no-ops by causality" in str(plan)


def test_memory_limits_the_batches():
    """Batches cover all items once, in order, and none is larger than asked."""
    model, runs = model_of(PLAIN), make_runs()
    facts = anatomy(model)
    cells = all_cells(model, "z", ("layer", "pos", "head"))
    with torch.inference_mode():
        ready = Prepared(weights(model), runs, ("z",), LOGIT_DIFF, Budget(facts))
        items = ready.live(cells)
    for budget, most in (
        (Budget(facts, batch_size=5), 5),
        (Budget(facts, limit=200_000), 20),
        (Budget(facts, limit=1), 1),
    ):
        batches = list(budget.batches(items, ready.reads))
        assert sum(len(b) for b in batches) == len(items) > 30
        assert max(len(b) for b in batches) <= most
        assert [c for b in batches for c in b.cell] == list(items.cell)
