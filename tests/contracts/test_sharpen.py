"""Inner bounds with optimised slopes hold every value, are tighter than default ones, and follow from what is kept of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fathom.bounds.choices import Found
from fathom.bounds.dual import Sketch
from fathom.bounds.intermediate import tighten
from fathom.bounds.sharpen import sharpen
from fathom.capture.graph import Graph
from fathom.core.network import Network
from fathom.core.value import flat
from fathom.ops.conv import Conv
from fathom.ops.dense import Dense
from fathom.ops.layout import Reshape
from fathom.ops.relu import Relu
from fathom.regions.box import BoxRegion
from fathom.regions.l2 import L2Ball
from tests.contracts.test_prove import chain_of, random_boxes, random_network


def convolutions(g: torch.Generator) -> Network:
    """Two convolutions and two dense layers, with rectifiers between."""
    graph = Graph([("x", (2, 5, 5))])
    x = graph.input("x")
    for k, (a, b, size) in enumerate(((2, 3, (5, 5)), (3, 4, (5, 5)))):
        weight = torch.randn(b, a, 3, 3, generator=g) * 0.4
        conv = Conv(weight, torch.randn(b, generator=g) * 0.2, size, (1, 1), ((1, 1), (1, 1)), (1, 1))
        x = graph.add(f"relu{k}", Relu(), graph.add(f"conv{k}", conv, x))
    x = graph.add("flat", Reshape((4, 5, 5), (100,)), x)
    x = graph.add("dense", Dense(torch.randn(12, 100, generator=g) * 0.2, torch.randn(12, generator=g) * 0.1), x)
    x = graph.add("relu", Relu(), x)
    return graph.finish([("y", graph.add("out", Dense(torch.randn(3, 12, generator=g)), x))])


def networks() -> list[tuple[Network, BoxRegion]]:
    g = torch.Generator().manual_seed(11)
    found = [(random_network(g, 4, 6, 1 + k % 3).freeze(torch.float64), random_boxes(g, 3, 4)) for k in range(10)]
    centre = torch.randn(2, 20, generator=g).double()
    found.append((chain_of(g, [20, 15, 15, 15, 4]).freeze(torch.float64), BoxRegion(centre - 0.2, centre + 0.2)))
    image = torch.randn(1, 50, generator=g).double()
    found.append((convolutions(g).freeze(torch.float64), BoxRegion(image - 0.1, image + 0.1)))
    return found


@pytest.mark.parametrize("ball", [False, True], ids=["box", "ball"])
def test_boxes_hold_every_value(*, ball: bool) -> None:
    for network, box in networks():
        region = L2Ball.around(box.box().middle, torch.full((len(box),), 0.5, dtype=torch.float64)) if ball else box
        sharp = sharpen(network, region, steps=6)
        points = region.sample(300, torch.Generator().manual_seed(0))
        for k in range(len(box)):
            for values, bound in zip(network.values(points[k]), sharp.boxes, strict=True):
                assert (values >= bound.lower[k] - 1e-12).all() and (values <= bound.upper[k] + 1e-12).all()


def test_optimised_slopes_are_tighter_than_default_ones() -> None:
    gains = []
    for network, region in networks():
        plain, _ = tighten(network, region)
        sharp = sharpen(network, region, steps=10)
        for i in sharp.sketch.bends:
            j = network.nodes[i].inputs[0]
            # Where an element turns out settled its ends may be looser than before: nothing rests on them.
            wide = (sharp.boxes[j].lower < 0) & (sharp.boxes[j].upper > 0) & (plain[j].lower < 0) & (plain[j].upper > 0)
            gains.append((sharp.boxes[j].width - plain[j].width)[wide])
            assert not ((plain[j].lower >= 0) & (sharp.boxes[j].lower < -1e-3)).any()
            assert not ((plain[j].upper <= 0) & (sharp.boxes[j].upper > 1e-3)).any()
    gain = torch.cat(gains)
    assert gain.mean() < -0.01 and (gain <= 1e-3).float().mean() > 0.9


def test_without_steps_they_are_the_default_ones() -> None:
    for network, region in networks():
        plain, _ = tighten(network, region)
        sharp = sharpen(network, region, steps=0)
        assert not sharp.slopes
        for one, two in zip(plain, sharp.boxes, strict=True):
            assert torch.allclose(one.lower, two.lower, atol=1e-12) and torch.allclose(one.upper, two.upper, atol=1e-12)


def test_bounds_follow_from_the_slopes_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given the kept slopes instead of an ascent, the same boxes come out: they are all that the boxes rest on."""
    true = Sketch.ascend
    for network, region in networks():
        first = sharpen(network, region, steps=6)
        kept = iter([torch.cat([s.lower, s.upper]).float() / 255 for s in first.slopes])

        def replay(self: Sketch, start: int, dual, steps: int, *, kept=kept, **named) -> Found:  # type: ignore[no-untyped-def]
            found = true(self, start, dual, 0)
            return replace(found, choice=next(kept)) if steps else found

        monkeypatch.setattr(Sketch, "ascend", replay)
        second = sharpen(network, region, steps=6)
        monkeypatch.setattr(Sketch, "ascend", true)
        for one, two in zip(first.boxes, second.boxes, strict=True):
            assert torch.equal(one.lower, two.lower) and torch.equal(one.upper, two.upper)


@pytest.mark.parametrize("lie", [1.0, -1.0, float("nan")])
def test_wrong_estimates_make_no_wrong_box(lie: float, monkeypatch: pytest.MonkeyPatch) -> None:
    true = Sketch.ascend

    def wrong(self: Sketch, *args, **named) -> Found:  # type: ignore[no-untyped-def]
        found = true(self, *args, **named)
        return replace(found, bound=found.bound * lie, choice=torch.rand(found.choice.shape))

    monkeypatch.setattr(Sketch, "ascend", wrong)
    for network, region in networks():
        sharp = sharpen(network, region, steps=3)
        points = region.sample(200, torch.Generator().manual_seed(1))
        for k in range(len(region)):
            for values, bound in zip(network.values(points[k]), sharp.boxes, strict=True):
                assert (flat(values, 1) >= flat(bound.lower, 1)[k] - 1e-12).all()
                assert (flat(values, 1) <= flat(bound.upper, 1)[k] + 1e-12).all()
