"""A folder of verification instances, run one after the other, in this process or in a fresh one each.

The folder is laid out as the public competitions' are: `instances.csv` (onnx, vnnlib, timeout), the files it names, plain or
gzipped, and perhaps `expected.csv` (onnx, vnnlib, verdict, tools_sat, tools_unsat), whose verdicts are evidence and not truth.
"""

from __future__ import annotations

import csv
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from fathom.audits.verify import verify
from fathom.core.errors import FathomError, NotUnderstood

DECIDED = ("sat", "unsat")
ERROR = "error"
GRACE = 10.0  # seconds that a fresh process may take beyond its own limit before it is ended


@dataclass(frozen=True)
class Row:
    """The answer to one instance."""

    onnx: str
    vnnlib: str
    verdict: str  # sat, unsat, unknown, timed-out or error
    expected: str  # sat, unsat, unknown, or "" where nothing is
    seconds: float
    timeout: float
    seed: int
    isolated: bool
    note: str = ""

    @property
    def disagrees(self) -> bool:
        """Whether a verdict was given and another expected."""
        return self.verdict in DECIDED and self.expected in DECIDED and self.verdict != self.expected

    def line(self) -> str:
        """For a person."""
        against = f"   EXPECTED {self.expected}" if self.disagrees else ""
        note = f"   {self.note}" if self.note else ""
        return f"{self.verdict:9} {self.seconds:7.2f} s   {Path(self.onnx).name}  {Path(self.vnnlib).name}{against}{note}"


@dataclass
class Bench:
    """One run over a folder."""

    folder: Path
    seconds: float = 60.0
    limit: int | None = None
    out: Path | None = None
    isolated: bool = False
    seed: int = 0
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.instances = _pairs(self.folder / "instances.csv")[: self.limit]
        listed = self.folder / "expected.csv"
        self.expected = {(r[0], r[1]): r[2] for r in _table(listed, 3)} if listed.exists() else {}

    @property
    def total(self) -> int:
        return len(self.instances)

    def run(self) -> Iterator[tuple[int, Row]]:
        """The rows as they come, numbered from 1. Those that an earlier run with the same settings wrote are taken over.

        Raises:
            FathomError: the folder or the earlier file is not understood. A single instance that fails is a row instead.
        """
        before = self._before()
        self.rows = [before[pair] for pair in self.instances if pair in before]
        for pair in self.instances:
            if pair in before:
                continue
            row = self._one(*pair)
            self.rows.append(row)
            if self.out is not None:
                _append(self.out, row)
            yield len(self.rows), row

    def _one(self, onnx: str, vnnlib: str) -> Row:
        network, prop = _inside(self.folder, onnx), _inside(self.folder, vnnlib)
        began = time.monotonic()
        note = ""
        try:
            if self.isolated:
                verdict, note = _in_fresh_process(network, prop, self.seconds, self.seed)
            else:
                result = verify(network, prop, self.seconds, self.seed)
                verdict, note = result.verdict, "; ".join(result.notes())
        except FathomError as error:
            verdict, note = ERROR, str(error)
        expected = self.expected.get((onnx, vnnlib), "")
        return Row(onnx, vnnlib, verdict, expected, time.monotonic() - began, self.seconds, self.seed, self.isolated, note)

    def _before(self) -> dict[tuple[str, str], Row]:
        """Rows of an earlier run, by instance; those of other settings do not count."""
        if self.out is None or not self.out.exists():
            return {}
        names = [f.name for f in fields(Row)]
        rows = [row for row in _table(self.out, len(names)) if len(row) == len(names)]
        found = {}
        for onnx, vnnlib, verdict, expected, seconds, timeout, seed, isolated, note in rows:
            same = (float(timeout), int(seed), isolated == "True") == (self.seconds, self.seed, self.isolated)
            if same and verdict != ERROR:
                row = Row(onnx, vnnlib, verdict, expected, float(seconds), self.seconds, self.seed, self.isolated, note)
                found[onnx, vnnlib] = row
        return found


def _in_fresh_process(network: Path, prop: Path, seconds: float, seed: int) -> tuple[str, str]:
    command = [sys.executable, "-m", "fathom", "verify", str(prop), "--network", str(network)]
    command += ["--timeout", str(seconds), "--seed", str(seed)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds + GRACE, check=False)
    except subprocess.TimeoutExpired:
        return "timed-out", f"ended from outside after {seconds + GRACE:g} s"
    first = ended.stdout.split("\n", 1)[0]
    if ended.returncode or first not in (*DECIDED, "unknown", "timed-out"):
        last = ended.stderr.strip().rsplit("\n", 1)[-1]
        return ERROR, f"exit code {ended.returncode}: {last}"
    return first, ""


def summary(rows: list[Row]) -> str:
    """Decided / total, disagreements and times, in words."""
    if not rows:
        return "no instance was run"
    counts = {word: sum(row.verdict == word for row in rows) for word in (*DECIDED, "unknown", "timed-out", ERROR)}
    decided = counts["sat"] + counts["unsat"]
    times = [row.seconds for row in rows]
    lines = [
        f"decided {decided} / {len(rows)}: " + ", ".join(f"{word} {count}" for word, count in counts.items() if count),
        f"seconds: median {statistics.median(times):.2f}, longest {max(times):.2f}, sum {sum(times):.1f}",
    ]
    expected = sum(row.expected in DECIDED for row in rows)
    if expected:
        against = [row for row in rows if row.disagrees]
        lines.append(f"disagreements with {expected} expected verdicts: {len(against)}")
        lines.extend(f"  {row.line()}" for row in against)
    return "\n".join(lines)


def _pairs(path: Path) -> list[tuple[str, str]]:
    return [(row[0], row[1]) for row in _table(path, 2)]


def _table(path: Path, columns: int) -> list[list[str]]:
    """Rows of a CSV file, without a header.

    Raises:
        NotUnderstood: there is no such file, or a row has too few columns.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise NotUnderstood(f"expected a table in {path}, got: {error}; a benchmark folder holds instances.csv") from error
    rows = [row for row in rows if row[0] != "onnx"]
    short = next((row for row in rows if len(row) < columns), None)
    if short is not None:
        raise NotUnderstood(f"{path}: expected at least {columns} columns, got {short}")
    return rows


def _append(path: Path, row: Row) -> None:
    """One row, whole or not at all as far as a reader of lines can tell; a header first in a new file."""
    fresh = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow([f.name for f in fields(Row)])
        writer.writerow([*asdict(row).values()])


def _inside(folder: Path, name: str) -> Path:
    """The file that a table names, plain or gzipped.

    Raises:
        NotUnderstood: it leaves the folder, or is not there.
    """
    root = folder.resolve()
    for candidate in (root / name, root / f"{name}.gz"):
        if not candidate.resolve().is_relative_to(root):
            raise NotUnderstood(f"expected files inside {folder}, got {name!r}, which leads out of it")
        if candidate.is_file():
            return candidate
    raise NotUnderstood(f"expected {name} or {name}.gz in {folder}, found neither")
