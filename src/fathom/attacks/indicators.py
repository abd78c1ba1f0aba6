"""How far the silence of a gradient attack can be trusted: indicators of attack failure, and the masking flag.

Pintor et al., Indicators of attack failure: debugging and improving optimization of adversarial examples, NeurIPS 2022. What
raises the flag: another search breaks what the gradient attack did not; there is no gradient to follow; or the program answers
the same input differently. Carlini et al., On evaluating adversarial robustness, 2019, list the same signs.
"""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fathom.attacks.decisions import Decisions, middle
from fathom.attacks.descent import descend
from fathom.attacks.gradient import Gradient
from fathom.attacks.objective import Objective, gradient, has_gradient
from fathom.attacks.reuse import carried
from fathom.attacks.values import Values
from fathom.core.answer import Answers, Cost, Witnesses
from fathom.core.budget import Budget, Goal
from fathom.core.confirm import confirm
from fathom.core.problem import Problem
from fathom.core.solver import Hints
from fathom.core.value import take

FLAT = 0.5  # share of inputs without a gradient from which on following gradients is no search
NOISY = 1e-3  # of a margin's size: more than the order of summation does
FALLING = 0.1  # of all that the attack has achieved, by a few steps more
LOOKS = 8  # inputs of each set at which its gradient is looked at
DRAWS = 4  # runs of the program on the same input
MORE = 20  # steps after the end of the attack
CARRIED = 16  # failures of other sets that are tried on each
LONGER = Gradient(restarts=10, steps=60)  # whether the attack was merely too short


class Rival(enum.Enum):
    """What may break a set that the gradient attack did not."""

    TRANSFER = "a failure of another set or model, carried over,"
    VALUES = "the search by values alone"
    DECISIONS = "the search by decisions alone"


RIVALS = tuple(Rival)


class Doubt(enum.Enum):
    """What may be the matter with an attack that found nothing, in a few words."""

    MASKED = "another search breaks what following gradients did not"
    FLAT = "no gradient to follow"
    NOISE = "the program answers the same input differently"
    SHORT = "another search, and a longer attack, break what the attack did not"
    REFUSED = "the network fails where the program does not"
    FALLING = "the margin was still falling when the attack ended"

    @property
    def masks(self) -> bool:
        """Whether it raises the masking flag."""
        return self in (Doubt.MASKED, Doubt.FLAT, Doubt.NOISE)


@dataclass(frozen=True, eq=False)
class Indicators:
    """For each of n sets what casts doubt on the gradient attack's silence. Nothing does where it was not silent.

    Made by `examine`. `answers` are the attack's, tightened by all that was found on the way.
    """

    answers: Answers
    silent: Tensor  # [n] bool: the gradient attack broke nothing, and nothing is proved
    flat: Tensor  # [n] float64: share of inputs at which the margin has no gradient: zero, or not a number
    noise: Tensor  # [n] float64: how far runs on one input differ, in sizes of the margin
    falling: Tensor  # [n] float64: what `MORE` steps lowered the margin by, in units of what all steps before had
    refused: Tensor  # [n] bool: the captured network fails at the best input found, and the deployed program does not
    beaten: Tensor  # [n] int64: place in RIVALS of what broke it instead; -1 for nothing
    short: Tensor  # [n] bool: a longer gradient attack breaks it too, by itself
    cost: Cost  # of the examination
    obstacle: str = ""  # why there are no gradients at all; "" where there are

    def __len__(self) -> int:
        return len(self.silent)

    @property
    def masking(self) -> Tensor:
        """[n] the masking flag: the silence of the gradient attack says little or nothing."""
        beaten = (self.beaten >= 0) & ~self.short
        return self.silent & (beaten | (self.flat >= FLAT) | (self.noise > NOISY))

    def take(self, index: Tensor) -> Indicators:
        return take(self, index)

    def doubts(self, index: int) -> dict[Doubt, str]:
        """What casts doubt on the silence about one set, each in a sentence; those that raise the flag first."""
        if not self.silent[index]:
            return {}
        said = {}
        if self.beaten[index] >= 0:
            rival = f"{RIVALS[int(self.beaten[index])].value} broke it, and following gradients did not; "
            short = bool(self.short[index])
            told = "the gradient attack was too short: a longer one does" if short else "gradients are masked"
            said[Doubt.SHORT if short else Doubt.MASKED] = rival + told
        if self.obstacle:
            said[Doubt.FLAT] = f"there is no gradient to follow: {self.obstacle}"
        elif self.flat[index] >= FLAT:
            said[Doubt.FLAT] = (
                f"at {self.flat[index].item():.0%} of the inputs looked at the margin has no gradient (zero, not a number, or "
                "rounding alone), so the gradient attack's silence says nothing; attack the model without what flattens it"
            )
        if self.noise[index] > NOISY:
            said[Doubt.NOISE] = (
                f"the program gives the same input different answers (the margin moves by {self.noise[index].item():.2g} of its "
                "size), so one run settles nothing; fix its random seed, or score it over many draws"
            )
        if self.refused[index]:
            said[Doubt.REFUSED] = (
                "at the best input found the captured network fails and the deployed program does not: what is attacked is not "
                "what runs, or rounding decides"
            )
        if self.falling[index] > FALLING:
            said[Doubt.FALLING] = (
                f"the margin was still falling at the end: {MORE} more steps lowered it by {self.falling[index].item():.0%} of "
                "what all steps before had; give the attack more steps"
            )
        return said

    def reasons(self, index: int) -> tuple[str, ...]:
        """The sentences of `doubts`."""
        return tuple(self.doubts(index).values())


