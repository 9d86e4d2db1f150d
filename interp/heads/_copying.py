"""What a head makes of the tokens it attends to, and what it can tell apart, from weights alone.

1. Full OV circuit of some tokens: row t is what attending to t adds to the logits, E[t] W_V W_O W_U.
2. Copying: the eigenvalues λ of that square matrix, by the [d_head, d_head] matrix that has the same ones;
   Σ Re λ / Σ |λ| is 1 for a head that raises what it attends to, −1 for one that lowers it. Beside it the
   share of tokens whose own logit is the highest of their row, or among the five highest.
3. Spectra: singular values and eigenvalues of OV = W_V W_O and QK = W_Q W_Kᵀ, by matrices of d_head.

After the first layer the stream is not the embedding. So E is by default *effective*: what the head reads of
the token right after BOS, the stream after layer 0 through the norm before attention; a head of layer 0 reads
the stream before it. "raw" is W_E and the weights as they are. Never is a [vocab, vocab] matrix made.

Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from interp import results
from interp._activations import activations
from interp._verbs import verb
from interp.heads._composition import gains, head_weights, readable_weights
from interp.models import Model, anatomy
from interp.models.parts import Attention, Norm, Weights
from interp.places import hint
from interp.prompts import Prompts
from interp.tasks import vocabulary

EMBEDDINGS = ("effective", "raw")
MATRICES = ("OV", "QK")
_TOKENS = 500  # drawn from larger vocabularies


@verb
def copying(
    model: Model, *, embedding: str = "effective", tokens: Sequence[int] | None = None, seed: int = 0
) -> xr.Dataset:
    """How much each head raises the tokens that it attends to: `value` [layer, head] from −1 to 1.

    embedding: what the head is taken to read, "effective" or "raw" (see above). On real models the two
        differ: show both. tokens: the ids to ask about; by default all that are not special, or 500 of them
        drawn by `seed`.

    Returns a Dataset: `value`, the eigenvalue score, NaN for a head whose weights are 0; `share` [top, layer,
    head] for top 1 and 5, the share of tokens that are the highest, or among the five highest, of their own
    row (`uniform` [top] by chance). Nothing is drawn from prompts, so there is no interval.
    Cost: no forward pass for "raw", else one of two tokens through layer 0 for every token. Raises ValueError
    for a model whose weights cannot be read, and for tokens outside the vocabulary.

    Example:
        >>> copying = interp.heads.copying(interp.load("induction"))
        >>> float(copying["value"].sel(layer=1, head=0).round(3))
        1.0
    """
    facts, scores = anatomy(model), copying_scores(model, embedding, tokens, seed)
    attrs = results.provenance(
        method="copying", site="weights", model=facts.name, seed=seed, embedding=embedding,
        unit="score",
        convention="value = Σ Re λ / Σ |λ| of E OV W_U; positive raises what is attended to",
        weights=gains(readable_weights(model)), n_tokens=int(scores["n"]),
    )  # fmt: skip
    coords = {"top": [1, 5], "layer": range(facts.n_layers), "head": range(facts.n_heads)}
    variables = {
        "value": (("layer", "head"), scores["value"]),
        "share": (("top", "layer", "head"), scores["share"]),
        "uniform": (("top",), np.minimum(1, np.array([1, 5]) / scores["n"])),
    }
    return results.dataset(variables, coords, attrs)


def check_embedding(embedding: str) -> None:
    """Raise ValueError for what is no kind of embedding."""
    if embedding not in EMBEDDINGS:
        raise ValueError(
            f"embedding {embedding!r} is not one of {', '.join(EMBEDDINGS)}{hint(embedding, EMBEDDINGS)}"
        )


def copying_scores(
    model: Model, embedding: str, tokens: Sequence[int] | None, seed: int
) -> dict[str, np.ndarray]:
    """`value` [layer, head], `share` [top, layer, head], and `n`, the number of tokens."""
    check_embedding(embedding)
    parts = readable_weights(model)
    ids = _asked(model, tokens, seed)
    reads = _Reads(model, parts, ids, embedding)
    out = [
        _copied(reads.rows(layer), *heads.OV, reads.W_U) for layer, heads in enumerate(head_weights(model))
    ]
    value, share = (np.stack(column, -2) for column in zip(*out))
    return {"value": value, "share": share, "n": np.array(len(ids))}


def _asked(model: Model, tokens: Sequence[int] | None, seed: int) -> Int[Tensor, "token"]:
    size = min(vocabulary.size(model), vocabulary.output_size(model))
    if tokens is None:
        special = set() if model.tokenizer is None else set(model.tokenizer.all_special_ids)
        pool = [i for i in range(size) if i not in special]
        drawn = np.random.default_rng(seed).permutation(pool)[:_TOKENS]
        return torch.as_tensor(np.sort(drawn))
    ids = torch.as_tensor(np.unique(np.asarray(tokens, dtype=np.int64)))
    if not len(ids) or not 0 <= int(ids[0]) <= int(ids[-1]) < size:
        raise ValueError(
            f"tokens {ids[:1].tolist()} to {ids[-1:].tolist()} do not fit: the vocabulary has 0 to "
            f"{size - 1}."
        )
    return ids


class _Reads:
    """What heads read of some tokens, and how the logits of these tokens read the stream. Float64."""

    def __init__(self, model: Model, parts: Weights, ids: Int[Tensor, "token"], embedding: str) -> None:
        self.parts, self.raw = parts, embedding == "raw"
        W_U = parts.W_U[:, ids].detach().double()
        self.W_U = W_U if self.raw else _through_norm(parts.final_norm, W_U)
        self.streams = [parts.W_E[ids].detach().double()] if self.raw else _streams(model, ids)

    def rows(self, layer: int) -> Float[Tensor, "token d_model"]:
        """What the heads of a layer read of each token."""
        if self.raw:
            return self.streams[0]
        norm = self.parts.blocks[layer].attn_norm
        return _in_float64(norm, self.streams[min(layer, len(self.streams) - 1)])


def _streams(model: Model, ids: Int[Tensor, "token"]) -> list[Float[Tensor, "token d_model"]]:
    """The stream before layer 0, and after it, at each token right after BOS."""
    bos = vocabulary.bos(model)
    rows = ids[:, None].to(anatomy(model).device)
    rows = rows if bos is None else torch.cat((torch.full_like(rows, bos), rows), 1)
    places = ["L0.resid_pre", "L0.resid_post"][: anatomy(model).n_layers]
    prompts = Prompts(rows, torch.full((len(rows),), rows.shape[1], device=rows.device))
    streams = activations(model, prompts, places, batch_size=128)
    return [stream.double() for stream in streams.values()]


def _in_float64(norm: Norm | None, x: Float[Tensor, "token d_model"]) -> Tensor:
    if norm is None:
        return x
    gain, bias = (None if part is None else part.detach().double() for part in (norm.gain, norm.bias))
    return Norm(norm.centred, norm.eps, gain, bias)(x)


def _through_norm(norm: Norm | None, W_U: Float[Tensor, "d_model token"]) -> Tensor:
    """The unembedding with the final norm's gain, and its centring, in it."""
    if norm is None:
        return W_U
    W_U = W_U if norm.gain is None else norm.gain.detach().double()[:, None] * W_U
    return W_U - W_U.mean(0) if norm.centred else W_U


