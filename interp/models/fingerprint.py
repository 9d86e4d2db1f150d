"""A short hash that tells two models apart."""

from __future__ import annotations

import hashlib

from interp.models.anatomy import Model


def model_fingerprint(model: Model) -> str:
    """sha256 over the names, shapes and a sample of the values of all parameters; device-independent."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 64)][:64].double().cpu()
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()
