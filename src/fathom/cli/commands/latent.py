"""`fathom latent`: does the model fail for any activation of a layer within bounds?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fathom.cli import app, asking
from fathom.cli.asking import asked, default, spent, written
from fathom.core.errors import FathomError

if TYPE_CHECKING:
    from fathom.audits.latent import NaturalInputs
    from fathom.audits.settings import Settings
    from fathom.audits.setup import Parts

EPILOG = """[bold]Examples[/bold]

  fathom latent model.onnx data.npz --layer relu_2 --linf 0.03 --range 0 1
  fathom latent model.onnx data.npz --layer relu_2 --within box --natural train.npz --linf 0.03 --range 0 1
  fathom latent model.onnx data.npz --layer relu_2 --within ball --radius 0.5 --linf 0.03 --range 0 1
  fathom latent audit.toml --layer relu_2

The adversary chooses the activation at the layer, and the layers behind run from there. A proof against it is one against every \
input; what it finds is pulled back to inputs, and where none reaches it, the region is made smaller. An error lists the layers \
there are. docs/latent.md says what each number means.
"""


@app.command(epilog=EPILOG)
def latent(
    model: asking.Model,
    data: asking.Data = None,
    layer: Annotated[
        str, asked("--layer", metavar="NAME", help="A node that every path from input to output passes; an error lists them.")
    ] = "",
    within: Annotated[
        str,
        asked("--within", metavar="KIND", help="reach: all that inputs reach; box or ellipsoid: natural; ball or l2-ball: near."),
    ] = "reach",
    radius: Annotated[
        float | None, asked("--radius", metavar="R", help="Of a ball round a case's activation, in the layer's units.")
    ] = None,
    natural: Annotated[
        Path | None,
        asked("--natural", metavar="FILE", help="Natural inputs: counted, and fitted to. [dim]DATA if not given.[/dim]"),
    ] = None,
    coverage: Annotated[
        float, asked("--coverage", metavar="P", help="The share of each class that box or ellipsoid holds.")
    ] = 0.9,
    confidence: Annotated[float, asked("--confidence", metavar="C", help="Of stated shares, between 0 and 1.")] = 0.95,
    linf: asking.Linf = None,
    l2: asking.L2 = None,
    l1: asking.L1 = None,
    span: asking.Span = None,
    limit: asking.Limit = None,
    anyway: asking.Anyway = False,
    seed: asking.Seed = None,
    seconds: Annotated[float | None, spent("--seconds", metavar="S", help=f"Of the whole. {default(60)}")] = None,
    rounds: Annotated[int, spent("--rounds", metavar="N", help="Of refinement, at most.")] = 8,
    as_json: Annotated[bool, written("--json", help="On standard output: the answer as JSON, for programs.")] = False,
) -> None:
    """Say whether a model fails for any activation of a layer within bounds: proofs, real failures, and what may be spurious.

    Ctrl-C prints what is known so far.
    """
    from fathom.cli.progress import spinning
    from fathom.core.budget import Budget

    if rounds < 0:
        raise typer.BadParameter(f"expected rounds >= 0, got {rounds}", param_hint="--rounds")
    region = asking.region(linf=linf, l2=l2, l1=l1, span=span)
    given = asking.tables(data, limit, seconds=seconds, seed=seed, region=region)
    settings = asking.settings_of("latent", model, given)
    if settings.arithmetic != "real":
        raise FathomError(f"expected real arithmetic to look inside a network, got {settings.arithmetic}; leave it out")
    parts = asking.prepare(settings, anyway=anyway)
    total = settings.budget.total_seconds
    with spinning("beginning") as tell:
        from fathom.audits.latent import latent as search

        answer = search(
            parts.captured, parts.region, parts.overseer, layer=layer, within=within, radius=radius,
            natural=_natural(settings, parts, natural),
            group=None if parts.data is None else parts.data.labels, coverage=coverage, confidence=confidence, rounds=rounds,
            budget=Budget(seconds=60.0 if total is None else total), seed=settings.seed,
            title=asking.title(settings.model), tell=tell,
        )  # fmt: skip
    asking.show(replace(answer, recipe=asking.recipe()), as_json=as_json)


def _natural(settings: Settings, parts: Parts, file: Path | None) -> NaturalInputs | None:
    """The inputs of the file, or of the whole of DATA; None for a question about a box, without any."""
    from fathom.audits.data import read_data
    from fathom.audits.latent import NaturalInputs
    from fathom.audits.setup import read_samples

    found = read_samples(settings) if file is None else read_data(file)
    if found is None:
        return None
    if parts.data is not None and parts.data.labels is not None and found.labels is None:
        raise FathomError(f"expected labels in {file}, as in the data of the cases, got none; add an array y of them")
    return NaturalInputs(found.flat, found.labels)
