"""`fathom audit`: bracket the worst case of a model on a data set."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fathom.cli import FAILED, INTERRUPTED, app, complain
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
again on the model; unknown ones wait for more time. Every failure is kept in the casebook, and tried first by the next audit.
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
    "budget.case_seconds": "--case-seconds",
    "budget.case_boxes": "--case-boxes",
    "casebook": "--casebook",
    "report": "--report",
    "seed": "--seed",
    "arithmetic": "--arithmetic",
}
"""How a user of flags knows the keys of audit.toml."""

asked, spent, written = (
    partial(typer.Option, rich_help_panel=panel) for panel in ("What is asked", "What may be spent", "What is written")
)


def default(value: object) -> str:
    """How help says what an option is when it is not given; the settings have it, so that a file can say it too."""
    return f"[dim]{value} if not given.[/dim]"


@app.command(epilog=EPILOG)
def audit(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An .onnx, package.module:factory, a .pt2, or an audit.toml.")],
    data: Annotated[Path | None, typer.Argument(metavar="DATA", help="An .npz or .safetensors of inputs x and labels y.")] = None,
    linf: Annotated[float | None, asked("--linf", metavar="R", help="Each input may change by at most R.")] = None,
    l2: Annotated[float | None, asked("--l2", metavar="R", help="The Euclidean norm of the change is at most R.")] = None,
    l1: Annotated[float | None, asked("--l1", metavar="R", help="The sum of all changes is at most R.")] = None,
    span: Annotated[tuple[float, float] | None, asked("--range", metavar="LO HI", help="Inputs stay between LO and HI.")] = None,
    limit: Annotated[int | None, asked("--limit", metavar="N", help="The first N cases only.")] = None,
    anyway: Annotated[bool, asked("--anyway", help="Go on, whatever the inspection of model and data says.")] = False,
    arithmetic: Annotated[
        Arithmetic | None,
        asked("--arithmetic", show_default=False, help=f"Whether over the reals, or of the float32 program. {default('real')}"),
    ] = None,
    seed: Annotated[int | None, asked("--seed", metavar="K", help=f"Of all that is drawn at random. {default(0)}")] = None,
    seconds: Annotated[float | None, spent("--seconds", metavar="S", help=f"Of the whole audit. {default(60)}")] = None,
    case_seconds: Annotated[float | None, spent("--case-seconds", metavar="S", help="Of a case in branch and bound.")] = None,
    case_boxes: Annotated[
        int | None, spent("--case-boxes", metavar="N", help="Sub-problems of a case; alike on all machines.")
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
        "region": _region(linf=linf, l2=l2, l1=l1, span=span),
        "budget": {"total_seconds": seconds, "case_seconds": case_seconds, "case_boxes": case_boxes},
        "seed": seed,
        "arithmetic": None if arithmetic is None else arithmetic.value,
        "report": None if report is None else str(report),
        "casebook": None if casebook is None else str(casebook),
    }
    settings = _settings(model, given)
    _require_outputs(settings, certificates)
    try:
        result, budget = _run(settings, _prepare(settings, anyway=anyway), certificates)
    except KeyboardInterrupt:
        complain(f"stopped at once; what was found is in {settings.casebook.name}, and the same command goes on from it")
        raise typer.Exit(INTERRUPTED) from None
    _print(result, budget, settings, as_json=as_json)


def _region(*, linf: float | None, l2: float | None, l1: float | None, span: tuple[float, float] | None) -> dict[str, Any]:
    radii = {kind: radius for kind, radius in (("linf", linf), ("l2", l2), ("l1", l1)) if radius is not None}
    if len(radii) > 1:
        raise typer.BadParameter(f"expected one of --linf, --l2 and --l1, got {len(radii)}; run an audit for each")
    kind, radius = next(iter(radii.items()), (None, None))
    return {"kind": kind, "radius": radius, "range": None if span is None else list(span)}


def _settings(model: str, given: dict[str, Any]) -> Settings:
    from fathom.audits.settings import make_settings, read_settings

    if model.endswith(".toml"):
        return read_settings(model, given, FLAGS)
    if model.endswith((".npz", ".safetensors")):
        raise FathomError(f"expected a model as MODEL, got {model}, which holds arrays; the order is fathom audit MODEL DATA")
    if given["data"]["path"] is None:
        raise typer.BadParameter("expected DATA behind MODEL, an .npz or .safetensors file; an audit.toml can say more")
    if given["region"]["kind"] is None:
        raise typer.BadParameter("expected how much inputs may change, such as --linf 0.03; an audit.toml can say more")
    return make_settings({"model": model, **given}, FLAGS)


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


@dataclass(frozen=True, eq=False)
class _Prepared:
    parts: Parts
    classes: tuple[str, ...]


def _prepare(settings: Settings, *, anyway: bool) -> _Prepared:
    """Reads and inspects model and data."""
    from fathom.cli.progress import working

    with working("reading the data"):
        from fathom.audits.setup import make_parts, read_model, read_samples

        data = read_samples(settings)
    with working("reading the model, and replaying it node by node"):
        captured = read_model(settings, data)
    if data is not None:
        from fathom.audits.preprocessing import inspect

        with working("looking at model and data"):
            inspection = inspect(captured.program, data, settings.region.clip)
        for line in inspection.lines():
            typer.echo(line, err=True)
        inspection.require(anyway=anyway)
    return _Prepared(make_parts(settings, captured, data), () if data is None else data.names)


def _run(settings: Settings, prepared: _Prepared, certificates: Path | None) -> tuple[AuditResult, Budget]:
    from fathom.audits.engine import Labels
    from fathom.audits.engine import audit as run
    from fathom.audits.portfolio import Portfolio
    from fathom.cli.progress import watching
    from fathom.core.budget import Budget

    parts, budget = prepared.parts, Budget(seconds=settings.budget.total_seconds)
    labels = Labels(
        title=str(settings.model) if ":" in str(settings.model) else Path(str(settings.model)).name,
        classes=prepared.classes,
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
