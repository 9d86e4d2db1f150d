"""The bundled dictionary of tiny-world: top-k, in the middle of its stream; and its twin by another seed.

1. Read tiny-world's own documents; keep the stream before the middle layer at every token but the first.
2. Train W_enc, b_enc, W_dec, b_dec on ‖x − x̂‖² with the k largest pre-activations on, decoder rows of
length 1
   (Gao et al. 2406.04093). Features that no token has turned on for a while start again at badly explained
   tokens.
3. Report on documents that were held out (`interp.sae.report`), and how many features the twin has too: the
mean over
   features of the largest cosine with one of the twin's decoder rows.

`python training/dictionary.py data/dictionaries/tiny-world` writes the folder in SAELens's format, with its
card.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import interp
from interp import sae
from interp.sae import Dictionary
from interp.steering._direction import identity
from interp.tasks.world import World

K, N_FEATURES, STEPS, BATCH, LR = 12, 256, 1200, 256, 2e-3


def texts(n: int, seed: int) -> list[str]:
    """Documents of tiny-world's generators, without the marks of what can be foreseen."""
    rng, world = random.Random(seed), World()
    return [world.document(rng).replace("^", "") for _ in range(n)]


def prompts(model: Any, documents: list[str]) -> list[list[int]]:
    """Token ids, as many as the context holds."""
    return [model.to_tokens(text)[0, : model.cfg.n_ctx].tolist() for text in documents]


def trained(x: Tensor, seed: int) -> Dictionary:
    """A top-k dictionary of rows x [token, d]."""
    g = torch.Generator().manual_seed(seed)
    b_dec = x.mean(0)
    W_dec = torch.nn.functional.normalize(x[torch.randperm(len(x), generator=g)[:N_FEATURES]] - b_dec, dim=1)
    parts = [W_dec.T.clone(), torch.zeros(N_FEATURES), W_dec.clone(), b_dec.clone()]
    parts = [part.requires_grad_() for part in parts]
    optimiser = torch.optim.Adam(parts, lr=LR)
    last_on = torch.zeros(N_FEATURES)
    scale = (x - b_dec).square().sum(1).mean()
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = LR * min(1.0, 2 * (1 - step / STEPS))
        rows = x[torch.randint(len(x), (BATCH,), generator=g)]
        W_enc, b_enc, W_dec, b_dec = parts
        h = (rows - b_dec) @ W_enc + b_enc
        values, index = h.topk(K, 1)
        f = torch.zeros_like(h).scatter(1, index, values.relu())
        loss = (rows - f @ W_dec - b_dec).square().sum(1)
        optimiser.zero_grad()
        (loss.mean() / scale).backward()
        optimiser.step()
        with torch.no_grad():
            W_dec.data = torch.nn.functional.normalize(W_dec, dim=1)
            last_on = torch.where((f > 0).any(0), 0.0, last_on + 1)
            _revive(parts, rows, loss, last_on, step)
    W_enc, b_enc, W_dec, b_dec = (part.detach() for part in parts)
    return Dictionary(W_enc, b_enc, W_dec, b_dec, "topk", k=K, centre=True)


def _revive(parts: list[Tensor], rows: Tensor, loss: Tensor, last_on: Tensor, step: int) -> None:
    """Features that have been off for 100 steps start at what is explained worst, but not in the last
    third."""
    dead = (last_on >= 100).nonzero()[:, 0]
    if step % 100 or step > 2 * STEPS / 3 or not len(dead):
        return
    worst = loss.topk(min(len(dead), len(loss))).indices
    start = torch.nn.functional.normalize(rows[worst] - parts[3], dim=1)
    some = dead[: len(start)]
    parts[0].data[:, some], parts[1].data[some], parts[2].data[some] = start.T, 0.0, start
    last_on[some] = 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n", type=int, default=1200)
    args = parser.parse_args()
    model = interp.load("tiny-world")
    place = f"L{model.cfg.n_layers // 2}.resid_pre"
    train, test = (prompts(model, texts(args.n if seed else args.n // 20, seed)) for seed in (1, 0))
    x = interp.activations(model, train, place, "all")
    pos = torch.cat([torch.arange(len(row)) for row in train])
    keep = pos > 0
    made, twin = (trained(x[keep], seed) for seed in (0, 1))
    made = made.but(place=interp.places.parse(place), model="tiny-world", fingerprint=identity(model))
    same = (made.W_dec @ twin.W_dec.T).amax(1).mean()
    found = sae.report(model, made, test)
    figures = {str(n): round(float(v), 4) for n, v in zip(found["figure"].values, found["estimate"].values)}
    card = {
        "figures": figures,
        "twin_cosine": round(float(same), 4),
        "place": place,
        "k": K,
        "features": N_FEATURES,
    }
    card |= {name: found.attrs[name] for name in ("n_tokens", "dead", "dense")} | {
        "trained_on": int(keep.sum())
    }
    made.but(metadata={}).save(args.folder)
    (args.folder / "card.json").write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
