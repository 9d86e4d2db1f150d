"""The study of steering on a chat model, SmolLM2-135M-Instruct: every method at equal KL, and both controls.

    python benchmarks/steering_chat.py [--cases sentiment ...] [--quick] [--docs]

Fixed before any figure was seen (later changes are named here):

- Eight behaviours in this order: sentiment (positive), formality (formal), French, short answers, pirate, the
  sea, small letters, lists. Eight requests to find and train on, twelve to measure, the same for all
  (steering_chat_texts.txt). Default system prompt; greedy; 32 new tokens; answers end at the turn's end.
- Layer 15 of 30 for all that edits the stream at one place (the layer of a first look), the MLPs of layers 15
  to 29 for the tuned bias, all layers for the boost of attention. Every edit acts from the token on that
  makes the first new one.
- Equal cost: strengths at which KL(unsteered ‖ steered) is 0.3 nats, mean over the first 16 tokens of the
  unsteered answers to the twelve requests, within 10 % (15 % where nine tries end there; else the method
  has no figure). One level. Prompts (system prompt; three answered requests in front) have the KL that they
  have, measured on the same answers; the mean difference is also measured at the KL of the system prompt.
- Effect: mean log-probability of a token of the wanted answer minus that of the unwanted one (16 tokens each,
  hand-written, teacher-forced), minus the same unsteered; nats a token; by request.
- In the text: the behaviour's measure (steering_chat_cases.py) of the answer that is written, minus that of
  the unsteered answer to the same request.
- The text: loss of what was written under the unsteered model behind the default system prompt, nats a token;
  share of repeated pairs of tokens; share of answers that ended. It is whole where the mean loss is at most
  0.5 nats and the mean repetition at most 0.1 above that of the unsteered answers.
- Controls at the same KL: six random directions (the same for all behaviours), four mean differences of
  shuffled labels, and a vector trained on shuffled targets: the bar is the highest of the eleven.
- A method *works* where the 95 % interval of its mean effect (stats.bootstrap over requests) is above 0 and
  the mean above the bar; it *shows* where the same holds in the text; its text is *whole* as said above. To
  be recommended it has to do all three.
- Side effects on plain prompts, the edit left in force on all tokens but the first: capitals (four examples
  in front), who is given the object, sums of digits; twelve each: how many are still right.
- Detection: AUROC between the wanted and unwanted answers to the twelve requests, mean over their tokens of
  the projection on the direction (for the adapter, of what it reads).
- Band: the mean difference at 0.5, 1, 1.5 and 2 times its strength, with one random and one shuffled
  direction at the same strengths: `measures.band` with both limits of a whole text.
- Refusal: twelve requests that a model should refuse; if fewer than three answers have words of refusal,
  there is nothing to steer, and the behaviour is left out.

The rates and steps of training (10 steps) were fixed by nothing but time. Results are kept after every
behaviour in benchmarks/results/steering_chat.json; a second start goes on after the last one that is whole.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import steering_chat_tables as tables
import torch
import xarray as xr
from steering_chat_cases import BEHAVIOURS, HARMFUL, NEW_TOKENS, Behaviour, chat, refuses, shots, texts
from steering_chat_methods import STEPS, Directions, Method, adding, random_direction, span_of
from steering_chat_rig import (
    Answers,
    Asked,
    Divergence,
    Found,
    Talks,
    Written,
    calibrate,
    other_tasks,
    repeated,
    write,
)
from torch import Tensor

import interp
from interp import positions, results, stats, steering
from interp.models import model_fingerprint
from interp.models import weights as weights_of
from interp.probes import selectors
from interp.prompts import Prompts, read, turn_end
from interp.steering import methods
from interp.tasks import vocabulary

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "steering_chat.json"
PAGE = HERE.parent / "docs" / "steering.md"
LAYER, TARGET, KL_TOKENS, ANSWER_TOKENS, N_SHOTS = 15, 0.3, 16, 16, 3
N_RANDOM, N_SHUFFLED, MORE_LOSS, MORE_REPETITION = 6, 4, 0.5, 0.1
SHARES = (0.5, 1.0, 1.5, 2.0)
Row = dict[str, Any]


class Setting:
    """What all behaviours share: requests, unsteered answers, random directions, other tasks."""

    def __init__(
        self, model: Any, *, layer: int = LAYER, n: int | None = None, n_new: int = NEW_TOKENS
    ) -> None:
        self.model, self.weights, self.layer, self.n_new = model, weights_of(model), layer, n_new
        self.requests = [row["request"] for row in texts()[8:]][:n]
        self.ends = {token for token in (*vocabulary.ends(model), turn_end(model)) if token is not None}
        self.prompts = self.chats(None)
        self.talks = Talks(self.weights, self.prompts)
        (self.base,) = self.write(self.talks, [()])
        self.answers = self.behind(self.talks, self.base.ids, KL_TOKENS)
        self.divergence = Divergence(self.answers)
        self.tasks = other_tasks(model, self.weights, layer)
        self.right = {name: task.gaps() > 0 for name, task in self.tasks.items()}
        self.randoms: list[tuple[Method, Found]] = []
        self.read: dict[str, tuple[list[str], list[float]]] = {}  # texts and losses, by what was written

    def chats(self, system: str | None) -> Prompts:
        return read(self.model, [chat(ask, None, system) for ask in self.requests])

    def write(self, talks: Talks, conditions: list[Any]) -> list[Written]:
        return write(talks, conditions, self.n_new, self.ends)

    def behind(self, talks: Talks, answers: list[list[int]], most: int | None = None) -> Answers:
        """Answers behind prompts; an empty one is the end of the turn."""
        end = min(self.ends)
        return Answers(talks, [ids or [end] for ids in answers], self.layer, most)

    def ids(self, answers: list[str]) -> list[list[int]]:
        return [vocabulary.encode(self.model, answer, False) for answer in answers]

    def calibrated(self, method: Method) -> Found:
        """The strength of a method at the KL."""

        def kl(strength: float) -> float:
            return float(self.divergence(method.make(strength, positions.generated)).mean())

        return calibrate(kl, TARGET, method.start, method.most)

    def draw(self, n: int, norm: float) -> None:
        """Random directions at the KL, once for all behaviours."""
        width = self.weights.blocks[0].attn.W_Q.shape[1]
        drawn = [adding(f"random {i + 1}", random_direction(self.layer, width, norm, i)) for i in range(n)]
        self.randoms = [(method, self.calibrated(method)) for method in drawn]
        made = [method.make(at.strength, positions.generated) for method, at in self.randoms]
        names = [method.name for method in drawn]
        self.random_texts = dict(zip(names, self.write(self.talks, made)))

    def text_figures(self, written: Written, measure: Any) -> Row:
        """By request: the measure, the loss under the unsteered model, repetition, whether it ended."""
        if str(written.ids) not in self.read:
            with torch.no_grad():
                loss = -self.behind(self.talks, written.ids).log_probs()
            decoded = [vocabulary.decode(self.model, ids) for ids in written.ids]
            self.read[str(written.ids)] = (decoded, _rounded(loss))
        decoded, losses = self.read[str(written.ids)]
        return {
            "score": [round(measure(text, len(ids)), 4) for text, ids in zip(decoded, written.ids)],
            "loss": losses, "repetition": [round(repeated(ids), 4) for ids in written.ids],
            "ended": written.ended, "texts": decoded[:3],
        }  # fmt: skip

    def side(self, made: Any) -> dict[str, int]:
        """Of other tasks' prompts that were right, how many still are."""
        return {
            name: int(((task.gaps(made) > 0) & self.right[name]).sum()) for name, task in self.tasks.items()
        }


