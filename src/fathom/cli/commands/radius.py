"""`fathom radius`: how far must an input be moved before the model fails?"""

from __future__ import annotations

from typing import Annotated

import typer

from fathom.cli import app, asking
from fathom.cli.asking import asked, default, spent, written
from fathom.core.errors import FathomError

EPILOG = """[bold]Examples[/bold]

  fathom radius model.onnx data.npz --linf 0.3 --range 0 1
  fathom radius model.onnx data.npz --l2 2 --range 0 1 --limit 50 --seconds 300 --json
  fathom radius audit.toml

In an audit.toml the region may also be of the kind wasserstein, l0 (how many inputs may change), tabular (its budget) or \
transformation (the share of all its ranges).

The number given is the greatest that is asked about. The answer is a bracket for every case: up to its lower end it is proved \
that no input fails, and at its upper end one is known that does. Ctrl-C prints what is known so far.
"""


@app.command(epilog=EPILOG)
def radius(
    model: asking.Model,
    data: asking.Data = None,
    linf: asking.Linf = None,
    l2: asking.L2 = None,
    l1: asking.L1 = None,
    span: asking.Span = None,
    limit: asking.Limit = None,
    anyway: asking.Anyway = False,
    tolerance: Annotated[
        float, asked("--tolerance", metavar="T", help="An end of a bracket is sought until it is known to this share of itself.")
    ] = 0.02,
    seed: asking.Seed = None,
    seconds: Annotated[float | None, spent("--seconds", metavar="S", help=f"Of the whole. {default(60)}")] = None,
    as_json: Annotated[bool, written("--json", help="On standard output: the answer as JSON, for programs.")] = False,
) -> None:
    """Bracket, for every case, the least radius at which the model fails."""
    if not 0 < tolerance < 1:
        raise typer.BadParameter(f"expected a share between 0 and 1, got {tolerance:g}", param_hint="--tolerance")
    region = asking.region(linf=linf, l2=l2, l1=l1, span=span)
    given = asking.tables(data, limit, seconds=seconds, seed=seed, region=region)
    settings = asking.settings_of("radius", model, given)
    if settings.arithmetic != "real":
        raise FathomError(f"expected real arithmetic for radii, got {settings.arithmetic}; leave it out of the file")
    parts = asking.prepare(settings, anyway=anyway)
    from fathom.cli.progress import working

    with working("searching for failures, then proving"):
        from fathom.audits.distances import distances
        from fathom.core.budget import Budget

        total = settings.budget.total_seconds
        answer = distances(
            parts.captured, parts.region, parts.overseer,
            budget=Budget(seconds=60.0 if total is None else total), tolerance=tolerance, seed=settings.seed,
            title=asking.title(settings.model), recipe=asking.recipe(),
        )  # fmt: skip
    asking.show(answer, as_json=as_json)
