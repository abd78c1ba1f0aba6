"""The command line. Thin: a command parses, calls, prints; one command a file, which imports only what it needs.

Results go to standard output; progress, logs and errors to standard error. Exit codes are the constants below.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from types import FrameType

STARTED = time.monotonic()
# Threads that wait for work by spinning slow every other process down, and on a busy machine this one tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import typer  # noqa: E402

from fathom.cli.memory import keep_freed_memory, leave_unreached_objects  # noqa: E402
from fathom.core.errors import FathomError  # noqa: E402

FAILED = 1  # an error that the text explains; USAGE, 2, is typer's
BUG = 3  # an error of Fathom's own
INTERRUPTED = 130

EPILOG = """[bold]To start with[/bold]

  fathom audit model.onnx data.npz --linf 0.03 --range 0 1
  fathom verify property.vnnlib --network model.onnx --timeout 60
  fathom COMMAND --help

Exit codes: 0 an answer, whatever it is; 1 an error, explained on standard error; 2 words that are no command or option; 3 a bug \
in Fathom; 130 interrupted.
"""

app = typer.Typer(
    name="fathom",
    help="Finds, proves and explains the worst case of a neural network.",
    epilog=EPILOG,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
)


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


def complain(text: str) -> None:
    """A line on standard error. Names out of a file may hold what a terminal would obey: such characters become marks."""
    safe = "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
    print(f"fathom: {safe}", file=sys.stderr, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """The entry point of `fathom`. A plain `kill` is an interrupt too: half a file or a checker at work is not left behind."""
    keep_freed_memory()
    leave_unreached_objects()
    from fathom.cli import commands

    commands.load()
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(obj=STARTED, prog_name="fathom")
    except FathomError as error:
        complain(str(error))
        raise SystemExit(FAILED) from None
    except KeyboardInterrupt:
        complain("interrupted")
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        # Whoever read the output has had enough; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(FAILED) from None
    except Exception as error:
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            complain("there is not enough memory for this model and these cases; give fewer cases, or a larger machine")
            raise SystemExit(FAILED) from None
        traceback.print_exc()
        name = type(error).__name__
        complain(f"a bug in Fathom, not in your files: {name}; please report it with the command and the lines above")
        raise SystemExit(BUG) from None
    finally:
        signal.signal(signal.SIGTERM, before)
