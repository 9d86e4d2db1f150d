"""What is in a vector: coefficients on the atoms of a dictionary, what is left over, and what chance gives.

1. Atoms at unit length: decoder rows of a sparse dictionary, named directions, or rows of a tensor.
2. "pursuit": the atom nearest to what is left (either sign), then least squares on all atoms so far
   (orthogonal matching pursuit, Pati et al. 1993). "ridge": all atoms at once, least squares with a penalty.
3. Null: the same for random vectors of the same length. Without activations they are isotropic; with them
   they have the activations' covariance, which is the fair control: a dictionary is made for those.

A large dictionary explains much of any vector: `explained` means what it is above `null`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp import results
from interp.sae import Dictionary
from interp.steering._direction import Direction

METHODS = ("pursuit", "ridge")


def decompose(
    direction: Direction,
    dictionary: Any,
    k: int,
    method: str,
    ridge: float,
    activations: Tensor | None,
    n_draws: int,
    seed: int,
) -> xr.Dataset:
    """See `Direction.decompose`."""
    vector = direction._single_vector().double()
    atoms, names = _atoms(dictionary, len(vector))
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; use 'pursuit' or 'ridge'.")
    if not 1 <= k <= len(atoms):
        raise ValueError(f"k is {k}; there are {len(atoms)} atoms: give 1 to that many.")
    if not float(vector.norm()) > 0 or n_draws < 1 or not 0 <= ridge < float("inf"):
        raise ValueError(
            f"the vector has length {float(vector.norm()):.3g}, n_draws is {n_draws}, ridge {ridge}; give a "
            "vector that is not 0, a draw or more, and a penalty of 0 or more."
        )
    fit = _pursuit if method == "pursuit" else _ridge
    chosen, coefficients, explained, residual = fit(vector, atoms, k, ridge)
    drawn = _draws(vector, activations, n_draws, seed)
    null = torch.stack([fit(each, atoms, k, ridge)[2] for each in drawn])  # [draw, rank]
    above = (null >= explained).double().sum(0)
    variables = {
        "coefficient": (("rank",), coefficients.cpu().numpy()),
        "explained": (("rank",), explained.cpu().numpy()),
        "null": (("draw", "rank"), null.cpu().numpy()),
        "p": (("rank",), ((above + 1) / (n_draws + 1)).cpu().numpy()),
        "residual": (("dim",), residual.cpu().numpy()),
    }
    coords = {
        "rank": np.arange(k),
        "atom": ("rank", chosen.cpu().numpy()),
        "atom_name": ("rank", np.array([names[i] for i in chosen.tolist()], dtype=object)),
    }
    attrs = results.provenance(
        method=f"decompose, {method}",
        convention="vector = sum of coefficient times atom (unit length) + residual; in the vector's units",
        model=direction.model or "none", site=str(direction.place), seed=seed, n_atoms=len(atoms),
        null="isotropic" if activations is None else "covariance of the activations", n_draws=n_draws,
    )  # fmt: skip
    return results.dataset(variables, coords, attrs)


def _atoms(dictionary: Any, width: int) -> tuple[Float[Tensor, "atom d"], list[str]]:
    """Unit rows and their names. ValueError for none, another width, or an atom of length 0."""
    if isinstance(dictionary, Dictionary):
        rows, names = dictionary.W_dec, [f"feature {i}" for i in range(len(dictionary.W_dec))]
    elif isinstance(dictionary, Tensor):
        rows, names = torch.atleast_2d(dictionary), [f"atom {i}" for i in range(len(dictionary))]
    elif isinstance(dictionary, Direction):
        rows = torch.atleast_2d(dictionary.vectors[dictionary.place])
        names = [f"{dictionary.method} {i}" for i in range(len(rows))]
    elif isinstance(dictionary, (Mapping, Sequence)) and len(dictionary) and not isinstance(dictionary, str):
        named = dictionary if isinstance(dictionary, Mapping) else dict(enumerate(dictionary))
        wrong = [name for name, each in named.items() if not isinstance(each, Direction)]
        if wrong:
            raise ValueError(f"the atom {wrong[0]!r} is no Direction; give directions, by name or in a list.")
        rows, names = torch.stack([each.vector.double() for each in named.values()]), list(map(str, named))
    else:
        raise ValueError(
            f"dictionary is a {type(dictionary).__name__}; give a sae.Dictionary, directions by name, "
            "or a tensor [atom, d]."
        )
    rows = rows.detach().double()
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(f"the atoms are {list(rows.shape)}, the vector has width {width}; give [atom, d].")
    norm = rows.norm(dim=1, keepdim=True)
    if not bool((norm > 0).all()) or not bool(torch.isfinite(rows).all()):
        raise ValueError(f"atom {int(norm[:, 0].argmin())} is 0 or not finite: leave it out.")
    return rows / norm, names


def _pursuit(vector: Tensor, atoms: Tensor, k: int, ridge: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Atoms in the order of choice, coefficients at the end, the share explained after each; residual."""
    atoms, rest, chosen, explained = atoms.to(vector.device), vector, [], []
    coefficients = torch.zeros(0, dtype=vector.dtype, device=vector.device)
    for _ in range(k):
        near = (atoms @ rest).abs()
        near[chosen] = -1.0
        chosen.append(int(near.argmax()))
        coefficients = torch.linalg.pinv(atoms[chosen].T) @ vector
        rest = vector - coefficients @ atoms[chosen]
        explained.append(1 - rest.square().sum() / vector.square().sum())
    return torch.tensor(chosen), coefficients, torch.stack(explained), rest


def _ridge(vector: Tensor, atoms: Tensor, k: int, ridge: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The k largest coefficients of all; the share that all atoms together explain, k times; residual."""
    D = atoms.to(vector.device)
    size = D.square().sum() / D.shape[1]
    gram = D.T @ D + ridge * size * torch.eye(D.shape[1], dtype=D.dtype, device=D.device)
    coefficients = D @ (torch.linalg.pinv(gram, hermitian=True) @ vector)
    rest = vector - coefficients @ D
    chosen = coefficients.abs().argsort(descending=True, stable=True)[:k]
    share = 1 - rest.square().sum() / vector.square().sum()
    return chosen, coefficients[chosen], share.expand(k), rest


def _draws(vector: Tensor, activations: Tensor | None, n: int, seed: int) -> Float[Tensor, "draw d"]:
    """Random vectors of the same length: isotropic, or with the covariance of the activations."""
    generator = torch.Generator().manual_seed(seed)
    if activations is None:
        drawn = torch.randn(n, len(vector), generator=generator, dtype=torch.float64).to(vector.device)
    else:
        if activations.ndim != 2 or activations.shape[1] != len(vector) or len(activations) < 2:
            raise ValueError(
                f"activations is {list(activations.shape)}; give [row, {len(vector)}], two rows or more."
            )
        x = activations.double().to(vector.device)
        weights = torch.randn(n, len(x), generator=generator, dtype=torch.float64).to(vector.device)
        drawn = weights @ (x - x.mean(0))
        if not bool((drawn.norm(dim=1) > 1e-9 * x.norm(dim=1).max()).all()):
            raise ValueError("the activations do not vary: they have no covariance. Give other rows.")
    return drawn / drawn.norm(dim=1, keepdim=True).clamp(min=1e-300) * vector.norm()
