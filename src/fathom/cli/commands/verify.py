"""`fathom verify`: one property of one model or several, as the VNN-LIB standard's command line has it."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated

import typer

from fathom.cli import INTERRUPTED, app, complain
from fathom.core.arithmetic import Arithmetic

EPILOG = """[bold]Examples[/bold]

  fathom verify prop_1.vnnlib --network acasxu_1_1.onnx --timeout 60
  fathom verify prop_1.vnnlib.gz --network N=acasxu_1_1.onnx.gz
  fathom verify prop_1.vnnlib --network acasxu_1_1.onnx --serialise-assignments out/
  fathom verify prop_1.vnnlib --network acasxu_1_1.onnx --certificate proof.npz
  fathom verify prop_1.vnnlib --network acasxu_1_1.onnx --arithmetic float32
  fathom verify same.vnnlib --network teacher=large.onnx --network student=small.onnx

sat: the deployed program (onnxruntime) and the network over the real numbers both meet the property at the assignment printed. \
unsat: no input over the real numbers meets it. unknown: rounding hides the answer, or the method has no more to try. \
timed-out: the limit was reached; more time may help. With --arithmetic float32, sat and unsat are about the float32 program \
alone: its own output meets the property; or it cannot, in whatever order it sums, with or without fused multiply-add.
"""


@app.command(epilog=EPILOG)
def verify(
    context: typer.Context,
    prop: Annotated[Path, typer.Argument(metavar="PROPERTY", help="A .vnnlib or .vnnlib.gz file.")],
    network: Annotated[
        list[str],
        typer.Option("--network", metavar="[NAME=]FILE", help="The .onnx or .onnx.gz file that it speaks of; one a network."),
    ],
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="SECONDS", help="At most so long, start-up included."),
    ] = None,
    serialise: Annotated[
        Path | None,
        typer.Option("--serialise-assignments", metavar="DIR", help="Write the assignment there, a .pb file a variable."),
    ] = None,
    competition: Annotated[
        bool,
        typer.Option("--competition", help="Print the assignment as ((X_0 v) ... (Y_0 v)), as competitions to 2025 have it."),
    ] = False,
    certificate: Annotated[
        Path | None,
        typer.Option("--certificate", metavar="FILE", help="Write the proof of an unsat there, and have it checked."),
    ] = None,
    arithmetic: Annotated[
        Arithmetic | None,
        typer.Option(
            "--arithmetic",
            show_default=False,
            help="What the answer is about: the network over the real numbers, or its float32 program, under any order of "
            "summation. By default what a VNN-LIB 2 property declares, else real.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="K", help="Of everything drawn at random.")] = 0,
) -> None:
    """Decide one VNN-LIB property: is there an input that meets it?

    The first line of standard output is sat, unsat, unknown or timed-out; after sat follows the assignment.
    """
    if timeout is not None and not timeout >= 0:
        raise typer.BadParameter(f"expected seconds, got {timeout}", param_hint="--timeout")
    began = time.monotonic() if context.obj is None else context.obj  # when the process started, where the command is all it does
    left = None if timeout is None or math.isinf(timeout) else timeout - (time.monotonic() - began)
    _answer(_files(network), prop, left, serialise, certificate, arithmetic, competition=competition, seed=seed)


def _answer(
    network: Path | dict[str, Path],
    prop: Path,
    left: float | None,
    serialise: Path | None,
    certificate: Path | None,
    arithmetic: Arithmetic | None,
    *,
    competition: bool,
    seed: int,
) -> None:
    from fathom.cli.memory import loading, peak_mib
    from fathom.cli.outputs import require_file, require_folder
    from fathom.cli.progress import working
    from fathom.cli.watchdog import Watchdog

    until = None if left is None else time.monotonic() + left
    if serialise is not None:
        require_folder(serialise, "the assignment")
    if certificate is not None:
        require_file(certificate, "the certificate")
    with Watchdog(left) as watchdog, working(f"verifying {prop.name}"):
        with loading():
            from fathom.audits.verify import verify as run
            from fathom.capture.vnnlib import Style, assignment
            from fathom.capture.vnnlib import serialise as write

        seconds = None if until is None else until - time.monotonic()
        result = run(network, prop, seconds, seed, certificate, arithmetic, watchdog.stands)
    typer.echo(result.verdict)
    if result.witness is not None:
        x, y, *variables = result.assignment
        if serialise is not None:
            write(serialise, x, y, *variables)
        elif competition:
            typer.echo(assignment(*result.witness, Style.COMPETITION))
        else:
            typer.echo(assignment(x, y, Style.STANDARD, *variables))
    peak = peak_mib()
    memory = "" if peak is None else f", at most {peak} MiB"
    for line in (f"{result.reason}; {result.seconds:.2f} s{memory}, arithmetic: {result.arithmetic}", *result.notes()):
        complain(line)
    if result.check is not None and result.check.interrupted:
        raise typer.Exit(INTERRUPTED)


def _files(networks: list[str]) -> Path | dict[str, Path]:
    """The files in NAME=FILE, the standard's form, by name; a single one may go without.

    Raises:
        typer.BadParameter: there is none, or one of several is not named or has another's name.
    """
    files: dict[str, Path] = {}
    for network in networks:
        name, separator, path = network.partition("=")
        named = bool(separator) and name.replace("-", "_").isidentifier() and not Path(network).exists()
        file = path if named else network
        if not file:
            raise typer.BadParameter(f"expected FILE or NAME=FILE, got {network!r}", param_hint="--network")
        if not named and len(networks) == 1:
            return Path(file)
        if not named or name in files:
            raise typer.BadParameter(f"expected NAME=FILE, once for each of several, got {network!r}", param_hint="--network")
        files[name] = Path(file)
    return files
