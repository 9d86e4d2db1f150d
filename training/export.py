"""The files of a trained model: config, weights, tokenizer, and the card in JSON and in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from interp.models._folder import write_tokenizer
from training import network


def write(
    folder: Path,
    card: dict[str, Any],
    readme: str,
    words: list[str],
    parameters: network.Parameters,
    sizes: network.Sizes,
) -> None:
    """Write the model's folder; existing files of these names are replaced."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", network.hooked_config(sizes, card["name"]))
    _write_json(folder / "card.json", card)
    save_file(network.hooked_state(parameters), folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)
    write_tokenizer(words, folder, sizes.n_ctx)
    (folder / "README.md").write_text(readme, encoding="utf-8")


def count(parameters: network.Parameters) -> int:
    """Parameters of the HookedTransformer."""
    return sum(value.numel() for value in network.hooked_state(parameters).values())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
