"""`fathom audit`: bracket the worst case of a model on a data set."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fathom.cli import FAILED, INTERRUPTED, app, asking, complain
from fathom.cli.asking import asked, default, spent, written
from fathom.core.arithmetic import Arithmetic
from fathom.core.errors import FathomError

if TYPE_CHECKING:
    from fathom.audits.result import AuditResult
    from fathom.audits.settings import Settings
    from fathom.audits.setup import Parts
    from fathom.core.budget import Budget

EPILOG = """[bold]Examples[/bold]

  fathom audit model.onnx data.npz --linf 0.03 --range 0 1
  fathom audit package.module:factory data.npz --l2 0.5 --seconds 600
  fathom audit model.onnx data.npz --linf 0.03 --limit 20 --json
  fathom audit audit.toml

The data: numpy.savez("data.npz", x=inputs as the model takes them, y=labels from 0). The radius is in the unit of the inputs.

What is printed: proved cases cannot be made to fail within the region; for broken ones an input that fails was found, and run \
again on the model; unknown ones wait for more time. How far it can be trusted that nothing was found in those is tried out on \
failures planted in them. Every failure is kept in the casebook, and tried first by the next audit.
"""

FLAGS = {
    **asking.FLAGS,
    "budget.case_seconds": "--case-seconds",
    "budget.case_boxes": "--case-boxes",
    "budget.planted": "--planted",
    "also": "--also",
    "casebook": "--casebook",
    "report": "--report",
    "arithmetic": "--arithmetic",
}


@app.command(epilog=EPILOG)
def audit(
    model: asking.Model,
    data: asking.Data = None,
    linf: asking.Linf = None,
    l2: asking.L2 = None,
    l1: asking.L1 = None,
    span: asking.Span = None,
    limit: asking.Limit = None,
    anyway: asking.Anyway = False,
    arithmetic: Annotated[
        Arithmetic | None,
        asked("--arithmetic", show_default=False, help=f"Whether over the reals, or of the float32 program. {default('real')}"),
    ] = None,
    also: Annotated[
        list[str] | None, asked("--also", metavar="MODEL", help="Another model, to try failures on; may be repeated.")
    ] = None,
    seed: asking.Seed = None,
    seconds: Annotated[float | None, spent("--seconds", metavar="S", help=f"Of the whole audit. {default(60)}")] = None,
    case_seconds: Annotated[float | None, spent("--case-seconds", metavar="S", help="Of a case in branch and bound.")] = None,
    case_boxes: Annotated[
        int | None, spent("--case-boxes", metavar="N", help="Sub-problems of a case; alike on all machines.")
    ] = None,
    planted: Annotated[
        int | None,
        spent("--planted", metavar="N", help=f"Failures planted of each size, to see how many are found. {default(20)}"),
    ] = None,
    report: Annotated[Path | None, written("--report", metavar="FILE", help=f"A page. {default('report.html')}")] = None,
    casebook: Annotated[
        Path | None,
        written("--casebook", metavar="FILE", help=f"All that is found, for the next audit. {default('casebook.db')}"),
    ] = None,
    certificates: Annotated[
        Path | None, written("--certificates", metavar="DIR", help="The proved cases, with a certificate that is then checked.")
    ] = None,
    as_json: Annotated[bool, written("--json", help="On standard output: the result as JSON, for programs.")] = False,
) -> None:
    """Bracket the worst case of a model on every case of a data set: what certainly holds, and what certainly fails.

    Attacks, bounds and branch and bound work from both sides; what they find is kept at once.
    Ctrl-C prints and keeps the brackets so far, and the same command goes on from there.
    """
    given: dict[str, Any] = {
        "data": {"path": None if data is None else str(data), "limit": limit},
        "region": asking.region(linf=linf, l2=l2, l1=l1, span=span),
        "budget": {"total_seconds": seconds, "case_seconds": case_seconds, "case_boxes": case_boxes, "planted": planted},
        "seed": seed,
        "also": also or None,
        "arithmetic": None if arithmetic is None else arithmetic.value,
        "report": None if report is None else str(report),
        "casebook": None if casebook is None else str(casebook),
    }
    settings = asking.settings_of("audit", model, given, flags=FLAGS)
    _require_outputs(settings, certificates)
    try:
        result, budget = _run(settings, asking.prepare(settings, anyway=anyway), certificates)
    except KeyboardInterrupt:
        complain(f"stopped at once; what was found is in {settings.casebook.name}, and the same command goes on from it")
        raise typer.Exit(INTERRUPTED) from None
    _print(result, budget, settings, as_json=as_json)


def _require_outputs(settings: Settings, certificates: Path | None) -> None:
    """Finds out before the work whether its results can be kept.

    Raises:
        FathomError: they cannot; the casebook is none, damaged, or of a later version, and is left as it is.
    """
    from fathom.cli.outputs import require_file, require_folder
    from fathom.cli.progress import working

    if certificates is not None:
        require_folder(certificates, "the certificate")
    require_file(settings.report, "the report")
    require_file(settings.casebook, "the casebook")
    if settings.casebook.exists():
        with working("checking the casebook"):
            from fathom.casebook.store import Casebook

            with Casebook.open(settings.casebook) as book:
                book.check()


def _run(settings: Settings, parts: Parts, certificates: Path | None) -> tuple[AuditResult, Budget]:
    from fathom.audits.engine import Labels
    from fathom.audits.engine import audit as run
    from fathom.audits.portfolio import Portfolio
    from fathom.audits.questions import QUESTIONS
    from fathom.cli.progress import watching
    from fathom.core.budget import Budget

    budget = Budget(seconds=settings.budget.total_seconds)
    labels = Labels(
        title=asking.title(settings.model),
        classes=() if parts.data is None else parts.data.names,
        recipe=shlex.join(["fathom", *sys.argv[1:]]),
    )
    with watching(len(parts.region), budget.stop) as watch:
        portfolio = Portfolio(
            seed=settings.seed,
            case_seconds=settings.budget.case_seconds or settings.budget.total_seconds,
            case_boxes=settings.budget.case_boxes,
            stage=watch.stage,
        )
        result = run(
            parts.captured,
            parts.region,
            parts.overseer,
            budget=budget,
            clean=parts.clean,
            casebook=settings.casebook,
            solver=portfolio,
            seed=settings.seed,
            labels=labels,
            watch=watch.brackets,
            certificates=certificates,
            planted=settings.budget.planted,
            also=parts.others,
            questions=next((leaf.questions for leaf in settings.overseer.leaves() if leaf.questions is not None), QUESTIONS),
        )
    return result, budget


def _print(result: AuditResult, budget: Budget, settings: Settings, *, as_json: bool) -> None:
    """Writes the report and prints the result, which a report that cannot be written does not hold up."""
    from fathom.report.page import write_report

    failed = None
    try:
        write_report(result, settings.report)
    except FathomError as error:
        failed = error
    if as_json:
        typer.echo(json.dumps(result.to_json(), allow_nan=False))
    else:
        typer.echo("\n".join(result.lines("" if failed else settings.report.name)))
    if failed:
        complain(str(failed))
        raise typer.Exit(FAILED)
    if budget.stop.is_set() or (result.check is not None and result.check.interrupted):
        complain("interrupted; the same command goes on from here")
        raise typer.Exit(INTERRUPTED)
