"""`audit`: what was done to the weights of a model, from the model before and after.

1. D = after - before, for every matrix and bias, in float64, with the stream's dimension last.
2. Its size, its effective rank (sum s^2)^2 / sum s^4 over singular values s, and its first right singular
   vectors: the directions of the stream that the edit writes (W_O, W_out, biases, embeddings) or reads
   (W_Q, W_K, W_V, W_in, W_gate, W_U).
3. How much of D lies along a given direction v: |D v|^2 / |D|^2; of a random one 1 / d_model on average.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp import results
from interp._verbs import verb
from interp.models import Model, anatomy, weights
from interp.models.parts import Block, Weights
from interp.steering._direction import Direction, same_model

_CONVENTION = "difference = after - before; vectors are of length 1, their sign so that D v sums to 0 or more"
_EDIT = 1.5  # effective rank of one baked direction, at most
_LISTED = 3  # matrices that the conclusion names


@verb
def audit(
    before: Model, after: Model, direction: Direction | None = None, *, components: int = 3
) -> xr.Dataset:
    """Which weights differ between two models, by how much, and along which directions of the stream.

    Any pair of models of one shape: an edited one and its original, two checkpoints, a tuned one and its
    base. direction: one vector of the stream, of which `share` says how much of each difference lies along
    it, from 0 to 1 (of a random direction: `attrs["chance"]`). components: singular vectors that are kept.

    Returns, by matrix: `norm` (Frobenius, of the difference), `relative` (of the norm before), `rank`
    (effective: 1 for one direction), `singular` and `vector` [matrix, component, d_model]; vectors are NaN
    for what does not touch the stream (b_Q, gains). `attrs["conclusion"]` says it in words. A component as a
    `Direction`: `steering.edited_direction`. Raises ValueError, before any of it, for models of two shapes,
    and for a direction of another width or of a model that is neither of the two.
    Cost: no pass; a d_model x d_model eigenproblem for every matrix that differs.

    Example:
        >>> from interp import steering
        >>> before, after = interp.load("tiny-ioi"), interp.load("tiny-ioi")
        >>> d = steering.Direction.from_tensor(before.W_U[:, 5], "L1.mlp_out")
        >>> with steering.bake(after, steering.ablate(d)):
        ...     found = steering.audit(before, after, d)
        >>> [(str(name), round(float(found["rank"].sel(matrix=name)), 3)) for name in found["matrix"].values
        ...  if found["norm"].sel(matrix=name) > 0]
        [('L1.W_out', 1.0), ('L1.b_out', 1.0)]
        >>> float(found["share"].sel(matrix="L1.W_out")) > 0.999
        True
    """
    if components < 1:
        raise ValueError(f"components is {components}; keep 1 or more.")
    facts = anatomy(after)
    vector = _of_the_stream(direction, facts.d_model, before, after)
    pairs = list(_pairs(before, after))
    rows = [_measured(old, new, vector, components, facts.d_model) for old, new in pairs]
    matrices = [new for _, new in pairs]
    variables = {
        name: ("matrix", np.array([row[name] for row in rows])) for name in ("norm", "relative", "rank")
    }
    variables |= {"singular": (("matrix", "component"), np.stack([row["singular"] for row in rows]))}
    variables |= {"vector": (("matrix", "component", "d_model"), np.stack([row["vector"] for row in rows]))}
    if vector is not None:
        variables["share"] = ("matrix", np.array([row["share"] for row in rows]))
    coords = {
        name: ("matrix", np.array([getattr(each, name) for each in matrices], dtype=object))
        for name in ("kind", "side", "place")
    }
    coords |= {"matrix": [each.name for each in matrices], "component": np.arange(components)}
    coords |= {"layer": ("matrix", np.array([each.layer for each in matrices]))}
    attrs = results.provenance(
        method="audit", convention=_CONVENTION, model=facts.name, site="weights",
        before=anatomy(before).name, chance=1 / facts.d_model,
        conclusion=_conclusion(rows, matrices, facts.d_model),
    )  # fmt: skip
    return results.dataset(variables, coords, attrs)


@verb
def edited_direction(result: xr.Dataset, matrix: str, component: int = 0) -> Direction:
    """A direction that `audit` found in the difference of a matrix, such as "L1.W_out", at its place.

    Raises ValueError for a matrix that does not differ, or does not touch the stream.

    Example:
        >>> from interp import steering
        >>> before, after = interp.load("tiny-ioi"), interp.load("tiny-ioi")
        >>> d = steering.Direction.from_tensor(before.W_U[:, 5], "L1.mlp_out")
        >>> with steering.bake(after, steering.ablate(d)):
        ...     found = steering.audit(before, after)
        >>> steering.edited_direction(found, "L1.W_out").cosine(d).abs().item() > 0.99
        True
    """
    if "vector" not in result or matrix not in result["matrix"].values:
        names = ", ".join(map(str, result["matrix"].values[:6])) if "matrix" in result.coords else "none"
        raise ValueError(f"there is no matrix {matrix!r} in this result of audit; it has {names}, ...")
    if not 0 <= component < result.sizes["component"]:
        raise ValueError(f"component is {component}; the result has 0 to {result.sizes['component'] - 1}.")
    row = result.sel(matrix=matrix).isel(component=component)
    if not bool(np.isfinite(row["vector"]).all()):
        why = (
            "is the same in both models" if float(row["norm"]) == 0 else "has no such direction of the stream"
        )
        raise ValueError(
            f"{matrix} {why}. Choose a matrix whose norm is above 0, and that writes or reads it."
        )
    vector = torch.from_numpy(row["vector"].values.copy())
    found = Direction.from_tensor(vector, str(row["place"].item()))
    return Direction(found.vectors, method="audit", model=None)


@dataclass(frozen=True, eq=False)
class _Matrix:
    """A weight with the stream's dimension last, [rows, d_model], where it has one."""

    name: str
    layer: int  # -1 for the embedding and the unembedding
    kind: str
    side: str  # "writes", "reads" or "other"
    place: str
    value: Tensor | None


