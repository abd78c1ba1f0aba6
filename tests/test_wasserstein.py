"""Wasserstein balls on images: bounds against linear programs, distances against POT, and no scale that breaks them."""

from __future__ import annotations

import itertools
import math

import numpy
import pytest
import torch
from scipy import optimize, sparse
from torch import Tensor

import fathom
from fathom.attacks.gradient import Gradient
from fathom.attacks.values import Values
from fathom.core.budget import Budget
from fathom.prove.branch import BranchAndBound
from fathom.regions.wasserstein import WassersteinBall
from tests.contracts.test_regions import generator, plan_cost
from tests.test_kinds_of_region import labelled


def images(n: int = 4, seed: int = 0, side: int = 5) -> Tensor:
    """Some pixels empty, some white."""
    return (torch.rand(n, side, side, generator=generator(seed)) * 1.6 - 0.3).clamp(0, 1)


def linear_program(region: WassersteinBall, a: Tensor) -> float:
    """The least of a x over set 0 and its range: over plans, without slack."""
    _, height, width = region.shape
    near = [
        (i, j)
        for i, j in itertools.product(range(height * width), repeat=2)
        if max(abs(i // width - j // width), abs(i % width - j % width)) <= region.window
    ]
    cost = [math.hypot(i // width - j // width, i % width - j % width) for i, j in near]
    columns = numpy.arange(len(near))
    leave = sparse.csr_array((numpy.ones(len(near)), ([i for i, _ in near], columns)))
    come = sparse.csr_array((numpy.ones(len(near)), ([j for _, j in near], columns)))
    found = optimize.linprog(
        [a[j].item() for _, j in near],
        A_ub=sparse.vstack([come, -come, sparse.csr_array([cost])]),
        b_ub=numpy.concatenate([region.upper[0].numpy(), -region.lower[0].numpy(), [region.radius[0].item()]]),
        A_eq=leave,
        b_eq=region.centre[0].numpy(),
        bounds=(0, None),
    )
    assert found.status == 0
    return float(found.fun)


@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize("radius", [0.0, 0.2, 1.0, 30.0])
def test_the_bound_is_the_linear_program_where_no_range_binds(radius: float, window: int) -> None:
    region = WassersteinBall.around(images(1, seed=window), radius, window=window, slack=0.0)
    a = torch.randn(1, 4, region.size, generator=generator(3), dtype=torch.float64)
    values, minimisers = region.minimise(a)
    for r in range(4):
        best = linear_program(region, a[0, r])
        assert values[0, r].item() == pytest.approx(best, abs=1e-9)
        assert values[0, r].item() <= best + 1e-9
        assert float((a[0, r] * minimisers[0, r]).sum()) == pytest.approx(best, abs=1e-8)
        assert plan_cost(region, 0, minimisers[0, r]) <= radius + 1e-6


@pytest.mark.parametrize("radius", [0.2, 1.0, 5.0])
def test_with_a_range_the_bound_stays_below_and_the_minimiser_is_near(radius: float) -> None:
    region = WassersteinBall.around(images(1), radius, (0.0, 1.0), slack=0.0)
    a = torch.randn(1, 4, region.size, generator=generator(4), dtype=torch.float64)
    values, minimisers = region.minimise(a)
    for r in range(4):
        best, stay = linear_program(region, a[0, r]), float((a[0, r] * region.centre[0]).sum())
        found = float((a[0, r] * minimisers[0, r]).sum())
        assert values[0, r].item() <= best + 1e-9
        assert best - 1e-9 <= found <= stay - 0.85 * (stay - best)
        assert best - values[0, r].item() <= 0.6 * (stay - best)  # the price of a full pixel is not part of the bound
        assert plan_cost(region, 0, minimisers[0, r]) <= radius + 1e-6


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1.0, 1e30, 1e150])
@pytest.mark.parametrize("mass", [1e-100, 1e-6, 1.0, 255.0, 1e12])
def test_no_scale_makes_nan(scale: float, mass: float) -> None:
    wide = images(3).double() * mass
    region = WassersteinBall.around(wide, torch.tensor([0.0, 1e-9, 1.0], dtype=torch.float64) * mass, slack=0.0)
    a = torch.randn(3, 3, region.size, generator=generator(5), dtype=torch.float64) * scale
    a[:, 0] = 0
    values, x = region.minimise(a)
    assert torch.isfinite(values).all() and torch.isfinite(x).all()
    assert (values <= (a * x).sum(-1) + 1e-12 * (a * x).abs().sum(-1)).all()
    assert (values[0] >= (a[0] * region.centre[0]).sum(-1) - 1e-12 * (a[0] * region.centre[0]).abs().sum(-1) - 1e-200).all()
    assert torch.isfinite(region.sample(3, generator(6))).all()


def test_the_radius_is_spent_where_full_pixels_stop_mass() -> None:
    """The price that is best without a range left a third of minimisers with half of what the radius could have paid for."""
    region = WassersteinBall.around(images(6, seed=11, side=6), 1.0, (0.0, 1.0), slack=0.0)
    a = torch.randn(6, 3, region.size, generator=generator(12), dtype=torch.float64)
    _, minimisers = region.minimise(a)
    stay, found = (a * region.centre[:, None]).sum(2), (a * minimisers).sum(2)
    for i, r in itertools.product(range(6), range(3)):
        best = linear_program(region.take(torch.tensor([i])), a[i, r])
        assert best - 1e-9 <= found[i, r].item() <= stay[i, r].item() - 0.85 * (stay[i, r].item() - best)


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e10, 1e30])
@pytest.mark.parametrize("kind", ["grey", "black", "one pixel"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_scale_of_images_radii_or_rows_leaves_the_set(kind: str, scale: float, dtype: torch.dtype) -> None:
    grey, single = images(5, seed=1, side=4).double(), torch.zeros(5, 4, 4, dtype=torch.float64)
    single[:, 1, 2] = 1
    wide = {"grey": grey, "black": 0 * grey, "one pixel": single}[kind] * scale
    radius = torch.tensor([0.0, 1e-30, 1.0, 1e30, 1e-3], dtype=torch.float64) * scale
    a = torch.randn(5, 5, 16, generator=generator(2), dtype=torch.float64)
    a[:, 1] = 3.0
    a[:, 2] *= 10.0 ** torch.randint(-150, 150, (16,), generator=generator(3)).double()
    a[:, 3] *= 1e-300
    a[:, 4] *= 1e150
    for clip in (None, (0.0, scale)):
        region = WassersteinBall.around(wide, radius, clip).rounded(dtype)
        values, x = region.minimise(a)
        box = region.box()
        assert all(torch.isfinite(part).all() for part in (values, x, box.lower, box.upper, region.sample(3, generator(4))))
        assert (box.lower <= box.upper).all()
        assert (values <= (a * x).sum(2) + 1e-12 * (a * x).abs().sum(2)).all()
        far = torch.tensor([-1.0, 1.0, 1e-30], dtype=dtype)[:, None].expand(5, -1, 16) * torch.finfo(dtype).max
        for near in (region.repair(x.to(dtype)), region.repair(far)):
            assert near.dtype == dtype
            assert all(region.contains(near[:, j]).all() for j in range(near.shape[1]))


@pytest.mark.parametrize("logits", [1e-30, 1e30])
@pytest.mark.parametrize("radius", [0.0, 1e-30, 4.0, 1e30])
def test_the_attack_bears_any_scale_of_the_logits(radius: float, logits: float) -> None:
    """The same failures whatever the outputs are multiplied by, and points of the set."""
    region = WassersteinBall.around(images(3, side=3), radius, (0.0, 1.0))
    found = []
    for scale in (1.0, logits):
        problem = labelled(region, seed=1, scale=scale)
        answers = Gradient(restarts=1, steps=6, full=0).solve(problem, Budget())
        known = answers.found.known
        assert known.all() and problem.deployed.contains(answers.found.x).all()
        found.append(answers.broken)
    assert torch.equal(found[0], found[1])


def test_flat_rows_and_empty_images() -> None:
    region = WassersteinBall.around(torch.zeros(2, 3, 3), 1.0, (0.0, 1.0))
    values, x = region.minimise(torch.ones(2, 1, 9, dtype=torch.float64))
    assert (values.abs() < 1e-4).all() and (x == 0).all()
    assert region.contains(torch.zeros(2, 9)).all() and not region.contains(torch.full((2, 9), 0.01)).any()


def test_mass_that_is_made_or_lost_is_outside() -> None:
    x = images(3)
    region = WassersteinBall.around(x, 1.0, (0.0, 1.0))
    flat = x.flatten(1)
    assert region.contains(flat).all()
    assert not region.contains((flat * 0.999).clamp(0, 1)).any()
    one = flat.clone()
    one[:, 0] = 1 - one[:, 0]
    assert not region.contains(one).any()
    assert not region.contains(torch.full_like(flat, torch.nan)).any()


def test_what_is_repaired_lies_inside_in_the_programs_numbers() -> None:
    region = WassersteinBall.around(images(3), torch.tensor([0.0, 0.3, 2.0], dtype=torch.float64), (0.0, 1.0))
    x = torch.rand(3, 20, region.size, generator=generator(7))
    near = region.repair(x)
    assert near.dtype == torch.float32 and torch.equal(region.repair(near), near)
    assert all(region.contains(near[:, j]).all() for j in range(20))
    for j in range(5):
        assert plan_cost(region, 2, near[2, j].double()) <= 2.0 + 1e-6


def test_distances_are_those_of_another_library() -> None:
    """POT: minimisers spend the radius and no more, and plans to the nearest in need are dearer than the best, not cheaper."""
    ot = pytest.importorskip("ot", reason="needs POT, from the lock of developers")
    x = images(3, seed=2).double()
    region = WassersteinBall.around(x, torch.tensor([0.2, 0.8, 2.0], dtype=torch.float64), window=4, slack=0.0)
    place = torch.cartesian_prod(torch.arange(5.0), torch.arange(5.0)).double()
    distance = torch.cdist(place, place, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    a = torch.randn(3, 3, 25, generator=generator(8), dtype=torch.float64)
    _, minimisers = region.minimise(a)
    for i, r in itertools.product(range(3), range(3)):
        source, target = region.centre[i].numpy(), minimisers[i, r].numpy()
        assert target.sum() == pytest.approx(source.sum(), rel=1e-12)
        exact = ot.emd2(source, target * (source.sum() / target.sum()), distance)
        assert exact <= region.radius[i].item() * (1 + 1e-6)
        change, cost = region.take(torch.tensor([i]))._plan((minimisers[i, r] - region.centre[i])[None, None])
        assert torch.allclose(change[0, 0], minimisers[i, r] - region.centre[i], atol=1e-9)
        assert exact - 1e-9 <= cost.item() <= 1.5 * exact


def test_attacks_and_proofs_agree_on_images() -> None:
    region = WassersteinBall.around(images(4, side=3), torch.tensor([0.01, 0.1, 1.0, 4.0], dtype=torch.float64), (0.0, 1.0))
    problem = labelled(region, seed=1)
    sure = BranchAndBound().solve(problem, Budget(seconds=4))
    assert sure.proved[0]
    broken = torch.zeros(4, dtype=torch.bool)
    for attack in (Gradient(restarts=2, full=0), Values(steps=10, samples=8)):
        found = attack.solve(problem, Budget())
        assert not (found.broken & sure.proved).any()
        held = found.found.known
        assert held.any() and problem.deployed.contains(found.found.x)[held].all()
        broken |= found.broken
    assert broken.any()


def test_words_and_refusals() -> None:
    assert str(WassersteinBall.around(images(), 0.5, (0.0, 1.0))) == "Wasserstein 0.5"
    for bad, word in (
        (lambda: WassersteinBall.around(images() - 0.5, 0.5, (-1.0, 1.0)), "mass"),
        (lambda: WassersteinBall.around(images(), -0.5, (0.0, 1.0)), "radii"),
        (lambda: WassersteinBall.around(images().flatten(1), 0.5, (0.0, 1.0)), "images"),
        (lambda: WassersteinBall.around(images() * 255, 0.5, (0.0, 1.0)), "clipping range"),
        (lambda: WassersteinBall.around(images(), 0.5, (0.0, 1.0), window=-1), "window"),
    ):
        with pytest.raises(fathom.FathomError, match=word):
            bad()
