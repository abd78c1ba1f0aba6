"""Planting: failures that are known to be there, to see how many of them a search finds.

A search that found nothing was silent, and how much that says is not seen from the search. So failures are planted in the very
problem that it was silent about, each confirmed to be there, and the search is run on what came of it: the share that it finds
is how far its silence can be trusted, about failures of that kind. Two kinds, for two ways to miss one:

- *Depths*: the margin is lowered until the best point known fails by a stated depth. Nothing else changes, so these failures lie
  where the model's own slopes lead, and a search that misses them stops too soon.
- *Pits*: the margin is lowered below zero where a few inputs are near certain values, a box that holds a stated share of the
  set's volume, and nowhere else. No slope leads there, so these failures are found by coming upon them, and a search that
  misses them has not been everywhere. A real failure that no slope leads to, such as a backdoor, is like that.

Planted problems are problems like any other, so whatever is sound may be held to them: nothing may ever prove one of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor

from fathom.core.answer import Answers
from fathom.core.box import Box
from fathom.core.composed import Wrapped
from fathom.core.confirm import confirm
from fathom.core.network import Join, Network, Node, Port, fork
from fathom.core.overseer import Compiled
from fathom.core.problem import Problem
from fathom.core.region import Region, Repairable
from fathom.core.spec import Spec
from fathom.ops.pick import Pick
from fathom.ops.reduce import Reduce
from fathom.ops.relu import Relu
from fathom.ops.scale import Scale, Shift
from fathom.ops.sum import Sum
from fathom.regions.box import BoxRegion
from fathom.regions.linf import LinfBall

SAMPLES = 4096  # of a set that is no box, by which volumes are measured
LEAST_MEASURED = 4 / SAMPLES  # volumes below this are not measured well enough to be stated
LOOKS = 16  # inputs of each set by which the height of a pit is set
DRAWS = 8  # inputs, of which the first that the program may be given is the middle of a pit
SHARE = 1 / 4  # of its range, about, that an input keeps to in a pit
BATCH = 1 << 22  # numbers in a batch of samples


@dataclass(frozen=True, eq=False)
class Planted:
    """k sets with a failure each that `confirm` has confirmed.

    Made by `plant_depths` and `plant_pits`.
    """

    problem: Problem
    sets: Tensor  # [k] int64: the set of the original problem that each was planted in
    at: Tensor  # [k, d] where it fails

    def __len__(self) -> int:
        return len(self.sets)

    def take(self, index: Tensor) -> Planted:
        """Those at `index`."""
        return Planted(self.problem.take(index), self.sets[index], self.at[index])

    def found(self, answers: Answers) -> Tensor:
        """[k] whether what was planted was found, by answers about these k sets."""
        return answers.broken & (self._apart() | ~self.real(answers))

    def real(self, answers: Answers) -> Tensor:
        """[k] whether the point found fails by itself, without what was planted."""
        point = answers.found
        overseer = self.problem.overseer
        assert isinstance(overseer, Lowered | Pitted)
        return answers.broken & (overseer.inner.margin(point.x.to(torch.float64), point.y) <= 0)

    def _apart(self) -> bool:
        """Whether a failure of the model itself is one of those that were planted."""
        return isinstance(self.problem.overseer, Lowered)


def plant_depths(problem: Problem, sets: Tensor, known: Tensor, depth: Tensor) -> Planted:
    """Problems in which the points known of some sets fail by a stated depth.

    Args:
        sets: [k] of the problem's sets; one may occur several times.
        known: [k, d] the best point known of each, inside it.
        depth: [k] > 0, in units of the margin.
    """
    part = problem.take(sets)
    y = problem.program(known)
    margin = part.overseer.margin(known.to(torch.float64), y.to(torch.float64)).to(torch.float64)
    return _confirmed(part, sets, known, Lowered(part.overseer, margin + depth))


def plant_pits(problem: Problem, sets: Tensor, spared: Tensor, volume: float, generator: torch.Generator) -> Planted:
    """Problems with a pit each, in a box that holds so much of the set's volume.

    In the box a few inputs drawn at random keep within about a `SHARE` of their range round a random place, and all others are
    free: boxes narrow in every input would hold the middle of the set where inputs are many. The place is drawn evenly where the
    set is a box, else as the region draws samples. A pit's floor is the box but for a border of 1/k on every side, k being the
    few, in which the margin rises to what it was. It lies below zero by at least the largest margin seen in the set.

    Args:
        sets: [k] of the problem's sets; one may occur several times.
        spared: [k, d] an input of each that is known to be none of what is planted: no pit holds it.
        volume: the share, between 0 and 1, of a set's volume that the box holds. Exactly, where the set is a box; otherwise of
            the region's own samples, and then no less than `LEAST_MEASURED`.

    Returns:
        As many as could be planted: none for a set of so few points that no part is so small, and none that would hold `spared`.
    """
    part = problem.take(sets)
    x, drawn = _centres(part, generator)
    width = part.deployed.box().width
    inputs, varies = _few(width > 0, math.ceil(math.log(volume) / math.log(SHARE)), generator)
    centre, width = x.to(torch.float64).gather(1, inputs), width.gather(1, inputs)
    if measured_volumes(part.deployed):
        share, fits = _measured_share(part.deployed, inputs, varies, centre, width, volume, generator)
    else:
        share, fits = _exact_share(part.deployed.box(), inputs, varies, centre, volume), varies.any(1)
    steep = torch.where(varies, 1 / (share[:, None] * width), 0.0)
    apart = ((spared.to(torch.float64).gather(1, inputs) - centre) * steep).abs().amax(1) >= 1
    border = 1 / varies.sum(1).clamp(min=1).to(torch.float64)
    kept = (drawn & fits & apart).nonzero()[:, 0]
    pitted = Pitted(part.overseer, inputs, centre, steep, border, _heights(part, x, generator))
    return _confirmed(part.take(kept), sets[kept], x[kept], pitted.take(kept))


def measured_volumes(region: Region) -> bool:
    """Whether volumes of parts of such sets are only measured, by samples."""
    return not isinstance(region, BoxRegion | LinfBall)


def _confirmed(part: Problem, sets: Tensor, at: Tensor, overseer: Lowered | Pitted) -> Planted:
    """What is planted, but for what does not fail there after all (by rounding, say)."""
    problem = Problem.of_any_sets(part.program, part.model, part.written, overseer, part.owner)
    kept = confirm(problem, at).broken.nonzero()[:, 0]
    return Planted(problem.take(kept), sets[kept], at[kept])


def _centres(part: Problem, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """An input [k, d] drawn from each set, in the program's dtype; and whether [k] there is one."""
    region = part.deployed
    if measured_volumes(region):
        x = region.sample(DRAWS, generator)
    else:  # uniform; the samples of boxes, which searches start from, lie at the ends more often than volume does
        box = region.box()
        place = torch.rand(len(region), DRAWS, region.size, generator=generator, dtype=torch.float64)
        x = box.lower[:, None] + place * box.width[:, None]
    x = x.to(part.program.dtype)
    x = region.repair(x) if isinstance(region, Repairable) else x
    inside = torch.stack([region.contains(x[:, j]) for j in range(DRAWS)], 1)
    first = inside.to(torch.int64).argmax(1)
    return x[torch.arange(len(x)), first], inside.any(1)


