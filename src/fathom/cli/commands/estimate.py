"""`fathom estimate`: how likely a draw of a named distribution of inputs is to fail."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fathom.cli import app, asking
from fathom.cli.asking import asked, default, spent, written
from fathom.core.errors import FathomError

if TYPE_CHECKING:
    from fathom.audits.settings import Settings
    from fathom.core.problem import Problem
    from fathom.estimates.distribution import Distribution

EPILOG = """[bold]Examples[/bold]

  fathom estimate model.onnx data.npz --linf 0.03 --range 0 1
  fathom estimate model.onnx data.npz --linf 0.03 --distribution normal --limit 1
  fathom estimate model.onnx data.npz --distribution data
  fathom estimate acasxu_1_1.onnx --property prop_2.vnnlib --seconds 300 --json
  fathom estimate audit.toml

A draw is a case drawn evenly, then an input of its region. What is printed: a bound with confidence, from draws run on the \
model; estimates, which have no guarantee, by multi-level splitting and importance sampling; where few inputs vary, a rigorous \
bracket; and how much is unseen. They are different statements: docs/estimate.md says which to lean on.
"""

DISTRIBUTIONS = ("uniform", "normal", "data")


@app.command(epilog=EPILOG)
def estimate(
    model: asking.Model,
    data: asking.Data = None,
    prop: Annotated[
        Path | None, asked("--property", metavar="FILE", help="In place of DATA: the box and rules of a .vnnlib file.")
    ] = None,
    linf: asking.Linf = None,
    l2: asking.L2 = None,
    l1: asking.L1 = None,
    span: asking.Span = None,
    limit: asking.Limit = None,
    distribution: Annotated[
        str, asked("--distribution", metavar="NAME", help="uniform over the region, normal round its centre, or data: as it is.")
    ] = "uniform",
    deviation: Annotated[
        float, asked("--deviation", metavar="S", help="Standard deviation of normal, in half widths of the region.")
    ] = 0.5,
    confidence: Annotated[float, asked("--confidence", metavar="C", help="Of intervals, between 0 and 1.")] = 0.99,
    anyway: asking.Anyway = False,
    seed: asking.Seed = None,
    seconds: Annotated[float | None, spent("--seconds", metavar="S", help=f"Of the whole. {default(60)}")] = None,
    draws: Annotated[int, spent("--draws", metavar="N", help="Of plain sampling.")] = 100_000,
    evaluations: Annotated[
        int, spent("--evaluations", metavar="N", help="Of each other method, about; boxes, of branch and bound.")
    ] = 100_000,
    as_json: Annotated[bool, written("--json", help="On standard output: the answer as JSON, for programs.")] = False,
) -> None:
    """Say how likely a draw of a named distribution is to fail: bounds with confidence, estimates and rigorous brackets, apart.

    Ctrl-C prints what is known so far.
    """
    from fathom.cli.progress import spinning
    from fathom.core.budget import Budget
    from fathom.estimates.effort import Effort

    if distribution not in DISTRIBUTIONS:
        raise typer.BadParameter(f"expected one of {', '.join(DISTRIBUTIONS)}, got {distribution!r}", param_hint="--distribution")
    region = asking.region(linf=linf, l2=l2, l1=l1, span=span)
    given = asking.tables(data, limit, seconds=seconds, seed=seed, region=region)
    effort = Effort(draws, evaluations, confidence, 0 if seed is None else seed)
    if prop is not None:
        if data is not None or region["kind"] or span is not None or limit is not None or distribution == "data":
            raise typer.BadParameter("expected --property alone: it says which inputs there are; leave out DATA and its options")
        named: object = model
        question = _of_property(model, prop, distribution, deviation)
    else:
        if distribution == "data" and region["kind"] is None and not model.endswith(".toml"):
            region |= {"kind": "linf", "radius": 0.0}  # the samples as they are
        settings = asking.settings_of("estimate", model, given, or_data=", or --property", or_region=", or --distribution data")
        named = settings.model
        question = _of_settings(settings, distribution, deviation, anyway=anyway)
        effort, seconds = replace(effort, seed=settings.seed), settings.budget.total_seconds
    budget = Budget(seconds=60.0 if seconds is None else seconds)
    with spinning("drawing") as tell:
        from fathom.audits.estimation import estimate_problem

        answer = estimate_problem(
            question.problem, question.distribution, budget=budget, effort=effort, title=asking.title(named),
            tell=lambda method, text: tell(f"{method}: {text}"),
        )  # fmt: skip
    asking.show(replace(answer, recipe=asking.recipe()), as_json=as_json)


@dataclass(frozen=True, eq=False)
class _Asked:
    problem: Problem
    distribution: Distribution


def _of_settings(settings: Settings, distribution: str, deviation: float, *, anyway: bool) -> _Asked:
    """The question that flags or an audit.toml put."""
    if settings.arithmetic != "real":
        raise FathomError(f"expected real arithmetic for an estimation, got {settings.arithmetic}; leave it out of the file")
    if distribution == "data" and settings.data is None:
        raise FathomError("expected data to draw from for --distribution data, got a box without any; draw uniformly")
    parts = asking.prepare(settings, anyway=anyway)
    from fathom.audits.estimation import empirical
    from fathom.audits.pose import pose
    from fathom.estimates.distributions import over

    problem = pose(parts.captured, parts.region, parts.overseer)
    if distribution == "data":
        return _Asked(problem, empirical(problem, parts.clean))
    return _Asked(problem, over(problem.deployed, distribution, deviation))


def _of_property(model: str, prop: Path, distribution: str, deviation: float) -> _Asked:
    """The question of a property: its boxes, and what it says of the outputs."""
    from fathom.cli.progress import working

    with working("reading the property and the model"):
        from fathom.capture.onnx_file import read_onnx
        from fathom.capture.vnnlib import read_property, to_problem
        from fathom.estimates.distributions import over

        found = read_property(prop)
        if found.query is not None:
            raise FathomError(f"{found.name}: expected a property of VNN-LIB 1 for an estimation, got VNN-LIB 2")
        problem = to_problem(found, read_onnx(model))
    if len(problem) != 1:
        raise FathomError(
            f"{found.name}: expected a property of one box of inputs, got {len(problem)}; how likely each is, it does not say: "
            "estimate them one at a time"
        )
    return _Asked(problem, over(problem.deployed, distribution, deviation))
