"""An audit, end to end: recall, solve, store, and put into words."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fathom.attacks.reuse import nearest
from fathom.audits.applied import as_seen
from fathom.audits.cases import by_case
from fathom.audits.checking import Check, Records, certify_export
from fathom.audits.draws import OBSTACLE, RUNS, Draws, answers_at_random, margins_drawn
from fathom.audits.interrupt import interruptible
from fathom.audits.planting import listen
from fathom.audits.portfolio import Portfolio
from fathom.audits.pose import Source, capture, pose
from fathom.audits.questions import QUESTIONS, judged_failures, people, put_questions
from fathom.audits.result import AuditResult
from fathom.audits.silence import Silence
from fathom.audits.transfer import Transfer, require_fitting, transfers
from fathom.capture.captured import Captured
from fathom.core.answer import Answers, Reason, Witnesses
from fathom.core.arguments import require_parts, require_solver
from fathom.core.arithmetic import Arithmetic
from fathom.core.budget import Budget
from fathom.core.errors import FathomError
from fathom.core.overseer import Overseer, Severity
from fathom.core.problem import Problem
from fathom.core.program import Program
from fathom.core.region import Region
from fathom.core.solver import Hints, Solver
from fathom.hunt.shrink import shrink
from fathom.overseers.misclassification import Misclassification
from fathom.transforms.program import TransformedProgram
from fathom.transforms.region import Transformed
from fathom.transforms.seen import judge_of_picture

SHRINKING = 0.05
"""Of an audit's seconds, kept for making failures simple."""
LISTENING = 0.15
"""Of an audit's seconds, kept for finding out how far silence can be trusted."""
PLANTED = 20
"""Failures of each size that are planted, if nothing else is said."""
MOST_RUNS = 4096
"""Of the program for each of them."""

MOST_OTHERS = 512
"""Failures of other cases and models that are read from a casebook."""
OTHERS = 4
"""How many of them, the nearest, are tried on each set."""

Watcher = Callable[[Problem, Answers], None]
"""Told the brackets of all sets as they tighten."""


def unwatched(problem: Problem, answers: Answers) -> None:
    """Nobody looks on."""


@dataclass(frozen=True)
class Labels:
    """What people call the parts of an audit; all of it optional."""

    title: str = ""  # of the model
    cases: Sequence[str] = ()
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    recipe: str = ""  # the command that does it again