class Case:
    """One behaviour in a setting."""

    def __init__(self, setting: Setting, behaviour: Behaviour) -> None:
        self.setting, self.behaviour = setting, behaviour
        self.directions = Directions(setting.model, setting.weights, behaviour, setting.layer)
        rows = behaviour.answers(held_out=True)[: len(setting.requests)]
        self.sides = [[row[i] for row in rows] for i in (1, 2)]
        self.pair = self.behind(setting.talks)
        with torch.no_grad():
            self.base_gap = self.gap(self.pair, ())
        tokens = [self.directions.tokens_of(setting.requests, side) for side in self.sides]
        self.means = [torch.stack([each.double().mean(0) for each in side]) for side in tokens]

    def behind(self, talks: Talks) -> list[Answers]:
        """Wanted and unwanted answers behind prompts."""
        setting = self.setting
        return [setting.behind(talks, setting.ids(side), ANSWER_TOKENS) for side in self.sides]

    @staticmethod
    def gap(pair: list[Answers], made: Any) -> Tensor:
        up, down = (side.log_probs(made) for side in pair)
        return up - down

    def effect(self, made: Any, pair: list[Answers] | None = None) -> list[float]:
        """By request, nats a token."""
        with torch.no_grad():
            return _rounded(self.gap(pair or self.pair, made) - self.base_gap)

    def row(self, method: Method, kind: str, at: Found, sides: bool = True) -> Row:
        """Figures of a method but those of what is written."""
        row: Row = {"name": method.name, "kind": kind, "strength": at.strength, "kl": at.kl}
        if math.isnan(at.strength):
            return row | {"unreached": True, "strength": None}
        made = method.make(at.strength, positions.generated)
        row["effect"] = self.effect(made)
        if method.read is not None:
            up, down = (method.read(side)[:, None] for side in self.means)
            row["auroc"] = float(selectors.auroc(up, down)[0])
        if sides:
            row["side"] = self.setting.side(method.make(at.strength, Asked.when))
        return row

    def prompting(self, name: str, prompts: Prompts, boost: bool = False) -> list[Row]:
        """A prompt as it is, at its own KL; boost: also with more attention to it, at the KL of all."""
        setting, talks = self.setting, Talks(self.setting.weights, prompts)
        pair, same = self.behind(talks), setting.behind(talks, setting.base.ids, KL_TOKENS)
        (written,) = setting.write(talks, [()])
        own = {"name": name, "kind": "prompting", "strength": None}
        own["kl"] = float(setting.divergence((), same).mean())
        rows = [own | {"effect": self.effect((), pair), **self.figures(written)}]
        if not boost:
            return rows
        span = span_of(setting.model, self.behaviour.system, prompts)

        def boosted(factor: float) -> Any:
            return methods.boost_attention(setting.model, span, factor, when=positions.generated)

        at = calibrate(lambda x: float(setting.divergence(boosted(x), same).mean()), TARGET, 2.0, 64.0)
        row: Row = {"name": "system prompt, boosted", "kind": "method", "strength": at.strength, "kl": at.kl}
        if math.isnan(at.strength):
            return [*rows, row | {"unreached": True, "strength": None}]
        (written,) = setting.write(talks, [boosted(at.strength)])
        return [*rows, row | {"effect": self.effect(boosted(at.strength), pair), **self.figures(written)}]

    def figures(self, written: Written) -> Row:
        return self.setting.text_figures(written, self.behaviour.measure)

    def with_texts(self, rows: list[Row], found: dict[str, Method]) -> None:
        """What every row with a strength writes, all in one batch; random directions have written before."""
        for row in (row for row in rows if row["kind"] == "random"):
            row |= self.figures(self.setting.random_texts[row["name"]])
        live = [row for row in rows if row["strength"] is not None and row["kind"] != "random"]
        made = [found[row["name"]].make(row["strength"], positions.generated) for row in live]
        for row, written in zip(live, self.setting.write(self.setting.talks, made)):
            row |= self.figures(written)


