"""`fathom check`: the independent checker, on one certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fathom.cli import app

EPILOG = """[bold]Examples[/bold]

  fathom check acasxu_1_1.onnx prop_1.vnnlib proof.npz
  fathom check out/model.onnx out/problem.json out/proof.npz

Exit codes: 0 accepted; 1 rejected, well formed but no proof; 2 a file that is malformed or not understood.
"""


@app.command(epilog=EPILOG)
def check(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An .onnx or .onnx.gz file.")],
    prop: Annotated[Path, typer.Argument(metavar="PROPERTY", help="A .vnnlib file, plain or gzipped, or a problem.json.")],
    certificate: Annotated[Path, typer.Argument(metavar="CERTIFICATE", help="As `fathom verify --certificate` writes it.")],
    exact: Annotated[bool, typer.Option("--exact", help="In rational numbers: for small proofs, slowly.")] = False,
) -> None:
    """Check a proof with a program that shares nothing with the prover.

    It reads model and property by itself and derives every bound again; `python -m fathom_checker` is the same.
    """
    from fathom_checker.__main__ import main

    files = [str(file) for file in (model, prop, certificate)]
    raise typer.Exit(main([*files, "--exact"] if exact else files))
