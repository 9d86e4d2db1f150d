"""The card of tiny-ioi, as data and in words."""

from __future__ import annotations

from typing import Any

from training import export, network
from training.batches import LAST_WORD
from training.language import HELD_OUT_ONE_IN


def card(
    name: str,
    sizes: network.Sizes,
    parameters: network.Parameters,
    figures: dict[str, Any],
    training: dict[str, Any],
) -> dict[str, Any]:
    """Everything that is to be known of the model."""
    return {
        "name": name,
        "description": (
            f"{sizes.n_layers} layers, {sizes.n_heads} heads, width {sizes.d_model}; word-level; trained on "
            "indirect-object sentences, later years, and repeated random words"
        ),
        "parameters": export.count(parameters),
        "licence": "MIT",
        "sizes": {key: getattr(sizes, key) for key in sizes.__dataclass_fields__},
        "held_out": f"one pair of names in {HELD_OUT_ONE_IN}, by a hash; random sequences are always fresh",
        "figures": figures,
        "training": training,
    }


def readme(card: dict[str, Any]) -> str:
    """The card in words."""
    figures, training, table = card["figures"], card["training"], _table(card["figures"])
    return f"""# {card["name"]}

A HookedTransformer with {card["parameters"]:,} parameters, LayerNorm, learned positions and gelu_new.
Licence: {card["licence"]}.

{card["description"]}.

## Data
Everything is generated from data/tasks/ioi.json and data/tasks/greater_than.json by
`training/language.py`; no text of others is used.

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
