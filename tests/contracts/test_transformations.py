"""What every transformation promises, checked for all that discovery finds. One without examples here fails.

What a transformation means is what kornia computes. Bounds are compared with values at ends, on grids, and where a descent finds
them to be extreme.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import kornia
import pytest
import torch
from torch import Tensor

import fathom.transforms
from fathom.bounds.backward import backward
from fathom.bounds.intermediate import tighten
from fathom.core.box import Box
from fathom.core.discover import discover
from fathom.core.enclosure import enclose_point
from fathom.core.errors import FathomError
from fathom.core.network import Network
from fathom.transforms.blur import Blur
from fathom.transforms.brightness import Brightness
from fathom.transforms.contrast import Contrast
from fathom.transforms.region import Transformed
from fathom.transforms.rotation import Rotation
from fathom.transforms.scaling import Scaling
from fathom.transforms.transformation import Transformation
from fathom.transforms.translation import Translation
from fathom.transforms.warp import Warp

CLIP = (0.0, 1.0)


@dataclass(frozen=True)
class Example:
    """A transformation, what it means (pictures [n, c, h, w] and values [n, q] to pictures), and nasty values for it."""

    transformation: Transformation
    reference: Callable[[Tensor, Tensor], Tensor]
    extremes: tuple[tuple[float, ...], ...] = ()


def _warped(warp: Warp) -> Callable[[Tensor, Tensor], Tensor]:
    def reference(x: Tensor, values: Tensor) -> Tensor:
        n, _, height, width = x.shape
        rows, columns = torch.meshgrid(torch.arange(height).to(x), torch.arange(width).to(x), indexing="ij")
        column, row = columns.expand(n, -1, -1).clone(), rows.expand(n, -1, -1).clone()
        half = warp.modes**2
        for k in range(1, warp.modes + 1):
            for m in range(1, warp.modes + 1):
                wave = (torch.pi * k * (columns + 0.5) / width).sin() * (torch.pi * m * (rows + 0.5) / height).sin()
                at = (k - 1) * warp.modes + m - 1
                column += values[:, at, None, None] * wave
                row += values[:, half + at, None, None] * wave
        return kornia.geometry.transform.remap(x, column, row, align_corners=True)

    return reference


def _blurred(size: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, v: kornia.filters.gaussian_blur2d(x, size, v.expand(-1, 2))


GEOMETRY, ENHANCE = kornia.geometry.transform, kornia.enhance
EXAMPLES: dict[str, list[Example]] = {
    "Rotation": [
        Example(Rotation((-20, 30)), lambda x, v: GEOMETRY.rotate(x, v[:, 0]), ((90.0,), (-360.0,), (180.0,), (1e-6,))),
    ],
    "Translation": [
        Example(Translation((-1.5, 0.5), (-0.3, 2.0)), GEOMETRY.translate, ((1.0, -2.0), (100.0, 0.0), (-1e-6, 1e6))),
    ],
    "Scaling": [
        Example(Scaling((0.6, 1.7)), lambda x, v: GEOMETRY.scale(x, v.expand(-1, 2)), ((0.01,), (100.0,))),
    ],
    "Warp": [
        Example(Warp((-0.7, 0.9)), _warped(Warp((0.0, 1.0))), ((50.0, -50.0),)),
        Example(Warp((-0.4, 0.3), modes=2), _warped(Warp((0.0, 1.0), modes=2))),
    ],
    "Brightness": [Example(Brightness((-0.4, 0.3)), lambda x, v: ENHANCE.adjust_brightness(x, v[:, 0]), ((2.0,), (-2.0,)))],
    "Contrast": [Example(Contrast((0.3, 1.8)), lambda x, v: ENHANCE.adjust_contrast(x, v[:, 0]), ((0.0,), (100.0,)))],
    "Blur": [
        Example(Blur((0.1, 1.5), size=3), _blurred(3), ((0.1,), (1000.0,))),
        Example(Blur((0.5, 2.0)), _blurred(5), ((0.1,), (1000.0,))),
    ],
}
CASES = [pytest.param(example, id=f"{name}-{k}") for name, found in EXAMPLES.items() for k, example in enumerate(found)]
CHAINS: list[tuple[Transformation, ...]] = [
    (Rotation((-8, 8)), Translation((-0.4, 0.4), (0, 0))),
    (Contrast((0.8, 1.2)), Rotation((-5, 5))),
    (Blur((0.3, 0.8), size=3), Scaling((0.9, 1.1)), Brightness((-0.1, 0.1))),
    (Rotation((-5, 5)), Warp((-0.3, 0.3))),
]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 3, shape: tuple[int, int, int] = (2, 5, 6), seed: int = 0) -> Tensor:
    """Pictures with flat parts and edges, of numbers that float32 has."""
    x = torch.rand(count, *shape, generator=generator(seed))
    x[:, :, 1:3, 1:4] = 0.0
    x[:, :, -1] = 1.0
    return x


def values_of(chain: Sequence[Transformation], count: int, seed: int) -> Tensor:
    """[count, q] values in their ranges: at ends, and anywhere."""
    spans = torch.tensor([p.span for step in chain for p in step.parameters], dtype=torch.float64)
    share = torch.rand(count, len(spans), generator=generator(seed), dtype=torch.float64)
    share = ((share - 0.5) * 1.5 + 0.5).clamp(0, 1)
    return spans[:, 0] + share * (spans[:, 1] - spans[:, 0])


def drawn(chain: Sequence[Transformation], x: Tensor, values: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """What the network of a chain makes of pictures [n, c, h, w]."""
    network = Transformed.around(x, chain, clip=CLIP).generator().freeze(dtype)
    return network(torch.cat([x.flatten(1), values], 1).to(dtype)).reshape(x.shape)


def test_every_transformation_has_examples_here() -> None:
    found = discover(fathom.transforms, Transformation)  # type: ignore[type-abstract]
    assert found.keys() == EXAMPLES.keys(), "give each transformation examples in the table of this file"
    assert len({made.kind for made in found.values()}) == len(found)
    for name, examples in EXAMPLES.items():
        assert all(type(example.transformation).__name__ == name for example in examples)


@pytest.mark.parametrize("example", CASES)
def test_it_means_what_kornia_computes(example: Example) -> None:
    x = pictures(40)
    values = values_of([example.transformation], 40 - len(example.extremes), 1)
    values = torch.cat([values, torch.tensor(example.extremes, dtype=torch.float64).reshape(-1, values.shape[1])])
    y = drawn([example.transformation], x, values)
    assert torch.isfinite(y).all()
    # float32 weights: degrees in radians, coordinates and waves are off by as much.
    tolerance = 1e-5 * (1 + values.abs().amax(1).clamp(max=10)) / 2
    off = (y - example.reference(x.double(), values)).abs().flatten(1).amax(1)
    assert (off <= tolerance).all(), f"{example.transformation}: off by {off} at {values}"


@pytest.mark.parametrize("example", CASES)
def test_identity_parameters_give_the_picture(example: Example) -> None:
    x = pictures()
    still = torch.tensor([[p.identity for p in example.transformation.parameters]], dtype=torch.float64).expand(len(x), -1)
    assert (drawn([example.transformation], x, still, torch.float32) - x).abs().max() < 1e-20
    assert (drawn([example.transformation], x, still) - x).abs().max() < 1e-7
    assert example.transformation.words(still[0].tolist()) == ""
    assert example.transformation.words(still[0].float().tolist()) == ""
    assert example.transformation.words([1.25] * still.shape[1]) != ""


@pytest.mark.parametrize("example", CASES)
def test_program_and_network_agree_up_to_rounding(example: Example) -> None:
    x = pictures(20)
    values = values_of([example.transformation], 20, 2).float().double()
    y = drawn([example.transformation], x, values)
    assert (drawn([example.transformation], x, values, torch.float32) - y).abs().max() < 1e-5
    network = Transformed.around(x, [example.transformation], clip=CLIP).generator().freeze(torch.float64)
    held = enclose_point(network, torch.cat([x.double().flatten(1), values], 1))
    assert held.contains(y.flatten(1)).all()
    assert held.width.max() < 1e-9


def parts_of(region: Transformed, seed: int, count: int) -> list[Box]:
    """The whole box of parameters, and smaller ones in it, some without width in some parameter."""
    whole = region.box().take(torch.tensor([0]))
    found = [whole]
    g = generator(seed)
    start = region.pixels
    for size in (0.5, 0.1, 0.01, 1e-6)[:count]:
        lower, upper = whole.lower.clone(), whole.upper.clone()
        span = upper[:, start:] - lower[:, start:]
        width = span * size * (torch.rand(span.shape, generator=g) < 0.8)
        lower[:, start:] += torch.rand(span.shape, generator=g, dtype=torch.float64) * (span - width)
        upper[:, start:] = torch.minimum(lower[:, start:] + width, upper[:, start:])
        found.append(Box(lower, upper))
    return found


def reached(network: Network, rows: Tensor, box: Box, seed: int) -> Tensor:
    """[rows] about the least of each row over the box: many points, and a descent from the best of them."""
    points = box.lower + torch.rand(300, box.lower.shape[1], generator=generator(seed), dtype=torch.float64) * box.width
    corners = torch.where(torch.rand(points.shape, generator=generator(seed + 1)) < 0.5, box.lower, box.upper)
    points = torch.cat([points, corners, box.lower, box.upper, box.middle])
    best = points[(network(points) @ rows.T).argmin(0)]
    least = (network(best) * rows).sum(1)
    for step in (0.1, 0.03, 0.01, 0.003) * 5:
        best = best.detach().requires_grad_()
        (slope,) = torch.autograd.grad((network(best) * rows).sum(), best)
        best = torch.minimum(torch.maximum(best - step * slope.sign() * box.width, box.lower), box.upper).detach()
        least = torch.minimum(least, (network(best) * rows).sum(1))
    return least


@pytest.mark.parametrize("chain", [(example.values[0].transformation,) for example in CASES] + CHAINS)  # type: ignore[union-attr]
@pytest.mark.parametrize("choice", [None, 0.0, 0.8])
def test_bounds_hold_what_a_search_reaches(chain: tuple[Transformation, ...], choice: float | None) -> None:
    """Every pixel from both sides, and random sums of pixels, over boxes of all sizes."""
    x = pictures(1, (1, 4, 5))
    region = Transformed.around(x, chain, clip=CLIP)
    network = region.generator().freeze(torch.float64)
    size = network.output_size
    eye = torch.eye(size, dtype=torch.float64)
    rows = torch.cat([eye, -eye, torch.randn(10, size, generator=generator(3), dtype=torch.float64)])
    widths = []
    for k, box in enumerate(parts_of(region, 4, 4)):
        part = region.restrict(torch.tensor([0]), box.lower, box.upper)
        boxes, reach = tighten(network, part)
        last = len(network.nodes) - 1
        bound = backward(network, boxes, reach, last, rows[None], None, keep=True)
        if choice is not None:
            choices = {i: torch.full_like(met, choice) for i, met in bound.met.items()}
            bound = backward(network, boxes, reach, last, rows[None], choices)
        proved = bound.minimise(part)[0][0].detach()
        found = reached(network, rows, box, 5 + k)
        slim, _ = tighten(network, part, None, reach, lean=True)
        quick = backward(network, slim, reach, last, rows[None]).minimise(part)[0][0]
        assert (quick <= found + 1e-12).all(), f"{chain}: {(quick - found).max()} above what was found"
        assert (slim[last].lower[0] <= found[:size] + 1e-12).all()
        assert (slim[last].upper[0] >= -found[size : 2 * size] - 1e-12).all()
        assert (proved <= found + 1e-12).all(), f"{chain}: {(proved - found).max()} above what was found"
        assert torch.isfinite(proved).all()
        assert (boxes[last].lower[0] <= found[:size] + 1e-12).all()
        assert (boxes[last].upper[0] >= -found[size : 2 * size] - 1e-12).all()
        widths.append((found - torch.minimum(proved, quick)).max().item())
    assert widths[-1] < 1e-4 and widths[3] < 0.05, "bounds close in on what is reached as boxes shrink"


def test_moves_that_stand_together_read_the_picture_once() -> None:
    """As kornia does with the product of the matrices: no second interpolation."""
    x = pictures(6, (1, 7, 7)).double()
    chain = [Rotation((-90, 90)), Translation((-3, 3), (-3, 3)), Scaling((0.5, 2))]
    values = values_of(chain, 6, 1)
    middle = torch.full((6, 2), 3.0, dtype=torch.float64)
    angle, shift, factor = values[:, 0], values[:, 1:3], values[:, 3:].expand(-1, 2)
    below = torch.tensor([[[0.0, 0.0, 1.0]]], dtype=torch.float64).expand(6, 1, 3)
    turn, grow = (
        torch.cat([GEOMETRY.get_rotation_matrix2d(middle, a, s), below], 1)
        for a, s in ((angle, torch.ones_like(factor)), (torch.zeros_like(angle), factor))
    )
    move = torch.eye(3, dtype=torch.float64).repeat(6, 1, 1)
    move[:, :2, 2] = shift
    expected = GEOMETRY.warp_affine(x, (grow @ move @ turn)[:, :2], (7, 7), align_corners=True)
    assert (drawn(chain, x, values) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_chains_are_applied_in_the_order_written(order: tuple[int, int]) -> None:
    x = pictures(5)
    steps = [Example(Rotation((-30, 30)), GEOMETRY.rotate), Example(Brightness((-0.5, 0.5)), ENHANCE.adjust_brightness)]
    chosen = [steps[i] for i in order]
    values = values_of([step.transformation for step in chosen], 5, 3)
    expected = x.double()
    for k, step in enumerate(chosen):
        expected = step.reference(expected, values[:, k])
    assert (drawn([step.transformation for step in chosen], x, values) - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rotation((5, -5)), "expected degrees as two finite numbers, the lesser first, got \\[5, -5\\]"),
        (lambda: Rotation((-1000, 0)), "expected degrees in \\[-360, 360\\], got \\[-1000, 0\\]"),
        (lambda: Rotation(10.0), "expected degrees as a range \\(low, high\\), got 10.0"),  # type: ignore[arg-type]
        (lambda: Translation((float("nan"), 0), (0, 0)), "finite"),
        (lambda: Scaling((0.0, 1.0)), "expected factor of at least 0.01"),
        (lambda: Contrast((-1.0, 1.0)), "expected factor of at least 0"),
        (lambda: Blur((0.0, 1.0)), "expected sigma in \\[0.1, 1000\\]"),
        (lambda: Blur((0.5, 1.0), size=4), "odd number"),
        (lambda: Warp((-1.0, 1.0), modes=0), "1 to 4 modes"),
        (lambda: Transformed.around(pictures(), [Warp((-1, 1)), Rotation((-1, 1))]), "write the warp last"),
        (lambda: Transformed.around(pictures(), []), "at least one transformation"),
        (lambda: Transformed.around(pictures(), [Rotation((-1, 1))], radius=-1), "radius of at least 0"),
        (lambda: Transformed.around(torch.rand(2, 9), [Rotation((-1, 1))]), "expected images .*, got \\[2, 9\\]"),
        (lambda: Transformed.around(torch.rand(2, 9, 9, 3), [Rotation((-1, 1))]), "channels first"),
        (lambda: Transformed.around(pictures(1, (1, 2, 2)), [Blur((0.5, 1))]), "more than 2 pixels a side"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(FathomError, match=message):
        make()


def test_chains_say_what_they_do_in_words() -> None:
    region = Transformed.around(
        pictures(), [Rotation((-10, 10)), Translation((-1, 1), (0, 2)), Brightness((0, 0.5))], clip=CLIP, radius=0.01
    )
    asked = "rotated by -10 to 10 degrees, then translated by (-1 to 1, 0 to 2) pixels, then brightness changed by 0 to 0.5"
    assert str(region) == asked + ", then noise of at most 0.01 a pixel, in [0, 1]"
    x = region.centres()
    assert region.words(x) == ["unchanged"] * 3
    x[:, region.pixels] = 7.3
    x[1, region.pixels + 1 : region.pixels + 4] = torch.tensor([0.5, 1.25, 0.0])
    x[2, -1] = 0.01
    assert region.words(x) == [
        "rotated by 7.3 degrees",
        "rotated by 7.3 degrees, translated by (0.5, 1.25) pixels",
        "rotated by 7.3 degrees, noise of at most 0.01 a pixel",
    ]
    assert region.values(x)[1] == {
        "rotation.degrees": 7.3,
        "translation.x": 0.5,
        "translation.y": 1.25,
        "brightness.added": 0.0,
    }