def examine(problem: Problem, answers: Answers, budget: Budget, *, points: Tensor | None = None, seed: int = 0) -> Indicators:
    """Looks for signs that a gradient attack's silence means little.

    Args:
        problem: n sets.
        answers: what the gradient attack found; sets that it broke, or that are proved, cost nothing more.
        budget: of the whole examination; passes are those of each search.
        points: [n, k, d] inputs that break other models, to be carried over; NaN for none.
        seed: of all that is random.
    """
    began, n = time.monotonic(), len(problem)
    silent = ~answers.decided
    sets = silent.nonzero()[:, 0]
    part, generator = problem.take(sets), torch.Generator().manual_seed(seed)
    clock = budget.start()
    forward, backward = torch.zeros(len(sets), dtype=torch.int64), torch.zeros(len(sets), dtype=torch.int64)
    flat, falling, refused = (torch.zeros(len(sets), dtype=torch.float64) for _ in range(3))
    noise, beaten = torch.zeros(len(sets), dtype=torch.float64), torch.full((len(sets),), -1)
    short = torch.zeros(len(sets), dtype=torch.bool)
    found = answers.take(sets)
    differentiable = has_gradient(problem)
    if len(sets):
        best = _best(part, found, generator)
        noise, forward = _noise(part, best), forward + DRAWS
        if differentiable:
            flat = _flat(part, best, generator)
            falling, refused, better = _falling(part, best, found, generator)
            found = replace(found, found=found.found.best(confirm(part, better)))
            forward, backward = forward + LOOKS + MORE + 5, backward + LOOKS + MORE + 1
        else:
            flat = flat + 1
        others = _others(problem, answers, sets, points, generator)
        left = budget.part(seconds=None if budget.seconds is None else max(clock.remaining, 0.0))
        found, beaten, spent = _challenged(part, found, others, left, seed)
        forward = forward + spent
        lost = (beaten >= 0).nonzero()[:, 0]
        if differentiable and len(lost):
            left = budget.part(seconds=None if budget.seconds is None else max(clock.remaining, 0.0))
            told = replace(LONGER, seed=seed + 1).solve(part.take(lost), replace(left, goal=Goal.DECIDE))
            short[lost] = told.broken
            forward, backward = forward.index_add(0, lost, told.cost.forward), backward.index_add(0, lost, told.cost.backward)
    spread = torch.zeros(n, dtype=torch.float64)
    count = torch.zeros(n, dtype=torch.int64)
    cost = Cost.zero(n).spend(time.monotonic() - began, count.index_copy(0, sets, forward), count.index_copy(0, sets, backward))
    obstacle = "" if differentiable else problem.obstacle or "the margin is computed outside torch's automatic differentiation"
    return Indicators(
        answers.put(sets, replace(found, cost=Cost.zero(len(sets)))),
        silent,
        spread.index_copy(0, sets, flat),
        spread.index_copy(0, sets, noise),
        spread.index_copy(0, sets, falling),
        spread.index_copy(0, sets, refused) > 0,
        torch.full((n,), -1).index_copy(0, sets, beaten),
        torch.zeros(n, dtype=torch.bool).index_copy(0, sets, short),
        cost,
        obstacle,
    )


def _challenged(problem: Problem, found: Answers, others: Tensor, budget: Budget, seed: int) -> tuple[Answers, Tensor, Tensor]:
    """The answers [n] after every rival's search, which rival broke each set first, and the passes [n] that this took."""
    clock, beaten = budget.start(), torch.full((len(problem),), -1)
    after = replace(found, found=found.found.best(_transfer(problem, others)))
    found, beaten = _outdone(found, after, beaten, Rival.TRANSFER)
    passes = torch.full((len(problem),), others.shape[1])
    for rival, search in ((Rival.VALUES, Values(seed=seed)), (Rival.DECISIONS, Decisions(seed=seed))):
        left = budget.part(seconds=None if budget.seconds is None else max(clock.remaining, 0.0))
        told = search.solve(problem, left, Hints(answers=found))
        found, beaten = _outdone(found, found.tighten(told), beaten, rival)
        passes = passes + told.cost.forward
    return found, beaten, passes


def _best(problem: Problem, found: Answers, generator: torch.Generator) -> Tensor:
    """The best input [n, d] known of each set; where there is none, its middle or a sample."""
    x = middle(problem.deployed, generator).to(problem.program.dtype)
    return torch.where(found.found.known[:, None], found.found.x, x)


