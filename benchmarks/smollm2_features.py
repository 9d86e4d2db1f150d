"""How much of what SmolLM2's middle layer does do a few features do? The bundled dictionary, and controls.

    python -m benchmarks.smollm2_features [--out benchmarks/results/smollm2_features.json]

Prompts of one template; the corrupt one differs in a word. On half of them features by position are ranked
by their mean AtP estimate (of taking them out of the clean run; positive: they help). On the other half the
best n are patched together (with the corrupt run's values), as a share of what the patch of the whole site
does; and the error alone. The controls are those of training/dictionary.py, of pieces of Python's manual.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import interp
from interp import sae
from training.dictionary import PLANS, controls, stream
from training.english import manual

NAME, SIZES = "smollm2-135m", (1, 5, 20, 80)


def shares(model: Any, task: Any, d: sae.Dictionary) -> dict[str, float]:
    """Of the effect of the whole site on prompts that did not choose: the best n features, and the error."""
    half = len(task) // 2
    found, judged = task[:half], task[half:]
    rough = interp.attribute(
        model, found, features=d, by=("pos", "feature"), direction="noise", progress=False
    )
    mean = rough["value"].mean("prompt").stack(cell=("pos", "feature"))
    mean = mean[[str(name).rpartition(".")[2] != "error" for name in mean["feature"].values]]
    order = mean.sortby(mean, ascending=False)
    names = [f"{feature}@{pos}" for pos, feature in zip(order["pos"].values, order["feature"].values)]
    cells = [*(names[:n] for n in SIZES), [f"{d.place}.error"]]
    patched = interp.patch(model, judged, features=d, cells=cells, direction="noise", progress=False)
    whole = interp.patch(model, judged, cells=[[str(d.place)]], direction="noise", progress=False)
    total = float(whole["value"].mean())
    values = patched["value"].mean("prompt").values / total
    return {
        **{str(n): round(float(v), 3) for n, v in zip((*SIZES, "error"), values)},
        "site": round(total, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--pieces", type=int, default=64)
    args = parser.parse_args()
    model, plan = interp.load(NAME), PLANS[NAME]
    ours = sae.load(NAME)
    x = stream(model, manual(model, 128)[0][: args.pieces], plan)
    made = {"bundled": ours} | controls(x[x.norm(dim=1) < 1000], plan.k, plan.n_features, plan.place)
    tasks = {
        "ioi": interp.tasks.ioi(model, n=args.n, seed=0, template=0),
        "agreement": interp.tasks.agreement(model, n=args.n, seed=0, template=0),
        "agreement, two nouns between": interp.tasks.agreement(model, n=args.n, seed=0, template=4),
        "facts": interp.tasks.facts(model, n=args.n, seed=0, template=0),
    }
    table = {
        family: {name: shares(model, task, d) for name, d in made.items()} for family, task in tasks.items()
    }
    for family, by_name in table.items():
        for name, row in by_name.items():
            print(family, name, row)
    if args.out:
        args.out.write_text(
            json.dumps({"torch": torch.__version__, "n": args.n, "table": table}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