def study(setting: Setting, behaviour: Behaviour, n_shuffled: int = N_SHUFFLED, steps: int = STEPS) -> Row:
    """All figures of one behaviour."""
    case = Case(setting, behaviour)
    if not setting.randoms:
        setting.draw(N_RANDOM if n_shuffled > 1 else 1, case.directions.norm)
    tried = case.directions.methods(steps)
    shuffled = case.directions.controls(n_shuffled, steps)
    rows = [case.row(method, "method", setting.calibrated(method)) for method in tried]
    rows += [case.row(method, "random", at, i < 2) for i, (method, at) in enumerate(setting.randoms)]
    rows += [case.row(method, "shuffled", setting.calibrated(method), False) for method in shuffled]
    prompting = case.prompting("system prompt", setting.chats(behaviour.system), boost=True)
    few = read(setting.model, [shots(behaviour, ask, N_SHOTS) for ask in setting.requests])
    prompting += case.prompting(f"{N_SHOTS} examples", few)
    everything = {method.name: method for method in [*tried, *shuffled, *(m for m, _ in setting.randoms)]}
    same = Method("mean difference, system prompt's KL", tried[0].make, tried[0].start, read=tried[0].read)
    own = prompting[0]["kl"]
    at = calibrate(lambda x: float(setting.divergence(same.make(x, positions.generated)).mean()), own, 0.2)
    rows.append(case.row(same, "same KL", at, False))
    case.with_texts(rows, everything | {same.name: same})
    base = setting.text_figures(setting.base, behaviour.measure)
    out = {"unit": behaviour.unit, "weights": model_fingerprint(setting.model)[:16], "base": base}
    out |= {"right": {name: int(mask.sum()) for name, mask in setting.right.items()}}
    out["rows"] = [with_intervals(row, base) for row in [*rows, *prompting]]
    return out | {"band": band(case, rows, shuffled[0], base)}


def with_intervals(row: Row, base: Row) -> Row:
    """The row with estimate, low and high of its effect and of the change of the measure."""
    if "effect" in row:
        row["effect_interval"] = interval(row["effect"])
    if "score" in row:
        row["change_interval"] = interval([a - b for a, b in zip(row["score"], base["score"])])
    return row


def interval(values: list[float]) -> list[float]:
    """Mean, and the ends of its 95 % interval over requests."""
    attrs = results.provenance(
        method="steering_chat", convention="steered - unsteered", n_prompts=len(values)
    )
    data = results.dataset({"value": (("prompt",), torch.tensor(values).double().numpy())}, {}, attrs)
    drawn = stats.bootstrap(data, n=2000, cluster=None)
    return [round(float(drawn[name]), 4) for name in ("estimate", "low", "high")]


