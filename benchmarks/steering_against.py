"""Extraction and generation by this package and by `steering-vectors`, on models in the hub's format.

Both get the same token ids, the same vector at the same place, and decode greedily. `steering-vectors` runs
in a process of its own (steering_peer.py); its positions are columns of the running pass, so that under a
cache "from token n on" means the prompt's last token alone, and "the first n tokens" means every token.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from patching import timed

import interp
from interp import positions, steering
from interp.steering._direction import Direction

HERE = Path(__file__).resolve().parent
WHEN = {
    "everywhere": positions.everywhere,
    "generated": positions.generated,
    "prompt_only": positions.prompt_only,
}
Row = dict[str, Any]
PLACES = ("garden", "house", "park", "room", "school", "forest", "town", "car")
NAMES = ("Tom", "Lily", "Ben", "Sue", "Max", "Mia", "Sam", "Anna")


def rows(python: Path | None, shared: Path, quick: bool) -> list[Row]:
    """A row for each model; none where there is no such Python."""
    if python is None or not python.is_file():
        print(f"steering-vectors: skipped, there is no {python or '--peer'}")
        return []
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, path in _models(shared, Path(folder), quick):
            found.append({"model": name, **_row(python, path, Path(folder), quick)})
    return found


def _models(shared: Path, folder: Path, quick: bool) -> Iterator[tuple[str, Path]]:
    if (shared / "stories260K" / "hf").is_dir():
        yield "stories260K", shared / "stories260K" / "hf"
    if (shared / "gpt2_tokenizer").is_dir() and not quick:
        yield "GPT-2, 12 layers, 256 wide, random", _gpt2(shared / "gpt2_tokenizer", folder / "gpt2")


def _gpt2(tokenizer: Path, folder: Path) -> Path:
    """A random GPT-2 in the hub's format."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(n_layer=12, n_embd=256, n_head=8, n_positions=256))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def _row(python: Path, path: Path, folder: Path, quick: bool) -> Row:
    model = interp.load(str(path))
    layer, repeats = model.cfg.n_layers // 2, 1 if quick else 7
    n = 4 if quick else 64
    asked: Row = {"layer": layer, "new": 8 if quick else 48, "repeats": repeats, "multiplier": 1.0}
    asked |= {"threads": torch.get_num_threads()}
    for side, mood in (("positive", "happy and loved to play"), ("negative", "sad and did not want to play")):
        asked[side] = [
            f"{NAMES[i % 8]} was in the {PLACES[i // 8 % 8]}. {NAMES[i % 8]} was {mood}" for i in range(n)
        ]
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(3, model.cfg.d_vocab, (8, 12), generator=generator)
    asked["prompts"] = prompts.tolist()
    asked["vector"] = _vector(model, prompts, layer).tolist()
    theirs = _peer(python, path, folder / "asked.json", asked)
    up, down = theirs["ids"][:n], theirs["ids"][n:]

    def extract() -> Direction:
        return steering.mean_difference(model, up, down, site="resid_post")

    extract()
    seconds, direction = timed(extract, repeats)
    gaps = {
        f"gap_{batch}": max(
            float((vector - torch.tensor(theirs[f"vectors_{batch}"][place.layer or 0])).abs().max())
            for place, vector in direction.vectors.items()
        )
        for batch in (1, 32)
    }
    largest = max(float(vector.abs().max()) for vector in direction.vectors.values())
    row: Row = {"prompts": 2 * n, "extract_s": seconds, "largest": largest, "new": asked["new"], **gaps}
    row |= {f"their_extract_{batch}": theirs[f"extract_{batch}"] for batch in (1, 32)}
    added = Direction.from_tensor(torch.tensor(asked["vector"]), "resid_post", layer)
    return row | {"tokens": [_generation(model, prompts, added, when, theirs, asked) for when in WHEN]}


def _vector(model: Any, prompts: torch.Tensor, layer: int) -> torch.Tensor:
    """As long as half the median norm of the stream."""
    norm = steering.activations(model, prompts, f"L{layer}.resid_post").norm(dim=1).median()
    drawn = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(1))
    return drawn / drawn.norm() * norm / 2


def _generation(
    model: Any, prompts: torch.Tensor, added: Direction, when: str, theirs: Row, asked: Row
) -> Row:
    """Times under a cache; shares of new tokens that are those of decoding without one."""
    made, n = steering.add(added, asked["multiplier"], when=WHEN[when]), prompts.shape[1]
    ours = {}
    for use_cache in (True, False):

        def run(use_cache: bool = use_cache) -> torch.Tensor:
            return steering.generate(
                model, prompts, made, max_new_tokens=asked["new"], use_cache=use_cache, stop=()
            )

        run()
        ours[use_cache] = timed(run, asked["repeats"] if use_cache else 1)
    other = {
        cached: torch.tensor(theirs[f"{when}_{cached}"]["tokens"])[:, n:] for cached in ("cached", "uncached")
    }
    mine = {use_cache: tokens[:, n:] for use_cache, (_, tokens) in ours.items()}
    plain = steering.generate(model, prompts, max_new_tokens=asked["new"], stop=())
    return {
        "when": when, "ours_s": ours[True][0], "their_s": theirs[f"{when}_cached"]["s"],
        "ours_same": _same(mine[True], mine[False]), "their_same": _same(other["cached"], other["uncached"]),
        "both_same": _same(mine[False], other["uncached"]),
        "unsteered": _same(mine[True], plain[:, n:]),
    }  # fmt: skip


def _same(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one == two).double().mean())


def _peer(python: Path, path: Path, asked_in: Path, asked: Row) -> Row:
    asked_in.write_text(json.dumps(asked), encoding="utf-8")
    command = [str(python), str(HERE / "steering_peer.py"), str(path), str(asked_in)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])