def _pairs(before: Model, after: Model) -> Iterator[tuple[_Matrix, _Matrix]]:
    """The same matrix of both models; a bias that one of them lacks is one of zeros."""
    listed = [list(_matrices(_weights_of(each))) for each in (before, after)]
    names = [[each.name for each in side] for side in listed]
    if names[0] != names[1]:
        only = sorted(set(names[0]) ^ set(names[1]))[:_LISTED]
        raise ValueError(
            f"the models have other parts ({', '.join(only)}, ... in one only): {_shape(before)} and "
            f"{_shape(after)}. Give two models of one shape."
        )
    for old, new in zip(*listed):
        if old.value is None and new.value is None:
            continue
        shapes = [None if each.value is None else tuple(each.value.shape) for each in (old, new)]
        if None not in shapes and shapes[0] != shapes[1]:
            raise ValueError(
                f"{old.name} is {list(shapes[0] or ())} before and {list(shapes[1] or ())} after: "
                f"{_shape(before)} "
                f"and {_shape(after)}. Give two models of one shape."
            )
        yield old, new


def _shape(model: Model) -> str:
    facts = anatomy(model)
    return f"{facts.name} has {facts.n_layers} layers, {facts.n_heads} heads, width {facts.d_model}"


def _weights_of(model: Model) -> Weights:
    try:
        return weights(model)
    except (AttributeError, ValueError) as error:
        raise ValueError(
            f"the weights of {anatomy(model).name} are not in a form that is known here ({error}). Compare "
            "state "
            "dicts of transformers instead."
        ) from None


def _matrices(parts: Weights) -> Iterator[_Matrix]:
    last = len(parts.blocks) - 1
    yield _Matrix("W_E", -1, "W_E", "writes", "L0.resid_pre", parts.W_E)
    if parts.W_pos is not None:
        yield _Matrix("W_pos", -1, "W_pos", "writes", "L0.resid_pre", parts.W_pos)
    for layer, block in enumerate(parts.blocks):
        yield from _of_block(layer, block)
    final = parts.final_norm
    for name, value in (("gain", final and final.gain), ("bias", final and final.bias)):
        yield _Matrix(f"final_norm.{name}", -1, f"final {name}", "other", "", value)
    yield _Matrix("W_U", -1, "W_U", "reads", f"L{last}.resid_post", parts.W_U.T)
    yield _Matrix("b_U", -1, "b_U", "other", "", parts.b_U)


def _of_block(layer: int, block: Block) -> Iterator[_Matrix]:
    attn, mlp = block.attn, block.mlp
    norms = {"attn_norm": block.attn_norm, "mlp_norm": None if mlp is None else mlp.norm}
    for letter in "QKV":
        W = getattr(attn, f"W_{letter}")  # [head, d_model, d_head]
        yield _Matrix(f"L{layer}.W_{letter}", layer, f"W_{letter}", "reads", f"L{layer}.resid_pre",
                      W.movedim(1, -1).flatten(0, -2))  # fmt: skip
        yield _Matrix(f"L{layer}.b_{letter}", layer, f"b_{letter}", "other", "", getattr(attn, f"b_{letter}"))
    for kind, value in (("W_O", attn.W_O.flatten(0, -2)), ("b_O", attn.b_O)):
        yield _Matrix(f"L{layer}.{kind}", layer, kind, "writes", f"L{layer}.attn_out", value)
    for name, norm in norms.items():
        for part in ("gain", "bias"):
            value = None if norm is None else getattr(norm, part)
            yield _Matrix(f"L{layer}.{name}.{part}", layer, f"{name} {part}", "other", "", value)
    if mlp is None:
        return
    middle = f"L{layer}.resid_{'pre' if block.parallel else 'mid'}"
    for kind, value in (("W_in", mlp.W_in), ("W_gate", mlp.W_gate)):
        yield _Matrix(f"L{layer}.{kind}", layer, kind, "reads", middle, None if value is None else value.T)
    yield _Matrix(f"L{layer}.b_in", layer, "b_in", "other", "", mlp.b_in)
    for kind, value in (("W_out", mlp.W_out), ("b_out", mlp.b_out)):
        yield _Matrix(f"L{layer}.{kind}", layer, kind, "writes", f"L{layer}.mlp_out", value)


