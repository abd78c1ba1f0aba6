"""`fathom judge`: put the questions of a casebook to a person."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from fathom.cli import app
from fathom.core.errors import FathomError

if TYPE_CHECKING:
    from torch import Tensor

    from fathom.casebook.questions import Question
    from fathom.casebook.store import Casebook
    from fathom.overseers.judgements import Judgement, Opinion

EPILOG = """[bold]Examples[/bold]

  fathom judge casebook.db --as ada
  fathom judge casebook.db --agreement
  fathom judge casebook.db --as ada --json

An answer is a letter and Enter: f for fine, b, s or m for a benign, serious or malign failure, u to take the \
last answer back, and q to stop. What follows the letter is kept as a note: s reads an 8 as a 3.
"""

UNDO: Final = "undo"
ANSWERS = {"f": "fine", "b": "benign", "s": "serious", "m": "malign"}
MOST_NUMBERS = 12  # of an input that is no picture
MOST_OUTPUTS = 5
WIDEST = 64  # picture, in characters
GREYS = " .:-=+*#%@"


@app.command(epilog=EPILOG)
def judge(
    casebook: Annotated[Path, typer.Argument(metavar="CASEBOOK", help="The casebook of an audit whose overseer is people.")],
    name: Annotated[str | None, typer.Option("--as", metavar="NAME", help="Whose judgements these are.")] = None,
    agreement: Annotated[bool, typer.Option("--agreement", help="Say how far the judges agree, and leave.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what waits for NAME and all judgements as JSON.")] = False,
) -> None:
    """Judge what a model did: one question of a casebook after the other, each answer stored at once.

    After every ten answers an earlier question comes back, unannounced: that measures how far people agree with themselves.
    The next audit with the overseer kind person goes by what was said here.
    """
    if not casebook.is_file():
        got = "a folder" if casebook.is_dir() else "nothing there"
        raise FathomError(f"expected a casebook at {casebook}, got {got}; an audit writes one, by default casebook.db")
    if name is None and not agreement and not as_json:
        raise typer.BadParameter("expected --as NAME, so that it is known whose judgements these are")
    from fathom.casebook.store import Casebook

    with Casebook.open(casebook) as book:
        if as_json:
            typer.echo(json.dumps(_plain(book, name), allow_nan=False))
        elif agreement:
            typer.echo("\n".join(_agreement(book)))
        else:
            assert name is not None
            _ask(book, name)


def _ask(book: Casebook, name: str) -> None:
    """One question after another, until none is left or the person stops."""
    left = len(book.queue(name))
    given: list[str] = []  # what was answered
    later: set[str] = set()  # left out for now
    while question := next((one for one in book.queue(name, len(later) + 1) if one.digest not in later), None):
        typer.echo("\n".join(_shown(question, len(given) + len(later) + 1, left)))
        answer = _answer()
        if answer is None:
            break
        if answer == UNDO:
            if given:
                book.take_back(given.pop(), name)
            else:
                typer.echo("nothing was answered yet that could be taken back")
        elif answer:
            book.judge(question.digest, name, *answer)
            given.append(question.digest)
        else:
            later.add(question.digest)
    typer.echo(
        f"{len(given)} {'answer' if len(given) == 1 else 'answers'} stored; {len(book.queue(name))} to go for {_safe(name)}"
    )


def _answer() -> tuple[Opinion, str] | tuple[()] | Literal["undo"] | None:
    """The opinion and the note; nothing for a question left out; `UNDO`; None to stop, as does the end of the input."""
    from fathom.overseers.judgements import Opinion

    while True:
        typer.echo(
            "fine, benign, serious, malign [f b s m, and a note if you like; Enter leaves it for later; u takes the last answer "
            "back; q stops]: ",
            nl=False,
        )
        try:
            said = input().strip()
        except EOFError:
            typer.echo()
            return None
        letter, _, note = said.partition(" ")
        word = ANSWERS.get(letter.lower(), letter.lower())
        if not said:
            return ()
        if word in ("q", "quit"):
            return None
        if word in ("u", "undo"):
            return UNDO
        if word in ANSWERS.values():
            return Opinion(word), note.strip()
        typer.echo(f"expected f, b, s, m, u or q first, got {_safe(said)[:40]}; nothing was stored")


def _shown(question: Question, number: int, left: int) -> list[str]:
    """The question in lines of plain text."""
    y = question.y
    order = y.argsort(descending=True, stable=True).tolist()[:MOST_OUTPUTS]
    outputs = "   ".join(f"y[{i}] {y[i].item():.4g}" for i in order) + ("   ..." if len(y) > MOST_OUTPUTS else "")
    return ["", f"{number} of {max(left, number)}: {_safe(question.title)}", *_input(question.x), f"output: {outputs}"]


def _input(x: Tensor) -> list[str]:
    """A picture in greys, or the first numbers."""
    picture = _picture(x)
    if picture is not None:
        return picture
    numbers = x.reshape(-1)[:MOST_NUMBERS].tolist()
    more = f" ... ({x.numel()} numbers)" if x.numel() > MOST_NUMBERS else ""
    return ["input: " + "  ".join(f"{value:.4g}" for value in numbers) + more]


def _picture(x: Tensor) -> list[str] | None:
    """x [h, w], or [c, h, w] of one or three channels, as characters two to a pixel; None for what is no picture."""
    import torch

    while x.ndim > 3 and len(x) == 1:
        x = x[0]
    x = x.to(torch.float64).mean(0) if x.ndim == 3 and len(x) in (1, 3) else x
    if x.ndim != 2 or min(x.shape) < 4 or not bool(x.isfinite().all()):
        return None
    step = math.ceil(2 * x.shape[1] / WIDEST)
    x = torch.nn.functional.avg_pool2d(x[None].to(torch.float64), step, ceil_mode=True)[0]
    low, high = x.min(), x.max()
    shades = ((x - low) / (high - low).clamp(min=1e-300) * (len(GREYS) - 1)).round().to(torch.int64).tolist()
    scale = f"(dark is {low.item():.4g}, bright is {high.item():.4g})"
    return [*("".join(2 * GREYS[shade] for shade in row) for row in shades), scale]


def _agreement(book: Casebook) -> list[str]:
    from fathom.overseers.agreement import agreements

    said = book.judgements()
    counts = f"{len(said)} judgements by {len({one.judge for one in said})} people"
    found = [_safe(one.sentence()) for one in agreements(said)]
    return [counts, *(found or ["No question was judged twice yet, by two people or by one: nothing is known of agreement."])]


def _plain(book: Casebook, name: str | None) -> dict[str, Any]:
    """In JSON's types; without a name nothing waits for anyone."""
    from fathom.overseers.agreement import agreements

    said = book.judgements()
    return {
        "format": "fathom-judge/1",
        "judge": name,
        "queue": [] if name is None else [_question(one) for one in book.queue(name)],
        "judgements": [_judgement(one) for one in said],
        "agreements": [
            {"first": one.first, "second": one.second, "pairs": one.pairs, "alike": one.alike, "kappa": one.kappa}
            for one in agreements(said)
        ],
    }


def _question(one: Question) -> dict[str, Any]:
    arrays = {"shape": list(one.x.shape), "x": _numbers(one.x), "y": _numbers(one.y)}
    return {"question": one.digest, "title": one.title, "program": one.program, **arrays}


def _judgement(one: Judgement) -> dict[str, Any]:
    words = {"judge": one.judge, "opinion": one.opinion.value, "note": one.note, "created": one.created}
    return {"question": one.question, **words}


def _numbers(values: Tensor) -> list[float | None]:
    """JSON has no infinity and no NaN: None for them."""
    return [value if math.isfinite(value) else None for value in values.reshape(-1).tolist()]


def _safe(text: str) -> str:
    from fathom.audits.result import plain

    return plain(text)