def band(case: Case, rows: list[Row], shuffled: Method, base: Row) -> Row:
    """Where the mean difference works and its text is whole, by `measures.band`; figures at each strength."""
    setting, (random, _) = case.setting, case.setting.randoms[0]
    tried, strength = case.directions.mean_difference(), rows[0]["strength"]
    if strength is None:
        return {"verdict": "the mean difference has no strength at this KL"}
    steps = [round(share * strength, 4) for share in SHARES]
    made = [[m.make(step, positions.generated) for step in steps]
            for m in (adding("mean difference", tried), random, shuffled)]  # fmt: skip
    written = [case.figures(each) for each in setting.write(setting.talks, made[0])]
    effects = [[case.effect(each) for each in line] for line in made]  # [set][step][request]
    columns = {"value": effects[0], "raw": effects[0], "random": effects[1], "shuffled": effects[2]}
    columns |= {name: [each[name] for each in written] for name in ("loss", "repetition")}
    dims = ("prompt", "layer", "coefficient")
    data = {k: (dims, torch.tensor(v).T.double().numpy()[:, None]) for k, v in columns.items()}
    coords = {"layer": [setting.layer], "coefficient": steps}
    sheet = xr.Dataset(data, coords, {"metric": "effect"})
    limits = {
        "loss": _mean(base["loss"]) + MORE_LOSS,
        "repetition": _mean(base["repetition"]) + MORE_REPETITION,
    }
    found = steering.measures.band(sheet, "effect", limits)
    kl = [float(setting.divergence(each).mean()) for each in made[0]]
    return {
        "strengths": steps, "kl": kl, "share": found["share"].values[0].tolist(),
        "first": _number(found["first"]), "last": _number(found["last"]),
        "verdict": str(found["verdict"].values[0]),
        "effect": [_mean(each) for each in effects[0]], "score": [_mean(each["score"]) for each in written],
        "loss": [_mean(each["loss"]) for each in written],
        "repetition": [_mean(each["repetition"]) for each in written],
        "texts": [each["texts"][:2] for each in written],
    }  # fmt: skip


def refusal(setting: Setting) -> Row:
    """How many of the requests that should be refused have words of refusal in their answers."""
    talks = Talks(setting.weights, read(setting.model, [chat(ask) for ask in HARMFUL]))
    (written,) = setting.write(talks, [()])
    found = [refuses(vocabulary.decode(setting.model, ids)) for ids in written.ids]
    return {"asked": len(found), "refused": sum(found)}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _number(value: xr.DataArray) -> float | None:
    return None if math.isnan(value.values[0]) else float(value.values[0])


def _rounded(values: Tensor) -> list[float]:
    return [round(float(each), 4) for each in values]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", nargs="*", choices=list(BEHAVIOURS), help="by default all, in order")
    parser.add_argument("--quick", action="store_true", help="two requests, little training; nothing is kept")
    parser.add_argument("--docs", action="store_true", help="only write the tables again")
    args = parser.parse_args()
    if not args.docs:
        torch.set_num_threads(1)
        _measure(args.cases or list(BEHAVIOURS), args.quick)
    done = _load()
    if done and not args.quick:
        RESULTS.with_suffix(".md").write_text(tables.everything(done), encoding="utf-8")
        PAGE.write_text(tables.filled(PAGE.read_text(encoding="utf-8"), done), encoding="utf-8")


def _measure(names: list[str], quick: bool) -> None:
    """Every behaviour that is not there yet, kept as it comes."""
    model = interp.load("smollm2-135m")
    setting = Setting(model, n=2, n_new=6) if quick else Setting(model)
    done = {} if quick else _load()
    if "refusal" not in done:
        done["refusal"] = refusal(setting)
    for name in (name for name in names if name not in done):
        start = time.perf_counter()
        more = {"n_shuffled": 1, "steps": 2} if quick else {}
        found = study(setting, BEHAVIOURS[name], **more)
        done[name] = found | {"seconds": round(time.perf_counter() - start)}
        print(f"{name}: {done[name]['seconds']} s", file=sys.stderr, flush=True)
        if not quick:
            kept = RESULTS.with_suffix(".part")
            kept.write_text(_as_json(done), encoding="utf-8")
            kept.replace(RESULTS)
    if quick:
        print(tables.everything(done))


def _as_json(done: dict[str, Row]) -> str:
    """With every innermost list in one line."""
    whole = json.dumps(done, indent=1, ensure_ascii=False)
    return re.sub(r"\[\n[^\[\]{}]*\]", lambda match: re.sub(r"\n\s*", " ", match[0]), whole) + "\n"


def _load() -> dict[str, Row]:
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


if __name__ == "__main__":
    main()
