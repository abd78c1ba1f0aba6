"""`fathom estimate`: how likely a draw of a named distribution of inputs is to fail."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fathom.cli import INTERRUPTED, app, complain
from fathom.core.errors import FathomError

if TYPE_CHECKING:
    from fathom.audits.settings import Settings
    from fathom.core.problem import Problem
    from fathom.estimates.answer import Estimation
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

FLAGS = {
    "model": "MODEL",
    "data": "DATA",
    "data.path": "DATA",
    "data.limit": "--limit",
    "region.radius": "--linf, --l2 or --l1",
    "region.range": "--range",
    "region.range[0]": "LO of --range",
    "region.range[1]": "HI of --range",
    "budget.total_seconds": "--seconds",
    "seed": "--seed",
}
"""How a user of flags knows the keys of audit.toml."""

DISTRIBUTIONS = ("uniform", "normal", "data")

asked, spent, written = (
    partial(typer.Option, rich_help_panel=panel) for panel in ("What is asked", "What may be spent", "What is written")
)


@app.command(epilog=EPILOG)
def estimate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An .onnx, package.module:factory, a .pt2, or an audit.toml.")],
    data: Annotated[Path | None, typer.Argument(metavar="DATA", help="An .npz or .safetensors of inputs x and labels y.")] = None,
    prop: Annotated[
        Path | None, asked("--property", metavar="FILE", help="In place of DATA: the box and rules of a .vnnlib file.")
    ] = None,
    linf: Annotated[float | None, asked("--linf", metavar="R", help="Each input may change by at most R.")] = None,
    l2: Annotated[float | None, asked("--l2", metavar="R", help="The Euclidean norm of the change is at most R.")] = None,
    l1: Annotated[float | None, asked("--l1", metavar="R", help="The sum of all changes is at most R.")] = None,
    span: Annotated[tuple[float, float] | None, asked("--range", metavar="LO HI", help="Inputs stay between LO and HI.")] = None,
    limit: Annotated[int | None, asked("--limit", metavar="N", help="The first N cases only.")] = None,
    distribution: Annotated[
        str, asked("--distribution", metavar="NAME", help="uniform over the region, normal round its centre, or data: as it is.")
    ] = "uniform",
    deviation: Annotated[
        float, asked("--deviation", metavar="S", help="Standard deviation of normal, in half widths of the region.")
    ] = 0.5,
    confidence: Annotated[float, asked("--confidence", metavar="C", help="Of intervals, between 0 and 1.")] = 0.99,
    anyway: Annotated[bool, asked("--anyway", help="Go on, whatever the inspection of model and data says.")] = False,
    seed: Annotated[int | None, asked("--seed", metavar="K", help="Of all that is drawn. [dim]0 if not given.[/dim]")] = None,
    seconds: Annotated[float | None, spent("--seconds", metavar="S", help="Of the whole. [dim]60.0 if not given.[/dim]")] = None,
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
    radii = {kind: radius for kind, radius in (("linf", linf), ("l2", l2), ("l1", l1)) if radius is not None}
    if len(radii) > 1:
        raise typer.BadParameter(f"expected one of --linf, --l2 and --l1, got {len(radii)}; run an estimation for each")
    if seconds is not None and not seconds > 0:
        raise typer.BadParameter(f"expected seconds > 0, got {seconds:g}", param_hint="--seconds")
    effort = Effort(draws, evaluations, confidence, 0 if seed is None else seed)
    if prop is not None:
        if data is not None or radii or span is not None or limit is not None or distribution == "data":
            raise typer.BadParameter("expected --property alone: it says which inputs there are; leave out DATA and its options")
        question = _of_property(model, prop, distribution, deviation)
    else:
        if distribution == "data" and not radii and not model.endswith(".toml"):
            radii = {"linf": 0.0}  # the samples as they are
        settings = _settings(model, data, radii, span, limit, seconds, seed)
        question = _of_settings(settings, distribution, deviation, anyway=anyway)
        effort, seconds = replace(effort, seed=settings.seed), settings.budget.total_seconds
    budget = Budget(seconds=60.0 if seconds is None else seconds)
    with spinning("drawing") as tell:
        from fathom.audits.estimation import estimate_problem

        title = model if ":" in model else Path(model).name
        answer = estimate_problem(
            question.problem, question.distribution, budget=budget, effort=effort, title=title,
            tell=lambda method, text: tell(f"{method}: {text}"),
        )  # fmt: skip
    _print(replace(answer, recipe=shlex.join(["fathom", *sys.argv[1:]])), as_json=as_json)


@dataclass(frozen=True, eq=False)
class _Asked:
    problem: Problem
    distribution: Distribution


def _settings(
    model: str,
    data: Path | None,
    radii: dict[str, float],
    span: tuple[float, float] | None,
    limit: int | None,
    seconds: float | None,
    seed: int | None,
) -> Settings:
    from fathom.audits.settings import make_settings, read_settings

    kind, radius = next(iter(radii.items()), (None, None))
    given: dict[str, Any] = {
        "data": {"path": None if data is None else str(data), "limit": limit},
        "region": {"kind": kind, "radius": radius, "range": None if span is None else list(span)},
        "budget": {"total_seconds": seconds},
        "seed": seed,
    }
    if model.endswith(".toml"):
        return read_settings(model, given, FLAGS)
    if model.endswith((".npz", ".safetensors")):
        raise FathomError(f"expected a model as MODEL, got {model}, which holds arrays; the order is fathom estimate MODEL DATA")
    if data is None:
        raise typer.BadParameter(
            "expected DATA behind MODEL, an .npz or .safetensors file, or --property; an audit.toml says more"
        )
    if kind is None:
        raise typer.BadParameter("expected how far inputs may be, such as --linf 0.03, or --distribution data")
    return make_settings({"model": model, **given}, FLAGS)


def _of_settings(settings: Settings, distribution: str, deviation: float, *, anyway: bool) -> _Asked:
    """The question that flags or an audit.toml put."""
    from fathom.cli.progress import working

    if settings.arithmetic != "real":
        raise FathomError(f"expected real arithmetic for an estimation, got {settings.arithmetic}; leave it out of the file")
    with working("reading the data"):
        from fathom.audits.estimation import empirical
        from fathom.audits.setup import make_parts, read_model, read_samples
        from fathom.core.problem import Problem
        from fathom.estimates.distributions import over

        data = read_samples(settings)
    if distribution == "data" and data is None:
        raise FathomError("expected data to draw from for --distribution data, got a box without any; draw uniformly")
    with working("reading the model, and replaying it node by node"):
        captured = read_model(settings, data)
    if data is not None:
        from fathom.audits.preprocessing import inspect

        with working("looking at model and data"):
            inspection = inspect(captured.program, data, settings.region.clip)
        for line in inspection.lines():
            typer.echo(line, err=True)
        inspection.require(anyway=anyway)
    parts = make_parts(settings, captured, data)
    problem = Problem.make(captured.program, captured.network, parts.region, parts.overseer)
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


def _print(answer: Estimation, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(answer.to_json(), allow_nan=False))
    else:
        typer.echo("\n".join(answer.lines()))
    if answer.interrupted:
        complain("interrupted; above is what was known by then")
        raise typer.Exit(INTERRUPTED)
