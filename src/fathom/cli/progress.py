"""What a person sees on standard error while a long job runs: a spinner, or a bar with the bracket so far.

Where standard error is no terminal that can be drawn on, there is nothing of this but a plain line now and then.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from fathom.core.answer import Answers
    from fathom.core.problem import Problem

PLAIN_SECONDS = 30.0  # between two plain lines
WIDE = 72  # columns from which on there is room for a bar


@contextlib.contextmanager
def working(text: str) -> Iterator[None]:
    """A spinner with the time, while something runs that cannot say how far it is. Elsewhere than on a terminal, nothing."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=_console(), transient=True) as progress:
        progress.add_task(text)
        yield


@contextlib.contextmanager
def spinning(text: str) -> Iterator[Callable[[str], None]]:
    """A spinner whose words may change as a long job goes on; elsewhere than on a terminal, a plain line now and then."""
    began = told = time.monotonic()
    if not sys.stderr.isatty():

        def line(words: str) -> None:
            nonlocal told
            if time.monotonic() - told > PLAIN_SECONDS:
                told = time.monotonic()
                print(f"fathom: {told - began:.0f} s, {words}", file=sys.stderr, flush=True)

        yield line
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=_console(), transient=True) as progress:
        task = progress.add_task(text)
        yield lambda words: progress.update(task, description=words)


@contextlib.contextmanager
def watching(cases: int, stop: threading.Event) -> Iterator[Watch]:
    """A watch over an audit of so many cases; says so when `stop` is set."""
    console = _console()
    over = threading.Event()

    def tell() -> None:
        stop.wait()
        if not over.is_set():
            console.print("fathom: stopping at the next step, with what was found so far; Ctrl-C again stops at once")

    threading.Thread(target=tell, daemon=True).start()
    try:
        if console.is_interactive:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            text = TextColumn("{task.description}", markup=False)
            bar = [BarColumn(bar_width=24)] if console.width >= WIDE else []
            columns = (*bar, MofNCompleteColumn(), text, TimeElapsedColumn())
            with Progress(*columns, console=console, transient=True) as progress:
                yield Watch(cases, progress)
        else:
            yield Watch(cases)
    finally:
        over.set()


class Watch:
    """Told how an audit goes, and shows it."""

    def __init__(self, cases: int, progress: Progress | None = None) -> None:
        self._progress = progress
        self._task = None if progress is None else progress.add_task("", total=cases)
        self._cases = cases
        self._stage, self._found, self._decided = "", "", 0
        self._began = self._told = time.monotonic()

    def stage(self, name: str) -> None:
        """What is done from now on: "attack", "bounds", ..."""
        self._stage = name
        self._show()

    def brackets(self, problem: Problem, answers: Answers) -> None:
        """The answers of all sets so far; the `Watcher` of an audit."""
        from fathom.audits.cases import by_case

        now = by_case(problem, answers)
        self._decided = int(now.decided.sum())
        self._found = f"proved {int(now.proved.sum())}   broken {int((now.broken & ~now.proved).sum())}"
        self._show()

    def _show(self) -> None:
        if self._progress is not None and self._task is not None:
            text = "   ".join(part for part in (self._stage, self._found) if part)
            self._progress.update(self._task, completed=self._decided, description=text)
        elif time.monotonic() - self._told > PLAIN_SECONDS:
            self._told = time.monotonic()
            seconds = self._told - self._began
            text = f"fathom: {seconds:.0f} s, {self._stage}: decided {self._decided} of {self._cases}   {self._found}"
            print(text.rstrip(), file=sys.stderr, flush=True)


@contextlib.contextmanager
def counting(total: int) -> Iterator[Counter]:
    """A bar over so many things, one after the other."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = _console()
    bar = [BarColumn(bar_width=24)] if console.width >= WIDE else []
    columns = (*bar, MofNCompleteColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    # Lines for standard output pass above the bar where both are on one terminal, and are left alone elsewhere.
    shared = sys.stdout.isatty()
    progress = Progress(*columns, console=console, transient=True, redirect_stdout=shared, disable=not console.is_interactive)
    with progress:
        yield Counter(progress, total)


class Counter:
    """How many of some things are done."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=total)

    def show(self, done: int, text: str) -> None:
        """So many are done; `text` is under way."""
        self._progress.update(self._task, completed=done, description=text)


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
