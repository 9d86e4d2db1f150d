"""Exchanging a subspace, against plain hooks and patching; the illusion test on planted directions."""

from __future__ import annotations

import architectures
import numpy as np
import pytest
import torch

import interp
from interp import subspaces
from interp.subspaces import Subspace, illusion, interchange, orthonormal

NAMES = (
    "LN-gelu_new-plain-serial-mha-learned",
    "RMS-silu-gated-parallel-gqa-rotary",
    "post-norm",
    "attn-only",
)
QUIET = {"progress": False}


def make(name: str):
    return architectures.build(dict(architectures.grid())[name])


def task_of(n: int = 4, seed: int = 0) -> interp.Task:
    ids = torch.randint(1, architectures.VOCAB, (2, n, 7), generator=torch.Generator().manual_seed(seed))
    ids[1, :, :2] = ids[0, :, :2]
    spans = {"subject": [(2, 4), 3] * (n // 2), "end": [-1] * n}
    return interp.Task.from_tokens(
        clean=ids[0], corrupt=ids[1], answer=torch.arange(n) + 1, wrong=torch.arange(n) + 9, spans=spans
    )


def basis(width: int, rank: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return orthonormal(torch.randn(width, rank, generator=generator, dtype=torch.float64))


def by_hooks(model, task, hook, head, marks, B, denoise: bool) -> np.ndarray:
    """Logit difference of the base run with the subspace of the source put in, less that without."""
    base, source = (task.corrupt, task.clean) if denoise else (task.clean, task.corrupt)
    kept = {}

    def keep(tensor, hook):
        kept["source"] = tensor.clone()

    with model.hooks(fwd_hooks=[(hook, keep)]):
        model(source)

    def put(tensor, hook):
        out = tensor.clone()
        mine, other = (t if head is None else t[:, :, head] for t in (tensor, kept["source"]))
        mixed = torch.where(marks[..., None], mine + ((other - mine) @ B) @ B.T, mine)
        if head is None:
            return mixed
        out[:, :, head] = mixed
        return out

    def difference(logits):
        rows, at = torch.arange(len(task)), task.last_position
        last = logits[rows, at]
        return (last[rows, task.answer.flatten()] - last[rows, task.wrong.flatten()]).detach()

    plain = difference(model(base))
    with model.hooks(fwd_hooks=[(hook, put)]):
        patched = difference(model(base))
    return ((patched - plain) if denoise else (plain - patched)).numpy()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_it_is_the_exchange_under_plain_hooks(name, direction):
    model, task = make(name), task_of()
    places = [("L1.resid_pre", "blocks.1.hook_resid_pre", None, 24), ("L1H2", "blocks.1.attn.hook_z", 2, 6)]
    places += [] if name == "attn-only" else [("L0.post", "blocks.0.mlp.hook_post", None, 40)]
    for spot, hook, head, width in places:
        B = basis(width, 2)
        cells = {"all": torch.ones(4, 7, dtype=torch.bool), 4: torch.arange(7)[None] == 4 + torch.zeros(4, 1)}
        cells["subject"] = task.spans["subject"]
        for pos, marks in cells.items():
            result = interchange(model, task, Subspace(B, spot), pos, direction=direction, **QUIET)
            expected = by_hooks(model, task, hook, head, marks, B, direction == "denoise")
            got = result["value"].sel(part="subspace").values[:, 0]
            assert np.abs(got - expected).max() <= 1e-12, (spot, pos)
            assert np.abs(expected).max() > 1e-4


def test_all_of_a_site_is_a_patch_and_engines_agree():
    model, task = make(NAMES[0]), task_of()
    everything = Subspace(torch.eye(24, dtype=torch.float64), "L1.resid_pre")
    result = interchange(model, task, everything, [3, "last"], **QUIET)
    patched = interp.patch(model, task, cells=["L1.resid_pre@3", "L1.resid_pre@6"], **QUIET)
    assert np.abs(result["value"].sel(part="subspace").values - patched["value"].values).max() <= 1e-12
    assert np.abs(result["value"].sel(part="whole").values - patched["value"].values).max() == 0
    assert np.abs(result["value"].sel(part="rest").values).max() <= 1e-12
    line = Subspace(basis(24, 3), "L2.resid_mid")
    fast, slow = (interchange(model, task, line, engine=each, **QUIET) for each in ("fast", "reference"))
    assert np.abs(fast["value"].values - slow["value"].values).max() <= 1e-12
    assert float(abs(slow["value"]).max()) > 1e-4


def _planted(model, task, other: float):
    """A unit direction of L2.post: along what the neurons' null part differs by, and a row part that acts."""
    kept = {}
    for side in ("clean", "corrupt"):
        _, cache = model.run_with_cache(getattr(task, side), names_filter="blocks.2.mlp.hook_post")
        kept[side] = cache["blocks.2.mlp.hook_post"][:, -1].detach()
    change = kept["clean"] - kept["corrupt"]  # [prompt, neuron]
    W = subspaces.readers(model, "L2.post").detach()  # [d_model, neuron]
    row_space = torch.linalg.svd(W, full_matrices=False)[2]
    null = change - (change @ row_space.T) @ row_space
    null = null.mean(0) / null.mean(0).norm()
    away = torch.linalg.svd(change @ row_space.T)[2][-1] @ row_space  # a row direction that hardly differs
    return null, away, other * null + away


@pytest.fixture(scope="module")
def ready():
    model, tokens = make(NAMES[0]), torch.randint(1, 30, (1, 7), generator=torch.Generator().manual_seed(4))
    clean = tokens.repeat(8, 1)
    clean[:, 5] = torch.arange(8) + 2
    corrupt = clean.clone()
    corrupt[:, 6] = 11
    answer, wrong = torch.full((8,), 3), torch.full((8,), 17)
    return model, interp.Task.from_tokens(clean=clean, corrupt=corrupt, answer=answer, wrong=wrong)


def test_an_illusion_is_told_from_a_genuine_direction(ready):
    model, task = ready
    null, away, mixed = _planted(model, task, 1.0)
    line = Subspace(mixed / mixed.norm(), "L2.post")
    first = illusion(model, task, line, 6, **QUIET)
    if float(first["value"].sel(part="subspace").mean()) < 0:  # the row part's sign is free
        line = Subspace((null - away) / mixed.norm(), "L2.post")
        first = illusion(model, task, line, 6, **QUIET)
    assert first.attrs["verdict"] == "illusion", first.attrs["verdict_reason"]
    assert first.attrs["row_share"] == pytest.approx(0.5, abs=1e-6)
    assert np.abs(first["value"].sel(part="null").values).max() <= 1e-12
    assert float(first["value"].sel(part="subspace").mean()) > 1e-3
    W = subspaces.readers(model, "L2.post").detach()
    genuine = Subspace(orthonormal(W[[4]].T), "L2.post")
    second = illusion(model, task, genuine, 6, **QUIET)
    assert second.attrs["verdict"] == "genuine"
    value = second["value"]
    assert np.abs(value.sel(part="row").values - value.sel(part="subspace").values).max() <= 1e-12
    assert float(abs(value.sel(part="subspace")).max()) > 1e-4


@pytest.mark.parametrize(
    ("own", "source", "rows", "row_value"),
    [
        ((1.0, 0.0, 1.0), (-2.5, 0.0, -2.5), ((0.0, 2.0, 0.0), (0.0, 0.0, 1.0)), 2.0),
        ((1.0, 0.0, 1.0), (-2.5, 0.0, -2.5), ((0.0, 2.0, 1.0),), None),
    ],
)
def test_the_papers_toy(own, source, rows, row_value):
    """h = (x, 0, x), y = 2 h₁ + h₂ by two rows: a patch along (1, 1, 0)/√2 acts by what nothing reads."""
    from interp.subspaces._interchange import _split

    line = Subspace(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64) / 2**0.5, "L0.post")
    parts, facts = _split(line, torch.tensor(rows, dtype=torch.float64))
    h, other = (torch.tensor(each, dtype=torch.float64) for each in (own, source))
    y = lambda x: float(2 * x[1] + x[2])  # noqa: E731
    assert y(line.exchange(h, other)) == pytest.approx(1 - 3.5)
    assert y(parts["null"].exchange(h, other)) == pytest.approx(1.0)
    row = y(parts["row"].exchange(h, other))
    if row_value is not None:  # its row part alone does nothing: an illusion
        assert row == pytest.approx(1.0)
    else:  # read by one row alone, any row part moves all of the output: never sum the readers
        assert row != pytest.approx(1.0)
        assert facts["row_rank"] == 1


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_both_runs_are_made_once(ready, engine, monkeypatch):
    """Three parts of a cell are three counterfactual runs; base and source are run once for all."""
    from interp.engine import reference, wavefront

    model, task = ready
    line, calls = Subspace(basis(24, 3), "L2.resid_mid"), []
    for module, name in ((wavefront, "capture"), (reference, "logits")):
        counted = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, c=counted, n=name: calls.append(n) or c(*a))
    interchange(model, task, line, [5, 6], engine=engine, **QUIET)
    assert calls == (["capture"] if engine == "fast" else ["logits"] * (2 + 3 * 2))


def test_one_draw_gives_no_verdict(ready):
    model, task = ready
    line = Subspace(basis(40, 1), "L2.post")
    assert illusion(model, task[:1], line, 6, **QUIET).attrs["verdict"] == "undecided"
    assert illusion(model, task[[0, 0]], line, 6, **QUIET).attrs["verdict"] == "undecided"


def test_what_is_wrong_is_said(ready):
    model, task = ready
    skewed = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    for call, match in (
        (lambda: Subspace(skewed, "L0.resid_pre"), "not orthonormal.*orthonormal"),
        (lambda: Subspace(torch.zeros(2, 3), "L0.resid_pre"), "3 directions does not fit into 2"),
        (lambda: orthonormal(torch.ones(3, 2)), "depend on one another"),
        (lambda: interchange(model, task, Subspace(basis(6, 1), "L0.resid_pre")), "6 rows.*24 dimensions"),
        (lambda: interchange(model, task, Subspace(basis(6, 1), "L9H0")), "[Ll]ayer"),
        (lambda: interchange(model, task, Subspace(basis(6, 1), "L0.z")), "one head"),
        (lambda: interchange(model, task, Subspace(basis(24, 1), "L0.resid_pre"), 70), "70"),
        (lambda: interchange(model, task, Subspace(basis(24, 1), "L0.resid_pre"), "ned"), "ned"),
        (lambda: illusion(model, task, Subspace(basis(6, 1), "L0H0.q")), "no fixed weights"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
