"""Adaptive multi-level splitting: a rare failure as a chain of events that are not rare, each a margin below the last."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from fathom.core.answer import Claim
from fathom.core.budget import Clock
from fathom.core.value import join
from fathom.estimates.answer import Part
from fathom.estimates.distribution import Latent
from fathom.estimates.estimator import Estimator, Progress, generator, timed, unable, unheard
from fathom.estimates.intervals import clopper_pearson, of_mean
from fathom.estimates.question import Question
from fathom.estimates.walk import Walk, Walkers, adapted
from fathom.estimates.words import count, percent, probability

PATIENCE = 2  # times the evaluations allowed: the first runs may go on so far before they are given up
FIRST_RUNS = 5
ROOM = 1.1  # how much more than the runs before a run may cost
LEAST_MOVES = 0.02  # share of moves taken, below which points hardly move and are copies of one another


@final
@dataclass(frozen=True)
class Splitting(Estimator):
    """Independent runs of adaptive multi-level splitting.

    Requires: a distribution made from normal numbers; any program and overseer: margins are only compared.
    Returns: an estimate: the mean of the runs, and a log-normal interval from how far they are apart.
    Method: of `particles` draws, those of the greatest margin (`dropped` of them, and whatever ties with them) are replaced by
        copies of others that have walked `steps` steps below that margin; until so few are above 0 that counting does. A run's
        estimate is the product of the shares that survived, where points of equal margin go together: without ties, and one
        point at a time, that is the last-particle estimate. It is unbiased for steps that forget where they came from.
    Sound? No: a region of failures that the margin does not lead to is missed by all runs alike, and no interval shows it.
    Reference: Cerou and Guyader, Adaptive multilevel splitting for rare event analysis, Stochastic Analysis and Applications 25,
        2007; Guyader, Hengartner and Matzner-Lober, Simulation and estimation of extreme quantiles and extreme probabilities,
        Applied Mathematics and Optimization 64, 2011; Webb, Rainforth, Teh and Kumar, A statistical approach to assessing neural
        network robustness, ICLR 2019; ties: Brehier et al., Annals of Applied Probability 26, 2016.
    """

    evaluations: int = 100_000
    confidence: float = 0.95
    seed: int = 0
    particles: int = 50  # of each run
    dropped: int = 5  # at each level
    steps: int = 10
    least: float = 1e-16  # runs that get below this are given up

    def estimate(self, question: Question, clock: Clock, progress: Progress = unheard) -> Part:
        return self.search(question, clock, progress).part

    def search(self, question: Question, clock: Clock, progress: Progress = unheard) -> Found:
        """The same, and the failures that the runs ended with."""
        began, question, distribution = time.monotonic(), question.afresh(), question.distribution
        if not isinstance(distribution, Latent):
            return Found(
                unable("splitting", f"multi-level splitting needs a region to walk in; {distribution} leaves none"), None
            )
        walk = Walk(question, distribution, generator("splitting", self.seed))
        runs = self.run(FIRST_RUNS, walk, clock, progress)
        while runs.finished and not clock.late():
            left, each = self.evaluations - question.meter.forward, question.meter.forward / len(runs.log_share)
            more = int(left / (ROOM * each))
            if more < 1:
                break
            runs = runs.join(self.run(more, walk, clock, progress))
        part = timed(self._part(runs, clock), question, began)
        failing = (runs.walkers.margin <= 0).nonzero()[:, 0]
        return Found(part, runs.walkers.take(failing) if len(failing) else None)

    def run(self, count_of_runs: int, walk: Walk, clock: Clock, progress: Progress) -> Runs:
        """So many runs, in step."""
        runs = Runs.start(count_of_runs, self.particles, walk)
        size = 1.0
        while not (runs.finished or clock.late()):
            if walk.question.meter.forward > PATIENCE * self.evaluations:
                break
            levels, killed = runs.levels(self.dropped)
            runs = runs.close(levels, killed, math.log(self.least))
            killed = killed & ~runs.done[:, None]
            if not bool(killed.any()):
                continue
            runs, share = runs.renew(levels, killed, walk, self.steps, size)
            runs.moves.append(share)
            size = adapted(size, share)
            lowest = levels[~runs.done].max().item() if not runs.finished else 0.0
            progress(f"{count(count_of_runs, 'run')}, margins below {lowest:.3g}, {walk.question.meter.forward:,} evaluations")
        return runs

    def _part(self, runs: Runs, clock: Clock) -> Part:
        shares = runs.log_share.exp().tolist()
        total, level = len(shares), percent(self.confidence)
        moves = sum(runs.moves) / len(runs.moves) if runs.moves else 1.0
        facts = (("runs", total), ("particles", self.particles), ("levels", len(runs.moves)), ("moves_taken", moves))

        def part(value: float | None, lower: float | None, upper: float | None, sentence: str, *warnings: str) -> Part:
            stopped, confidence = not runs.finished, None if lower is None else self.confidence
            return Part("splitting", Claim.ESTIMATE, value, lower, upper, confidence, sentence, warnings, facts, seed=self.seed,
                        stopped=stopped)  # fmt: skip

        if not runs.finished:
            reached = max(shares, default=1.0)
            nearest = runs.walkers.margin.min().item()
            if not runs.moves:
                return part(None, None, None, "no estimate: stopped before the first level; give more seconds")
            return part(None, None, None, f"no estimate: the runs had come to about {probability(reached)} of the draws, "
                        f"with margins from {nearest:.3g} up; give more evaluations or seconds")  # fmt: skip
        flat = int(runs.flat.sum())
        if flat == total:
            return part(None, None, None, "no estimate: the margin is flat, or falls too slowly to follow: the runs ended where "
                        "all their points had one margin; lean on sampling")  # fmt: skip
        if not any(shares):
            reached = runs.reached.exp().mean().item()
            return part(0.0, 0.0, probability_above(reached), f"P(failure) is about 0: {count(total, 'run')} came to a share of "
                        f"{probability(reached)} of the draws without a failure, and gave up")  # fmt: skip
        value = math.fsum(shares) / total
        warnings = []
        if not runs.moves:
            failing = int((runs.walkers.margin <= 0).sum())
            lower, upper = clopper_pearson(failing, 0, total * self.particles, self.confidence)
        elif flat or not all(shares) or total < 2:
            lower, upper = None, None
            warnings.append(f"{total - sum(map(bool, shares))} of {total} runs ended without a failure, so there is no interval")
        else:
            lower, upper = of_mean(shares, self.confidence)
        if moves < LEAST_MOVES:
            warnings.append(f"only {100 * moves:.1f} % of the steps were taken, so points are near copies of one another")
        middle = "" if lower is None or upper is None else f", {probability(lower, -1)} to {probability(upper, 1)} at {level}"
        return part(value, lower, upper, f"P(failure) is about {probability(value)}{middle} ({count(total, 'run')} of "
                    "multi-level splitting)", *warnings)  # fmt: skip


def probability_above(share: float) -> float:
    """What is written for "less than this": the share itself, as the upper end of an interval."""
    return min(1.0, share)


@dataclass(frozen=True, eq=False)
class Found:
    """What splitting ends with."""

    part: Part
    failing: Walkers | None  # draws of the distribution given failure, more or less; None where no run got there


@dataclass(frozen=True, eq=False)
class Runs:
    """R runs of N particles each."""

    walkers: Walkers  # [R N]
    log_share: Tensor  # [R] logarithm of the product of the shares so far; of the estimate where done
    reached: Tensor  # [R] the same, where a run was given up
    done: Tensor  # [R]
    flat: Tensor  # [R] whether the run ended where all its points tied
    moves: list[float] = field(default_factory=list)  # the share of steps taken, a level

    @staticmethod
    def start(runs: int, particles: int, walk: Walk) -> Runs:
        no = torch.zeros(runs, dtype=torch.bool)
        zero = torch.zeros(runs, dtype=torch.float64)
        return Runs(walk.start(runs * particles), zero, zero, no, no)

    @property
    def finished(self) -> bool:
        return bool(self.done.all())

    def join(self, other: Runs) -> Runs:
        """Both, one after the other."""
        names = ("log_share", "reached", "done", "flat")
        parts = {name: torch.cat([getattr(self, name), getattr(other, name)]) for name in names}
        return Runs(walkers=join(self.walkers, other.walkers), **parts, moves=self.moves + other.moves)

    def levels(self, dropped: int) -> tuple[Tensor, Tensor]:
        """The margin [R] that the `dropped` worst of each run reach, and which particles [R, N] do: more where they tie."""
        margins = self.walkers.margin.reshape(len(self.done), -1)
        levels = margins.topk(dropped, dim=1).values[:, -1]
        return levels, margins >= levels[:, None]

    def close(self, levels: Tensor, killed: Tensor, least: float) -> Runs:
        """Book the shares that survive; end the runs that need no more levels, have no survivor, or have become too unlikely."""
        margins = self.walkers.margin.reshape(len(self.done), -1)
        survive = (~killed).to(torch.float64).mean(1)
        arrived, fail = levels <= 0, (margins <= 0).to(torch.float64).mean(1)
        flat = ~self.done & ~arrived & (survive == 0)
        share = torch.where(self.done, 0.0, torch.where(arrived, fail.log(), survive.log()))
        log_share = self.log_share + share
        faint = ~self.done & ~arrived & ~flat & (log_share < least)
        lost = flat | faint
        reached = torch.where(lost, self.log_share, self.reached)
        log_share = torch.where(lost, -torch.inf, log_share)
        return Runs(self.walkers, log_share, reached, self.done | arrived | lost, self.flat | flat, self.moves)

    def renew(self, levels: Tensor, killed: Tensor, walk: Walk, steps: int, size: float) -> tuple[Runs, float]:
        """Copies of survivors, drawn evenly, in the place of the killed, after `steps` steps below their run's level."""
        particles = killed.shape[1]
        run = killed.nonzero()[:, 0]
        survivors = (~killed).to(torch.float64)[run]
        parent = run * particles + torch.multinomial(survivors, 1, generator=walk.generator)[:, 0]
        moved, share = walk.go(self.walkers.take(parent), levels[run], steps, size)
        walkers = self.walkers.put(killed.reshape(-1).nonzero()[:, 0], moved)
        return Runs(walkers, self.log_share, self.reached, self.done, self.flat, self.moves), share
