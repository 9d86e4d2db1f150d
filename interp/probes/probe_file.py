"""Files of probes: safetensors, with everything but the weights as JSON in the header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.files import whole
from interp.patching.result import versions
from interp.places import parse
from interp.probes.aggregate import Weights

if TYPE_CHECKING:
    from interp.probes.probe import Probes

FORMAT = "interp-probes-1"
_PARTS = ("v", "q", "b")


def save(probes: Probes, path: Path) -> Path:
    """Write the file whole; an existing one is replaced. ValueError for a pos= that is a function."""
    from safetensors.torch import save_file

    pos = probes.pos
    if not isinstance(pos, (str, int, tuple, list)):
        raise ValueError(
            f"the probes read at {pos!r}, which no file can hold. Fit them at a name, an index or a span."
        )
    tensors = {
        f"{where}/{part}": getattr(weights, part).contiguous().cpu()
        for where, weights in probes.weights.items()
        for part in _PARTS
    }
    header: dict[str, Any] = {"agg": probes.agg, "model": probes.model, "pos": pos, "versions": versions()}
    header["places"] = [str(where) for where in probes.places]
    header["platt"] = {str(where): list(pair) for where, pair in probes.platt.items()}
    with whole(path) as unfinished:
        save_file(tensors, unfinished, metadata={"format": FORMAT, "probes": json.dumps(header)})
    return path


def load(path: Path) -> dict[str, Any]:
    """The fields of `Probes` from a file of `save`. ValueError for a file that is something else."""
    from interp.steering.direction_file import contents

    tensors, header = contents(path, FORMAT, "probes", "Probes.save")
    pos = header["pos"]
    weights = {
        parse(name): Weights(*(tensors[f"{name}/{part}"] for part in _PARTS)) for name in header["places"]
    }
    return {
        "weights": weights,
        "agg": header["agg"],
        "pos": tuple(pos) if isinstance(pos, list) else pos,
        "model": header["model"],
        "platt": {parse(name): (pair[0], pair[1]) for name, pair in header["platt"].items()},
    }