def audit(
    model: nn.Module | Captured | Program | str | Path,
    region: Region,
    overseer: Overseer,
    *,
    budget: Budget | None = None,
    shape: tuple[int, ...] | None = None,
    clean: Tensor | None = None,
    casebook: str | Path | None = None,
    solver: Solver | None = None,
    seed: int = 0,
    labels: Labels | None = None,
    watch: Watcher = unwatched,
    certificates: str | Path | None = None,
    arithmetic: Arithmetic | str | None = None,
    planted: int = PLANTED,
    also: Mapping[str, nn.Module | Captured | Program | str | Path] | None = None,
    questions: int = QUESTIONS,
) -> AuditResult:
    """Bracket the worst margin of a model over every set of a region.

    Args:
        model: any `nn.Module`; the path of an ONNX file; or what was captured before. A bare `Program`, such as
            `fathom.run_module` makes of a module that cannot be captured, is searched by values, and nothing is proved of it;
            the same goes for whatever answers the same input differently.
        region: n sets of inputs [d], a case each; of `fathom.transforms.Transformed`, the model is given what comes out.
        overseer: n judges.
        budget: of the whole audit; by default a minute.
        shape: of one sample, where a module does not take flat vectors [d].
        clean: the inputs [n, d or *shape] that the sets are about; by default the centres.
        casebook: a file in which everything found is stored at once, and from which an earlier audit goes on.
        solver: by default the whole portfolio.
        watch: told the brackets as they tighten.
        certificates: a folder for the proved cases as `model.onnx`, `problem.json` and `certificate.npz`, which the independent
            checker then reads. Bounds that an earlier audit stored are proved again.
        arithmetic: "real" or "float32": what brackets are about. None: what the model was captured for, and else "real".
        planted: failures of each size that are planted in cases that were not settled, to see how many of them the portfolio's
            attacks find; 0 for none, and then such cases are not examined either. Other solvers are not put to that test, nor
            are people: no search finds what nobody has judged.
        questions: how many may wait in the casebook to be judged, where people judge.
        also: other models, by name, that every failure found is tried on; they take the same inputs and give as many outputs.

    Returns:
        For every case the bracket, the witness, the claim and the cost. Interrupted, it returns what it has so far.

    Raises:
        FathomError: a model that is not understood, or parts that do not fit together; or certificates are asked of a solver that
            keeps no record, or about the float32 program, which an exported copy of the model is not.
    """
    began = time.monotonic()
    require_parts(model, Source | Program, region, overseer, budget)
    require_solver(solver)
    budget = budget or Budget(seconds=60)
    labels = labels or Labels()
    solver, records = _recording(solver or Portfolio(seed=seed), certificates)
    listener = _Listener(solver, 0 if people(overseer) else planted, _share(budget, LISTENING), seed)
    if isinstance(model, Program):
        problem = Problem.make(model, None, region, overseer)
    else:
        problem = pose(capture(model, region, shape, arithmetic), region, overseer)
    if certificates is not None and (problem.network is None or problem.arithmetic is not Arithmetic.REAL):
        got = "a program that was not captured" if problem.network is None else "float32"
        raise FathomError(f"expected real arithmetic for certificates of an audit, got {got}; leave one out, or verify")
    program = problem.program
    points = (region.centres() if clean is None else clean.flatten(1)).to(program.dtype)
    random = answers_at_random(program, points)
    if random:
        problem = replace(Problem.make(program, None, region, problem.overseer), obstacle=OBSTACLE)
    others = _programs(also or {}, program, region, shape)
    if points.shape != (len(problem), region.size):
        raise FathomError(f"expected clean inputs [{len(problem)}, {region.size}], got {list(points.shape)}")
    titles = tuple(labels.cases) or tuple(f"case {i}" for i in range(problem.cases))
    with interruptible(budget.stop):
        working = _share(budget, 1 - SHRINKING - (LISTENING if listener.listens else 0))
        answers, file = _solve(problem, listener, working, points, casebook, titles, labels.recipe, watch)
        simplest = None if random else _simplest(problem, answers, points, _share(budget, SHRINKING))
    waiting = put_questions(problem, casebook, questions, titles, budget=budget, seed=seed)
    seconds = time.monotonic() - began
    result = describe(problem, answers, points, titles, labels, seed=seed, seconds=seconds, casebook=file)
    result = replace(result, simplest=simplest, silence=listener.heard, waiting=waiting)
    result = drawn_again(problem, result) if random else result
    if isinstance(region, Transformed):
        result = as_seen(result, region, program)
    if others:
        result = replace(result, transfer=_transfers(problem, result, others))
    if certificates is None or records is None:
        return result
    check = certify_export(problem, answers, records, Path(certificates))
    return replace(result, check=check, limits=_limits(problem, casebook=file, check=check))


def _programs(
    also: Mapping[str, nn.Module | Captured | Program | str | Path],
    program: Program,
    region: Region,
    shape: tuple[int, ...] | None,
) -> dict[str, Program]:
    """What is deployed of other models, which are to fit the audited one."""
    seen = program.program if isinstance(program, TransformedProgram) else program
    others = {
        name: other if isinstance(other, Program) else capture(other, region, shape).program for name, other in also.items()
    }
    inputs, outputs = (sum(port.size for port in ports) for ports in (seen.inputs, seen.outputs))
    require_fitting(inputs, outputs, others)
    return others


def drawn_again(problem: Problem, result: AuditResult) -> AuditResult:
    """A result about a program that answers at random, with every failure run again; those never seen again are no failures.

    A clean input counts as already wrong where it fails in half of the runs or more.
    """
    first = torch.tensor([int(problem.sets_of(case)[0]) for case in range(problem.cases)])
    judges, found = problem.overseer.take(first), result.answers.found
    clean = margins_drawn(problem.program, judges, result.x).median(0).values
    broken = found.broken.nonzero()[:, 0]
    fails = (margins_drawn(problem.program, judges.take(broken), found.x[broken]) <= 0).sum(0).tolist()
    seen = dict(zip(broken.tolist(), fails, strict=True))
    lost = torch.tensor([seen.get(case) == 0 for case in range(problem.cases)])
    none = Answers.none(problem.cases, found.x.shape[1], found.y.shape[1], found.x.dtype)
    answers = replace(result.answers, found=found.where(~lost, none.found))
    answers = answers.because(Reason.NOT_PROVABLE, lost.nonzero()[:, 0])
    judgements = tuple("" if gone else words for gone, words in zip(lost.tolist(), result.judgements, strict=True))
    draws = Draws(RUNS, tuple(seen.get(case) or None for case in range(problem.cases)), int(lost.sum()))
    limits = (*result.limits, "The model answers at random: what the casebook calls broken has failed at least once.")
    return replace(result, answers=answers, clean_margin=clean, judgements=judgements, draws=draws, limits=limits)


