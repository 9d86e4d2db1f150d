"""The study of steering: every method of extraction and three edits, at equal KL, against both controls.

    python benchmarks/steering_study.py [--model tiny-world] [--cases sentiment ...] [--docs]

Fixed before any figure was seen: a mean KL of 0.2 nats of the next token on the prompts that are steered;
twenty draws of either control, each at that KL too; a direction passes where its effect is above the 95 %
quantile of both. Layers are chosen on other prompts, by the effect of adding at that KL. It writes
benchmarks/results/steering_study.json and .md (steering_smollm2.json of the real model), and the tables of
docs/steering.md between their markers.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import steering_study_tables as tables
import torch
from steering_cases import SENSES, SETUPS, Setup, case
from steering_directions import Directions
from steering_rig import Ablates, Adds, Edits, Measured, Rig, Rotates
from torch import Tensor

import interp
from interp import steering
from interp.models import model_fingerprint
from interp.prompts import Prompts, read
from interp.tasks import Loss
from interp.tasks.metrics import Reading
from interp.tasks.world import Stories

HERE = Path(__file__).resolve().parent
RESULTS = {
    "tiny-world": HERE / "results" / "steering_study.json",
    "smollm2": HERE / "results" / "steering_smollm2.json",
}
PAGE = HERE.parent / "docs" / "steering.md"
TARGET, DRAWS, LEVEL = 0.2, 20, 0.95
DOSES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
PARTS = (0.25, 0.5, 0.75, 1.0)  # of the strength, for slopes by prompt
Found = dict[str, Any]


def study(model: Any, name: str, setup: Setup) -> Iterator[Found]:
    """Both senses of a behaviour: what there is after the first, and after the second."""
    prompts = case(model, name, setup)
    directions = Directions(model, prompts, setup)
    neutral = read(model, _stories(setup.stories))
    sizes = {
        "pairs": len(prompts.up),
        "choose": len(prompts.choose[0]),
        "test": [len(t) for t in prompts.test],
    }
    rows: list[Found] = []
    doses: list[Found] = []
    found = {"weights": model_fingerprint(model)[:16], **sizes, "rows": rows, "doses": doses}
    for sense in (0, 1):
        choose, test = (Rig(model, side[sense], setup.spared) for side in (prompts.choose, prompts.test))
        work = _Sense(directions, sense, test, neutral)
        chosen = {method: _choose(directions, method, sense, choose) for method in directions.methods()}
        for method, (layer, vector, tried) in chosen.items():
            common = {"sense": prompts.senses[sense], "method": method, "layer": layer, "tried": tried}
            cosine = _cosine(vector, chosen["mean_difference"][1] if layer == chosen["mean_difference"][0]
                             else directions.candidates("mean_difference", layer, sense)[0])  # fmt: skip
            rows += [common | {"cosine": cosine} | row for row in work.edits(method, layer, vector)]
        layer, vector, _ = chosen["mean_difference"]
        doses += _doses(test, Adds(layer, vector[None]), prompts.senses[sense])
        yield found


def _choose(
    directions: Directions, method: str, sense: int, rig: Rig
) -> tuple[int, Tensor, dict[str, float]]:
    """The layer (and pair) whose direction has the largest effect at the KL, and the best of each layer."""
    layers = directions.setup.layers
    best, tried = (-float("inf"), layers[0], torch.zeros(1)), {}
    for layer in layers:
        found = directions.candidates(method, layer, sense)
        effects = _effects(rig, layer, found)
        top = int(effects.nan_to_num(-float("inf")).argmax())
        tried[str(layer)] = float(effects[top])
        best = max(best, (float(effects[top]), layer, found[top]), key=lambda one: one[0])
    return best[1], best[2], tried


def _effects(rig: Rig, layer: int, vectors: list[Tensor]) -> Tensor:
    """Mean effect of adding each vector at the KL; vectors by position can differ in length."""
    found = []
    for group in _same_shape(vectors):
        edits = Adds(layer, torch.stack(group))
        found.append(rig.measure(edits, rig.calibrate(edits, TARGET)).effect.mean(1))
    return torch.cat(found)


def _same_shape(vectors: list[Tensor]) -> list[list[Tensor]]:
    """All in one group, with rows of 0 behind shorter ones."""
    if vectors[0].ndim == 1:
        return [vectors]
    most = max(len(v) for v in vectors)
    return [[torch.nn.functional.pad(v, (0, 0, 0, most - len(v))) for v in vectors]]


class _Sense:
    """One behaviour steered one way: what every edit of a direction does, beside its controls."""

    def __init__(self, directions: Directions, sense: int, rig: Rig, neutral: Prompts) -> None:
        self.directions, self.sense, self.rig, self.neutral = directions, sense, rig, neutral
        self.base_loss = self._loss()
        self.base_repetition = self._repetition()
        self.controls: dict[tuple[str, str, int], Found] = {}
        self.drawn: dict[tuple[str, int], list[Tensor]] = {}

    def edits(self, method: str, layer: int, vector: Tensor) -> list[Found]:
        """A row for each edit that the direction can be used in."""
        kinds = ["add"]
        if vector.ndim == 1:
            kinds += ["rotate", *(["ablate"] if method not in ("optimise", "weighted_mean") else [])]
        kinds = [kind for kind in kinds if kind in self.directions.setup.edits]
        return [{"edit": kind, **self.row(kind, method, layer, vector)} for kind in kinds]

    def row(self, kind: str, method: str, layer: int, vector: Tensor) -> Found:
        """Figures of one direction under one edit."""
        edits = self.make(kind, layer, [vector])
        strength = torch.ones(1) if kind == "ablate" else self.rig.calibrate(edits, TARGET)
        if bool(strength.isnan()):
            return {"refused": f"no strength reaches {TARGET} nats"}
        seen = self.rig.measure(edits, strength)
        row = _figures(seen, float(strength)) | self._side_effects(edits, float(strength), seen)
        row |= self._slopes(edits, strength)
        row["random"] = self._random(kind, layer, vector)
        row["shuffled"] = self._shuffled(kind, layer, method)
        if kind == "add":
            drawn = self.make(kind, layer, self.directions.random(layer, DRAWS, tuple(vector.shape)))
            row["equal_norm"] = _null(self.rig.measure(drawn, strength.expand(DRAWS)))
        row["passes"] = row["effect"] > max(row["random"]["high"], row["shuffled"]["high"])
        return row

    def make(self, kind: str, layer: int, vectors: list[Tensor]) -> Edits:
        """A set of edits of one kind."""
        stacked = torch.stack(_same_shape(vectors)[0])
        if kind == "rotate":
            return Rotates(layer, stacked, self.directions.start(layer, self.sense))
        return Adds(layer, stacked) if kind == "add" else Ablates(layer, stacked)

    def _control(self, edits: Edits, kind: str) -> Found:
        """Effects of many directions, each at the KL; ablations all at strength 1."""
        ones = torch.ones(len(edits.vectors))
        strength = ones if kind == "ablate" else self.rig.calibrate(edits, TARGET, tolerance=0.03)
        return _null(self.rig.measure(edits, strength.nan_to_num(edits.most)))

    def _random(self, kind: str, layer: int, vector: Tensor) -> Found:
        key = (kind, f"random {tuple(vector.shape)}", layer)
        if key not in self.controls:
            drawn = self.directions.random(layer, DRAWS, tuple(vector.shape))
            self.controls[key] = self._control(self.make(kind, layer, drawn), kind)
        return self.controls[key]

    def _shuffled(self, kind: str, layer: int, method: str) -> Found:
        method = "mean_difference" if method == "weighted_mean" else method  # weights go with the true labels
        if (method, layer) not in self.drawn:
            self.drawn[method, layer] = self.directions.shuffled(method, layer, self.sense, DRAWS)
        key = (kind, method, layer)
        if key not in self.controls:
            edits = self.make(kind, layer, self.drawn[method, layer])
            self.controls[key] = self._control(edits, kind)
        return self.controls[key]

    def _slopes(self, edits: Edits, strength: Tensor) -> Found:
        """Least-squares slope of the effect of each prompt against the share of the strength."""
        share = torch.tensor((0.0, *PARTS), dtype=torch.float64)
        some = [self.rig.measure(edits, part * strength).effect[0] for part in PARTS]
        values = torch.stack((torch.zeros_like(some[0]), *some))  # [share, prompt]
        c = share - share.mean()
        slope = (c[:, None] * values).sum(0) / c.square().sum()
        return {
            "slope": slope.mean().item(),
            "slope_sd": slope.std().item(),
            "wrong": (slope < 0).double().mean().item(),
        }

    def _side_effects(self, edits: Edits, strength: float, seen: Measured) -> Found:
        """On neutral text and on what is generated, by the package's own functions; and that these agree."""
        made = self.rig.placed(edits.public(self.rig.model, strength))
        with torch.no_grad(), steering.steer(self.rig.model, *made):
            tokens = self.rig.task.clean
            logits = self.rig.model(tokens)[torch.arange(len(tokens)), self.rig.task.positions].double()
        gap = (self.rig.difference(logits) - self.rig.difference(self.rig.clean) - seen.effect[0]).abs().max()
        return {
            "perplexity": (self._loss(*made) - self.base_loss).exp().item(),
            "repetition": self._repetition(*made),
            "base_repetition": self.base_repetition,
            "gap": gap.item(),
        }

    def _loss(self, *made: Any) -> Tensor:
        """Mean loss on the stories, nats a token."""
        tokens, lengths = self.neutral.tokens, self.neutral.lengths
        with torch.no_grad(), steering.steer(self.rig.model, *made):
            logits = self.rig.model(tokens)
        none = torch.zeros((len(tokens), 0), dtype=torch.long)
        return Loss()(Reading(logits, logits, none, none, tokens, lengths)).double().mean()

    def _repetition(self, *made: Any) -> float:
        """Share of the pairs of words generated that came before in the same row."""
        prompts = Prompts(self.rig.task.clean, self.rig.task.lengths)
        n = self.directions.setup.new_tokens
        whole = steering.generate(self.rig.model, prompts, *made, max_new_tokens=n, stop=())
        column = prompts.lengths[:, None] + torch.arange(n)
        return steering.measures.repetition(whole.gather(1, column)).mean().item()


