"""The value-only attack with a guide: a small network, fitted to the judgements so far, says where to ask next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from fathom.attacks.board import Board
from fathom.attacks.gradient import Gradient
from fathom.attacks.values import Asked, ask, changes, first_points
from fathom.core.answer import Answers
from fathom.core.ascent import Ascent
from fathom.core.budget import Budget, Goal
from fathom.core.errors import FathomError
from fathom.core.network import Network, Node, Port
from fathom.core.problem import Problem
from fathom.core.solver import Hints, Observer, Solver, ignore
from fathom.core.value import fingerprint
from fathom.ops.dense import Dense
from fathom.ops.relu import Relu
from fathom.overseers.checker_network import CheckerNetwork
from fathom.overseers.models import Model

WIDTH = 32  # of the guide's two layers
PLAIN = 0.03  # the price of a weight on an input: most judges look at the output, and few points say little about many inputs
RATE = 0.01  # of fitting
FITS = 40  # steps of fitting in every round, from where the last one ended


@final
@dataclass(frozen=True)
class Guided(Solver):
    """Search for overseers that can only be asked, and are dear to ask: programs, people.

    Requires: a captured model, under `real`; of the overseer values alone.
    Returns: for each set the best point found, confirmed: by the overseer itself, never by its guide. `lower` stays -inf.
    Method: some samples first. Then in every round a network of input and output is fitted to all margins known, one for all sets
        that are judged alike; a gradient attack on it, behind the model, proposes a point for each set; and the overseer is asked
        about that point and about some random changes of the best one, which are what is left where the guide is wrong.
    Sound? Yes: only `confirm` makes a witness. Complete? No.
    Reference: Papernot et al., Practical black-box attacks against machine learning, ASIA CCS 2017 (a substitute fitted to
        answers, and fitted again where it led).

    Raises (from `solve`):
        FathomError: the model was not captured; the text names what to use instead.
    """

    seed: int = 0
    samples: int = 32  # points of each set before the search
    rounds: int = 20
    trials: int = 4  # points of each set asked about in every round, the guide's among them

    def solve(self, problem: Problem, budget: Budget, hints: Hints = Hints(), observe: Observer = ignore) -> Answers:
        if problem.model is None:
            raise FathomError(
                f"expected a problem with a captured network to guide a search in, got none: {problem.obstacle}; search with "
                "fathom.attacks.values.Values instead"
            )
        board, generator = Board(problem, budget, hints, observe), torch.Generator().manual_seed(self.seed)
        guides = guides_of(problem, generator)
        at_once = self.samples + board.given.shape[1]
        known = ask(board, at_once, lambda sets: board.given[sets])
        known += ask(board, at_once, lambda sets: first_points(problem.deployed.take(sets), self.samples, generator))
        for k in range(self.rounds):
            if not len(board.going()):
                break
            points = torch.full_like(board.points, torch.nan)
            for guide in guides:
                guide.fit(known)
                self._follow(board, guide, points, seed=self.seed + k)
            share = 1 - k / self.rounds
            known += ask(
                board,
                self.trials,
                lambda sets: torch.cat([points[sets][:, None], changes(board, sets, self.trials - 1, share, generator)], 1),  # noqa: B023
            )
        return board.finish()

    def _follow(self, board: Board, guide: Guide, points: Tensor, seed: int) -> None:
        """Puts where the guide's margin is least, of each of its sets that is still searched, into `points` [n, d]."""
        sets = board.going()
        sets = sets[torch.isin(sets, guide.sets)]
        if not len(sets):
            return
        limit = board.clock.budget.passes
        spent = int((board.forward + board.backward)[sets].max())
        budget = board.clock.budget.part(
            seconds=None if board.clock.budget.seconds is None else max(board.clock.remaining, 0.0),
            passes=None if limit is None else max(limit - spent - self.trials, 0),
        )
        found = guide.worst(board.problem, sets, board.points[sets], budget, seed)
        board.forward[sets] += found.cost.forward
        board.backward[sets] += found.cost.backward
        points[sets] = torch.where(found.found.known[:, None], found.found.x, torch.nan)


