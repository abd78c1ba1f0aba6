"""What a person sees while a long job runs: one bar on standard error, with the bracket so far."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fathom.audits.engine import Watcher


@contextlib.contextmanager
def watching(cases: int) -> Iterator[Watcher]:
    """A watcher that draws how many cases are decided; plain silence where standard error is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from fathom.audits.cases import by_case
    from fathom.core.answer import Answers
    from fathom.core.problem import Problem

    console = Console(stderr=True)
    columns = (TextColumn("decided"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("proved 0   broken 0", total=cases)

        def watch(problem: Problem, answers: Answers) -> None:
            now = by_case(problem, answers)
            text = f"proved {int(now.proved.sum())}   broken {int(now.broken.sum())}"
            progress.update(task, completed=int(now.decided.sum()), description=text)

        yield watch
