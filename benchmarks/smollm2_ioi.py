"""The study of indirect objects in SmolLM2-135M-Instruct: behaviour, heads, roles, paths, back-up, circuit.

    python benchmarks/smollm2_ioi.py [--out out/smollm2_ioi] [--steps heads paths ...] [--docs]

Every step is kept in the folder `--out` as soon as it is done, and a later call goes on from there. At the
end it writes benchmarks/results/smollm2_ioi.json; with `--docs` also the tables and pictures of
docs/smollm2-ioi.md.

What counts as found is below, what as a role in `smollm2_ioi_figures.py`; both were written before this run.
Half of the templates find (discovery), the other half measure (verification); mirrored prompts are one unit.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import smollm2_ioi_figures as figures
import smollm2_ioi_tables as tables
import torch
import xarray as xr

import interp
from interp import circuits, heads, stats
from interp.circuits import Circuit
from interp.methods import IG
from interp.models import model_fingerprint
from interp.results import prompt_coords
from interp.tasks import Task

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "smollm2_ioi.json"
PAGE = HERE.parent / "docs" / "smollm2-ioi.md"
IMAGES = HERE.parent / "docs" / "images"
QUIET: dict[str, Any] = {"progress": False}
PARTS = ("discovery", "verification")
N, SEED = 48, 0  # prompts, half of them in either part
FEWER = 16  # of a part, for all that is measured after the heads
SIZES = (25, 50, 100, 200, 400, 800, 1600)  # edges of the circuits that are tried
REACHED = 0.75  # faithfulness on discovery prompts that the circuit must reach
SMALL = 50  # edges of the small circuit that is tested beside the chosen one
WRITERS = 5  # heads whose queries are receivers
LOADS = ("inhibition", "name_mover")
SENDERS = 2  # heads that are followed forward
IN_A_SET = 4  # heads that are ablated together
LENGTHS = (20, 31)  # of random tokens that are repeated


class Study:
    """The model and its prompts, and the results that are kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def model(self) -> Any:
        return interp.load("smollm2-135m")

    @property
    def group(self) -> int:
        """Query heads that share a key-value head."""
        return self.model.cfg.n_heads // (self.model.cfg.n_key_value_heads or self.model.cfg.n_heads)

    @cached_property
    def parts(self) -> dict[str, Task]:
        """Discovery on half of the templates, verification on the others."""
        return dict(zip(PARTS, interp.tasks.ioi(self.model, n=N, seed=SEED).split(0.5, SEED)))

    def kept(self, name: str, make: Callable[[], xr.Dataset]) -> xr.Dataset:
        """A result: read if it is there, else measured and kept."""
        path = self.folder / f"{name}.nc"
        if not path.exists():
            start = time.perf_counter()
            result = make()
            result.attrs["seconds"] = time.perf_counter() - start
            result.to_netcdf(path.with_suffix(".new"), engine="h5netcdf")
            path.with_suffix(".new").rename(path)
            print(f"{name:<32}{result.attrs['seconds']:8.0f} s", flush=True)
        return xr.load_dataset(path, engine="h5netcdf")

    def on_both(self, name: str, make: Callable[[Task], xr.Dataset], n: int = FEWER) -> list[xr.Dataset]:
        """A result of the first n prompts of each part."""
        parts = self.parts.items()
        return [self.kept(f"{name}-{part}", lambda task=task: make(task[:n])) for part, task in parts]

    @property
    def fresh(self) -> Task:
        """The prompts that choose nothing."""
        return self.parts["verification"][:FEWER]

    def behaviour(self) -> list[xr.Dataset]:
        """Logits of the two names at the end of every clean prompt, and the rank of the right one."""
        return self.on_both("behaviour", self._behaviour, N)

    def _behaviour(self, task: Task) -> xr.Dataset:
        with torch.inference_mode():
            logits = self.model(task.clean)[torch.arange(len(task)), task.positions].double().cpu()
        at = {"io": task.answers[:, :1].cpu(), "s": task.wrongs[:, :1].cpu()}
        log_probs = logits.log_softmax(-1)
        mine = logits.gather(1, at["io"])
        table = {name: ("prompt", log_probs.gather(1, ids)[:, 0].exp().numpy()) for name, ids in at.items()}
        table["value"] = ("prompt", (mine - logits.gather(1, at["s"]))[:, 0].numpy())
        table["rank"] = ("prompt", (logits > mine).sum(1).numpy())
        spans = task.spans
        first = (spans["io"].int().argmax(1) < spans["s1"].int().argmax(1)).cpu().numpy()
        return xr.Dataset(table, {**prompt_coords(task), "abb": ("prompt", first.astype(int))})

    def heads(self) -> list[xr.Dataset]:
        """The exact effect of every head, on both parts."""
        return self.on_both("heads", lambda task: interp.patch(self.model, task, "z", **QUIET), N)

    def mirror(self) -> dict[str, xr.Dataset]:
        """Both directions, for the confirmed heads on some prompts: of mirrored prompts one measurement."""
        return {d: self._listed(f"mirror-{d}", self.fresh[:8], direction=d) for d in ("denoise", "noise")}

    def mean(self) -> xr.Dataset:
        """Confirmed heads replaced by their mean over prompts: another question than the corrupt prompt's."""
        return self._listed("mean", self.fresh, direction="noise", ablation="mean")

    def _listed(self, name: str, task: Task, **options: Any) -> xr.Dataset:
        cells = self.confirmed
        return self.kept(name, lambda: interp.patch(self.model, task, cells=cells, **options, **QUIET))

    @cached_property
    def confirmed(self) -> list[str]:
        """Heads that discovery finds and verification confirms, in the order of the model."""
        return sorted(self.largest, key=figures.place)

    @cached_property
    def largest(self) -> list[str]:
        """The confirmed heads, that with the largest effect on discovery first."""
        found = stats.verify(*self.heads(), top=None, seed=SEED)
        return [name for name, sure in figures.by_head(found) if sure]

    def named(self) -> xr.Dataset:
        """Attention from the end to the names, copying of io, direct effects."""
        return self.kept("roles-io", lambda: heads.roles(self.model, self.parts["verification"]))

    def direct(self) -> dict[str, float]:
        """The mean direct effect of every head."""
        return figures.flat(self.named()["direct"].mean("prompt"))

    def roles(self) -> dict[str, xr.Dataset]:
        """Attention of named positions, copying of io and of s, direct effects, scores on repeats."""
        task = self.fresh
        ends, sources = ["end", "s2", "s1+1"], ["io", "s1", "s1+1", "s2"]
        makers = {
            "attention": lambda: heads.attention(self.model, task, dst=ends, src=sources),
            "scores": lambda: heads.scores(self.model, lengths=LENGTHS, seed=SEED, **QUIET),
            "roles-s2": lambda: heads.roles(self.model, task, io="s2", s1="io", s2="s1"),
        }
        return {"roles-io": self.named(), **{name: self.kept(name, make) for name, make in makers.items()}}

    def loads(self) -> dict[str, xr.Dataset]:
        """The heads with most of a score ablated together, against random heads of their layers."""
        roles = self.roles()
        task, out = self.fresh, {}
        for score in LOADS:
            result = roles["scores" if score in roles["scores"]["score"].values else "roles-io"]
            out[score] = self.kept(
                f"load-{score}",
                lambda result=result, score=score: heads.load_bearing(
                    self.model, task, result, score=score, n=IN_A_SET, seed=SEED, **QUIET
                ),
            )
        return out

    @cached_property
    def writers(self) -> list[str]:
        """Confirmed heads with the largest |direct effect|."""
        direct = self.direct()
        return sorted(self.confirmed, key=lambda name: -abs(direct[name]))[:WRITERS]

    def paths(self) -> dict[str, list[xr.Dataset]]:
        """Who feeds the logits, and who the writers' queries at the end."""
        queries = [f"{name}.q" for name in self.writers]
        return {"logits": self._to("logits", ["logits"]), "queries": self._to("queries", queries)}

    def forward(self) -> list[xr.Dataset]:
        """What hears the heads that matter most and write little themselves: any query, key, value."""
        senders = [name for name in self.largest if name not in self.writers][:SENDERS]
        facts, first = self.model.cfg, min(figures.place(name)[0] for name in senders) + 1
        n_kv = facts.n_heads // self.group
        receivers = [
            f"L{layer}H{head}.{part}"
            for layer in range(first, facts.n_layers)
            for part, n in (("q", facts.n_heads), ("k", n_kv), ("v", n_kv))
            for head in range(n)
        ]
        return self.on_both(
            "forward", lambda task: interp.path_patch(self.model, task, senders, [*receivers], **QUIET)
        )

    def _to(self, name: str, receivers: list[str]) -> list[xr.Dataset]:
        options: dict[str, Any] = {"receiver_positions": "end", **QUIET}
        return self.on_both(
            f"paths-{name}",
            lambda task: interp.path_patch(self.model, task, "heads", [*receivers], **options),
        )

    def movers(self) -> list[str]:
        """The writers whose direct effect is positive."""
        direct = self.direct()
        return [name for name in self.writers if direct[name] > 0]

    def backup(self) -> xr.Dataset:
        """The movers out; who steps in?"""
        out = self.movers()
        return self.kept("backup", lambda: heads.backup(self.model, self.fresh, out, seed=SEED, **QUIET))

    def scores(self) -> xr.Dataset:
        """Every edge, on discovery prompts; their mean over prompts is what is kept."""

        def make() -> xr.Dataset:
            task = self.parts["discovery"][:FEWER]
            found = circuits.score_edges(self.model, task, method=IG(steps=5), direction="noise", **QUIET)
            return found.assign(value=found["value"].astype("float32"))

        return self.kept("edges", make)

    def found(self) -> list[Circuit]:
        """The best edges of each size, less those on no path."""
        path = self.folder / "circuits"
        path.mkdir(exist_ok=True)
        out = []
        for n in SIZES:
            file = path / f"{n}.json"
            if not file.exists():
                circuit = circuits.prune(circuits.top(self.scores(), n))
                Circuit(circuit.graph, circuit.mask, circuit.scores, circuit.provenance, f"{n}").save(file)
            out.append(Circuit.load(file))
        return out

    def faithfulness(self) -> list[xr.Dataset]:
        """Of every size, on both parts."""
        every = self.found()

        def make(task: Task) -> xr.Dataset:
            measures = ("faithfulness", "completeness")[: 1 + (task.part == PARTS[0])]
            return circuits.evaluate(self.model, task, every, measures=measures, subsets=0, **QUIET)

        return self.on_both("faithfulness", make)

    def judged(self) -> dict[str, xr.Dataset]:
        """Random circuits of two sizes, and the three tests of both."""
        fresh, chosen = self.fresh, figures.chosen_size(self.faithfulness()[0], REACHED)
        by_size = dict(zip(SIZES, self.found()))
        edges = sorted({by_size[n].n_edges for n in (SMALL, chosen)})
        options: dict[str, Any] = {"seed": SEED, **QUIET}
        makers = {
            "random": lambda: circuits.random_baseline(self.model, fresh, edges, draws=20, **options),
        }
        for size in sorted({SMALL, chosen}):
            makers[f"tests-{size}"] = lambda size=size: circuits.hypothesis_tests(
                self.model, fresh, by_size[size], **options
            )
        return {name: self.kept(name, make) for name, make in makers.items()}

    def story(self) -> dict[str, list[figures.Row]]:
        """The paths that discovery finds, as verification measures them."""
        return {name: figures.verified(both) for name, both in self.paths().items()}

    def traced(self, story: dict[str, list[figures.Row]]) -> Circuit:
        """The confirmed paths as a circuit, an edge for each, with its mean effect as score."""
        graph = self.found()[0].graph
        mask, scores = torch.zeros_like(graph.allowed), torch.full(graph.allowed.shape, torch.nan)
        for row in (row for rows in story.values() for row in rows if row["confirmed"]):
            edge = graph.edge(f"{row['head']}->{row.get('receiver', 'logits')}")
            mask[edge], scores[edge] = True, row["estimate"]
        return Circuit(graph, mask, scores, {"method": "path patching", "task": "ioi"}, "of confirmed paths")

    def everything(self) -> dict[str, Any]:
        """All figures of the page."""
        story, judged, faithfulness = self.story(), self.judged(), self.faithfulness()
        parts = {
            **self.roles(),
            "heads": self.heads(),
            "mean": self.mean(),
            "queries": story["queries"],
        }
        kept = [xr.open_dataset(path, engine="h5netcdf") for path in sorted(self.folder.glob("*.nc"))]
        return {
            "model": self.model.cfg.model_name, "weights": model_fingerprint(self.model)[:16],
            "versions": self.heads()[0].attrs["versions"],
            "seconds": sum(float(each.attrs["seconds"]) for each in kept),
            "settings": {"n": N, "fewer": FEWER, "seed": SEED,
                         "looks": figures.LOOKS, "copies": figures.COPIES,
                         "scores": figures.SCORES, "reached": REACHED},
            "behaviour": figures.behaviour(self.behaviour()),
            "heads": figures.head_effects(self.heads(), self.mirror()),
            "roles": figures.role_rows(self.confirmed, parts),
            "load": {name: figures.load(found) for name, found in self.loads().items()},
            "writers": self.writers, "paths": story,
            "asked": {name: both[0]["receiver"].values.tolist() for name, both in self.paths().items()},
            "forward": figures.verified(self.forward()),
            "followed": [str(name) for name in self.forward()[0]["sender"].values],
            "backup": {"out": self.movers(), **figures.backup(self.backup())},
            "sizes": figures.sizes(faithfulness, judged["random"]),
            "chosen": figures.chosen_size(faithfulness[0], REACHED), "small": SMALL,
            "tests": {name[6:]: figures.tests(found) for name, found in judged.items() if name != "random"},
        }  # fmt: skip


STEPS = (
    "behaviour", "heads", "mirror", "mean", "roles", "paths", "forward", "backup", "loads", "scores",
    "faithfulness", "judged",
)  # fmt: skip


def main() -> None:
    """All steps, or some."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/smollm2_ioi"))
    parser.add_argument("--steps", nargs="*", choices=STEPS, default=STEPS)
    parser.add_argument("--docs", action="store_true", help="write the page's tables and pictures too")
    args = parser.parse_args()
    study = Study(args.out)
    for step in args.steps:
        getattr(study, step)()
    if set(args.steps) == set(STEPS):
        RESULTS.write_text(json.dumps(figures.rounded(study.everything()), indent=1) + "\n")
    if args.docs:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(tables.filled(page, json.loads(RESULTS.read_text())), encoding="utf-8")
        draw(study)


def draw(study: Study) -> None:
    """The page's pictures."""
    story = study.story()
    drawn = {
        "heads": interp.plot.heads(study.heads()[1], interval=0.95),
        "paths": interp.plot.circuit(study.traced(story), colour="sign"),
    }
    files = [IMAGES / f"ioi-{name}.png" for name in drawn]
    interp.plot.save_image(list(drawn.values()), files, width=800, scale=1.0)


if __name__ == "__main__":
    main()