def _heights(part: Problem, centre: Tensor, generator: torch.Generator) -> Tensor:
    """How deep pits are [k]: twice the largest margin seen, so that the whole floor fails."""
    seen = torch.cat([centre[:, None], part.deployed.sample(LOOKS, generator).to(centre.dtype)], 1)
    owner, x = torch.arange(len(centre)).repeat_interleave(seen.shape[1]), seen.reshape(-1, seen.shape[2])
    margin = part.overseer.take(owner).margin(x.to(torch.float64), part.program(x).to(torch.float64)).to(torch.float64)
    most = margin.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).abs().reshape(len(centre), -1).amax(1)
    return torch.where(most > 0, 2 * most, 1.0)


def _few(varies: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """So many inputs [k, count] of each set drawn among those that vary [k, d], filled up with others; and which do vary."""
    rank = torch.rand(varies.shape, generator=generator) + varies
    inputs = rank.topk(min(count, varies.shape[1]), 1).indices
    return inputs, varies.gather(1, inputs)


def _exact_share(box: Box, inputs: Tensor, varies: Tensor, centre: Tensor, volume: float) -> Tensor:
    """The share [k] of the widths of some inputs for which what lies so near to the centre holds the volume, by bisection."""
    lower, upper = box.lower.gather(1, inputs), box.upper.gather(1, inputs)
    width = torch.where(varies, upper - lower, 1.0)
    below, above = (centre - lower) / width, (upper - centre) / width
    low, high = torch.zeros(len(centre), dtype=torch.float64), torch.ones(len(centre), dtype=torch.float64)
    for _ in range(60):
        share = (low + high) / 2
        held = torch.minimum(below, share[:, None]) + torch.minimum(above, share[:, None])
        less = torch.where(varies, held, 1.0).log().sum(1) < math.log(volume)
        low, high = torch.where(less, share, low), torch.where(less, high, share)
    return high


def _measured_share(
    region: Region, inputs: Tensor, varies: Tensor, centre: Tensor, width: Tensor, volume: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The share [k] of the widths for which so many of the set's samples lie so near to the centre; and whether [k] hardly
    more do, unlike where points are few."""
    inverse = torch.where(varies, 1 / width, 0.0)[:, None]
    step = max(1, min(SAMPLES, BATCH // max(len(region) * region.size, 1)))
    parts = []
    for start in range(0, SAMPLES, step):
        x = region.sample(min(step, SAMPLES - start), generator)
        x = x.gather(2, inputs[:, None].expand(-1, x.shape[1], -1))
        parts.append(((x - centre[:, None]).abs() * inverse).amax(2))
    far = torch.cat(parts, 1).sort(1).values
    share = far[:, max(1, round(volume * SAMPLES)) - 1].clamp(min=1e-6)
    return share, varies.any(1) & ((far <= share[:, None]).double().mean(1) <= 1.5 * volume)


@final
@dataclass(frozen=True, eq=False)
class Lowered(Wrapped):
    """As another overseer judges, with its margins lowered. exact: where the other is."""

    by: Tensor  # [n] float64

    def __str__(self) -> str:
        return f"{self.inner}, or nearly"

    def take(self, index: Tensor) -> Self:
        return replace(self, inner=self.inner.take(index), by=self.by[index])

    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        return self.inner.margin(x, y) - self.by

    def compile(self, network: Network) -> Compiled:
        compiled = self.inner.compile(_real(network))
        spec = _one_each(compiled.spec)
        held = spec.clause >= 0
        return replace(compiled, spec=replace(spec, offsets=spec.offsets - self.by[:, None] * held))


@final
@dataclass(frozen=True, eq=False)
class Pitted(Wrapped):
    """As another overseer judges, with its margins lowered in a box: `height` on its floor, and less towards its sides.

    exact: where the other is; the pits are part of the network then, so that a search has their slopes as it has the model's.
    """

    inputs: Tensor  # [n, few] int64: those that the box is about
    centre: Tensor  # [n, few] float64
    steep: Tensor  # [n, few] float64: 1 / half widths; 0 for inputs that do not matter
    border: Tensor  # [n] float64: the share of a half width, next to the sides, in which the margin rises
    height: Tensor  # [n] float64

    def __str__(self) -> str:
        return f"{self.inner}, or in a pit"

    def take(self, index: Tensor) -> Self:
        own = {name: getattr(self, name)[index] for name in ("inputs", "centre", "steep", "border", "height")}
        return replace(self, inner=self.inner.take(index), **own)

    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        away = ((x.to(torch.float64).gather(1, self.inputs) - self.centre) * self.steep).abs()
        over = (away - (1 - self.border)[:, None]).relu().sum(1)
        return self.inner.margin(x, y) - self.height * (1 - over / self.border).relu()

    def compile(self, network: Network) -> Compiled:
        """The inner overseer's network beside that of all n pits, whose output each set weighs by its height alone."""
        compiled = self.inner.compile(_real(network))
        spec = _one_each(compiled.spec)
        held = (spec.clause >= 0).to(torch.float64)
        own = -(held * self.height[:, None])[:, :, None] * torch.eye(len(spec), dtype=torch.float64)[:, None]
        joint = fork(compiled.network, self._network(network.inputs))
        return Compiled(joint, replace(spec, rows=torch.cat([spec.rows, own], 2)), compiled.exact)

    def _network(self, inputs: tuple[Port, ...]) -> Network:
        """[n, d] -> [n, pits]: how far each input lies in each pit, 1 on its floor and 0 outside."""
        (pits, few), size = self.centre.shape, sum(port.size for port in inputs)
        edge, one = (1 - self.border)[:, None].expand_as(self.centre), torch.ones_like(self.border)
        nodes = (
            Node("input", None, (), (size,)),
            Node("few", Pick((size,), self.inputs), (0,), (pits, few)),
            Node("away", Shift(self.centre, -1), (1,), (pits, few)),
            Node("above", Scale(self.steep, -edge), (2,), (pits, few)),
            Node("over", Relu(), (3,), (pits, few)),
            Node("below", Scale(-self.steep, -edge), (2,), (pits, few)),
            Node("under", Relu(), (5,), (pits, few)),
            Node("both", Sum((1, 1)), (4, 6), (pits, few)),
            Node("outside", Reduce((pits, few), (1,)), (7,), (pits,)),
            Node("inside", Scale(-1 / self.border, one), (8,), (pits,)),
            Node("depth", Relu(), (9,), (pits,)),
            Node("output", Join(((pits,),)), (10,), (pits,)),
        )
        return Network(nodes, inputs, (Port("pits", (pits,), 0),))


def _real(network: Network) -> Network:
    """The same network over the real numbers: what is planted is no part of any float32 program."""
    return replace(network, nodes=tuple(replace(node, rounded=False) for node in network.nodes), _digest=[])


def _one_each(spec: Spec) -> Spec:
    """The same spec with rows of its own for every set."""
    rows, offsets, clause, strict, blur = (
        part[spec.of] for part in (spec.rows, spec.offsets, spec.clause, spec.strict, spec.blur)
    )
    return Spec(rows, offsets, clause, strict, torch.arange(len(spec)), blur)
