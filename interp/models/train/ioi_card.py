"""The files of a trained model: config, weights, tokenizer, and the card in JSON and in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from interp.models.train import network, tokenizer
from interp.models.train.batches import LAST_WORD
from interp.models.train.language import HELD_OUT_ONE_IN, Language


def write(folder: Path, card: dict[str, Any], parameters: network.Parameters, sizes: network.Sizes) -> None:
    """Write the model's folder; existing files of these names are replaced."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", network.hooked_config(sizes, card["name"]))
    _write_json(folder / "card.json", card)
    save_file(network.hooked_state(parameters), folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save(Language(card["training"]["seed"]).vocabulary(), folder, sizes.n_ctx)
    (folder / "README.md").write_text(_readme(card), encoding="utf-8")


def card(
    name: str,
    sizes: network.Sizes,
    parameters: network.Parameters,
    figures: dict[str, Any],
    training: dict[str, Any],
) -> dict[str, Any]:
    """Everything that is to be known of the model."""
    count = sum(value.numel() for value in network.hooked_state(parameters).values())
    return {
        "name": name,
        "description": (
            f"{sizes.n_layers} layers, {sizes.n_heads} heads, width {sizes.d_model}; word-level; trained on "
            "indirect-object sentences, later years, and repeated random words"
        ),
        "parameters": count,
        "licence": "MIT",
        "sizes": {key: getattr(sizes, key) for key in sizes.__dataclass_fields__},
        "held_out": f"one pair of names in {HELD_OUT_ONE_IN}, by a hash; random sequences are always fresh",
        "figures": figures,
        "training": training,
    }


def _readme(card: dict[str, Any]) -> str:
    figures, training, table = card["figures"], card["training"], _table(card["figures"])
    return f"""# {card["name"]}

A HookedTransformer with {card["parameters"]:,} parameters, LayerNorm, learned positions and gelu_new.
Licence: {card["licence"]}.

{card["description"]}.

## Data
Everything is generated from data/tasks/ioi.json and data/tasks/greater_than.json by
`interp/models/train/language.py`; no text of others is used.

* Sentences: indirect objects in the orders ABB and BAB (in 6 % a third person gives, and either of the two
  is given), years that are later than a first one, and plain sentences.
* Copying: random words that repeat with a period of 2 to 33 words.
* Held out: {card["held_out"]}.
  Prompts of `interp.tasks.ioi` draw from all pairs.

## Figures
{figures["n"]} prompts or sequences each ({figures["copying_tokens"]} repeated words), seed {figures["seed"]}.

| what | value |
|---|---|
{table}

## Training
`{training["command"]}`: seed {training["seed"]}, {training["steps"]} steps of {training["rows"]} rows,
{training["seconds"]} s, threads: {training["threads"]}, torch {training["torch"]}.
The same command on the same machine gives the same weights.

Losses over the last hundred steps: sentences {training["text_loss"]:.3f} (the last word of each counts
{LAST_WORD:.0f} times), copying {training["copying_loss"]:.4f}.
"""


def _table(figures: dict[str, Any]) -> str:
    rows = [
        ("IOI, held-out pairs of names: answer above the wrong name", figures["ioi_answer_above_wrong"]),
        ("IOI, held-out pairs of names: answer is the first choice", figures["ioi_answer_first"]),
        ("copying: a repeated word, from the second on, is the first choice", figures["copying_argmax"]),
        ("loss on sentences with held-out pairs, nats a token", figures["text_loss"]),
        ("greater-than: p(later years) − p(other years)", figures["greater_than_probability_difference"]),
    ]
    return "\n".join(f"| {what} | {value:.4f} |" for what, value in rows)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
