"""Branch and bound, with the kind of split chosen by the problem's structure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from fathom.core.answer import REASONS, Answers, Reason
from fathom.core.budget import Budget, Goal
from fathom.core.network import Network
from fathom.core.operator import Nonlinear
from fathom.core.problem import Problem
from fathom.core.solver import Hints, Observer, Solver, ignore
from fathom.prove.input_split import InputTree
from fathom.prove.layer import is_shallow
from fathom.prove.lean import lean
from fathom.prove.parts import MOST_PARTS, solve_members, solve_parts
from fathom.prove.phase_split import PhaseTree
from fathom.prove.record import Record
from fathom.prove.search import search
from fathom.prove.shallow_split import ShallowTree
from fathom.regions.union import Union

FEW_INPUTS = 16
"""Up to here halving inputs beats splitting neurons: every input then gets its turn within a few levels of the tree."""

MOST_RULES = 1 << 12
"""Rows of a spec, up to which a search holds multipliers of all of them for every leaf."""


@dataclass(frozen=True)
class BranchAndBound(Solver):
    """Split, bound, attack, until decided.

    Requires: a compiled problem.
    Returns: for each set a bracket, which closes in the end.
    Method: inputs are split where few vary, or where an operator without a kink leaves no other way; phases of neurons elsewhere.
        Leaves are bounded by backward linear bounds, with multipliers for split phases; the worst open ones are attacked. A leaf
        without open neurons is answered by a linear program, made rigorous. Sets that are not convex are searched part by part.
    Sound? complete?: sound under `real`; complete up to rounding, given time, but for sets that are neither convex nor unions of
        a few thousand convex ones.
    Reference: Bunel et al., Branch and bound for piecewise linear neural network verification, JMLR 2020.
    """

    tolerance: float = 1e-3  # relative width at which a bracket is tight, for the goal `value`
    beside: tuple[Solver, ...] = ()  # attacks on what stands open: the first after 8 rounds, each next after twice as many
    record: Record | None = field(default=None, repr=False, compare=False)  # an empty one, to be filled for a certificate
    forms: bool | None = field(default=None, repr=False, compare=False)  # what `halves_nimbly` said, so that it is asked once

    def solve(self, problem: Problem, budget: Budget, hints: Hints = Hints(), observe: Observer = ignore) -> Answers:
        outputs = sum(port.size for port in problem.program.outputs)
        none = Answers.none(len(problem), problem.region.size, outputs, problem.program.dtype)
        if problem.spec is None or not problem.provable or not len(problem):
            return none.because(Reason.NOT_PROVABLE)
        if problem.spec.rows.shape[1] > MOST_RULES:
            return none.because(Reason.RULES)
        parts = None if problem.region.convex else problem.region.parts(MOST_PARTS)
        if parts is not None:
            return solve_parts(replace(self, record=None, forms=None), problem, *parts, budget, hints, observe)
        if isinstance(problem.region, Union):
            return solve_members(replace(self, record=None, forms=None), problem, budget, hints, observe)
        answers = self._search(problem, budget, hints, observe)
        if problem.region.convex:
            return answers
        # Splitting phases ends with linear programs over the hull: what they leave open need not be close to zero.
        hull = answers.reason == REASONS.index(Reason.TOO_CLOSE)
        return answers.because(Reason.INCOMPLETE, hull.nonzero()[:, 0])

    def _search(self, problem: Problem, budget: Budget, hints: Hints, observe: Observer) -> Answers:
        memory, clock = budget.memory // 4, budget.start()
        if splits_inputs(problem):
            decide = budget.goal is Goal.DECIDE
            forms = self.forms if problem.region.convex else None
            tree = InputTree(problem, memory, clip=decide, late=clock.late, record=self.record, forms=forms)
            return search(problem, tree, budget, hints, observe, self.tolerance, self.beside)
        assert problem.network is not None
        decide = budget.goal is Goal.DECIDE
        if self.record is None and is_shallow(problem.network):
            shallow = ShallowTree(problem, memory, decide=decide, late=clock.late)
            return search(problem, shallow, budget, hints, observe, self.tolerance, self.beside)
        phases = PhaseTree(problem, memory, decide=decide, late=clock.late, record=self.record)
        return search(problem, phases, budget, hints, observe, self.tolerance, self.beside)


def splits_inputs(problem: Problem) -> bool:
    """Whether a problem is one to split along its inputs: few of them vary, or an operator bends everywhere."""
    assert problem.network is not None
    return _varying(problem) <= FEW_INPUTS or _smooth(problem.network)


def halves_nimbly(problem: Problem) -> bool:
    """Whether halving boxes is so cheap that bounds of whole sets need not come first: by affine forms, many boxes at once. May
    measure, so ask once."""
    return problem.provable and problem.region.convex and lean(problem)


def resists_splitting(problem: Problem) -> bool:
    """Whether splits will take long to help: an operator bends everywhere, so inputs are what is split, and they are many."""
    return problem.network is not None and _smooth(problem.network) and _varying(problem) > FEW_INPUTS


def _varying(problem: Problem) -> int:
    box = problem.region.box()
    return int((box.lower < box.upper).sum(1).max()) if len(problem) else 0


def _smooth(network: Network) -> bool:
    return any(isinstance(node.operator, Nonlinear) and node.operator.kink is None for node in network.nodes)