class Guide:
    """A network of (x, y) that stands for the overseer of some sets, which is one and the same."""

    def __init__(self, sets: Tensor, inputs: int, size: int, generator: torch.Generator) -> None:
        self.sets, self.inputs, self.size = sets, inputs, size
        self.weights: list[Tensor] = []
        for rows, columns in ((WIDTH, size), (WIDTH, WIDTH), (1, WIDTH)):
            random = torch.randn(rows, columns, generator=generator) * (2 / columns) ** 0.5
            if not self.weights:
                random[:, :inputs] = 0
            self.weights += [random.requires_grad_(), torch.zeros(rows, requires_grad=True)]
        self.mean, self.scale = torch.zeros(size), torch.ones(size)

    def fit(self, known: list[Asked]) -> None:
        """Some steps towards the margins that are known: their signs and, on the scale of the median, their sizes."""
        mine = [(torch.cat([x.float(), y.float()], 1), margin) for owner, x, y, margin in _only(known, self.sets)]
        z, margin = (torch.cat(parts) for parts in zip(*mine, strict=True)) if mine else (torch.zeros(0), torch.zeros(0))
        judged = torch.isfinite(margin)
        z, margin = z[judged], margin[judged]
        if not len(z):
            return
        target = torch.tanh(margin / margin.abs().median().clamp(min=1e-12)).float()
        self.mean, deviation = z.mean(0), z.std(0, correction=0)
        self.scale = torch.where(deviation > 1e-6, 1 / deviation.clamp(min=1e-6), 0.0)  # what never changed says nothing
        ascent = Ascent.learning(self.weights, RATE)
        for _ in range(FITS):
            loss = (self._value((z - self.mean) * self.scale) - target).square().mean()
            loss = loss + PLAIN * self.weights[0][:, : self.inputs].abs().sum()
            ascent.step(-loss)

    def _value(self, z: Tensor) -> Tensor:
        *hidden, (weight, bias) = _pairs(self.weights)
        for inner, shift in hidden:
            z = torch.relu(z @ inner.T + shift)
        return (z @ weight.T + bias)[:, 0]

    def network(self) -> Network:
        """Of (x, y) as they are: what they are divided by is folded into the first layer."""
        (w, b), *rest = _pairs([weight.detach().clone() for weight in self.weights])
        layers = [(w * self.scale, b - w @ (self.mean * self.scale)), *rest]
        nodes = [Node("xy", None, (), (self.size,))]
        for k, (weight, bias) in enumerate(layers):
            nodes.append(Node(f"guide {k}", Dense(weight, bias), (len(nodes) - 1,), (len(bias),)))
            if k < len(layers) - 1:
                nodes.append(Node(f"rectified {k}", Relu(), (len(nodes) - 1,), (len(bias),)))
        return Network(tuple(nodes), (Port("xy", (self.size,), 0),), (Port("margin", (1,), 0),))

    def worst(self, problem: Problem, sets: Tensor, starts: Tensor, budget: Budget, seed: int) -> Answers:
        """Where its margin is least on some sets [k] of a problem, from points [k, d] on: a proposal, and nobody's judgement."""
        attack = Gradient(seed=seed, restarts=2, lone=2, steps=10, full=0)
        hints = Hints(points=starts[:, None].double())
        return attack.solve(self.problem(problem, sets), replace(budget, goal=Goal.VALUE), hints)

    def problem(self, problem: Problem, sets: Tensor) -> Problem:
        """The problem of some of its sets, with the guide in its overseer's place."""
        assert problem.model is not None
        network = self.network()
        model = Model(lambda xy: network(xy.float()), network, network.digest)
        overseer = CheckerNetwork.make(model, sees="xy", sets=len(sets))
        compiled = overseer.compile(problem.model)
        return replace(problem.take(sets), overseer=overseer, network=compiled.network, spec=compiled.spec, exact=True)


def _pairs(weights: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(weights[::2], weights[1::2], strict=True))


def guides_of(problem: Problem, generator: torch.Generator) -> list[Guide]:
    """One for all sets whose overseer is the same."""
    assert problem.model is not None
    alike: dict[str, list[int]] = {}
    for i in range(len(problem)):
        alike.setdefault(fingerprint(problem.overseer.take(torch.tensor([i]))), []).append(i)
    size = problem.model.input_size + problem.model.output_size
    return [Guide(torch.tensor(sets), problem.model.input_size, size, generator) for sets in alike.values()]


def _only(known: list[Asked], sets: Tensor) -> list[Asked]:
    """What was asked about some sets."""
    parts = []
    for owner, x, y, margin in known:
        mine = torch.isin(owner, sets)
        parts.append((owner[mine], x[mine], y[mine], margin[mine]))
    return parts
