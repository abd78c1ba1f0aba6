"""A judging command: started once, asked a line at a time, ended in time, and started again after it failed."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from time import sleep
from typing import IO, Any

from fathom.core.errors import FathomError
from fathom.core.overseer import Severity

MOST_BYTES = 1 << 20
"""A longer answer is no judgement."""

STARTS_A_SECOND = 20
"""A command that fails is started again, and no more often than so."""

PATIENCE = 3
"""Failures in a row may take as long as so many answers; then most questions are spared."""

# Linux ends the command with the process that started it, however that dies; elsewhere it sees the end of its input.
_LAUNCH = """
import ctypes, os, sys
try:
    ctypes.CDLL(None).prctl(1, 9)
except (AttributeError, OSError):
    pass
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True)
class Judged:
    """What a command said of one input."""

    margin: float
    severity: Severity | None = None


class NoJudgement(Exception):
    """What a command did instead of judging, in words."""


class Command:
    """One command for all sets that it judges; it changes as it runs, and counts what went wrong: `asked`, `failed`, `spared`.

    Each question is one line of JSON on its standard input, {"x": [...], "y": [...]}, null for what is no finite number; each
    answer one line on its standard output, {"margin": number} or {"catastrophe": true or false}, with "severity" if it likes.
    """

    def __init__(self, argv: Sequence[str], seconds: float) -> None:
        """`argv`: the program and its arguments, started without a shell; `seconds`: the limit for an answer.

        Raises:
            FathomError: no such program.
        """
        found = shutil.which(argv[0])
        if found is None:
            raise FathomError(f"expected a program that can be run, got {argv[0]!r}, which is not found; give its path")
        self.argv, self.seconds = tuple(argv), seconds
        self.asked, self.failed, self.spared = 0, 0, 0
        self.last = ""  # what went wrong last
        self._lost = 0.0  # seconds, to the failures since it last judged
        self._starts: deque[float] = deque(maxlen=STARTS_A_SECOND)
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._end: weakref.finalize[Any, Any] | None = None

    @property
    def judges(self) -> bool:
        """Whether it has judged anything at all."""
        return self.asked > self.failed

    @property
    def weary(self) -> bool:
        """Whether the failures since it last judged have taken so long that it is better asked little."""
        return self.judges and self._lost >= PATIENCE * self.seconds

    def ask(self, x: Sequence[float], y: Sequence[float]) -> Judged | None:
        """Its judgement; None where it failed to give one, which is counted. The next question finds it started again."""
        self.asked, began = self.asked + 1, time.monotonic()
        question = json.dumps({"x": [_number(v) for v in x], "y": [_number(v) for v in y]}) + "\n"
        try:
            answer = _read(self._exchange(question.encode()))
        except NoJudgement as trouble:
            self.failed, self.last = self.failed + 1, f"{trouble}{self._complaint()}"
            self.close()
            self._lost += time.monotonic() - began
            return None
        except BaseException:  # interrupted between question and answer: what is still to come answers nothing
            self.asked -= 1
            self.close()
            raise
        self._lost = 0.0
        return answer

    def close(self) -> None:
        """End the command, if it runs."""
        if self._end is not None:
            self._end()
        self._process = self._end = None

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._pace()
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the command)
            command = [sys.executable, "-P", "-S", "-c", _LAUNCH, str(os.getpid()), *self.argv]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=self._errors, start_new_session=True, bufsize=0
            )
            self._end = weakref.finalize(self, _kill, self._process)
        return self._process

    def _pace(self) -> None:
        """Wait, where as many starts as a second may have lie within the last one."""
        if len(self._starts) == STARTS_A_SECOND:
            sleep(max(self._starts[0] + 1 - time.monotonic(), 0.0))
        self._starts.append(time.monotonic())

    def _exchange(self, question: bytes) -> bytes:
        """One line in, one line out, by the deadline; it may be slow to read, and so is written to piece by piece."""
        process = self._start()
        assert process.stdin is not None and process.stdout is not None
        into, out = process.stdin.fileno(), process.stdout.fileno()
        os.set_blocking(into, False)
        rest, answer, deadline = memoryview(question), b"", time.monotonic() + self.seconds
        while not answer.endswith(b"\n"):
            readable, writable, _ = select.select([out], [into] if rest else [], [], max(deadline - time.monotonic(), 0.0))
            if not readable and not writable:
                raise NoJudgement(f"gave no answer within {self.seconds:g} s")
            if writable:
                with contextlib.suppress(BrokenPipeError):
                    rest = rest[os.write(into, rest) :]
                    continue
                rest = memoryview(b"")  # it reads no more; what it says, or how it ended, is seen below
            if readable:
                piece = os.read(out, 1 << 16)
                if not piece:
                    raise NoJudgement(_ended(process))
                answer += piece
                if b"\n" in answer[:-1] or len(answer) > MOST_BYTES:
                    raise NoJudgement(f"answered more than one line of at most {MOST_BYTES} bytes: {_shown(answer)}")
        return answer

    def _complaint(self) -> str:
        """The last line of its standard error, if it wrote any."""
        if self._errors is None:
            return ""
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(size - 2000, 0))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"; its standard error ends with {lines[-1].strip()[:200]!r}" if lines else ""


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _read(line: bytes) -> Judged:
    """A judgement from a line.

    Raises:
        NoJudgement: it is none.
    """
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        raise NoJudgement(f"answered what is no JSON: {_shown(line)}") from None
    if not isinstance(answer, dict) or ("margin" in answer) == ("catastrophe" in answer):
        raise NoJudgement(f'answered neither {{"margin": ...}} nor {{"catastrophe": ...}}: {_shown(line)}')
    words = [severity.value for severity in Severity]
    named = answer.get("severity")
    if named is not None and named not in words:
        raise NoJudgement(f"named a severity that is none of {', '.join(words)}: {_shown(line)}")
    severity = None if named is None else Severity(named)
    value = answer.get("margin", answer.get("catastrophe"))
    if "catastrophe" in answer and isinstance(value, bool):
        return Judged(-1.0 if value else 1.0, severity)
    if "margin" in answer and not isinstance(value, bool) and isinstance(value, int | float):
        with contextlib.suppress(OverflowError):  # a whole number beyond all floats
            if math.isfinite(value):
                return Judged(float(value), severity)
    raise NoJudgement(f"answered no finite margin, nor true or false: {_shown(line)}")


def _shown(line: bytes) -> str:
    return repr(line[:120].decode(errors="replace"))


def _ended(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(1.0)
    except subprocess.TimeoutExpired:
        return "closed its standard output"
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code} instead of an answer"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the command and what it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    process.wait()
