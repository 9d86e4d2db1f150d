"""The bundled dictionaries: of the stream in the middle of tiny-world and of SmolLM2-135M-Instruct.

1. Read text (tiny-world: its own documents; SmolLM2: `training/english.py`); keep the stream in the middle at
   every token but the first, or, of SmolLM2, the first four: the first one's norm is 150 times the others',
   and in one piece of a hundred that of the second or third too. SmolLM2's stream is scaled to a mean norm of
   √d for training, and the scale is taken out of the biases and the threshold after.
2. Train W_enc, b_enc, W_dec, b_dec on ‖x − x̂‖² with the k largest pre-activations of every token on (Gao et
   al. 2406.04093), or the k · n largest of a batch of n tokens (Bussmann et al. 2412.06410); decoder rows of
   length 1. Features that no token has turned on for a while start again at badly explained tokens.
3. A batch's smallest feature that is on, as a running mean, is the threshold of the finished dictionary
   (JumpReLU), as in SAELens.
4. Report on text that was held out (`interp.sae.report`); tiny-world: how many features a twin by another
   seed has too, the mean over features of the largest cosine with one of its decoder rows; SmolLM2: the same
   figures of the controls (`controls`).

`python -m training.dictionary tiny-world data/dictionaries/tiny-world` writes the folder in SAELens's format,
with its card. SmolLM2's takes about an hour of one core, a quarter of it for text that the model writes.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

import interp
from interp import sae
from interp.sae import Dictionary
from interp.sae._activations import Pursuit
from interp.steering._direction import identity
from interp.tasks.world import World
from training import english

Rows = list[list[int]]


@dataclass(frozen=True)
class Plan:
    """What differs between the models. over: the k largest of a token, or k · n of a batch of n."""

    place: str
    k: int
    n_features: int
    steps: int
    batch: int
    lr: float
    over: str = "token"
    scaled: bool = False
    skip: int = 1  # tokens left out at the start of each text
    start: float = 1.0  # length of the encoder's columns at the start


PLANS = {
    "tiny-world": Plan("L2.resid_pre", 12, 256, 1200, 256, 2e-3),
    "smollm2-135m": Plan("L14.resid_post", 32, 1280, 3000, 1024, 2e-3, "batch", True, 4, 1 / 8),
}


def documents(model: Any, n: int, seed: int) -> Rows:
    """Documents of tiny-world's generators, without the marks of what can be foreseen, cut to its context."""
    rng, world = random.Random(seed), World()
    texts = [world.document(rng).replace("^", "") for _ in range(n)]
    return [model.to_tokens(text)[0, : model.cfg.n_ctx].tolist() for text in texts]


def stream(model: Any, prompts: Rows, plan: Plan, file: Path | None = None) -> Tensor:
    """x [token, d] of all tokens but the first `skip` of each prompt; in a file where they are many."""
    n, d, at = _n_tokens(prompts, plan), model.cfg.d_model, 0
    x = torch.from_file(str(file), shared=True, size=n * d).view(n, d) if file else torch.empty(n, d)
    size = 128 if file else len(prompts)
    for start in range(0, len(prompts), size):
        part = prompts[start : start + size]
        found = interp.activations(model, part, plan.place, "all", batch_size=8 if file else None)
        kept = found[torch.cat([torch.arange(len(row)) for row in part]) >= plan.skip]
        x[at : at + len(kept)] = kept
        at += len(kept)
    return x


def _n_tokens(prompts: Rows, plan: Plan) -> int:
    return sum(max(len(row) - plan.skip, 0) for row in prompts)


def trained(x: Tensor, plan: Plan, seed: int) -> Dictionary:
    """A dictionary of rows x [token, d]."""
    g = torch.Generator().manual_seed(seed)
    c = x.shape[1] ** 0.5 / float(x.norm(dim=1).mean()) if plan.scaled else 1.0
    b_dec = x.mean(0) * c
    W_dec = normalize(x[torch.randperm(len(x), generator=g)[: plan.n_features]] * c - b_dec, dim=1)
    parts = [W_dec.T.clone() * plan.start, torch.zeros(plan.n_features), W_dec.clone(), b_dec.clone()]
    parts = [part.requires_grad_() for part in parts]
    optimiser = torch.optim.Adam(parts, lr=plan.lr)
    last_on, threshold = torch.zeros(plan.n_features), torch.tensor(float("nan"))
    scale = (x[: 2**15] * c - b_dec).square().sum(1).mean()
    for step in range(plan.steps):
        optimiser.param_groups[0]["lr"] = plan.lr * min(1.0, 2 * (1 - step / plan.steps))
        rows = x[torch.randint(len(x), (plan.batch,), generator=g)] * c
        W_enc, b_enc, W_dec, b_dec = parts
        f, least = _on((rows - b_dec) @ W_enc + b_enc, plan)
        loss = (rows - f @ W_dec - b_dec).square().sum(1)
        optimiser.zero_grad()
        (loss.mean() / scale).backward()
        optimiser.step()
        with torch.no_grad():
            threshold = least if step == 0 else threshold + 0.01 * (least - threshold)
            W_dec.data = normalize(W_dec, dim=1)
            last_on = torch.where((f > 0).any(0), 0.0, last_on + 1)
            _revive(parts, rows, loss, last_on, step, plan)
        if step % 100 == 0 and plan.scaled:
            print(step, float(loss.detach().mean() / scale), int((last_on >= 100).sum()), flush=True)
    W_enc, b_enc, W_dec, b_dec = (part.detach() for part in parts)
    b_enc, b_dec = b_enc / c, b_dec / c
    if plan.over == "token":
        return Dictionary(W_enc, b_enc, W_dec, b_dec, "topk", k=plan.k, centre=True)
    level = (threshold / c).expand(plan.n_features).clone()
    return Dictionary(W_enc, b_enc, W_dec, b_dec, "jumprelu", threshold=level, centre=True)


