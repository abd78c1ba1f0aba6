"""`fathom bench`: a folder of verification instances, one after the other, resumed where it was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fathom.cli import INTERRUPTED, app


@app.command()
def bench(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="With instances.csv, onnx/, vnnlib/ and perhaps expected.csv.")],
    timeout: Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds for one instance.")] = 60.0,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="The first N instances only.")] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Write a row an instance as it is answered, and go on from an earlier one.")
    ] = None,
    isolated: Annotated[
        bool, typer.Option("--isolated", help="A fresh process for each instance; times then include its start.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
) -> None:
    """Run a folder laid out as the public verification benchmarks are; print decided / total, disagreements and times."""
    from rich.console import Console

    from fathom.audits.bench import Bench, summary

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    job = Bench(folder, seconds=timeout, limit=limit, out=csv, isolated=isolated, seed=seed)
    try:
        for done, row in job.run():
            console.print(f"{done}/{job.total}  {row.line()}", markup=False)
    except KeyboardInterrupt:
        kept = f"{csv} holds what is done" if csv else "give --csv OUT, and a stopped run goes on where it was"
        typer.echo(f"fathom: interrupted; {kept}", err=True)
        typer.echo(summary(job.rows))
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(summary(job.rows))
