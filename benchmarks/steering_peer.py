"""Extraction and generation by the `steering-vectors` package: times, vectors and tokens as one line of JSON.

Run by steering_against.py with a Python that has that package. The model comes in the hub's format; prompts
come as strings, which is what the package takes, and go back as token ids.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from steering_vectors import SteeringVector, train_steering_vector
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast


def timed(call: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Median seconds and the last result."""
    call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        out = call()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[repeats // 2], out


def extraction(model: Any, tokenizer: Any, asked: dict[str, Any], batch: int) -> tuple[float, Any]:
    """All layers, the last token of each prompt."""
    pairs = list(zip(asked["positive"], asked["negative"]))
    with torch.no_grad():
        return timed(
            lambda: train_steering_vector(model, tokenizer, pairs, batch_size=batch), asked["repeats"]
        )


def generation(
    model: Any, asked: dict[str, Any], where: dict[str, Any], use_cache: bool
) -> tuple[float, Any]:
    """Greedy tokens under the vector asked for, at the tokens that `where` says."""
    ids = torch.tensor(asked["prompts"])
    vector = SteeringVector({asked["layer"]: torch.tensor(asked["vector"])})
    options = {"min_new_tokens": asked["new"], "max_new_tokens": asked["new"], "do_sample": False}
    options |= {"pad_token_id": 0, "use_cache": use_cache, "attention_mask": torch.ones_like(ids)}

    def run() -> torch.Tensor:
        with torch.no_grad(), vector.apply(model, multiplier=asked["multiplier"], **where):
            return model.generate(ids, **options)

    return timed(run, asked["repeats"] if use_cache else 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("asked", type=Path, help="what to run, as JSON")
    args = parser.parse_args()
    asked = json.loads(args.asked.read_text(encoding="utf-8"))
    torch.set_num_threads(asked["threads"])
    model = AutoModelForCausalLM.from_pretrained(args.folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(Path(args.folder) / "tokenizer.json"),
        model_input_names=["input_ids", "attention_mask"],  # GPT-2 would add an embedding of token types
    )
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    out: dict[str, Any] = {
        "ids": [tokenizer(text)["input_ids"] for text in asked["positive"] + asked["negative"]]
    }
    for batch in (1, 32):
        seconds, vector = extraction(model, tokenizer, asked, batch)
        out[f"extract_{batch}"] = seconds
        layers = sorted(vector.layer_activations)
        out[f"vectors_{batch}"] = [vector.layer_activations[layer].tolist() for layer in layers]
    n = len(asked["prompts"][0])
    places: dict[str, dict[str, Any]] = {
        "everywhere": {}, "generated": {"min_token_index": n - 1},
        "prompt_only": {"min_token_index": None, "token_indices": slice(0, n)},
    }  # fmt: skip
    for name, where in places.items():
        for use_cache in (True, False):
            seconds, tokens = generation(model, asked, where, use_cache)
            out[f"{name}_{'cached' if use_cache else 'uncached'}"] = {"s": seconds, "tokens": tokens.tolist()}
    print(json.dumps(out))


if __name__ == "__main__":
    main()