def _copied(
    rows: Float[Tensor, "token d_model"],
    W_V: Float[Tensor, "head d_model d_head"],
    W_O: Float[Tensor, "head d_head d_model"],
    W_U: Float[Tensor, "d_model token"],
) -> tuple[np.ndarray, np.ndarray]:
    """The eigenvalue score [head], and the shares [top, head] of a layer's heads."""
    values, reads = rows @ W_V, W_O @ W_U  # [head, token, d_head], [head, d_head, token]
    eigenvalues = torch.linalg.eigvals(reads @ values)
    total = eigenvalues.abs().sum(-1)
    score = torch.where(total > 0, eigenvalues.real.sum(-1) / total, torch.nan)
    shares = torch.stack([_own_rank(v @ r) for v, r in zip(values, reads)], -1)
    return score.cpu().numpy(), torch.where(total > 0, shares, torch.nan).cpu().numpy()


def _own_rank(circuit: Float[Tensor, "token token"]) -> Float[Tensor, "top"]:
    """Shares of rows in which the token's own column is the highest, or among the five highest."""
    above = (circuit > circuit.diagonal()[:, None]).sum(1)
    return torch.stack([(above < top).double().mean() for top in (1, 5)])


@verb
def spectra(model: Model, *, distance: int = 0) -> xr.Dataset:
    """Singular values and eigenvalues of every head's OV and QK matrix.

    distance: from key to query, for rotary embeddings, which turn QK with it: there is no one QK of such a
        model, and 0 is a convention. Without rotary embeddings it changes nothing.

    Returns a Dataset: `value` [matrix, layer, head, rank], singular values in falling order; `real` and
    `imag`, eigenvalues by falling size. At most d_head of them are not 0; the rest is left out. Weights are
    taken as they are, without norms. Cost: no forward pass. Raises as `composition`.

    Example:
        >>> spectra = interp.heads.spectra(interp.load("tiny-ioi"))
        >>> spectra["value"].dims
        ('matrix', 'layer', 'head', 'rank')
    """
    facts, parts = anatomy(model), readable_weights(model)
    if not 0 <= distance < facts.n_ctx:
        raise ValueError(f"distance is {distance}; the context has 0 to {facts.n_ctx - 1}.")
    columns = []
    for block, heads in zip(parts.blocks, head_weights(model)):
        left, right = heads.read("Q")
        turned = _turned(block.attn, left, distance)
        columns.append([_spectrum(*heads.OV), _spectrum(turned, right)])
    attrs = results.provenance(
        method="spectra", site="weights", model=facts.name, weights=gains(parts), distance=distance,
        convention="value = singular values of W_V W_O (OV) and W_Q W_K^T (QK)",
    )  # fmt: skip
    dims = ("matrix", "layer", "head", "rank")
    variables: dict[str, Any] = {}
    for number, name in enumerate(("value", "real", "imag")):
        stacked = np.stack([[spectrum[number] for spectrum in layer] for layer in columns], 1)
        variables[name] = (dims, stacked)
    coords = {"matrix": list(MATRICES), "layer": range(facts.n_layers), "head": range(facts.n_heads)}
    return results.dataset(variables, coords | {"rank": range(facts.d_head)}, attrs)