def _transfers(problem: Problem, result: AuditResult, others: Mapping[str, Program]) -> tuple[Transfer, ...]:
    """What the failures of a result do to other models."""
    cases = result.broken.nonzero()[:, 0]
    first = torch.tensor([int(problem.sets_of(case)[0]) for case in cases.tolist()], dtype=torch.int64)
    judges = judge_of_picture(problem.overseer)  # x is what the models are given
    return transfers(others, judges.take(first), cases, result.answers.found.x[cases], result.x[cases])


def _simplest(problem: Problem, answers: Answers, clean: Tensor, budget: Budget) -> Witnesses:
    """[cases] failures shrunk towards the clean inputs [n, d]."""
    shrunk = shrink(problem, answers.found, clean, budget.part(passes=MOST_RUNS))
    return by_case(problem, replace(answers, found=shrunk)).found


def _share(budget: Budget, share: float) -> Budget:
    return budget.part(seconds=None if budget.seconds is None else budget.seconds * share)


def _recording(solver: Solver, certificates: str | Path | None) -> tuple[Solver, Records | None]:
    """The solver, and where it keeps what certificates are made of.

    Raises:
        FathomError: it keeps nothing.
    """
    if certificates is None:
        return solver, None
    if not isinstance(solver, Portfolio):
        raise FathomError(f"expected a Portfolio to make certificates, got {type(solver).__name__}; leave out one of the two")
    records: Records = []
    return replace(solver, records=records), records


class _Listener:
    """A solver, and what was made of its silence."""

    def __init__(self, solver: Solver, planted: int, budget: Budget, seed: int) -> None:
        self.listens = planted > 0 and isinstance(solver, Portfolio)
        self.searches: list[tuple[Solver, int]] = []
        self.solver = replace(solver, searches=self.searches) if isinstance(solver, Portfolio) else solver
        self.planted, self.budget, self.seed = planted, budget, seed
        self.heard: Silence | None = None

    def listen(self, problem: Problem, answers: Answers, clean: Tensor) -> Answers:
        """The answers, tightened by what is found on the way."""
        if not self.listens or self.budget.stop.is_set() or not isinstance(self.solver, Portfolio):
            return answers
        answers, self.heard = listen(
            problem, answers, clean, self.searches, self.planted, self.budget, seed=self.seed, stage=self.solver.stage
        )
        return answers


def _solve(
    problem: Problem,
    listener: _Listener,
    budget: Budget,
    clean: Tensor,
    casebook: str | Path | None,
    titles: tuple[str, ...],
    recipe: str,
    watch: Watcher,
) -> tuple[Answers, str]:
    """Answers for every set, stored as they come; and the casebook's name."""
    solver = listener.solver
    starts = torch.cat([clean[:, None], judged_failures(problem)], 1)
    none = Answers.none(len(problem), problem.region.size, sum(p.size for p in problem.program.outputs), problem.program.dtype)
    if casebook is None:
        answers = solver.solve(problem, budget, Hints(points=starts), lambda a: watch(problem, a))
        return listener.listen(problem, answers, clean), ""
    from fathom.casebook.store import Casebook  # here, because a database is not needed for every audit

    with Casebook.open(casebook) as book:
        record = book.begin(problem, repr(solver), list(titles), recipe)
        known = record.recall()
        if isinstance(solver, Portfolio) and solver.records is not None:  # what is to be certified is proved again
            known = replace(known, lower=torch.full_like(known.lower, -torch.inf))
        others = nearest(problem, record.elsewhere(MOST_OTHERS), OTHERS)
        hints = Hints(torch.cat([starts, known.points, others], 1), Answers(known.lower, none.found, none.reason, none.cost))

        def observe(answers: Answers) -> None:
            record.record(answers)
            watch(problem, answers)

        answers = solver.solve(problem, budget, hints, observe)
        record.record(answers)
        answers = listener.listen(problem, answers, clean)
        record.record(answers)
        record.end({"proved": int(answers.proved.sum()), "broken": int(answers.broken.sum()), "sets": len(problem)})
        return answers, book.path.name


