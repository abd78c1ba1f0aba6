"""The laws of every region, found by discovery. Oracles: rational arithmetic, sampling, and scipy's solvers."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy
import pytest
import torch
from scipy import optimize, sparse

import fathom.regions
from fathom.core.box import Box
from fathom.core.discover import discover
from fathom.core.errors import FathomError
from fathom.core.filled import require_filled
from fathom.core.region import Projectable, Region
from fathom.core.value import fingerprint
from fathom.regions.box import BoxRegion
from fathom.regions.changes import Changes
from fathom.regions.ellipsoid import Ellipsoid
from fathom.regions.finite import FiniteSet
from fathom.regions.l0 import L0Ball
from fathom.regions.l1 import L1Ball
from fathom.regions.l2 import L2Ball
from fathom.regions.linf import LinfBall
from fathom.regions.patch import Patch
from fathom.regions.product import Product
from fathom.regions.tabular import Tabular
from fathom.regions.union import Union
from fathom.regions.wasserstein import WassersteinBall

KINDS = discover(fathom.regions, Region)
BALLS = {"LinfBall": math.inf, "L2Ball": 2, "L1Ball": 1}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(kind: str, centre: torch.Tensor, radius: torch.Tensor, clip: tuple[float, float] | None) -> Region:
    """Sets of a kind near centres of float32 numbers. A new kind that is neither a ball nor a box adds its case here."""
    if kind in BALLS:
        return KINDS[kind].around(centre, radius, clip)
    if kind == "BoxRegion":
        low, high = (-math.inf, math.inf) if clip is None else clip
        wide = centre.double()
        return BoxRegion((wide - radius[:, None]).clamp(min=low), (wide + radius[:, None]).clamp(max=high))
    if kind == "FiniteSet":
        g = generator(centre.shape[1])
        offsets = torch.rand(len(centre), 5, centre.shape[1], generator=g) * 2 - 1
        offsets[:, 0] = 0
        points = centre[:, None] + radius[:, None, None].float() * offsets
        points = points if clip is None else points.clamp(*clip)
        return FiniteSet.of(points, torch.arange(5) < torch.tensor([1, 5, 4, 5, 5, 3])[: len(centre), None])
    d = centre.shape[1]
    if kind == "L0Ball":
        groups = torch.arange(d) % max(d // 3, 1)
        return L0Ball.around(centre, 2, clip, radius=radius, groups=groups)
    if kind == "Patch":
        shape, window = {1: ((1, 1), 1), 2: ((1, 2), 1), 7: ((1, 7), (1, 3)), 60: ((3, 4, 5), 2), 3: ((1, 1, 3), 1)}.get(
            d, ((1, d), 1)
        )
        return Patch.around(centre.reshape(-1, *shape), window, clip, radius=radius)
    if kind == "Product":
        return Product(tuple(make(one, part, radius, clip) for one, part in zip(factors(d), centre.split((d + 1) // 2, 1))))
    if kind == "Union":  # of sets that reach into one another, or of two that lie side by side
        low, high = (-math.inf, math.inf) if clip is None else clip
        moved = (centre + 2 * radius[:, None].float()).clamp(low, high) if d == 7 else centre
        return Union((make("L1Ball", centre, radius, clip), make(factors(d)[1], moved, 0.6 * radius, clip)))
    if kind == "Tabular":  # intervals and a budget, where the oracle is exact; see test_kinds_of_region.py for the rest
        low, high = (-100.0, 100.0) if clip is None else clip
        made = Tabular.around(centre, (low, high), unit=torch.arange(1, d + 1), budget=1.0)
        reach = LinfBall.around(centre, radius).box()
        return replace(made.restrict(torch.arange(len(centre)), reach.lower, reach.upper), budget=0.7 * radius)
    if kind == "WassersteinBall":
        shape = {1: (1, 1, 1), 2: (1, 1, 2), 7: (1, 1, 7), 60: (3, 4, 5)}.get(d, (1, 1, d))
        return WassersteinBall.around(centre.reshape(-1, *shape), radius, clip)
    if kind == "Ellipsoid":  # of all shapes, from thin to round, whatever the clipping; `restrict` clips
        g = generator(d)
        factor = torch.diag_embed(10.0 ** (-2 * torch.rand(len(centre), d, generator=g, dtype=torch.float64)))
        below = torch.randn(len(centre), d, generator=g, dtype=torch.float64)[:, 1:]
        factor += torch.diag_embed(0.3 * factor.diagonal(dim1=1, dim2=2)[:, 1:] * below, offset=-1)
        return Ellipsoid.make(centre, factor, radius)
    pytest.fail(f"say in `make` how to build a {kind}")


def factors(d: int) -> tuple[str, ...]:
    """What products are made of: convex kinds, and others."""
    return ("L2Ball", "BoxRegion") if d < 60 else ("L1Ball", "FiniteSet")


def examples(kind: str) -> list[Region]:
    """Of every size and clipping: points, thin sets, clipped ones, one and many inputs."""
    found = []
    for d in (1, 2, 7, 60):
        centre = (torch.rand(6, d, generator=generator(d)) * 0.4 + 0.3).round(decimals=1)
        radius = torch.tensor([0.0, 1e-9, 0.05, 0.3, 1.0, 20.0], dtype=torch.float64)
        found += [make(kind, centre, radius, clip) for clip in (None, (0.0, 1.0), (0.25, 0.75))]
    return found


@pytest.fixture
def region(request: pytest.FixtureRequest) -> Region:
    kind, i = request.param
    return examples(kind)[i]


NAMED = [pytest.param((kind, i), id=f"{kind}-{i}") for kind in KINDS for i in range(12)]
every = pytest.mark.parametrize("region", NAMED, indirect=True)


def inside(region: Region, i: int, x: torch.Tensor, slack: Fraction = Fraction(0)) -> bool:
    """Whether x [d] lies in set i, its size changed by about the relative `slack`, in exact arithmetic."""
    point = [Fraction(v) for v in x.double().tolist()]
    if isinstance(region, BoxRegion):
        low, high = region.lower[i].tolist(), region.upper[i].tolist()
        return all(Fraction(a) - abs(slack) <= v <= Fraction(b) + slack for a, v, b in zip(low, point, high, strict=True))
    if isinstance(region, FiniteSet):
        points = [[Fraction(v) for v in p.tolist()] for p in region.points[i][region.present[i]]]
        return slack >= 0 and any(all(abs(a - b) <= slack for a, b in zip(p, point, strict=True)) for p in points)
    if isinstance(region, WassersteinBall):
        return plan_cost(region, i, x.double()) <= region.radius[i].item() * float(1 + slack) + 1e-6
    if isinstance(region, Tabular):
        return tabular_holds(region, i, point, max(slack, Fraction(0)))
    if isinstance(region, Product):
        parts = x.split([factor.size for factor in region.factors])
        return all(inside(factor, i, part, slack) for factor, part in zip(region.factors, parts, strict=True))
    if isinstance(region, Union):
        return any(inside(member, i, x, slack) for member in region.members)
    if isinstance(region, Ellipsoid):
        return ellipsoid_holds(region, i, point, slack)
    if isinstance(region, Changes):
        return changes_hold(region, i, point, max(slack, Fraction(0)))
    clip = zip(region.lower[i].tolist(), point, region.upper[i].tolist(), strict=True)
    if not all(Fraction(a) <= v <= Fraction(b) for a, v, b in clip):
        return False
    change = [abs(v - Fraction(c)) for v, c in zip(point, region.centre[i].tolist(), strict=True)]
    radius = max(Fraction(region.radius[i].item()) * (1 + slack) + slack / 10**5, Fraction(0))
    norm = BALLS[type(region).__name__]
    if norm == math.inf:
        return max(change) <= radius
    return sum(change) <= radius if norm == 1 else sum(c * c for c in change) <= radius * radius


def ellipsoid_holds(region: Ellipsoid, i: int, point: list[Fraction], slack: Fraction) -> bool:
    """Whether u, solved for exactly from point = centre + factor u, is short enough."""
    ends = zip(region.lower[i].tolist(), point, region.upper[i].tolist(), strict=True)
    if not all(Fraction(a) - abs(slack) <= v <= Fraction(b) + abs(slack) for a, v, b in ends):
        return False
    u: list[Fraction] = []
    for v, c, row in zip(point, region.centre[i].tolist(), region.factor[i].tolist(), strict=True):
        before = sum((Fraction(f) * w for f, w in zip(row, u) if f), Fraction(0))
        u.append((v - Fraction(c) - before) / Fraction(row[len(u)]))
    radius = max(Fraction(region.radius[i].item()) * (1 + slack) + slack / 10**5, Fraction(0))
    return sum(w * w for w in u) <= radius * radius


def plan_cost(region: WassersteinBall, i: int, x: torch.Tensor) -> float:
    """The cost of the cheapest plan to within the slack of x, by a linear program over all moves; inf where there is none."""
    if not ((region.lower[i] - 1e-9 <= x) & (x <= region.upper[i] + 1e-9)).all():
        return math.inf
    channels, height, width = region.shape
    place = [(c, y, z) for c in range(channels) for y in range(height) for z in range(width)]
    near = [
        (j, k)
        for j, p in enumerate(place)
        for k, q in enumerate(place)
        if p[0] == q[0] and max(abs(p[1] - q[1]), abs(p[2] - q[2])) <= region.window
    ]
    cost = [math.hypot(place[j][1] - place[k][1], place[j][2] - place[k][2]) for j, k in near]
    columns = numpy.arange(len(near))
    leave = sparse.csr_array((numpy.ones(len(near)), ([j for j, _ in near], columns)))
    come = sparse.csr_array((numpy.ones(len(near)), ([k for _, k in near], columns)))
    off = region.slack[i].item() * (1 + 1e-6) + 1e-12
    room = numpy.concatenate([x.numpy() + off, off - x.numpy()])
    found = optimize.linprog(
        cost, A_ub=sparse.vstack([come, -come]), b_ub=room, A_eq=leave, b_eq=region.centre[i].numpy(), bounds=(0, None)
    )
    return found.fun if found.status == 0 else math.inf


def tabular_holds(region: Tabular, i: int, point: list[Fraction], slack: Fraction) -> bool:
    """Whether a point keeps to ranges, steps, groups, budget and relations."""
    ends = zip(region.lower[i].tolist(), point, region.upper[i].tolist(), strict=True)
    if not all(Fraction(a) - slack <= v <= Fraction(b) + slack for a, v, b in ends):
        return False
    if any(step and v % Fraction(step) for step, v in zip(region.step[i].tolist(), point, strict=True)):
        return False
    if any(sorted(point[j] for j in group) != [0] * (len(group) - 1) + [1] for group in region.groups):
        return False
    terms = zip(region.price[i].tolist(), point, region.centre[i].tolist(), strict=True)
    cost = sum((Fraction(p) * abs(v - Fraction(c)) for p, v, c in terms), Fraction(0))
    if math.isfinite(region.budget[i]) and cost > Fraction(region.budget[i].item()) + slack:
        return False
    pairs = zip(region.rows[i].tolist(), region.limits[i].tolist(), strict=True)
    return all(sum(Fraction(a) * v for a, v in zip(row, point, strict=True)) <= Fraction(b) + slack for row, b in pairs)


def changes_hold(region: Changes, i: int, point: list[Fraction], slack: Fraction) -> bool:
    """Whether a point keeps to the ranges, and what changes is one of the choices, told from the words of the kind."""
    ends = zip(region.lower[i].tolist(), point, region.upper[i].tolist(), strict=True)
    if not all(Fraction(a) - slack <= v <= Fraction(b) + slack for a, v, b in ends):
        return False
    still = zip(region.still_lower[i].tolist(), point, region.still_upper[i].tolist(), strict=True)
    changed = [j for j, (a, v, b) in enumerate(still) if not Fraction(a) - slack <= v <= Fraction(b) + slack]
    if isinstance(region, L0Ball):
        return len({int(region.group[i, j]) for j in changed}) <= int(region.count[i])
    assert isinstance(region, Patch)
    _, height, width = region.shape
    rows, columns = [j // width % height for j in changed] or [0], [j % width for j in changed] or [0]
    return max(rows) - min(rows) < region.window[0] and max(columns) - min(columns) < region.window[1]


def test_every_kind_is_found() -> None:
    assert {
        "BoxRegion",
        "LinfBall",
        "L2Ball",
        "L1Ball",
        "Ellipsoid",
        "FiniteSet",
        "L0Ball",
        "Patch",
        "Product",
        "Tabular",
        "Union",
        "WassersteinBall",
    } <= set(KINDS)


@every
def test_contains_says_yes_only_when_that_is_certain(region: Region) -> None:
    samples = region.sample(20, generator())
    middle = region.box().middle[:, None]
    outwards = middle + (samples - middle) * (1 + torch.linspace(0, 1e-15, 20)[:, None])
    yes = 0
    for x in (samples, outwards):
        for j in range(20):
            said = region.contains(x[:, j])
            for i in said.nonzero()[:, 0].tolist():
                yes += 1
                assert inside(region, i, x[i, j]), (i, x[i, j].tolist())
    assert yes >= 60


@pytest.mark.parametrize("kind", sorted(BALLS))
@pytest.mark.parametrize("d", [1, 3, 40])
def test_contains_at_the_very_edge(kind: str, d: int) -> None:
    """Points put on the sphere by plain arithmetic: some inside and some outside by a rounding."""
    n, g = 400, generator(d)
    region = KINDS[kind].around(torch.rand(n, d, generator=g), torch.rand(n, generator=g, dtype=torch.float64))
    direction = torch.randn(n, d, generator=g, dtype=torch.float64)
    direction /= torch.linalg.vector_norm(direction, BALLS[kind], dim=1, keepdim=True)
    x = region.centre + region.radius[:, None] * direction
    truth = torch.tensor([inside(region, i, x[i]) for i in range(n)])
    assert 0 < truth.sum() < n
    assert not (region.contains(x) & ~truth).any()


@pytest.mark.parametrize("kind", sorted(BALLS))
@pytest.mark.parametrize("d", [1, 3, 40])
def test_minimum_over_an_unclipped_ball_is_below_the_formula_exactly(kind: str, d: int) -> None:
    """min a x = a c - r |a|_dual, in rational arithmetic; the square root is avoided by comparing squares."""
    n, g = 100, generator(d)
    region = KINDS[kind].around(torch.randn(n, d, generator=g), torch.rand(n, generator=g, dtype=torch.float64))
    a = torch.randn(n, 1, d, generator=g, dtype=torch.float64)
    values = region.minimise(a)[0][:, 0].tolist()
    for i in range(n):
        row = [Fraction(v) for v in a[i, 0].tolist()]
        radius = Fraction(region.radius[i].item())
        drop = sum(p * Fraction(c) for p, c in zip(row, region.centre[i].tolist(), strict=True)) - Fraction(values[i])
        sizes = [abs(p) for p in row]
        if kind == "L2Ball":
            assert drop >= 0
            assert drop**2 >= radius**2 * sum(p * p for p in row)
        else:
            assert drop >= radius * (max(sizes) if kind == "L1Ball" else sum(sizes))


@every
def test_contains_is_not_timid(region: Region) -> None:
    """What lies well inside is inside, and so is every sample up to the last digits."""
    samples = region.sample(20, generator())
    for j in range(20):
        missed = (~region.contains(samples[:, j])).nonzero()[:, 0]
        for i in missed.tolist():
            assert not inside(region, i, samples[i, j], Fraction(-1, 10**9))


@every
def test_nan_and_far_points_are_outside(region: Region) -> None:
    assert not region.contains(torch.full((6, region.size), math.nan)).any()
    assert not region.contains(torch.full((6, region.size), math.inf)).any()
    assert not region.contains(region.box().upper + 1e-6).any()


@every
def test_box_holds_every_point(region: Region) -> None:
    box, samples = region.box(), region.sample(200, generator())
    assert box.lower.dtype == torch.float64
    assert ((samples >= box.lower[:, None]) & (samples <= box.upper[:, None])).all()
    # and is no larger than it need be: a row against each axis reaches its ends
    unit = torch.eye(region.size, dtype=torch.float64).expand(len(region), -1, -1)
    reached = -region.minimise(-unit)[0]
    assert torch.allclose(reached, box.upper, atol=1e-9)
    assert torch.allclose(region.minimise(unit)[0], box.lower, atol=1e-9)


def rows(region: Region, count: int, seed: int = 1) -> torch.Tensor:
    """Rows of every scale, with zeros and ties."""
    g = generator(seed)
    a = torch.randn(len(region), count, region.size, generator=g, dtype=torch.float64)
    a[:, ::3] = a[:, ::3].round()
    a[:, 0] = 0
    a[:, 1] = 1
    return a * 10.0 ** torch.randint(-12, 13, (1, count, 1), generator=g)


@every
def test_minimum_is_below_every_point_exactly(region: Region) -> None:
    """Against rational arithmetic, at samples, minimisers and projections that certainly lie inside."""
    a = rows(region, 7)
    values, minimisers = region.minimise(a)
    points = [region.sample(6, generator()), minimisers]
    if isinstance(region, Projectable):
        points.append(region.project(minimisers + 0.1 * torch.randn(minimisers.shape, generator=generator())))
    points = torch.cat(points, 1)
    for j in range(points.shape[1]):
        certain = region.contains(points[:, j])
        for i in certain.nonzero()[:, 0].tolist():
            x = [Fraction(v) for v in points[i, j].tolist()]
            for r in range(7):
                exact = sum(Fraction(p) * q for p, q in zip(a[i, r].tolist(), x, strict=True))
                assert Fraction(values[i, r].item()) <= exact


@every
def test_minimisers_are_points_that_attain_the_value(region: Region) -> None:
    a = rows(region, 20)
    values, minimisers = region.minimise(a)
    attained = (a * minimisers).sum(-1)
    scale = a.abs().amax(-1) * (1 + region.box().magnitude.sum(-1))[:, None]
    assert (attained - values >= 0).all()
    if isinstance(region, WassersteinBall):  # bounds, by as much as slack and range can take away: see test_wasserstein.py
        scale = 1e11 * scale
    assert ((attained - values) <= 1e-11 * scale + 1e-200).all()
    for i in range(len(region)):
        for j in range(20):
            assert inside(region, i, minimisers[i, j], Fraction(1, 10**9)) or region.contains(minimisers[:, j])[i]


@every
def test_minimum_has_the_minimiser_as_gradient(region: Region) -> None:
    a = torch.randn(len(region), 4, region.size, generator=generator(5), dtype=torch.float64, requires_grad=True)
    values, minimisers = region.minimise(a)
    (slope,) = torch.autograd.grad(values.sum(), a)
    assert torch.allclose(slope, minimisers, atol=1e-9)
    assert torch.equal(values, region.minimise(a.detach())[0])


@pytest.mark.parametrize("kind", ["L2Ball", "L1Ball"])
@pytest.mark.parametrize("seed", range(4))
def test_minimum_over_a_clipped_ball_is_that_of_another_solver(kind: str, seed: int) -> None:
    d, g = 5, generator(seed)
    region = make(kind, torch.rand(1, d, generator=g), torch.tensor([0.4 + 0.3 * seed], dtype=torch.float64), (0.0, 1.0))
    a = torch.randn(1, 1, d, generator=g, dtype=torch.float64)
    c, row, radius = region.centre[0].numpy(), a[0, 0].numpy(), region.radius.item()
    if kind == "L1Ball":  # x = c + p - q
        room = [*((0, 1 - v) for v in c), *((0, v) for v in c)]
        best = optimize.linprog([*row, *-row], A_ub=[[1.0] * (2 * d)], b_ub=[radius], bounds=room).fun + row @ c
    else:
        ball = {"type": "ineq", "fun": lambda x: radius**2 - ((x - c) ** 2).sum()}
        exact = {"ftol": 1e-14, "maxiter": 500}
        best = optimize.minimize(lambda x: row @ x, c, bounds=[(0, 1)] * d, constraints=[ball], options=exact).fun
    assert region.minimise(a)[0].item() == pytest.approx(best, abs=1e-6)


def least_over_box(a: list[float], lower: list[float], upper: list[float]) -> Fraction:
    """The minimum of a x over a box, exactly."""
    return sum(
        (min(Fraction(p) * Fraction(low), Fraction(p) * Fraction(high)) for p, low, high in zip(a, lower, upper)), Fraction(0)
    )


@every
def test_minimum_over_a_union_is_that_of_its_parts_exactly(region: Region) -> None:
    """Sets that are not convex, and sub-boxes of them, some empty: against every part, in rational arithmetic."""
    if region.convex:
        pytest.skip("is convex")
    g, owner = generator(4), torch.arange(6).repeat(2)
    ends = region.sample(2, g)[owner]
    ends = torch.where(torch.rand(12, 1, region.size, generator=g) < 0.5, ends, region.box().lower[owner][:, None])
    cut = region.restrict(owner, ends.amin(1), region.box().upper[owner])
    for part in (region, cut):
        found = part.parts(60)
        if found is None or not isinstance(found[0], BoxRegion):
            continue
        boxes, of = found
        a = rows(part, 5)
        values, _ = part.minimise(a)
        assert torch.equal(part.empty(), torch.bincount(of, minlength=len(part)) == 0)
        for i in (~part.empty()).nonzero()[:, 0].tolist():
            mine = boxes.box().take((of == i).nonzero()[:, 0])
            for r in range(5):
                ends_of = zip(mine.lower.tolist(), mine.upper.tolist(), strict=True)
                exact = min(least_over_box(a[i, r].tolist(), low, high) for low, high in ends_of)
                scale = Fraction(a[i, r].abs().max().item()) * (1 + Fraction(part.box().magnitude[i].sum().item()))
                assert 0 <= exact - Fraction(values[i, r].item()) <= scale / 10**11 + Fraction(1, 10**200)
            assert torch.equal(mine.lower.amin(0), part.box().lower[i])
            assert torch.equal(mine.upper.amax(0), part.box().upper[i])


@every
def test_restriction_keeps_all_of_the_intersection(region: Region) -> None:
    g = generator(3)
    owner = torch.tensor([0, 3, 3, 5, 2])
    samples = region.sample(64, g)[owner]
    one, two = samples[:, 0], samples[:, 1]
    lower, upper = torch.minimum(one, two), torch.maximum(one, two)
    part = region.restrict(owner, lower, upper)
    assert len(part) == 5
    assert part.size == region.size
    held = ((samples >= lower[:, None]) & (samples <= upper[:, None])).all(-1)
    assert held.any(1).all()
    box = part.box()
    a = rows(part, 5)
    values, minimisers = part.minimise(a)
    assert (minimisers >= lower[:, None] - 1e-9).all()
    assert (minimisers <= upper[:, None] + 1e-9).all()
    for k, j in held.nonzero().tolist():
        x = samples[k, j]
        assert ((box.lower[k] <= x) & (x <= box.upper[k])).all()
        assert (values[k] <= (a[k] * x).sum(-1) + 1e-12 * (a[k] * x).abs().sum(-1)).all()


@every
def test_empty_restriction_does_not_crash(region: Region) -> None:
    owner = torch.arange(len(region))
    away = region.box().upper + 1.0
    part = region.restrict(owner, away, away + 1)
    assert not part.contains(away).any()
    assert not torch.isnan(part.minimise(rows(part, 3))[0]).any()
    part.sample(3, generator())


@pytest.mark.parametrize("kind", ["L2Ball", "L1Ball"])
@pytest.mark.parametrize("seed", range(3))
def test_sub_box_without_the_centre_is_bounded_tightly(kind: str, seed: int) -> None:
    """Half of a ball, cut off by a box that leaves the centre outside."""
    g = generator(seed)
    centre = torch.rand(3, 4, generator=g)
    region = make(kind, centre, torch.full((3,), 0.5, dtype=torch.float64), None)
    lower = region.box().lower.clone()
    lower[:, 0] = region.centre[:, 0] + 0.2
    half = region.restrict(torch.arange(3), lower, region.box().upper)
    a = torch.randn(3, 6, 4, generator=g, dtype=torch.float64)
    values, minimisers = half.minimise(a)
    assert (((a * minimisers).sum(-1) - values) < 1e-9).all()
    samples = half.sample(400, g)
    assert (torch.einsum("nrd,nsd->nrs", a, samples).amin(-1) - values >= -1e-12).all()
    assert all(half.contains(samples[:, j]).all() for j in range(0, 400, 10))


@every
def test_projection_is_nearest_inside_and_stays(region: Region) -> None:
    if not isinstance(region, Projectable):
        pytest.skip("has no projection")
    g = generator(2)
    samples = region.sample(100, g)
    for dtype, close in ((torch.float64, 1e-9), (torch.float32, 2e-5)):
        x = (torch.rand(6, 9, region.size, generator=g, dtype=torch.float64) * 3 - 1).to(dtype)
        near = region.project(x)
        assert near.dtype == dtype
        assert near.shape == x.shape
        points = isinstance(region, BoxRegion) and dtype == torch.float32  # a thin box may hold no float32
        sure = torch.stack([region.contains(near[:, j]) for j in range(9)], 1)
        assert sure[2:].all() if points else sure.all()
        assert torch.allclose(region.project(near), near, atol=close)
        far = (x.double() - near.double()).norm(dim=-1)
        others = torch.cdist(x.double(), samples).amin(-1)
        assert (far <= others + close).all()
        assert torch.equal(region.project(x[:, 0]), near[:, 0])


@every
def test_points_inside_are_their_own_projection(region: Region) -> None:
    if isinstance(region, Projectable):
        samples = region.sample(10, generator())
        assert torch.allclose(region.project(samples), samples, rtol=1e-11, atol=1e-12)


@every
def test_sampling_is_seeded_and_spread(region: Region) -> None:
    one, two, other = (region.sample(200, generator(seed)) for seed in (7, 7, 8))
    assert one.dtype == torch.float64
    assert one.shape == (6, 200, region.size)
    assert torch.equal(one, two)
    if isinstance(region, WassersteinBall) and region.size == 1:
        return  # mass in a single pixel cannot move
    assert not torch.equal(one[3], other[3])
    width = region.box().width[3:]
    assert ((one[3:].amax(1) - one[3:].amin(1)) / width).amax(1).min() > 0.3
    assert torch.allclose(one[0], region.box().middle[0].expand(200, -1), rtol=0, atol=1e-15)


@every
def test_take_and_words_and_fingerprint(region: Region) -> None:
    index = torch.tensor([4, 1, 1])
    part = region.take(index)
    assert len(part) == 3
    assert torch.equal(part.box().lower, region.box().lower[index])
    a = torch.ones(6, 2, region.size, dtype=torch.float64)
    assert torch.equal(part.minimise(a[index])[0], region.minimise(a)[0][index])
    assert fingerprint(part) != fingerprint(region)
    assert fingerprint(region.take(torch.arange(6))) == fingerprint(region)
    assert len(str(region)) < 80
    assert "tensor" not in str(region)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [0, 1])
def test_batches_of_none_and_one(kind: str, n: int) -> None:
    region = make(kind, torch.rand(6, 3), torch.full((6,), 0.1, dtype=torch.float64), (0.0, 1.0)).take(torch.arange(n))
    assert len(region) == n
    assert region.size == 3
    assert region.sample(4, generator()).shape == (n, 4, 3)
    values, minimisers = region.minimise(torch.ones(n, 2, 3, dtype=torch.float64))
    assert values.shape == (n, 2)
    assert minimisers.shape == (n, 2, 3)
    assert region.contains(torch.zeros(n, 3)).shape == (n,)
    assert len(region.restrict(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3).double(), torch.zeros(0, 3).double())) == 0
    if isinstance(region, Projectable):
        assert region.project(torch.zeros(n, 2, 3)).shape == (n, 2, 3)
    str(region)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_program_may_be_given_lies_in_the_hull(kind: str) -> None:
    """The deployed set holds float32 points also where the written one does not, and the hull holds both."""
    centre = torch.rand(4, 5, generator=generator())
    region = make(kind, centre, torch.tensor([0.0, 1e-8, 0.01, 0.3], dtype=torch.float64), None)
    deployed = region.rounded(torch.float32)
    hull = region.hull(deployed)
    for holder in (region, deployed):
        samples = holder.sample(50, generator())
        box = hull.box()
        assert ((samples >= box.lower[:, None]) & (samples <= box.upper[:, None])).all()
    if isinstance(deployed, Projectable):
        x = deployed.project(torch.rand(4, 5, generator=generator(1)))
        assert x.dtype == torch.float32
        assert deployed.contains(x).all()


def test_a_decimal_that_no_float32_equals() -> None:
    written = BoxRegion(torch.tensor([[0.1, 0.3]], dtype=torch.float64), torch.tensor([[0.1, 0.7]], dtype=torch.float64))
    deployed = written.rounded(torch.float32)
    x = deployed.project(torch.zeros(1, 2))
    assert deployed.contains(x).all()
    assert not written.contains(x).any()
    hull = written.hull(deployed)
    assert hull.contains(x).all()
    assert hull.contains(written.lower).all()


def test_a_box_whose_ends_cross_is_empty_and_bears_it() -> None:
    box = BoxRegion(torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.0, 1.0]]).double())
    assert not box.contains(torch.tensor([[0.5, 0.5]])).any()
    assert not box.contains(box.sample(1, generator())[:, 0]).any()
    box.minimise(torch.ones(1, 1, 2))
    box.rounded(torch.float32)


def test_linf_ends_are_the_nearest_float64_on_each_side() -> None:
    g = generator()
    for scale in (1e-3, 1.0, 1e6):
        centre = torch.randn(50, 3, generator=g) * scale
        radius = torch.rand(50, generator=g, dtype=torch.float64)
        region = LinfBall.around(centre, radius)
        box = region.box()
        for i in range(50):
            for c, low, high in zip(region.centre[i].tolist(), box.lower[i].tolist(), box.upper[i].tolist(), strict=True):
                ends = Fraction(c) - Fraction(radius[i].item()), Fraction(c) + Fraction(radius[i].item())
                assert Fraction(low) <= ends[0] < Fraction(math.nextafter(low, math.inf))
                assert Fraction(math.nextafter(high, -math.inf)) < ends[1] <= Fraction(high)


def test_balls_nest() -> None:
    """L1 inside L2 inside L-infinity: so do their minima."""
    centre, radius = torch.rand(3, 6, generator=generator()), torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64)
    a = torch.randn(3, 8, 6, generator=generator(), dtype=torch.float64)
    one, two, inf = (kind.around(centre, radius, (0.0, 1.0)).minimise(a)[0] for kind in (L1Ball, L2Ball, LinfBall))
    assert (one >= two - 1e-9).all()
    assert (two >= inf - 1e-9).all()


@pytest.mark.parametrize("kind", sorted(BALLS))
def test_a_ball_says_what_it_is_and_refuses_what_it_is_not(kind: str) -> None:
    centre = torch.rand(3, 2, 2, generator=generator())
    ball = KINDS[kind]
    norm = {"LinfBall": "Linf", "L2Ball": "L2", "L1Ball": "L1"}[kind]
    assert str(ball.around(centre, 0.06, (0, 1))) in (f"{norm} 0.06 in [0, 1]", f"{norm} 0.06")
    assert str(ball.around(centre, 5.0, (0, 1))) == f"{norm} 5 in [0, 1]"
    assert str(ball.around(centre, 0.06)) == f"{norm} 0.06"
    assert str(ball.around(centre, torch.tensor([0.1, 0.2, 0.3]))).startswith(f"{norm} 0.1 to 0.3")
    with pytest.raises(FathomError, match="clipping range"):
        ball.around(centre * 255, 0.06, (0, 1))
    with pytest.raises(FathomError, match="radii"):
        ball.around(centre, -0.1)
    with pytest.raises(FathomError, match="finite"):
        ball.around(centre * math.nan, 0.1)


def test_boxes_refuse_what_they_are_not() -> None:
    ends = torch.zeros(2, 3, dtype=torch.float64)
    for lower, upper, word in (
        (ends.float(), ends, "float64"),
        (ends, ends[:1], "shape"),
        (ends[0], ends[0], "flatten"),
        (ends - math.inf, ends, "finite"),
    ):
        with pytest.raises(FathomError, match=word):
            BoxRegion(lower, upper)


def test_core_box_is_what_regions_give() -> None:
    for kind in KINDS:
        assert isinstance(examples(kind)[0].box(), Box)


@every
def test_sets_round_samples_are_known_to_hold_an_input(region: Region) -> None:
    require_filled(region)
    assert not region.empty().any()
