"""`fathom bench`: a folder of verification instances, one after the other, resumed where it was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fathom.cli import FAILED, INTERRUPTED, app, complain
from fathom.core.arithmetic import Arithmetic

EPILOG = """[bold]Examples[/bold]

  fathom bench acasxu/ --timeout 60 --csv acasxu.csv
  fathom bench acasxu/ --timeout 60 --csv acasxu.csv --isolated
  fathom bench acasxu/ --limit 5 --arithmetic float32

Exit codes: 0 every instance was run, and no verdict is against an expected one; 1 one is, or one was an error; 130 interrupted. \
The same command with the same CSV file goes on where it was stopped, however it was.
"""


@app.command(epilog=EPILOG)
def bench(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="With instances.csv, onnx/, vnnlib/ and perhaps expected.csv.")],
    timeout: Annotated[float, typer.Option("--timeout", min=0.001, metavar="SECONDS", help="For one instance.")] = 60.0,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="The first N instances only.")] = None,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Keep a row an instance there, and go on from them."),
    ] = None,
    isolated: Annotated[
        bool, typer.Option("--isolated", help="A fresh process for each; times include its start, and memory is measured.")
    ] = False,
    certificates: Annotated[
        Path | None,
        typer.Option("--certificates", metavar="DIR", help="Write the proof of every unsat there, and have it checked."),
    ] = None,
    arithmetic: Annotated[
        Arithmetic, typer.Option("--arithmetic", help="What answers are about: the real numbers, or the float32 program.")
    ] = Arithmetic.REAL,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="K", help="Of everything drawn at random.")] = 0,
) -> None:
    """Run a folder of verification instances; print a row each, then decided / total, disagreements and times.

    The folder is laid out as the public verification benchmarks are.
    """
    if not timeout < float("inf"):
        raise typer.BadParameter(f"expected seconds, got {timeout}", param_hint="--timeout")
    from fathom.audits.bench import ERROR, Bench, summary
    from fathom.cli.outputs import require_folder
    from fathom.cli.progress import counting

    if certificates is not None:
        require_folder(certificates, "the certificates")
    job = Bench(
        folder,
        seconds=timeout,
        limit=limit,
        out=csv,
        isolated=isolated,
        seed=seed,
        certificates=certificates,
        arithmetic=arithmetic.value,
    )
    if job.rows:
        complain(f"{len(job.rows)} of {job.total} instances are taken over from {csv}")
    stopped = False
    with counting(job.total) as counter:
        counter.show(len(job.rows), "")
        try:
            for row in job.run():
                print(row.line(), flush=True)
                decided = sum(row.verdict in ("sat", "unsat") for row in job.rows)
                counter.show(len(job.rows), f"decided {decided}")
        except KeyboardInterrupt:
            stopped = True
    typer.echo(summary(job.rows))
    if stopped:
        complain(f"interrupted; {csv} holds what is done" if csv else "interrupted; with --csv FILE it would go on from here")
        raise typer.Exit(INTERRUPTED)
    if any(row.disagrees or row.verdict == ERROR for row in job.rows):
        raise typer.Exit(FAILED)
