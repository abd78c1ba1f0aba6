"""Rows of a comparison: kept as CSV, told with the losses first."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, TypeVar

R = TypeVar("R")
KINDS = {"str": str, "int": int, "float": float}


def read_rows(kind: type[R], path: Path) -> list[R]:
    """The rows of a file, of a dataclass of strings, whole numbers and floats; none where there is no file yet."""
    if not path.exists():
        return []
    kinds = {f.name: KINDS[str(f.type)] for f in fields(kind)}  # type: ignore[arg-type]
    with path.open(newline="", encoding="utf-8") as file:
        return [kind(**{name: kinds[name](cell) for name, cell in row.items()}) for row in csv.DictReader(file)]


def write_rows(kind: type[R], path: Path, rows: Sequence[R], digits: int) -> None:
    """All rows, floats to so many digits."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([f.name for f in fields(kind)])  # type: ignore[arg-type]
        for row in rows:
            cells: tuple[Any, ...] = astuple(row)  # type: ignore[call-overload]
            writer.writerow([f"{cell:.{digits}g}" if isinstance(cell, float) else cell for cell in cells])


def tell_losses_first(lines: Iterable[tuple[bool, str]]) -> None:
    """Prints lines, each with whether it is a loss."""
    for lost, text in sorted(lines, key=lambda line: not line[0]):
        print(("LOST  " if lost else "") + text)