def _figures(seen: Measured, strength: float) -> Found:
    effect, kl = seen.effect[0], seen.kl[0]
    return {
        "strength": strength, "effect": effect.mean().item(), "effect_sd": effect.std().item(),
        "kl": kl.mean().item(), "kl_p95": kl.quantile(LEVEL).item(), "kl_median": kl.median().item(),
        "entropy": seen.entropy.mean().item(), "flipped": seen.flipped.double().mean().item(),
    }  # fmt: skip


def _null(seen: Measured) -> Found:
    """Mean, 95 % quantile and largest of the mean effects of a control's draws."""
    effects = seen.effect.mean(1)
    return {
        "mean": effects.mean().item(), "high": effects.quantile(LEVEL).item(),
        "largest": effects.max().item(),
        "kl": seen.kl.mean().item(), "draws": len(effects), "wrong": (seen.effect < 0).double().mean().item(),
    }  # fmt: skip


def _doses(rig: Rig, edits: Edits, sense: str) -> list[Found]:
    """Adding one direction at several values of the KL."""
    rows = []
    for target in DOSES:
        strength = rig.calibrate(edits, target)
        if not bool(strength.isnan()):
            rows.append(
                {"sense": sense, "target": target, **_figures(rig.measure(edits, strength), float(strength))}
            )
    return rows


