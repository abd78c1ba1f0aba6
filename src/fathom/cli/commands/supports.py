"""`fathom supports`: what can be asked, in the words of the VNN-LIB standard, for tools that choose among solvers.

Theories are about queries: which of those that the language allows are understood. A theory is listed behind those within it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from fathom.cli import app


def _opsets() -> tuple[str, ...]:
    from fathom.capture.onnx_model import OPSETS

    return str(OPSETS[0]), str(OPSETS[-1])


def _operators() -> tuple[str, ...]:
    from fathom.capture.onnx_table import table

    return tuple(sorted(table()))


CAPABILITIES: dict[str, tuple[str, ...] | Callable[[], tuple[str, ...]]] = {
    # What the importer itself says, which takes the second of its import.
    "--onnx-opset-versions": _opsets,
    "--onnx-operators": _operators,
    # What a query may declare its variables as: proofs are about the file's weights over the reals, or the float32 program.
    "--onnx-element-types": ("real", "float32"),
    "--vnnlib-versions": ("1.0", "2.0"),
    "--hidden-node-theories": ("NH", "H"),
    "--multiple-input-output-theories": ("SIO", "MIO"),
    "--multiple-network-theories": ("SNET", "MENET", "MINET", "MNET"),
    "--multiple-node-comparison-theories": ("SNC", "MNC"),
    "--arithmetic-complexity-theories": ("BND", "OUTC", "LIN", "POLY"),
    # Alternatives share the network's passes and one search, so whoever splits them into several queries loses by it.
    "--optimised-disjunctive-reasoning": ("true",),
    "--serialise-assignments": ("true",),
    "--unsat-proofs": ("false",),
}

EPILOG = "[bold]Capabilities[/bold]\n\n" + "\n".join(f"  {name}" for name in CAPABILITIES)


@app.command(epilog=EPILOG, context_settings={"ignore_unknown_options": True, "help_option_names": ["--help", "-h"]})
def supports(
    capability: Annotated[list[str] | None, typer.Argument(metavar="CAPABILITY", help="One of those below.")] = None,
) -> None:
    """Say what is supported, a line each, as the VNN-LIB standard asks."""
    asked = capability or []
    if len(asked) != 1 or asked[0] not in CAPABILITIES:
        known = "\n  ".join(CAPABILITIES)
        raise typer.BadParameter(f"expected one of\n  {known}\ngot {' '.join(asked) or 'none'}", param_hint="CAPABILITY")
    answer = CAPABILITIES[asked[0]]
    typer.echo("\n".join(answer() if callable(answer) else answer))
