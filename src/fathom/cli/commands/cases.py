"""`fathom cases`: what a casebook knows."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fathom.cli import app
from fathom.core.errors import FathomError

if TYPE_CHECKING:
    from fathom.casebook.store import Case

EPILOG = """[bold]Examples[/bold]

  fathom cases casebook.db
  fathom cases casebook.db --json | jq '.cases | map(select(.verdict == "broken")) | length'
"""

NUMBERS = ("lower", "upper", "deployed", "seconds")
FIELDS = (
    *("digest", "title", "arithmetic", "region", "overseer", "program", "created", "updated"),
    *("sets", "forward", "backward", "boxes", "reason"),
)


@app.command(epilog=EPILOG)
def cases(
    casebook: Annotated[Path, typer.Argument(metavar="CASEBOOK", help="A casebook that an audit wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print all that is known of each case as JSON, for programs.")] = False,
) -> None:
    """List the cases of a casebook: verdict, bracket on the worst margin, title, and the start of the digest.

    The bracket is over all runs that wrote into this casebook, and holds under the arithmetic of the case. A case that
    fails already when clean is broken here, with the clean input as its witness.
    """
    if not casebook.is_file():
        got = "a folder" if casebook.is_dir() else "nothing there"
        raise FathomError(f"expected a casebook at {casebook}, got {got}; an audit writes one, by default casebook.db")
    from fathom.casebook.store import Casebook

    with Casebook.open(casebook) as book:
        known = book.cases()
    if as_json:
        typer.echo(json.dumps({"format": "fathom-cases/1", "cases": [_plain(case) for case in known]}, allow_nan=False))
    else:
        typer.echo("\n".join(_table(known)))


def _plain(case: Case) -> dict[str, Any]:
    """A case in JSON's types; no bound is null."""
    numbers = {name: getattr(case, name) for name in NUMBERS}
    return {
        **{name: getattr(case, name) for name in FIELDS},
        **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
        "verdict": case.verdict.value,
        "claim": case.claim.value,
    }


def _table(known: list[Case]) -> list[str]:
    from fathom.audits.numbers import at_least, at_most
    from fathom.audits.result import plain

    titles = [case.title if case.arithmetic == "real" else f"{case.title} ({case.arithmetic} arithmetic)" for case in known]
    rows = [
        (case.verdict.value, f"[{at_least(case.lower)}, {at_most(case.upper)}]", case.digest[:12], plain(title))
        for case, title in zip(known, titles, strict=True)
    ]
    width = max((len(row[1]) for row in rows), default=0)
    counts = [f"{word} {sum(row[0] == word for row in rows)}" for word in ("proved", "broken", "unknown")]
    return [
        *(f"{row[0]:8} {row[1]:>{width}}  {row[2]}  {row[3]}" for row in rows),
        f"{len(rows)} {'case' if len(rows) == 1 else 'cases'}: {'   '.join(counts)}",
    ]