def describe(
    problem: Problem,
    answers: Answers,
    clean: Tensor,
    titles: tuple[str, ...],
    labels: Labels,
    *,
    seed: int,
    seconds: float,
    casebook: str = "",
) -> AuditResult:
    """What an audit found, as what people and programs read."""
    first = torch.tensor([int(problem.sets_of(case)[0]) for case in range(problem.cases)])
    seen = problem.take(first)
    y = problem.program(clean[first])
    margins = seen.overseer.margin(clean[first].to(torch.float64), y.to(torch.float64))
    cases = by_case(problem, answers)
    known = cases.found.known
    judgements = tuple(seen.overseer.judgement(i, cases.found.y[i]) if known[i] else "" for i in range(problem.cases))
    labelled = isinstance(judge_of_picture(problem.overseer), Misclassification)
    return AuditResult(
        title=labels.title or "model",
        region=str(problem.written),
        overseer=str(problem.overseer),
        inputs=problem.program.inputs,
        outputs=problem.program.outputs,
        program=problem.program.digest,
        x=clean[first],
        y=y.to(torch.float64),
        clean_margin=margins,
        answers=cases,
        titles=titles,
        judgements=judgements,
        severities=_severities(seen, cases),
        digests=tuple(problem.digests()),
        seconds=seconds,
        seed=seed,
        recipe=labels.recipe,
        versions=versions(),
        casebook=casebook,
        arithmetic=problem.arithmetic.value,
        measure="accuracy under attack" if labelled else "share of cases that hold",
        classes=labels.classes or (tuple(map(str, range(y.shape[1]))) if labelled else ()),
        features=labels.features,
        limits=_limits(problem, casebook=casebook),
        coverage=seen.overseer.coverage(y),
        obstacle=problem.obstacle,
    )


def _severities(problem: Problem, answers: Answers) -> tuple[Severity | None, ...]:
    """[n] what the overseer calls each failure; None where nothing failed, or it says otherwise when asked again."""
    severities: list[Severity | None] = [None] * len(problem)
    at = answers.broken.nonzero()[:, 0]
    found = answers.found.take(at)
    ranks = problem.overseer.take(at).severities(found.x.to(torch.float64), found.y).tolist()
    for i, rank in zip(at.tolist(), ranks, strict=True):
        severities[i] = tuple(Severity)[rank] if rank >= 0 else None
    return tuple(severities)


def versions() -> tuple[tuple[str, str], ...]:
    """Of everything that a result may depend on."""
    from importlib.metadata import version

    names = (("fathom", "fathom-verify"), ("torch", "torch"), ("onnxruntime", "onnxruntime"))
    return (*((name, version(package)) for name, package in names), ("python", platform.python_version()))


def _limits(problem: Problem, *, casebook: str, check: Check | None = None) -> tuple[str, ...]:
    """What the numbers do not say."""
    proofs = "Proofs are unchecked: no independent program has recomputed them."
    if check is not None and check.accepted:
        proofs = (
            "An independent program has recomputed the proofs, about the exported model: that it computes what the audited one "
            "does is tested, not proved."
        )
    elif check is not None:
        proofs = f"Proofs are unchecked: {check.words}."
    limits = [
        "Proofs are about the model's weights in real arithmetic; the deployed program rounds, and may differ by that."
        if problem.arithmetic is Arithmetic.REAL
        else "Proofs and failures are about the float32 program, run without optimisations that change weights; proofs hold for "
        "any order of summation, but not for Winograd or FFT convolutions, TF32 or bfloat16.",
        "Nothing is said about inputs outside the region, nor about cases that were not audited.",
        proofs,
    ]
    if not problem.exact:
        limits.append("The rule proved is stricter than the overseer's own: a failure of the rule need not be a failure.")
    limits.extend(problem.overseer.troubles())
    if casebook:
        limits.append("Lower bounds that this version of Fathom stored in the casebook are believed; witnesses were run again.")
    return tuple(limits)
