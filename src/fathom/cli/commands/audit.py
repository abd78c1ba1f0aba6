"""`fathom audit`: bracket the worst case of a model on a data set."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fathom.cli import INTERRUPTED, app
from fathom.core.errors import FathomError

if TYPE_CHECKING:
    from fathom.audits.settings import Settings

FLAGS = {
    "model": "MODEL",
    "data.path": "DATA",
    "data.limit": "--limit",
    "region.radius": "--linf, --l2 or --l1",
    "region.range": "--range",
    "budget.total_seconds": "--seconds",
    "budget.case_seconds": "--case-seconds",
    "casebook": "--casebook",
    "report": "--report",
    "seed": "--seed",
}
"""How a user of flags knows the keys of audit.toml."""


@app.command()
def audit(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="An .onnx file, package.module:factory, a .pt2 archive, or an audit.toml.")
    ],
    data: Annotated[
        Path | None, typer.Argument(metavar="DATA", help="An .npz or .safetensors file with inputs x and labels y.")
    ] = None,
    linf: Annotated[float | None, typer.Option("--linf", help="Every input may change by so much.")] = None,
    l2: Annotated[float | None, typer.Option("--l2", help="The Euclidean norm of the change.")] = None,
    l1: Annotated[float | None, typer.Option("--l1", help="The sum of all changes.")] = None,
    span: Annotated[
        tuple[float, float] | None, typer.Option("--range", metavar="LO HI", help="The range of a legal input.")
    ] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", help="Budget of the whole audit.")] = None,
    case_seconds: Annotated[float | None, typer.Option("--case-seconds", help="Budget of one case in branch and bound.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="The first N cases only.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of everything drawn at random.")] = None,
    report: Annotated[Path | None, typer.Option("--report", help="The page to write.")] = None,
    casebook: Annotated[Path | None, typer.Option("--casebook", help="Where cases are kept, and found again.")] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Go on, whatever the inspection of model and data says.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, for programs.")] = False,
) -> None:
    """Bracket the worst case of a model on every case of a data set.

    Attacks, bounds and branch and bound work from both sides; what they find is kept in the casebook at once, and a later run
    goes on from there. Ctrl-C prints and keeps the brackets so far.
    """
    given: dict[str, Any] = {
        "data": {"path": None if data is None else str(data), "limit": limit},
        "region": _region(linf=linf, l2=l2, l1=l1, span=span),
        "budget": {"total_seconds": seconds, "case_seconds": case_seconds},
        "seed": seed,
        "report": None if report is None else str(report),
        "casebook": None if casebook is None else str(casebook),
    }
    _run(_settings(model, given), anyway=anyway, as_json=as_json)


def _region(*, linf: float | None, l2: float | None, l1: float | None, span: tuple[float, float] | None) -> dict[str, Any]:
    radii = {kind: radius for kind, radius in (("linf", linf), ("l2", l2), ("l1", l1)) if radius is not None}
    if len(radii) > 1:
        raise FathomError(f"expected one of --linf, --l2 and --l1, got {len(radii)}; run an audit for each")
    kind, radius = next(iter(radii.items()), (None, None))
    return {"kind": kind, "radius": radius, "range": None if span is None else list(span)}


def _settings(model: str, given: dict[str, Any]) -> Settings:
    from fathom.audits.settings import make_settings, read_settings

    if model.endswith(".toml"):
        return read_settings(model, given, FLAGS)
    if given["region"]["kind"] is None:
        raise FathomError("expected how much inputs may change, such as --linf 0.03; an audit.toml can say more than flags")
    return make_settings({"model": model, **given}, FLAGS)


def _run(settings: Settings, *, anyway: bool, as_json: bool) -> None:
    from fathom.audits.engine import Labels
    from fathom.audits.engine import audit as run
    from fathom.audits.portfolio import Portfolio
    from fathom.audits.preprocessing import inspect
    from fathom.audits.setup import make_parts, read_model, read_samples
    from fathom.cli.progress import watching
    from fathom.core.budget import Budget
    from fathom.report.page import write_report

    data = read_samples(settings)
    captured = read_model(settings, data)
    if data is not None:
        inspection = inspect(captured.program, data, settings.region.clip)
        for line in inspection.lines():
            typer.echo(line, err=True)
        inspection.require(anyway=anyway)
    parts = make_parts(settings, captured, data)
    budget = Budget(seconds=settings.budget.total_seconds)
    portfolio = Portfolio(seed=settings.seed, case_seconds=settings.budget.case_seconds or settings.budget.total_seconds)
    labels = Labels(
        title=str(settings.model) if ":" in str(settings.model) else Path(str(settings.model)).name,
        classes=() if data is None else data.names,
        recipe=shlex.join(["fathom", *sys.argv[1:]]),
    )
    with watching(len(parts.region)) as watch:
        result = run(
            captured,
            parts.region,
            parts.overseer,
            budget=budget,
            clean=parts.clean,
            casebook=settings.casebook,
            solver=portfolio,
            seed=settings.seed,
            labels=labels,
            watch=watch,
        )
    write_report(result, settings.report)
    if as_json:
        typer.echo(json.dumps(result.to_json()))
    else:
        typer.echo("\n".join(result.lines(settings.report.name)))
    if budget.stop.is_set():
        raise typer.Exit(INTERRUPTED)
