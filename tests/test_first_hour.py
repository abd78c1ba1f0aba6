"""What a newcomer gets wrong in the first hour is answered in words, and never by an error from inside a library."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import fathom
from fathom.audits.data import Data
from fathom.audits.preprocessing import inspect
from fathom.core.network import Port
from fathom.core.overseer import Overseer
from fathom.core.program import Program

X = torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
REGION = fathom.regions.LinfBall.around(X, radius=0.1, clip=(0, 1))
BALLS = [fathom.regions.LinfBall, fathom.regions.L2Ball, fathom.regions.L1Ball]


@pytest.mark.parametrize("ball", BALLS)
@pytest.mark.parametrize(("x", "got"), [(X.numpy(), "a ndarray"), (X.tolist(), "a list"), (X[0], r"a tensor \[3\]")])
def test_samples_that_are_no_batch_of_a_tensor(ball: type, x: object, got: str) -> None:
    with pytest.raises(fathom.FathomError, match=rf"expected samples as a tensor \[n, \*shape\], got {got}"):
        ball.around(x, radius=0.1)


@pytest.mark.parametrize("ball", BALLS)
def test_radii_of_another_number(ball: type) -> None:
    with pytest.raises(fathom.FathomError, match=r"one for each of 8 samples, got \[5\]"):
        ball.around(X, radius=torch.full((5,), 0.1))


def test_labels_of_numpy() -> None:
    with pytest.raises(fathom.FathomError, match=r"got a ndarray; torch\.as_tensor"):
        fathom.Misclassification(label=np.zeros(8, dtype=np.int64), classes=2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "judges"),
    [
        (lambda: fathom.LinearRules.make([[1.0, 0.0]], [0.0]), 1),
        (lambda: fathom.Misclassification(label=torch.zeros(4, dtype=torch.int64), classes=2), 4),
        (lambda: fathom.Targeted(target=torch.zeros(9, dtype=torch.int64), classes=2), 9),
    ],
)
def test_judges_of_another_number_than_the_sets(make: Callable[[], Overseer], judges: int) -> None:
    torch.manual_seed(0)
    with pytest.raises(fathom.FathomError, match=f"each of the region's 8 sets, got {judges}"):
        fathom.audit(nn.Linear(3, 2), REGION, make(), budget=fathom.Budget(seconds=1))


class Threshold(Program):
    """Two classes, told apart by one number: above 0.5 it is class 1."""

    dtype, digest = torch.float32, "threshold"
    inputs, outputs = (Port("x", (1,), 0),), (Port("y", (2,), 0),)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.full_like(x, 0.5), x], 1)


def test_swapped_labels_are_not_explained_by_chance() -> None:
    """Times 255 all is class 1, and with every label one less half are of no class: each is right more often, and no cause."""
    x = torch.linspace(0.01, 1, 100)[:, None]
    labels = (x[:, 0] <= 0.6).to(torch.int64)
    inspection = inspect(Threshold(), Data(x.numpy(), labels.numpy()))
    assert [finding.says for finding in inspection.stops] == [
        "accuracy is 10.0% on 100 samples, and guessing among 2 classes would have 50.0%"
    ]
    assert "classes are numbered as in training" in inspection.stops[0].todo