def _cosine(one: Tensor, two: Tensor) -> float | None:
    return None if one.ndim != two.ndim else torch.cosine_similarity(one, two, dim=0).item()


def _stories(n: int) -> list[str]:
    """Held-out stories of the world."""
    rng, stories = random.Random(0), Stories()
    return [stories.document(rng, test=True).replace("^", "") for _ in range(n)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", choices=list(SETUPS), default="tiny-world")
    parser.add_argument("--cases", nargs="*", choices=list(SENSES), help="by default all of the model's")
    parser.add_argument("--docs", action="store_true", help="only write the tables again")
    args = parser.parse_args()
    if not args.docs:
        torch.set_num_threads(1)
        _measure(SETUPS[args.model], RESULTS[args.model], args.cases)
    done = {name: _load(path) for name, path in RESULTS.items()}
    for name, path in RESULTS.items():
        path.with_suffix(".md").write_text(tables.everything(done[name]), encoding="utf-8")
    PAGE.write_text(tables.filled(PAGE.read_text(encoding="utf-8"), *done.values()), encoding="utf-8")


def _measure(setup: Setup, results: Path, names: list[str] | None) -> None:
    """Every case, written as it comes."""
    done, model = _load(results), interp.load(setup.model)
    for name in names or setup.cases:
        start = time.perf_counter()
        for found in study(model, name, setup):
            done[name] = found | {"seconds": time.perf_counter() - start}
            results.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
            print(f"{name}: {done[name]['seconds']:.0f} s", file=sys.stderr)


def _load(path: Path) -> Found:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


if __name__ == "__main__":
    main()