def _on(h: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
    """Features of pre-activations [token, feature], and the smallest of those that are on."""
    if plan.over == "token":
        values, index = h.topk(plan.k, 1)
        return torch.zeros_like(h).scatter(1, index, values.relu()), values.detach().min()
    positive = h.relu()
    least = positive.detach().flatten().topk(plan.k * len(h), sorted=False).values.min()
    return positive * (positive >= least), least


def _revive(parts: list[Tensor], rows: Tensor, loss: Tensor, last_on: Tensor, step: int, plan: Plan) -> None:
    """Features that have been off for 100 steps start at what is explained worst, but not in the last
    third."""
    dead = (last_on >= 100).nonzero()[:, 0]
    if step % 100 or step > 2 * plan.steps / 3 or not len(dead):
        return
    worst = loss.topk(min(len(dead), len(loss))).indices
    start = normalize(rows[worst] - parts[3], dim=1)
    some = dead[: len(start)]
    parts[0].data[:, some], parts[1].data[some], parts[2].data[some] = start.T * plan.start, 0.0, start
    last_on[some] = 0


def controls(x: Tensor, k: int, n: int, place: str) -> dict[str, Dictionary]:
    """What n features with k on must beat: k principal components (as features of both signs), and matching
    pursuit of k steps with n unit vectors, drawn at random or of tokens drawn from x."""
    g = torch.Generator().manual_seed(0)
    x = x[torch.randperm(len(x), generator=g)[: 2**16]]
    mean = x.mean(0)
    top = torch.linalg.eigh((x - mean).T.double() @ (x - mean).double()).eigenvectors[:, -k:].T.float()
    axes = torch.cat((top, -top))
    zeros = torch.zeros(n)
    vectors = {"random vectors": torch.randn(n, x.shape[1], generator=g), "random tokens": x[:n] - mean}
    made = {"PCA": Dictionary(axes.T, zeros[: 2 * k], axes, mean, place=place, centre=True)}
    for name, drawn in vectors.items():
        atoms = normalize(drawn, dim=1)
        made[name] = Dictionary(
            atoms.T, zeros, atoms, mean, "matching_pursuit", place, pursuit=Pursuit(0.0, k), centre=True
        )
    return made


def figures(model: Any, dictionary: Dictionary, prompts: Rows, **more: Any) -> tuple[dict[str, float], Any]:
    """Those of `sae.report`, rounded, and the report."""
    found = sae.report(model, dictionary, prompts, **more)
    return {str(n): round(float(v), 4) for n, v in found["estimate"].to_series().items()}, found


def _card(model: Any, made: Dictionary, plan: Plan, test: Rows, n: int) -> dict[str, Any]:
    """What every card says."""
    values, found = figures(model, made, test, skip=plan.skip, batch_size=8 if plan.scaled else None)
    card = {"figures": values, "place": plan.place, "k": plan.k, "features": plan.n_features}
    return card | {name: found.attrs[name] for name in ("n_tokens", "dead", "dense")} | {"trained_on": n}


def tiny_world(plan: Plan, folder: Path) -> None:
    model = interp.load("tiny-world")
    train, test = documents(model, 1200, 1), documents(model, 60, 0)
    x = stream(model, train, plan)
    made, twin = (trained(x, plan, seed) for seed in (0, 1))
    made = made.but(place=interp.places.parse(plan.place), model="tiny-world", fingerprint=identity(model))
    same = (made.W_dec @ twin.W_dec.T).amax(1).mean()
    card = _card(model, made, plan, test, len(x)) | {"twin_cosine": round(float(same), 4)}
    _write(made, card, folder)


def smollm2(plan: Plan, folder: Path, work: Path, labels: dict[int, str]) -> None:
    """In steps that leave their files in `work`, so that one that ended can be gone on from. labels: what
    somebody read features as, for the card to show them on held-out text."""
    model = interp.load("smollm2-135m")
    text = _kept(work / "text.json", partial(_english, model))
    x = torch.cat([_stream(model, text[name][0], plan, work / f"{name}.bin") for name in text])
    x = x[x.norm(dim=1) < 4 * x.norm(dim=1).median()]  # a few tokens further on are like the first, too
    if not (folder / "cfg.json").exists():
        torch.set_float32_matmul_precision("medium")  # products in bfloat16 where the core has them
        made = trained(x, plan, 0).but(place=interp.places.parse(plan.place), model="smollm2-135m")
        made.but(fingerprint=identity(model), metadata={}).to(torch.float16).save(folder)
        torch.set_float32_matmul_precision("highest")
    made = sae.load(folder)
    card = _judged(model, made, plan, text, x, work)
    if labels:
        card["read"] = _read(model, made, plan, [row for _, rows in text.values() for row in rows], labels)
    _write(made, card, folder)


def _english(model: Any) -> dict[str, tuple[Rows, Rows]]:
    """By source: to fit on, and held out."""
    manual, docstrings = (make(model, 128) for make in (english.manual, english.docstrings))
    return {
        "manual": manual,
        "docstrings": (docstrings[0][:640], docstrings[1]),  # numpy has three times as many
        "written": english.written(model, 192),
    }


def _kept(file: Path, make: Callable[[], Any]) -> Any:
    """What a file of JSON holds, made where there is none."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(make()))
    return json.loads(file.read_text())


def _stream(model: Any, prompts: Rows, plan: Plan, file: Path) -> Tensor:
    """`stream`, of the file where there is one. ValueError for one of other prompts."""
    n, d = _n_tokens(prompts, plan), model.cfg.d_model
    if not file.exists():
        unfinished = file.with_suffix(".part")
        stream(model, prompts, plan, unfinished)
        unfinished.rename(file)
    if file.stat().st_size != 4 * n * d:
        raise ValueError(f"{file} is not of these {n} tokens; remove it, and it is made again.")
    return torch.from_file(str(file), shared=True, size=n * d).view(n, d)


def _judged(model: Any, made: Dictionary, plan: Plan, text: Any, x: Tensor, work: Path) -> dict[str, Any]:
    """The card: figures on held-out text, those of the controls, and what is left by source."""
    held = {name: rows[:: len(rows) // 8][:8] for name, (_, rows) in text.items()}
    test = [row for rows in held.values() for row in rows]
    card = _kept(work / "card.json", lambda: _card(model, made, plan, test, len(x)))
    rate = torch.stack([(made.encode(part) != 0).sum(0) for part in x.split(2**12)]).sum(0) / len(x)
    others = controls(x, round(card["figures"]["l0"]), plan.n_features, plan.place)
    for name, other in others.items():
        report = partial(figures, model, other, test, skip=plan.skip, batch_size=8)
        card[name] = _kept(work / f"{name}.json", lambda report=report: report()[0])
    held["this documentation"] = english.documentation(model, 128)[:8]
    return card | {
        "fvu by source": {
            name: [round(sae.check(model, d, rows, skip=plan.skip), 4) for d in (made, others["PCA"])]
            for name, rows in held.items()
        },
        "dead_in_training": int((rate == 0).sum()),
        "tokens": {name: _n_tokens(rows, plan) for name, (rows, _) in text.items()},
        "text": english.__doc__,
    }


def _read(
    model: Any, made: Dictionary, plan: Plan, held: Rows, labels: dict[int, str]
) -> dict[str, dict[str, Any]]:
    """For each label, the contexts of held-out text in which its feature is largest."""
    found = sae.contexts(model, made, held[::6], list(labels), top=5, skip=plan.skip, batch_size=8)
    shown = [["".join(context) for context in feature] for feature in found["token"].values]
    rates = [round(float(rate), 4) for rate in found["rate"].values]
    return {
        str(n): {"read as": label, "rate": rate, "largest in held-out text": contexts}
        for (n, label), rate, contexts in zip(labels.items(), rates, shown)
    }


def _write(made: Dictionary, card: dict[str, Any], folder: Path) -> None:
    made.but(metadata={}).save(folder)
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", choices=PLANS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", type=Path, default=Path("out/smollm2-dictionary"), help="SmolLM2's files")
    parser.add_argument("--read", nargs="*", default=[], metavar="N=LABEL", help="what features were read as")
    args = parser.parse_args()
    start = time.monotonic()
    if args.model == "tiny-world":
        tiny_world(PLANS[args.model], args.folder)
    else:
        labels = {int(n): label for n, _, label in (each.partition("=") for each in args.read)}
        smollm2(PLANS[args.model], args.folder, args.work, labels)
    print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
