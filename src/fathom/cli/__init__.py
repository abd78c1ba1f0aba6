"""The command line. Thin: a command parses, calls, prints; one command a file, which imports only what it needs.

Results go to standard output; progress, logs and errors to standard error. Exit codes: 0 an answer was given, whatever it is;
1 an error that the text explains; 2 the command's words are off; 130 interrupted, with what was found so far printed and stored.
"""

from __future__ import annotations

import os
import sys
import time

STARTED = time.monotonic()
# Threads that wait for work by spinning slow every other process down, and on a busy machine this one tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import typer  # noqa: E402

from fathom.core.errors import FathomError  # noqa: E402

app = typer.Typer(
    name="fathom",
    help="Finds, proves and explains the worst case of a neural network.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

INTERRUPTED = 130


def version() -> str:
    """Of the installed Fathom."""
    from importlib.metadata import version

    return version("fathom-verify")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    name: bool = typer.Option(False, "--name", help="Print the tool's name, and leave."),
    show_version: bool = typer.Option(False, "--version", help="Print the version, and leave."),
) -> None:
    if name or show_version:
        typer.echo("fathom" if name else version())
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


def main() -> None:
    """The entry point of `fathom`."""
    from fathom.cli import commands

    commands.load()
    try:
        app()
    except FathomError as error:
        print(f"fathom: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except BrokenPipeError:
        # Whoever read the output has had enough; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("fathom: interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
