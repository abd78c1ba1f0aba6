"""An adversary inside the network: it chooses the activation at a layer, within bounds, and the layers behind run from there.

It is stronger than any that chooses inputs: where it fails, so do they. What it finds is a relaxed counterexample: maybe no input
has that activation. So every hit is pulled back through the layers before, and one that led to no real failure refines the
region: a half-space that holds all that is reached, and leaves the hit out, is added; where no bound gives one, the set of inputs
is halved and both halves are bounded again. Every refined region still holds all that it is about: a proof over it is one.

Reference: Christiano, Training robust corrigibility, 2019 (relaxed adversarial training: the adversary need not show an input);
Clarke et al., Counterexample-guided abstraction refinement, CAV 2000.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fathom.core.answer import Answers, Witnesses
from fathom.core.box import Box
from fathom.core.budget import Budget, Clock
from fathom.core.problem import Problem
from fathom.core.region import Region
from fathom.core.rounding import TINY
from fathom.core.solver import Hints, Solver
from fathom.core.spec import Spec
from fathom.core.value import join
from fathom.hunt.layers import Layer, Piece, reach_boxes
from fathom.hunt.parts import EVERY, Parts, changed, forgotten, padded, with_rounding, within
from fathom.hunt.pull_back import Cuts, Pulled, cut, pull_back
from fathom.overseers.linear_rules import LinearRules
from fathom.regions.box import BoxRegion

REACHED = 1e-3
"""How near an input's activation has to come to a hit, in every element, in half-widths of the region, to have reached it."""
MOST_PARTS = 64
"""Into which the inputs of one case are split."""
FEW_INPUTS = 16
"""Up to here a part that was cut before is halved as well: half of few inputs is much smaller."""
NEAREST = 4
"""Clauses across whose slopes at a hit the region is cut."""
LEAST_SCALE = 1e-6
"""Of the widest half-width: elements of no width are measured in this."""


@dataclass(frozen=True)
class Round:
    """What one search of all regions that were open has come to."""

    searched: int  # cases with a region that was searched
    proved: int  # of them, those of which nothing is left open
    hits: int  # cases where the adversary inside found a failure
    real: int  # of the hits, those from which a real input that fails was found
    reached: int  # others to which an input of the region comes, without failing
    spurious: int  # others, that no input was found to reach
    certain: int  # of the spurious ones, those proved to be out of reach of every input

    @property
    def spuriousness(self) -> float | None:
        """The share of hits that no real input was found to reach; None without a hit."""
        return self.spurious / self.hits if self.hits else None


@dataclass(frozen=True, eq=False)
class Relaxed:
    """What is known of n cases after some rounds."""

    lower: Tensor  # [n] float64: every activation (after a refinement: every one that is reached) has at least this margin; -inf
    found: Witnesses  # [n] the best real inputs found, confirmed; `broken` where they fail
    hit: Tensor  # [n, w] float64: an activation of the region that fails and was not refined away; NaN rows for none
    distance: Tensor  # [n] how near an input's activation came to it, in half-widths; +inf where none was tried
    refined: Tensor  # [n] bool: what is proved is about reached activations alone
    rounds: tuple[Round, ...]
    stopped: bool  # the budget ended before the rounds did

    @property
    def proved(self) -> Tensor:
        return self.lower > 0


@dataclass(frozen=True, eq=False)
class _Standing:
    """k hits from which no real failure was found."""

    at: Tensor  # [k] the parts
    distance: Tensor  # [k] how near an input came
    parts: Parts  # [k] these parts, cut off at what their inputs reach
    cuts: Cuts  # [k] half-spaces that hold what they reach
    clause: Tensor  # [k, D] the clauses that these are for
    certain: Tensor  # [k] bool: the hit is proved to be out of reach


