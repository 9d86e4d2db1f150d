"""Three lenses on one text, logit, tuned and Jacobian: held-out KL, and how often the top token agrees.

    python -m benchmarks.lenses --jacobian 100 --tuned 800 --held 100 [--out benchmarks/results/lenses.json]
    python -m benchmarks.lenses --model smollm2-135m --layers 14 24 --jacobian 9 --cut 36 --skip 4

Text of tiny-world: its own documents. Text of a language model: Python's manual as `pydoc_data.topics` has it
(in every installation of Python), pieces of one length, every fifth topic held out. Both lenses are fitted on
the first --jacobian pieces; the tuned lens, which is far cheaper, also on --tuned of them. Beside them:

shift: h + mean(h_L − h) alone, which says nothing of the token read.
Jacobian + shift: h Jᵀ and the mean of what that leaves, so that only the slope is the Jacobian lens'.
random: matrices as far from 1 as the Jacobian lens' are, drawn.

Read at the output of each layer (the input of the next), from position --skip on, on pieces that no fit saw.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import interp
from interp import lens
from interp.models import anatomy
from training.dictionary import documents
from training.english import manual

Rows = list[list[int]]


def shifted(model: Any, rows: Rows, slopes: Mapping[int, torch.Tensor], skip: int) -> lens.TunedLens:
    """h ↦ h Jᵀ + the mean of h_L − h Jᵀ over rows, as a lens of the next layer's input."""
    facts = anatomy(model)
    end = f"L{facts.n_layers - 1}.resid_post"
    keep = torch.cat([torch.arange(len(row)) for row in rows]) >= skip
    A, b = {}, {}
    last = interp.activations(model, rows, end, "all")[keep]
    for layer, J in slopes.items():
        h = interp.activations(model, rows, f"L{layer}.resid_post", "all")[keep]
        A[layer + 1] = J.T - torch.eye(len(J))
        b[layer + 1] = (last - h @ J.T).mean(0)
    return lens.TunedLens(A, facts.n_layers, biases=b)


def growing(model: Any, rows: Rows, layers: list[int], skip: int, keep: Path | None) -> lens.JacobianLens:
    """The Jacobian lens, piece by piece, written after each: the mean over those seen so far. Goes on from a
    file of the same arguments."""
    total, seen, mean = dict.fromkeys(layers, torch.zeros(())), 0, None
    if keep and keep.exists():
        mean = lens.JacobianLens.load(keep, model)
        seen = int(mean.facts["n_prompts"])
        total = {layer: J * seen for layer, J in mean.matrices.items()}
    for n, row in enumerate(rows[seen:], seen + 1):
        one = lens.jacobian(model, [row], layer=layers, skip=skip, length=len(row), progress=False)
        total = {layer: total[layer] + J for layer, J in one.matrices.items()}
        mean = replace(one, matrices={layer: J / n for layer, J in total.items()}, facts={"n_prompts": n})
        if keep:
            mean.save(keep)
    assert mean is not None
    return mean


def drawn(found: lens.JacobianLens) -> lens.JacobianLens:
    """Matrices as far from 1 as those of a lens."""
    g, out = torch.Generator().manual_seed(0), {}
    for layer, J in found.matrices.items():
        one = torch.eye(len(J))
        noise = torch.randn(J.shape, generator=g)
        out[layer] = one + noise * (J - one).norm() / noise.norm()
    return lens.JacobianLens(out, found.n_layers)


def read(model: Any, rows: Rows, layers: list[int], through: Any, skip: int) -> dict[str, dict[str, float]]:
    """By layer (its output): KL(model ‖ lens) in nats and top-1 agreement, with errors over pieces."""
    jacobian = isinstance(through, lens.JacobianLens)
    names = layers if jacobian else [layer + 1 for layer in layers]
    kept: dict[int, list[tuple[float, float]]] = {layer: [] for layer in layers}
    for row in rows:
        found = lens.logit(model, [row], through=through, layer=names, top=1)
        with torch.no_grad():
            end = model(torch.tensor([row]))[0].argmax(-1)
        for layer, name in zip(layers, names):
            here = found.sel(layer=name).isel(prompt=0)
            same = torch.as_tensor(here["top_id"].values[:, 0]) == end
            kept[layer].append((float(here["kl"].values[skip:].mean()), float(same[skip:].double().mean())))
    table = {}
    for layer, pairs in kept.items():
        both = torch.tensor(pairs, dtype=torch.float64)
        error = both.std(0) / len(both) ** 0.5
        table[str(layer)] = dict(
            zip(("kl", "top1", "kl_se", "top1_se"), [*both.mean(0).tolist(), *error.tolist()])
        )
    return table


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="tiny-world")
    parser.add_argument("--jacobian", type=int, default=100, help="pieces that both lenses are fitted on")
    parser.add_argument("--tuned", type=int, default=400, help="pieces of another tuned lens")
    parser.add_argument("--held", type=int, default=40)
    parser.add_argument("--length", type=int, default=128, help="tokens of a piece of the manual")
    parser.add_argument("--cut", type=int, default=128, help="tokens of a piece that the Jacobian lens sees")
    parser.add_argument("--keep", type=Path, help="where the Jacobian lens is written after every piece")
    parser.add_argument("--skip", type=int, default=1)
    parser.add_argument("--layers", type=int, nargs="+", help="whose outputs are read")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    model = interp.load(args.model)
    layers = args.layers or list(range(model.cfg.n_layers - 1))
    small = args.model == "tiny-world"
    rows = documents(model, 1000, 1) if small else []
    train, held = (rows[200:], rows[:200]) if small else manual(model, args.length)
    many, held = train[: args.tuned], held[: args.held]
    few = [row[: args.cut] for row in train[: args.jacobian]]
    inputs = [layer + 1 for layer in layers]
    fit: dict[str, Any] = {"layer": inputs, "skip": args.skip}
    same, first = timed(lambda: lens.tuned(model, few, **fit))
    more, second = timed(lambda: lens.tuned(model, many, **fit))
    slopes, third = timed(lambda: growing(model, few, layers, args.skip, args.keep))
    still = {layer: torch.eye(model.cfg.d_model) for layer in layers}
    ways = {
        "logit": None, "shift": shifted(model, many, still, args.skip), "tuned, same text": same,
        "tuned": more, "Jacobian": slopes, "random": drawn(slopes),
        "Jacobian + shift": shifted(model, many, slopes.matrices, args.skip),
    }  # fmt: skip
    found = {name: read(model, held, layers, way, args.skip) for name, way in ways.items()}
    sizes = {
        name: [len(rows), sum(map(len, rows))]
        for name, rows in (("few", few), ("many", many), ("held", held))
    }
    about = {
        "model": args.model,
        "seconds": [round(s, 1) for s in (first, second, third)],
        "pieces, tokens": sizes,
        "skip": args.skip,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": platform.machine(),
    }
    print(json.dumps(about))
    for name, by_layer in found.items():
        cells = (
            f"{n['kl']:.2f}±{n['kl_se']:.2f}, {n['top1']:.2f}±{n['top1_se']:.2f}" for n in by_layer.values()
        )
        print(f"| {name} | " + " | ".join(cells) + " |")
    if args.out:
        args.out.write_text(json.dumps({**about, "table": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
