"""`fathom verify` and `fathom supports`: the command line of the VNN-LIB standard."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from fathom.cli import STARTED, app


@app.command()
def verify(
    prop: Annotated[Path, typer.Argument(metavar="PROPERTY", help="A .vnnlib or .vnnlib.gz file.")],
    network: Annotated[str, typer.Option("--network", help="The .onnx or .onnx.gz file that it speaks of, or NAME=FILE.")],
    timeout: Annotated[float | None, typer.Option("--timeout", min=0, help="Seconds, start-up included.")] = None,
    serialise: Annotated[
        Path | None,
        typer.Option(
            "--serialise-assignments",
            help="Write a sat assignment here, a .pb file a variable; do not print it.",
        ),
    ] = None,
    competition: Annotated[bool, typer.Option("--competition", help="Print the assignment as ((X_0 v) ... (Y_0 v)).")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
) -> None:
    """Decide one VNN-LIB property: is there an input that meets it?

    The first line of standard output is sat, unsat, unknown or timed-out; after sat follows the assignment. Sat: the deployed
    program and the network over the real numbers both meet the property there. Unsat: no input over the real numbers does.
    """
    from fathom.audits.verify import verify as run
    from fathom.capture.vnnlib import Style, assignment
    from fathom.capture.vnnlib import serialise as write

    left = None if timeout is None else timeout - (time.monotonic() - STARTED)
    result = run(_file(network), prop, left, seed)
    typer.echo(result.verdict)
    if result.witness is not None:
        x, y = result.witness
        if serialise is not None:
            write(serialise, x, y, *result.ports)
        elif competition:
            typer.echo(assignment(x, y, Style.COMPETITION))
        else:
            typer.echo(assignment(x, y, Style.STANDARD, *result.ports))
    for line in (f"{result.reason}; {result.seconds:.2f} s, arithmetic: real", *result.notes()):
        typer.echo(f"fathom: {line}", err=True)


def _file(network: str) -> Path:
    """The file in NAME=FILE, the standard's form, or in FILE."""
    name, separator, path = network.partition("=")
    return Path(path) if separator and name.isidentifier() and not Path(network).exists() else Path(network)