def _of_the_stream(direction: Direction | None, width: int, *models: Model) -> Tensor | None:
    """The direction at length 1; ValueError for one of another width, or found on none of the models."""
    if direction is None:
        return None
    vector = direction.require_any().vector.double()
    if vector.shape != (width,):
        raise ValueError(
            f"the direction at {direction.place} is {list(vector.shape)}; give one vector of the stream, "
            f"[{width}]."
        )
    for i, model in enumerate(models, 1):
        try:
            same_model("the direction", direction.model, direction.weights, model)
            break
        except ValueError:  # of the other model, perhaps: an edited one has another name
            if i == len(models):
                raise
    return vector / vector.norm()


def _measured(old: _Matrix, new: _Matrix, v: Tensor | None, components: int, width: int) -> dict:
    """One row of the table."""
    empty = {"singular": np.zeros(components), "vector": np.full((components, width), np.nan)}
    first, second = (
        None if each.value is None else each.value.detach().double().cpu() for each in (old, new)
    )
    size = 0.0 if first is None else float(first.norm())
    D = second if first is None else -first if second is None else second - first
    assert D is not None  # `_pairs` leaves out what neither has
    D = D.reshape(-1, D.shape[-1])  # [row, d_model] where it touches the stream
    norm = float(D.norm())
    if not np.isfinite(norm):
        raise ValueError(f"{new.name} has weights that are not finite, so nothing can be said of it.")
    row = {"norm": norm, "relative": norm / size if size else float("nan") if norm else 0.0, "rank": 0.0,
           "share": float("nan"), **empty}  # fmt: skip
    if norm == 0:
        return row
    if new.side == "other":
        return row | {"rank": float(torch.linalg.matrix_rank(D))}
    squares, V = torch.linalg.eigh(D.T @ D)  # rising
    squares, V = squares.clamp(min=0).flip(0), V.flip(1).T
    kept = min(components, len(squares))
    V = V[:kept] * torch.where((D @ V[:kept].T).sum(0) < 0, -1.0, 1.0)[:, None]
    real = squares[:kept] > 1e-12 * squares[0]
    vectors, singular = empty["vector"].copy(), np.zeros(components)
    vectors[:kept][real] = V[real].numpy()
    singular[:kept] = squares[:kept].sqrt().numpy()
    row |= {
        "rank": float(squares.sum() ** 2 / squares.square().sum()),
        "vector": vectors,
        "singular": singular,
    }
    return row | ({} if v is None else {"share": float((D @ v.cpu()).square().sum() / D.square().sum())})


def _conclusion(rows: list[dict], matrices: list[_Matrix], width: int) -> str:
    changed = [i for i, row in enumerate(rows) if row["norm"] > 0]
    if not changed:
        return "The two models have the same weights: nothing was edited."
    wide = [i for i in changed if matrices[i].side != "other" and matrices[i].kind.startswith("W")]
    narrow = [i for i in wide if rows[i]["rank"] <= _EDIT]
    largest = sorted(changed, key=lambda i: -rows[i]["norm"])[:_LISTED]
    said = ", ".join(f"{matrices[i].name} ({_share(rows[i]['relative'])})" for i in largest)
    head = f"{len(changed)} of {len(rows)} weights differ, most of all {said}"
    if narrow:
        return f"{head}; {len(narrow)} of them along one direction of the stream."
    ranks = [rows[i]["rank"] for i in wide]
    if ranks and float(np.median(ranks)) > width / 8 and len(changed) > len(rows) / 2:
        return (
            f"{head}. Most differ along many directions: the second model was trained, rounded or loaded "
            "with "
            "other flags (fold_ln, ...), rather than edited."
        )
    return f"{head}, none along one direction alone." if wide else f"{head}; no matrix does."


def _share(relative: float) -> str:
    """How large a difference is, in words; one of a weight that was 0 has no share."""
    return "was 0" if np.isnan(relative) else f"{100 * relative:.2g} %"
