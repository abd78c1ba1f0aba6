"""A search that stops hands on where it would have gone on, and the last attack begins there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fathom.audits.portfolio import Portfolio
from fathom.core.answer import Reason
from fathom.core.budget import Budget, Goal
from fathom.core.problem import Problem
from fathom.overseers.misclassification import Misclassification
from fathom.prove.branch import BranchAndBound
from fathom.prove.starts import HANDED_ON, Starts
from fathom.regions.patch import Patch
from tests.contracts.test_attacks import Deployed, classify, random_network
from tests.test_amplify import bumps
from tests.test_clock import Evaluations
from tests.test_reuse import Listening

PLAIN = Portfolio(worsen=False, last=None)


def test_a_search_cut_short_is_followed_by_an_attack_from_its_worst_leaves() -> None:
    """Narrow bumps in a flat network: attacks miss them, and leaves that close in on them are left open at their limit."""
    problem, cut = bumps(), replace(PLAIN, case_boxes=64)
    before = cut.solve(problem, Budget())
    after = replace(cut, last=Portfolio().last).solve(problem, Budget())
    assert (after.broken >= before.broken).all() and after.broken.sum() >= before.broken.sum() + 2
    assert torch.equal(after.lower, before.lower)
    open_ = (~after.broken).nonzero()[:, 0].tolist()
    assert open_ and all(after.why(i) is Reason.PASSES for i in open_), "it stays open for the reason it was left open for"


def test_the_attack_gets_the_points_of_open_sets_and_no_others() -> None:
    problem, listening = bumps(), Listening()
    last = replace(PLAIN, case_boxes=64, longer=None, bounds=(), last=listening)  # type: ignore[arg-type]
    answers = last.solve(problem, Budget())
    (points,) = listening.given
    assert len(points) == (~answers.decided).sum() and points.shape[1] <= 1 + HANDED_ON
    assert not torch.isnan(points[:, 1:]).all(2).all(1).any()


def test_nothing_is_left_open_so_nothing_is_attacked() -> None:
    told: list[str] = []
    Portfolio(worsen=False, stage=told.append).solve(classify(n=3, radius=0.01), Budget())
    assert "branch and bound" in told and "attack on what is open" not in told


def test_time_is_held_back_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Branch and bound takes all the time it is given; the last attack still has some, and ends in time."""
    told: list[tuple[str, float]] = []
    clock = Evaluations(monkeypatch)
    problem = bumps(d=6, width=1e-4)
    watched = Portfolio(worsen=False, last_share=0.1, stage=lambda name: told.append((name, clock.now)))
    answers = watched.solve(problem, Budget(seconds=400.0))
    (began,) = [now for name, now in told if name == "attack on what is open"]
    assert 360 <= began < 400 and 380 < clock.now <= 410
    assert all(answers.why(i) is Reason.TIME for i in (~answers.decided).nonzero()[:, 0].tolist())


@pytest.mark.parametrize("few", [True, False], ids=["inputs", "phases"])
def test_every_set_left_open_has_points(few: bool) -> None:  # noqa: FBT001
    """For both kinds of splits; in the program's dtype, inside the boxes."""
    problem = classify(d=6 if few else 20, n=8, radius=0.1)
    answers = BranchAndBound().solve(problem, Budget(passes=6, goal=Goal.VALUE))
    assert answers.points is not None and answers.points.dtype == problem.program.dtype
    open_ = (answers.lower < answers.upper - 0.01).nonzero()[:, 0]
    assert len(open_) and not torch.isnan(answers.points[open_, 0]).any()
    box, points = problem.region.box(), answers.points[open_]
    inside = (points >= box.lower[open_, None].float() - 1e-6) & (points <= box.upper[open_, None].float() + 1e-6)
    assert (inside | torch.isnan(points)).all()


def test_sets_searched_part_by_part_hand_on_points_of_their_parts() -> None:
    network = random_network(20, 5)
    centre = torch.rand(3, 20, generator=torch.Generator().manual_seed(2))
    patch = Patch.around(centre.reshape(3, 4, 5), (2, 2), (0.0, 1.0))
    problem = Problem.make(Deployed(network), network, patch, Misclassification(network(centre).argmax(1), 5))
    answers = BranchAndBound().solve(problem, Budget(passes=2, goal=Goal.VALUE))
    assert answers.points is not None and len(answers.points) == 3
    open_ = (answers.lower < answers.upper - 0.01).nonzero()[:, 0]
    assert len(open_) and not torch.isnan(answers.points[open_, 0]).any()


def test_the_worst_of_each_set_are_kept_and_none_twice_in_a_row() -> None:
    none = Starts.none(1)
    owner, promise = torch.tensor([1, 0, 1, 1, 1]), torch.tensor([3.0, 5.0, 1.0, 2.0, 2.0])
    kept = none.worst(Starts.at(owner, promise, torch.tensor([[0.3], [0.5], [0.1], [0.2], [0.2]])))
    points = kept.of_sets(3, torch.float32)
    assert points.shape == (3, 3, 1)
    assert torch.equal(points.nan_to_num(nan=-1)[..., 0], torch.tensor([[0.5, -1, -1], [0.1, 0.2, 0.3], [-1, -1, -1]]))
    many = torch.arange(100.0)
    more = kept.worst(Starts.at(torch.ones(100, dtype=torch.int64), 10 - many, many[:, None])).of_sets(2, torch.float64)
    assert more.shape == (2, HANDED_ON, 1) and more[1, :, 0].tolist() == [99 - k for k in range(HANDED_ON)]
    assert none.worst(none).of_sets(2, torch.float32).shape == (2, 0, 1)