@dataclass(frozen=True, eq=False)
class LatentHunt:
    """The search of n cases whose activations at a layer the adversary chooses.

    Sound: `lower` is, for the activations in question; `found` is what `confirm` made. Complete: no.
    """

    problem: Problem
    layer: Layer
    latent: Region  # [n sets] of activations
    covers: bool  # the region of every case holds all activations of its inputs
    solver: Solver  # of the problem behind the layer
    attack: Solver  # on the whole model, from the inputs that came nearest to a hit
    group: Tensor  # [n] int64 cases of one number have the same region
    rounds: int = 8  # of refinement, at most
    seed: int = 0
    tell: Callable[[str], None] = lambda text: None

    def solve(self, budget: Budget) -> Relaxed:
        """Search, pull back, refine, until nothing is open or the budget is spent; interrupted, what is known by then."""
        clock, generator = budget.start(), torch.Generator().manual_seed(self.seed)
        parts, found, rounds = self._first(), self._nothing(), []
        open_ = torch.arange(len(parts))
        for k in range(self.rounds + 1):
            if not len(open_) or clock.late():
                break
            self.tell("search" if k == 0 else f"search, round {k} of refinement")
            parts, hits = self._search(parts, open_, _share(clock, 0.5 if k < self.rounds else 1.0))
            self.tell(f"pulling back {len(hits)} hits")
            found, standing, counts = self._judge(parts, open_, hits, found, clock, generator)
            over = standing.certain | standing.parts.suspect
            refuted = torch.where(over[:, None], torch.nan, standing.parts.hit)
            parts = changed(parts, standing.at, distance=standing.distance, hit=refuted)
            rounds.append(counts)
            open_ = open_[:0]
            if k < self.rounds and not clock.late():
                parts, open_ = self._refined(parts, standing, clock)
        return self._summed_up(parts, found, tuple(rounds), late=clock.late())

    def _first(self) -> Parts:
        n, w = len(self.problem), self.layer.size
        _, judge = torch.unique(self._spec.of, return_inverse=True)
        nothing = torch.full((n,), -torch.inf, dtype=torch.float64)
        return Parts(
            owner=torch.arange(n),
            inputs=self.problem.region.box(),
            latent=self.latent.box(),
            rows=torch.zeros(n, 0, w, dtype=torch.float64),
            limit=torch.zeros(n, 0, dtype=torch.float64),
            clause=torch.zeros(n, 0, dtype=torch.int64),
            shared=self.group * len(self._spec.rows) + judge,
            bounded=torch.full((n,), self.covers),
            lower=nothing,
            hit=torch.full((n, w), torch.nan, dtype=torch.float64),
            suspect=torch.zeros(n, dtype=torch.bool),
            distance=-nothing,
        )

    def _nothing(self) -> Witnesses:
        program = self.problem.program
        outputs = sum(port.size for port in program.outputs)
        return Witnesses.none(len(self.problem), self.problem.deployed.size, outputs, program.dtype)

    @property
    def _spec(self) -> Spec:
        assert self.problem.spec is not None
        return self.problem.spec

    def _search(self, parts: Parts, open_: Tensor, budget: Budget) -> tuple[Parts, Tensor]:
        """The parts, with what the solver found of those at `open_`; and which of them were hit, or are suspect."""
        answers, point = self._searched(parts.take(open_), budget)
        hit = torch.where(answers.proved[:, None], torch.nan, point.to(torch.float64))
        at = ~hit.isnan().any(1)
        return changed(parts, open_, lower=answers.lower, hit=hit, suspect=at & ~answers.broken), open_[at]

    def _judge(
        self, parts: Parts, open_: Tensor, hits: Tensor, found: Witnesses, clock: Clock, generator: torch.Generator
    ) -> tuple[Witnesses, _Standing, Round]:
        """Pull back the hits of the parts at `hits`: real failures, hits that stand, and counts, of what is not suspect alone."""
        pulled, scale = self._pulled(parts.take(hits), generator, clock)
        found = found.best(self._attacked(parts.owner[hits], pulled, clock))
        real = found.broken[parts.owner[hits]]
        left = (~real).nonzero()[:, 0]
        standing = self._standing(parts, hits[left], pulled.take(left), scale[left], clock)
        sure, sure_left = ~parts.suspect[hits], ~standing.parts.suspect
        away = ((standing.distance > REACHED) | standing.certain)[sure_left]
        owner, cases = parts.owner[standing.at[sure_left]], torch.unique(parts.owner[open_])
        spurious = torch.unique(owner[away])
        proved = ~torch.isin(cases, parts.owner[~(parts.lower > 0)])
        counts = Round(
            searched=len(cases),
            proved=int(proved.sum()),
            hits=len(torch.unique(parts.owner[hits[sure]])),
            real=len(torch.unique(parts.owner[hits[sure & real]])),
            reached=int((~torch.isin(torch.unique(owner), spurious)).sum()),
            spurious=len(spurious),
            certain=len(torch.unique(owner[standing.certain[sure_left]])),
        )
        return found, standing, counts

    def _searched(self, parts: Parts, budget: Budget) -> tuple[Answers, Tensor]:
        """Answers about k parts, of those that are one question asked once; and [k, w] where each comes nearest to a failure."""
        shared = torch.where(parts.shared >= 0, parts.shared, -1 - torch.arange(len(parts)))
        keys, of = torch.unique(shared, return_inverse=True)
        first = torch.full((len(keys),), len(parts)).scatter_reduce(0, of, torch.arange(len(parts)), "amin")
        asked = parts.take(first)
        problem, clock = self._problem(asked), budget.start()
        outputs = sum(port.size for port in problem.program.outputs)
        answers = Answers.none(len(asked), self.layer.size, outputs, problem.program.dtype)
        empty = problem.region.empty()
        some, boxes = (~empty).nonzero()[:, 0], isinstance(problem.region, BoxRegion)
        if len(some):
            answers = answers.put(some, self.solver.solve(problem.take(some), _share(clock, 1.0 if boxes else 0.5)))
        left = (~empty & ~answers.decided).nonzero()[:, 0]
        lower, point = torch.where(empty, torch.inf, answers.lower), answers.found.x.clone()
        if len(left) and not boxes and not clock.late():
            # Searches are at their best on boxes: what is left of another kind may be proved of the box round it.
            box = problem.region.take(left).box()
            hull = self.solver.solve(self._over(asked.take(left), BoxRegion(box.lower, box.upper)), _share(clock, 1.0))
            lower = lower.index_copy(0, left, torch.fmax(lower[left], hull.lower))
            point[left] = torch.where(hull.broken[:, None], hull.found.x, point[left])
        # Half-spaces make a margin that is above 0 outside of them: only a positive bound is one for what lies inside.
        lower = torch.where(asked.limit.isfinite().any(1) & ~(lower > 0), -torch.inf, lower)
        return replace(answers, lower=lower).take(of), point[of]

    def _problem(self, parts: Parts) -> Problem:
        """The layers behind, over the regions of k parts: a failure is an activation in all half-spaces that fails."""
        return self._over(parts, self.latent.restrict(parts.owner, parts.latent.lower, parts.latent.upper))

    def _over(self, parts: Parts, region: Region) -> Problem:
        """The same over other regions that hold the parts'."""
        spec = within(self._spec.take(parts.owner), parts)
        return Problem.of_any_sets(Piece(self.layer.tail, self.problem.program.dtype), self.layer.tail, region, LinearRules(spec))

    def _pulled(self, parts: Parts, generator: torch.Generator, clock: Clock) -> tuple[Pulled, Tensor]:
        """For k parts with hits, the inputs of their cases that come nearest, and the units they are measured in."""
        half = (self.latent.box().width / 2)[parts.owner]
        scale = torch.maximum(half, LEAST_SCALE * half.amax(1, keepdim=True)).clamp(min=TINY)
        if not len(parts):
            empty = torch.zeros(0, self.problem.deployed.size, dtype=self.problem.program.dtype)
            return Pulled(empty, torch.zeros(0, self.layer.size, dtype=torch.float64), scale[:, 0]), scale
        region = self.problem.deployed.take(parts.owner)
        return pull_back(self.layer, region, self.problem.program.dtype, parts.hit, scale, generator, clock.late), scale

    def _attacked(self, owner: Tensor, pulled: Pulled, clock: Clock) -> Witnesses:
        """What the attack finds in the cases `owner` [k], started at the inputs that came nearest to their hits."""
        found, cases = self._nothing(), torch.unique(owner)
        if not len(owner):
            return found
        most = int(torch.bincount(owner).max())
        points = torch.full((len(cases), most, pulled.x.shape[1]), torch.nan, dtype=pulled.x.dtype)
        for j, case in enumerate(cases.tolist()):
            mine = (owner == case).nonzero()[:, 0]
            points[j, : len(mine)] = pulled.x[mine]
        answers = self.attack.solve(self.problem.take(cases), _share(clock, 0.25), Hints(points=points))
        spread = Answers.none(len(self.problem), points.shape[2], found.y.shape[1], points.dtype)
        return spread.put(cases, answers).found

    def _standing(self, parts: Parts, at: Tensor, pulled: Pulled, scale: Tensor, clock: Clock) -> _Standing:
        """What bounds say of the hits at `at`, from which no real failure was found."""
        if not len(at):
            none = torch.zeros(0, 0, dtype=torch.float64)
            nothing = Cuts(torch.zeros(0, 0, self.layer.size, dtype=torch.float64), none)
            return _Standing(at, pulled.distance, parts.take(at), nothing, none.long(), torch.zeros(0, dtype=torch.bool))
        mine = self._bounded(parts.take(at), clock)
        region = self.problem.region.restrict(mine.owner, mine.inputs.lower, mine.inputs.upper)
        dtype, budget = self.problem.program.dtype, _share(clock, 0.5)
        slopes, clause = self._slopes(mine)
        towards = (pulled.near - mine.hit) / scale.square()
        cuts = cut(self.layer, region, dtype, torch.cat([towards[:, None], slopes], 1), pulled.near, budget)
        clause = torch.nn.functional.pad(clause, (1, 0), value=EVERY)
        certain = ~with_rounding(mine.latent, dtype).contains(mine.hit) | cuts.exclude(mine.hit)
        return _Standing(at, pulled.distance, mine, cuts, clause, certain)

    def _slopes(self, parts: Parts) -> tuple[Tensor, Tensor]:
        """For k parts with hits, the gradients [k, D, w] there of the clauses that fail most; and which clauses these are.

        Where what is behind the layer is linear, half-spaces across them give all that a bound of the whole network could.
        """
        spec, z = self._spec.take(parts.owner), parts.hit.detach().requires_grad_()
        with torch.enable_grad():
            values = spec.clauses(spec.values(self.layer.tail(z)))
            most = values.detach().argsort(dim=1)[:, :NEAREST]
            slopes = [torch.autograd.grad(values.gather(1, c[:, None]).sum(), z, retain_graph=True)[0] for c in most.T]
        return torch.stack(slopes, 1), torch.where(spec.has().gather(1, most), most, EVERY - 1)

    def _refined(self, parts: Parts, standing: _Standing, clock: Clock) -> tuple[Parts, Tensor]:
        """The parts, with those whose hits stand, and suspect ones, made smaller; and which parts are open now."""
        now, cuts = standing.parts, standing.cuts
        cut_off = standing.certain | (now.suspect & cuts.limit.isfinite().any(1))
        if not len(now):
            return parts, standing.at
        again = now.limit.isfinite().any(1) & ((now.inputs.width > 0).sum(1) <= FEW_INPUTS)
        now = replace(
            now,
            rows=torch.cat([now.rows, cuts.rows], 1),
            limit=torch.cat([now.limit, cuts.limit], 1),
            clause=torch.cat([now.clause, standing.clause], 1),
        )
        others = torch.ones(len(parts), dtype=torch.bool).index_fill(0, standing.at, value=False).nonzero()[:, 0]
        rest = padded(parts.take(others), now.limit.shape[1])
        split = self._splits(now, rest, cuts.rows[:, 0], ~cut_off | again)
        halves = self._halved(now, split, clock)
        smaller = forgotten(join(now.take((cut_off & (split < 0)).nonzero()[:, 0]), halves))
        stuck = now.take((~cut_off & (split < 0)).nonzero()[:, 0])
        every = join(rest, stuck, smaller)
        return every, torch.arange(len(every))[len(rest) + len(stuck) :]

    def _bounded(self, parts: Parts, clock: Clock) -> Parts:
        """The parts with their regions cut off at what their inputs reach."""
        loose = (~parts.bounded).nonzero()[:, 0]
        if not len(loose):
            return parts
        mine = parts.take(loose)
        region = self.problem.region.restrict(mine.owner, mine.inputs.lower, mine.inputs.upper)
        box = reach_boxes(self.layer.head, region, late=clock.late).intersect(mine.latent)
        ones = torch.ones(len(loose), dtype=torch.bool)
        latent = Box(parts.latent.lower.index_copy(0, loose, box.lower), parts.latent.upper.index_copy(0, loose, box.upper))
        return replace(changed(parts, loose, bounded=ones, shared=-torch.ones_like(mine.shared)), latent=latent)

    def _splits(self, parts: Parts, others: Parts, rows: Tensor, wanted: Tensor) -> Tensor:
        """[k] the input along which to halve each part `wanted` [k]: that which moves `rows` [k, w] times z most; -1 for none."""
        if not len(parts):
            return wanted.long()
        count = torch.bincount(torch.cat([others.owner, parts.owner]), minlength=len(self.problem))
        x = parts.inputs.middle.detach().requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad((self.layer.head(x) * rows).sum(), x)
        effect = (slope.nan_to_num(nan=0.0).abs() + TINY) * parts.inputs.width
        may = wanted & (count[parts.owner] < MOST_PARTS) & (effect.amax(1) > 0)
        return torch.where(may, effect.argmax(1), -1)

    def _halved(self, parts: Parts, axis: Tensor, clock: Clock) -> Parts:
        """Both halves of each of k parts along `axis` [k], where that is one, bounded again."""
        ready, axis = parts.take((axis >= 0).nonzero()[:, 0]), axis[axis >= 0]
        k, middle = torch.arange(len(ready)), ready.inputs.middle
        lower, upper = ready.inputs.lower.clone(), ready.inputs.upper.clone()
        lower[k, axis] = upper[k, axis] = middle[k, axis]
        inputs = Box(torch.cat([ready.inputs.lower, lower]), torch.cat([upper, ready.inputs.upper]))
        twice = ready.take(torch.cat([k, k]))
        return self._bounded(replace(twice, inputs=inputs, bounded=torch.zeros_like(twice.bounded)), clock)

    def _summed_up(self, parts: Parts, found: Witnesses, rounds: tuple[Round, ...], *, late: bool) -> Relaxed:
        """From parts to cases.

        Raises:
            ContradictionError: a proof over all that is reached stands against a real failure: a bug in Fathom.
        """
        n, w = len(self.problem), self.layer.size
        lower = torch.full((n,), torch.inf, dtype=torch.float64).scatter_reduce(0, parts.owner, parts.lower, "amin")
        hit = torch.full((n, w), torch.nan, dtype=torch.float64)
        distance = torch.full((n,), torch.inf, dtype=torch.float64)
        at = (~parts.hit.isnan().any(1)).nonzero()[:, 0]
        at = at[parts.distance[at].argsort(descending=True, stable=True)]  # so that the nearest is written last
        for i in at.tolist():
            hit[parts.owner[i]], distance[parts.owner[i]] = parts.hit[i], parts.distance[i]
        first = parts.shared >= 0
        refined = torch.zeros(n, dtype=torch.bool).index_fill(0, parts.owner[~first], value=True)
        known = Answers.none(n, found.x.shape[1], found.y.shape[1], found.x.dtype)
        if self.covers:
            known = replace(known, lower=lower)
        known = known.tighten(replace(known, found=found))
        unsettled = ~(lower > 0) & ~found.broken
        return Relaxed(lower, found, hit, distance, refined, rounds, late and bool(unsettled.any()))


def _share(clock: Clock, share: float) -> Budget:
    """So much of the time that is left."""
    budget = clock.budget
    return replace(budget, seconds=None if budget.seconds is None else max(clock.remaining, 0.0) * share, passes=None)
