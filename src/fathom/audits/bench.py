"""A folder of verification instances, run one after the other, in this process or in a fresh one each.

The folder is laid out as the public competitions' are: `instances.csv` (onnx, vnnlib, timeout), the files it names, plain or
gzipped, and perhaps `expected.csv` (onnx, vnnlib, verdict, tools_sat, tools_unsat), whose verdicts are evidence and not truth.
"""

from __future__ import annotations

import csv
import io
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fathom.core.errors import FathomError, NotUnderstood

DECIDED = ("sat", "unsat")
ERROR = "error"
GRACE = 10.0  # seconds that a fresh process may take beyond its own limit before it is ended
LATEST = 10.0  # times the limit that a checker may take which was left no time within it
NO_TIME = "no time was left to check it"
POLL = 0.02  # seconds between two looks at a fresh process


@dataclass(frozen=True)
class Row:
    """The answer to one instance."""

    folder: str  # name of the benchmark
    onnx: str
    vnnlib: str
    verdict: str  # sat, unsat, unknown, timed-out or error
    expected: str  # sat, unsat, unknown, or "" where nothing is
    seconds: float
    peak_mib: int | None  # memory of its process at most; None where it had none of its own, and so nobody can tell
    timeout: float
    seed: int
    isolated: bool
    fathom: str  # version
    note: str = ""
    certificate: str = ""  # of an unsat, where asked for: accepted or unchecked
    checking: float = 0.0  # seconds of the checker, which `seconds` leaves out
    certificate_bytes: int = 0
    arithmetic: str = "real"  # that the verdict is about

    @property
    def disagrees(self) -> bool:
        """Whether a verdict was given and another expected."""
        return self.verdict in DECIDED and self.expected in DECIDED and self.verdict != self.expected

    def line(self) -> str:
        """For a person."""
        memory = "" if self.peak_mib is None else f"  {self.peak_mib:6d} MiB"
        against = f"   EXPECTED {self.expected}" if self.disagrees else ""
        note = f"   {self.note}" if self.note else ""
        names = f"{Path(self.onnx).name}  {Path(self.vnnlib).name}"
        return f"{self.verdict:9} {self.seconds:8.2f} s{memory}  {names}{against}{note}"


HEADER = [f.name for f in fields(Row)]
KINDS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "int | None": lambda cell: int(cell) if cell else None,  # csv writes None as an empty cell
    "float": float,
    "bool": {"True": True, "False": False}.__getitem__,
}
READERS = {f.name: KINDS[str(f.type)] for f in fields(Row)}
"""From a cell of the output file to a field."""


