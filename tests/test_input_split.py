"""Halving inputs: what a leaf's bounds are does not depend on which sets are searched, or in what order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fathom.core.problem import Problem
from fathom.prove import input_split
from fathom.prove.input_split import Boxes, InputTree
from fathom.regions.box import BoxRegion
from tests.contracts.test_bounds import made, pose, residual


def close(a: Tensor, b: Tensor) -> bool:
    """But for the order of summation."""
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=1e-12)


def three_boxes() -> Problem:
    middle = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).double()
    return pose(made(residual, 0), BoxRegion(middle - 0.3, middle + 0.3), 0)


def halved(problem: Problem, sets: list[int], *, forms: bool) -> tuple[Boxes, Boxes]:
    tree = InputTree(problem, 1 << 28, clip=False, forms=forms)
    root = tree.root(torch.tensor(sets))
    return root, tree.split(root)[0]


def test_leaves_are_those_of_each_set_alone() -> None:
    problem = three_boxes()
    for forms in (False, True):
        root, children = halved(problem, [2, 0], forms=forms)
        for k, one in enumerate((2, 0)):
            alone, parts = halved(problem, [one], forms=forms)
            mine = children.take((children.owner == one).nonzero()[:, 0])
            assert close(root.margin[k], alone.margin[0]) and close(mine.margin, parts.margin)
            assert all(close(a.lower, b.lower) for a, b in zip(mine.inside, parts.inside, strict=True))


def test_whole_sets_are_bounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, tighten = [], input_split.tighten
    monkeypatch.setattr(input_split, "tighten", lambda *args, **given: asked.append(len(args[1])) or tighten(*args, **given))
    halved(three_boxes(), [2, 0], forms=False)
    assert asked == [2, 4]