def _turned(attn: Attention, W_Q: Float[Tensor, "head d_model d_head"], distance: int) -> Tensor:
    """W_Q with the rotation by a distance in it."""
    if attn.rotary is None:
        return W_Q
    rows = W_Q.transpose(0, 1)  # [d_model, head, d_head]
    return attn.rotary(rows, torch.full((len(rows),), distance, device=rows.device)).transpose(0, 1)


def _spectrum(
    into: Float[Tensor, "head d_model d_head"], out: Float[Tensor, "head d_head d_model"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Singular values, and eigenvalues as real and imaginary parts, of into · out: each [head, d_head].

    into = Q R and outᵀ = Q' R' give the singular values of R R'ᵀ; out · into has the eigenvalues.
    """
    triangles = [torch.linalg.qr(part).R for part in (into, out.transpose(-1, -2))]
    singular = torch.linalg.svdvals(triangles[0] @ triangles[1].transpose(-1, -2))
    singular = pad(singular, (0, into.shape[-1] - singular.shape[-1]))  # where d_head is above d_model
    eigenvalues = torch.linalg.eigvals(out @ into)
    order = eigenvalues.abs().argsort(-1, descending=True)
    eigenvalues = eigenvalues.gather(-1, order)
    return singular.cpu().numpy(), eigenvalues.real.cpu().numpy(), eigenvalues.imag.cpu().numpy()