@dataclass
class Bench:
    """One run over a folder."""

    folder: Path
    seconds: float = 60.0
    limit: int | None = None
    out: Path | None = None
    isolated: bool = False
    seed: int = 0
    certificates: Path | None = None  # a folder for one of each unsat
    arithmetic: str = "real"
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Reads the tables.

        Raises:
            FathomError: the folder or the earlier output is not understood, or output cannot be written.
        """
        self.instances = _pairs(self.folder / "instances.csv")[: self.limit]
        if not self.instances:
            raise NotUnderstood(f"expected instances in {self.folder / 'instances.csv'}, got none; a row is onnx,vnnlib,timeout")
        listed = self.folder / "expected.csv"
        self.expected = {(r[0], r[1]): r[2] for r in _table(listed, 3)} if listed.exists() else {}
        earlier = {} if self.out is None else self._like(read_rows(self.out))
        self.rows = [earlier[pair] for pair in self.instances if pair in earlier]

    @property
    def total(self) -> int:
        return len(self.instances)

    def run(self) -> Iterator[Row]:
        """The rows as they come, each in `out` before it is given. Those that an earlier run like this wrote are in `rows`
        from the start. A single instance that fails is a row too."""
        before = {(row.onnx, row.vnnlib) for row in self.rows}
        for pair in self.instances:
            if pair in before:
                continue
            row = self._one(*pair)
            self.rows.append(row)
            if self.out is not None:
                _append(self.out, row)
            yield row

    def _one(self, onnx: str, vnnlib: str) -> Row:
        began = time.monotonic()
        peak: int | None = None
        proof: dict[str, Any] = {}
        out = None if self.certificates is None else self.certificates / f"{Path(onnx).stem}-{Path(vnnlib).stem}.npz"
        try:
            network, prop = _inside(self.folder, onnx), _inside(self.folder, vnnlib)
            if self.isolated:
                verdict, note, peak = _in_fresh_process(network, prop, self.seconds, self.seed, out, self.arithmetic)
            else:
                from fathom.audits.verify import verify

                result = verify(network, prop, self.seconds, self.seed, out, self.arithmetic)
                if result.check is not None and result.check.interrupted:
                    raise KeyboardInterrupt
                verdict, note = result.verdict, "; ".join(result.notes())
            if verdict == "unsat" and out is not None:
                proof = _proof(note)
                if NO_TIME in note:  # the limit is on proving; checking is measured for as long as it takes
                    from fathom.audits.checking import check

                    late = check(network, prop, out, LATEST * self.seconds)
                    proof, note = _proof(late.line()), late.line()
        except FathomError as error:
            verdict, note = ERROR, str(error)
        except Exception as error:  # whatever it is, it is this instance's, and the others are still to be run
            verdict, note = ERROR, f"a bug in Fathom: {type(error).__name__}: {error}"
        answer: dict[str, Any] = {
            "onnx": onnx,
            "vnnlib": vnnlib,
            "verdict": verdict,
            "expected": self.expected.get((onnx, vnnlib), ""),
        }
        note = " ".join(note.split())[:2000]  # one line a row
        seconds = time.monotonic() - began - proof.get("checking", 0.0)
        return Row(**answer, seconds=seconds, peak_mib=peak, note=note, **proof, **self._settings)

    @property
    def _settings(self) -> dict[str, Any]:
        """What must be the same for an earlier row to count."""
        return {
            "folder": self.folder.resolve().name,
            "timeout": self.seconds,
            "seed": self.seed,
            "isolated": self.isolated,
            "fathom": version("fathom-verify"),
            "arithmetic": self.arithmetic,
        }

    def _like(self, rows: list[Row]) -> dict[tuple[str, str], Row]:
        """The rows that count here, by instance. Errors do not: they may have been mended."""
        same = [row for row in rows if all(getattr(row, name) == value for name, value in self._settings.items())]
        bare = "unsat" if self.certificates is not None else ""  # what does not count without a certificate
        return {(row.onnx, row.vnnlib): row for row in same if row.verdict != ERROR and (row.certificate or row.verdict != bare)}


def _proof(said: str) -> dict[str, Any]:
    """What became of a certificate, from the words of `Check.line`."""
    found = re.search(r"certificate \(checked\): .* accepted (\d+) bytes in ([0-9.]+) s", said)
    if found is None:
        return {"certificate": "unchecked"}
    return {"certificate": "accepted", "checking": float(found[2]), "certificate_bytes": int(found[1])}


def _in_fresh_process(
    network: Path, prop: Path, seconds: float, seed: int, proof: Path | None, arithmetic: str
) -> tuple[str, str, int]:
    """Verdict, note and peak memory in MiB of `fathom verify`; ended from outside if it does not end itself."""
    command = [sys.executable, "-P", "-m", "fathom", "verify", str(prop), "--network", str(network)]
    command += ["--timeout", str(seconds), "--seed", str(seed), "--arithmetic", arithmetic]
    command += [] if proof is None else ["--certificate", str(proof)]
    deadline = time.monotonic() + seconds + GRACE
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        code = None
        try:
            while code is None:
                code, peak = _look(process.pid)
                if code is None and time.monotonic() > deadline:
                    os.kill(process.pid, signal.SIGKILL)
                    deadline = float("inf")
                time.sleep(0 if code is not None else POLL)
        finally:
            if code is None:
                process.kill()
                process.wait()
            else:
                process.returncode = code
        out.seek(0)
        err.seek(0)
        first, said = out.readline().rstrip("\n"), err.read().strip()
    if deadline == float("inf"):
        return "timed-out", f"ended from outside after {seconds + GRACE:g} s", peak
    if code or first not in (*DECIDED, "unknown", "timed-out"):
        return ERROR, f"exit code {code}: " + (said.rsplit("\n", 1)[-1] or "no word"), peak
    notes = [line.removeprefix("fathom: ") for line in said.splitlines() if line.startswith("fathom: certificate")]
    return first, "; ".join(notes), peak


def _look(pid: int) -> tuple[int | None, int]:
    """The exit code of a child, None while it runs, and its peak memory in MiB: unlike `Popen.wait`, `wait4` tells it."""
    ended, status, usage = os.wait4(pid, os.WNOHANG)
    if not ended:
        return None, 0
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return os.waitstatus_to_exitcode(status), usage.ru_maxrss // unit


def summary(rows: list[Row]) -> str:
    """Decided / total, disagreements and times, in words."""
    if not rows:
        return "no instance was run"
    counts = {word: sum(row.verdict == word for row in rows) for word in (*DECIDED, "unknown", "timed-out", ERROR)}
    decided = counts["sat"] + counts["unsat"]
    times, peaks = [row.seconds for row in rows], [row.peak_mib for row in rows if row.peak_mib is not None]
    lines = [
        f"decided {decided} / {len(rows)}: " + ", ".join(f"{word} {count}" for word, count in counts.items() if count),
        f"arithmetic: {', '.join(sorted({row.arithmetic for row in rows}))}",
        f"seconds: median {statistics.median(times):.2f}, longest {max(times):.2f}, sum {sum(times):.1f}",
        f"memory of one process: at most {max(peaks)} MiB" if peaks else "memory: not measured; --isolated measures it",
    ]
    lines += _proofs([row for row in rows if row.certificate])
    expected = sum(row.expected in DECIDED for row in rows)
    if expected:
        against = [row for row in rows if row.disagrees]
        lines.append(f"disagreements with {expected} expected verdicts: {len(against)}")
        lines.extend(f"  {row.line()}" for row in against)
    return "\n".join(lines)


def _proofs(rows: list[Row]) -> list[str]:
    """How the certificates fared, in words."""
    good = [row for row in rows if row.certificate == "accepted"]
    if not good:
        return [f"certificates: 0 of {len(rows)} unsat accepted"] if rows else []
    ratio = statistics.median(row.checking / max(row.seconds, 1e-3) for row in good)
    sizes = [row.certificate_bytes for row in good]
    return [
        f"certificates: {len(good)} of {len(rows)} unsat accepted; checking / proving: median {ratio:.2f}; "
        f"bytes: median {int(statistics.median(sizes))}, largest {max(sizes)}"
    ]


# The output file


def read_rows(path: Path) -> list[Row]:
    """The rows that earlier runs wrote; none where there is no file. A last line that a killed run left torn is cut off.

    Raises:
        FathomError: the file is no such output, and is left as it is; or cannot be written.
    """
    try:
        with path.open("a+b") as file:
            file.seek(0)
            raw = file.read()
            if not raw.startswith(_header()) and not _header().startswith(raw):
                raise ValueError(f"a file that starts with {raw[:60]!r}")
            whole = raw[: raw.rfind(b"\n") + 1]
            lines = csv.reader(io.StringIO(whole.decode("utf-8"), newline=""))
            rows = [_row(cells) for cells in lines if cells != HEADER]
            file.truncate(len(whole))
        return rows
    except OSError as error:
        raise FathomError(f"expected a file to write rows to at {path}, got: {error.strerror}; name another") from error
    except (ValueError, csv.Error) as error:
        raise FathomError(
            f"expected {path} to be empty, or rows of an earlier `fathom bench`, got {error}; it was left as it is: name another"
        ) from error


def _row(cells: list[str]) -> Row:
    """Raises ValueError: these are not the cells of a row."""
    try:
        return Row(**{name: read(cell) for (name, read), cell in zip(READERS.items(), cells, strict=True)})
    except (ValueError, KeyError) as error:
        raise ValueError(f"the line {','.join(cells)[:100]!r}") from error


def _append(path: Path, row: Row) -> None:
    """One more row, in the file when this returns; a header first in a new file."""
    fresh = not path.exists() or path.stat().st_size == 0
    with path.open("ab") as file:
        file.write((_header() if fresh else b"") + _line([*asdict(row).values()]))


def _header() -> bytes:
    return _line(HEADER)


def _line(cells: list[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8")


# The folder


def _pairs(path: Path) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row[0], row[1]) for row in _table(path, 2)))


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
