"""What commands about a model and its data ask alike: options, the settings made of them, and both read and inspected."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from fathom.cli import INTERRUPTED, complain
from fathom.core.errors import FathomError

if TYPE_CHECKING:
    from fathom.audits.settings import Settings
    from fathom.audits.setup import Parts

FLAGS = {
    "model": "MODEL",
    "data": "DATA",
    "data.path": "DATA",
    "data.limit": "--limit",
    "region.radius": "--linf, --l2 or --l1",
    "region.range": "--range",
    "region.range[0]": "LO of --range",
    "region.range[1]": "HI of --range",
    "budget.total_seconds": "--seconds",
    "seed": "--seed",
}
"""How a user of flags knows the keys of audit.toml."""

asked, spent, written = (
    partial(typer.Option, rich_help_panel=panel) for panel in ("What is asked", "What may be spent", "What is written")
)


def default(value: object) -> str:
    """How help says what an option is when it is not given; the settings have it, so that a file can say it too."""
    return f"[dim]{value} if not given.[/dim]"


Model = Annotated[str, typer.Argument(metavar="MODEL", help="An .onnx, package.module:factory, a .pt2, or an audit.toml.")]
Data = Annotated[Path | None, typer.Argument(metavar="DATA", help="An .npz or .safetensors of inputs x and labels y.")]
Linf = Annotated[float | None, asked("--linf", metavar="R", help="Each input may change by at most R.")]
L2 = Annotated[float | None, asked("--l2", metavar="R", help="The Euclidean norm of the change is at most R.")]
L1 = Annotated[float | None, asked("--l1", metavar="R", help="The sum of all changes is at most R.")]
Span = Annotated[tuple[float, float] | None, asked("--range", metavar="LO HI", help="Inputs stay between LO and HI.")]
Limit = Annotated[int | None, asked("--limit", metavar="N", help="The first N cases only.")]
Anyway = Annotated[bool, asked("--anyway", help="Go on, whatever the inspection of model and data says.")]
Seed = Annotated[int | None, asked("--seed", metavar="K", help=f"Of all that is drawn at random. {default(0)}")]


def region(*, linf: float | None, l2: float | None, l1: float | None, span: tuple[float, float] | None) -> dict[str, Any]:
    """The table [region] of the options.

    Raises:
        typer.BadParameter: more than one norm is given.
    """
    radii = {kind: radius for kind, radius in (("linf", linf), ("l2", l2), ("l1", l1)) if radius is not None}
    if len(radii) > 1:
        raise typer.BadParameter(f"expected one of --linf, --l2 and --l1, got {len(radii)}; run the command for each")
    kind, radius = next(iter(radii.items()), (None, None))
    return {"kind": kind, "radius": radius, "range": None if span is None else list(span)}


def tables(
    data: Path | None, limit: int | None, *, seconds: float | None, seed: int | None, region: dict[str, Any]
) -> dict[str, Any]:
    """The tables that the options stand for.

    Raises:
        typer.BadParameter: no time is given.
    """
    if seconds is not None and not seconds > 0:
        raise typer.BadParameter(f"expected seconds > 0, got {seconds:g}", param_hint="--seconds")
    return {
        "data": {"path": None if data is None else str(data), "limit": limit},
        "region": region,
        "budget": {"total_seconds": seconds},
        "seed": seed,
    }


def settings_of(
    command: str, model: str, given: dict[str, Any], *, flags: Mapping[str, str] = FLAGS, or_data: str = "", or_region: str = ""
) -> Settings:
    """Settings from the flags, or from the audit.toml that MODEL is, which they go before.

    Args:
        given: what the flags say, as nested tables.
        or_data, or_region: what else the command takes in place of DATA, and of a region.

    Raises:
        FathomError: what is written cannot be meant.
        typer.BadParameter: something is missing.
    """
    from fathom.audits.settings import make_settings, read_settings

    if model.endswith(".toml"):
        return read_settings(model, given, flags)
    if model.endswith((".npz", ".safetensors")):
        raise FathomError(f"expected a model as MODEL, got {model}, which holds arrays; the order is fathom {command} MODEL DATA")
    if given["data"]["path"] is None:
        raise typer.BadParameter(f"expected DATA behind MODEL, an .npz or .safetensors file{or_data}; an audit.toml can say more")
    if given["region"]["kind"] is None:
        raise typer.BadParameter(
            f"expected how much inputs may change, such as --linf 0.03{or_region}; an audit.toml can say more"
        )
    return make_settings({"model": model, **given}, flags)


def title(model: object) -> str:
    """What answers call a model: the function that makes it, or its file's name."""
    return str(model) if ":" in str(model) else Path(str(model)).name


def recipe() -> str:
    """The command line, as it pastes back."""
    return shlex.join(["fathom", *sys.argv[1:]])


class Answer(Protocol):
    """What a search answers; it may have been interrupted."""

    @property
    def interrupted(self) -> bool: ...

    def lines(self) -> list[str]: ...

    def to_json(self) -> dict[str, Any]: ...


def show(answer: Answer, *, as_json: bool) -> None:
    """Prints it.

    Raises:
        typer.Exit: it was interrupted.
    """
    typer.echo(json.dumps(answer.to_json(), allow_nan=False) if as_json else "\n".join(answer.lines()))
    if answer.interrupted:
        complain("interrupted; above is what was known by then")
        raise typer.Exit(INTERRUPTED)


def prepare(settings: Settings, *, anyway: bool) -> Parts:
    """Model and data read, and inspected; what the inspection says goes to standard error.

    Raises:
        FathomError: they are not understood, or do not fit together.
    """
    from fathom.cli.progress import working

    with working("reading the data"):
        from fathom.audits.setup import make_parts, read_model, read_others, read_samples

        data = read_samples(settings)
    with working("reading the model, and replaying it node by node"):
        captured = read_model(settings, data)
        others = read_others(settings, data)
    if data is not None:
        from fathom.audits.preprocessing import inspect

        with working("looking at model and data"):
            inspection = inspect(captured.program, data, settings.region.clip)
        for line in inspection.lines():
            typer.echo(line, err=True)
        inspection.require(anyway=anyway)
    return replace(make_parts(settings, captured, data), others=others)
