"""Supervised dictionaries: vectors of attributes against a design that is known."""

from __future__ import annotations

import itertools

import pytest
import torch

from interp.sae import methods


def drawn(*size: int, seed: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_balanced_design_gives_back_what_it_was_made_of() -> None:
    """x = mean + colour + size, every pair once, effects that sum to 0: both are read off exactly."""
    mean, colour, size = drawn(5, seed=0), drawn(3, 5, seed=1), drawn(2, 5, seed=2)
    colour, size = colour - colour.mean(0), size - size.mean(0)
    cells = list(itertools.product(range(3), range(2)))
    x = torch.stack([mean + colour[c] + size[s] for c, s in cells])
    labels = {"colour": [f"colour {c}" for c, _ in cells], "size": [s for _, s in cells]}
    found = methods.supervised_dict(x, labels)
    torch.testing.assert_close(found.mean, mean)
    for c, s in cells:
        torch.testing.assert_close(found.vectors["colour"][f"colour {c}"], colour[c])
        torch.testing.assert_close(found.vectors["size"][s], size[s])
    torch.testing.assert_close(found.reconstruct(labels), x)
    swapped = found.reconstruct({"colour": labels["colour"][::-1], "size": labels["size"]})
    torch.testing.assert_close(swapped[0], mean + colour[2] + size[0])


def test_a_value_that_was_never_seen_adds_nothing() -> None:
    x = drawn(4, 3, seed=3)
    found = methods.supervised_dict(x, {"a": [0, 0, 1, 1]})
    torch.testing.assert_close(found.reconstruct({"a": [7, 0]}), torch.stack((x.mean(0), x[:2].mean(0))))


def test_unequal_classes_are_means_of_their_rows() -> None:
    x = drawn(6, 3, seed=4).float()
    values = ["a", "b", "a", "a", "b", "a"]
    found = methods.supervised_dict(x, {"kind": values})
    for name in ("a", "b"):
        rows = [i for i, each in enumerate(values) if each == name]
        wanted = sum(x[i].double() for i in rows) / len(rows) - sum(each.double() for each in x) / 6
        torch.testing.assert_close(found.vectors["kind"][name], wanted)


@pytest.mark.parametrize("labels", [{}, {"a": [0, 1]}, {"a": [0, 1, 2], "b": [0]}])
def test_a_value_for_each_row(labels: dict[str, list[int]]) -> None:
    with pytest.raises(ValueError, match="give one a row"):
        methods.supervised_dict(drawn(3, 2, seed=5), labels)