def _margin(problem: Problem, x: Tensor, owner: Tensor) -> Tensor:
    """Margins [L] of the deployed program at inputs x [L, d] of sets `owner` [L]; +inf for NaN."""
    y = problem.program(x).to(torch.float64)
    return problem.overseer.take(owner).margin(x.to(torch.float64), y).to(torch.float64).nan_to_num(nan=torch.inf)


def _noise(problem: Problem, x: Tensor) -> Tensor:
    """How far margins [n] move between runs on the same batch, in sizes of the margin: its own, or the usual one if larger."""
    everyone = torch.arange(len(x))
    margins = torch.stack([_margin(problem, x, everyone) for _ in range(DRAWS)]).nan_to_num(posinf=1e300, neginf=-1e300)
    size = margins.abs().amax(0)
    size = torch.maximum(size, size.median()).clamp(min=torch.finfo(torch.float64).tiny)
    return (margins.amax(0) - margins.amin(0)) / size


def _flat(problem: Problem, best: Tensor, generator: torch.Generator) -> Tensor:
    """The share [n] of inputs, the best known one among them, at which the margin has no gradient worth the name.

    That is zero, or so small that following it all through the set would not change the margin by a thousandth of what it
    changes between the inputs looked at: rounding alone, as where steep slopes cancel.
    """
    objective, count, d = Objective.of(problem), LOOKS, best.shape[1]
    inputs = problem.deployed.sample(count, generator).to(best.dtype)
    inputs[:, 0] = best
    owner = torch.arange(len(best)).repeat_interleave(count)
    width = problem.deployed.box().width.to(best.dtype)
    margins, changes = [], []
    for lanes in torch.split(torch.arange(len(owner)), 1024):
        x = inputs.reshape(-1, d)[lanes].requires_grad_()
        with torch.enable_grad():
            rows = objective.rows(x, owner[lanes])
            clauses = objective.clauses(rows.detach(), owner[lanes])
            member = objective.members(owner[lanes], clauses.nan_to_num(nan=torch.inf).argmin(1))
            slope = gradient(rows, x, member, torch.zeros(len(lanes), dtype=best.dtype))
        margins.append(objective.margin(rows.detach(), owner[lanes]))
        changes.append((slope.abs() * width[owner[lanes]]).sum(1))
    margin, change = (torch.cat(parts).reshape(-1, count).to(torch.float64) for parts in (margins, changes))
    spread = (margin.amax(1) - margin.amin(1)).nan_to_num(nan=0.0, posinf=0.0)
    return ((change == 0) | (change < 1e-3 * spread[:, None])).to(torch.float64).mean(1)


def _falling(problem: Problem, best: Tensor, found: Answers, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """What a few more steps gain, as a share [n] of all before; whether the network alone fails [n]; the best inputs [n, d]."""
    objective, everyone = Objective.of(problem), torch.arange(len(best))
    start = middle(problem.deployed, generator)
    with torch.no_grad():
        first, last = (
            objective.margin(objective.rows(x.to(best.dtype), everyone), everyone).to(torch.float64) for x in (start, best)
        )
    after = descend(problem, everyone, best, MORE, size=0.1, objective=objective)
    gained = (last - after.margin.to(torch.float64)).clamp(min=0).nan_to_num(nan=0.0, posinf=0.0)
    before = (first - last).clamp(min=0).nan_to_num(nan=0.0, posinf=0.0)
    share = torch.where(gained > 1e-6 * last.abs(), gained / torch.maximum(before, gained / 10), 0.0)
    refused = (last <= 0) & found.found.known & (found.found.deployed > 0)
    return share, refused.to(torch.float64), after.x


def _others(problem: Problem, answers: Answers, sets: Tensor, points: Tensor | None, generator: torch.Generator) -> Tensor:
    """Inputs [k, c, d] to try on the sets [k]: those of other models, and the failures of other sets, carried over."""
    given = torch.zeros(len(sets), 0, problem.deployed.size) if points is None else points[sets]
    broken = answers.broken.nonzero()[:, 0]
    some = broken[torch.randperm(len(broken), generator=generator)[:CARRIED]]
    ways = answers.found.x[some].to(torch.float64) - problem.deployed.take(some).centres()
    return torch.cat([given.to(problem.program.dtype), carried(problem.take(sets), ways)], 1)


def _transfer(problem: Problem, x: Tensor) -> Witnesses:
    """What `confirm` says of the best of inputs x [n, c, d] of each set."""
    n, count = x.shape[:2]
    best = torch.full((n, x.shape[2]), torch.nan, dtype=x.dtype)
    if count:
        owner = torch.arange(n).repeat_interleave(count)
        margin = _margin(problem, x.reshape(-1, x.shape[2]).nan_to_num(), owner).reshape(n, count)
        margin = torch.where(torch.isnan(x).any(2), torch.inf, margin)
        best = x[torch.arange(n), margin.argmin(1)]
    return confirm(problem, best)


def _outdone(before: Answers, after: Answers, beaten: Tensor, rival: Rival) -> tuple[Answers, Tensor]:
    """The answers after a rival's search, and which rival broke each set first."""
    fresh = after.broken & ~before.broken & (beaten < 0)
    return after, torch.where(fresh, RIVALS.index(rival), beaten)
