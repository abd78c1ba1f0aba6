"""A proof written down as a certificate, and handed to the independent checker: a process of its own, which shares no code."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fathom.audits.cases import by_case
from fathom.capture.export import export, write_whole
from fathom.capture.unpack import unpack
from fathom.core.answer import Answers, Claim
from fathom.core.errors import NotUnderstood
from fathom.core.problem import Problem
from fathom.prove.certificate import certificate
from fathom.prove.record import Record

LIMIT = 2 << 30
"""Bytes of a model or property, uncompressed."""

Records = list[tuple[Tensor, Record]]
"""What each search recorded, with the sets that it was about."""


@dataclass(frozen=True)
class Check:
    """What became of a proof's certificate."""

    accepted: bool
    words: str  # the checker's own; or why there was nothing to check, or no time to
    seconds: float = 0.0  # of checking
    size: int = 0  # bytes of the certificate; 0 where there is none
    interrupted: bool = False  # by the user; the verdict stands, and whoever asked is to stop

    @property
    def claim(self) -> Claim:
        return Claim.CHECKED_CERTIFICATE if self.accepted else Claim.CERTIFICATE

    def line(self) -> str:
        """For a person."""
        if self.accepted:
            return f"{self.claim.value}: the independent checker accepted {self.size} bytes in {self.seconds:.2f} s"
        return f"{self.claim.value}: {self.words}"

    def to_json(self) -> dict[str, Any]:
        """Plain types for `json.dumps`."""
        return {"accepted": self.accepted, "words": self.words, "seconds": self.seconds, "bytes": self.size}


UNWRITTEN = Check(accepted=False, words="interrupted before the certificate was written", interrupted=True)


def certify(
    problem: Problem,
    sets: Tensor,
    records: Records,
    files: tuple[Path, Path],
    out: Path,
    *,
    numbered: bool,
    seconds: float | None = None,
) -> Check:
    """Write the certificate that every set at `sets` is safe, and have it checked.

    Args:
        files: the model, and the VNN-LIB file or `problem.json`, as the checker is to read them.
        out: the certificate's file, which appears whole or not at all.
        numbered: whether the second file is a `problem.json`.
        seconds: to check it, at most.

    Interrupted, it returns what the proof is without a check: a verdict is not lost to the wish to see it checked.
    """
    try:
        content = certificate(problem, sets, records, *(unpack(file, LIMIT) for file in files), numbered=numbered)
        write_whole(out, content)
    except NotUnderstood as reason:
        return Check(accepted=False, words=str(reason))
    except KeyboardInterrupt:
        return UNWRITTEN
    try:
        return check(*files, out, seconds)
    except KeyboardInterrupt:  # which has ended the checker
        words = "interrupted before the checker was done; run `fathom check`"
        return Check(accepted=False, words=words, size=len(content), interrupted=True)


def certify_export(problem: Problem, answers: Answers, records: Records, folder: Path) -> Check:
    """The proved cases of an audit as `model.onnx`, `problem.json` and `certificate.npz` in `folder`, checked.

    Args:
        answers: of the sets.
    """
    sets = by_case(problem, answers).proved[problem.owner].nonzero()[:, 0]
    if not len(sets):
        return Check(accepted=False, words="no case is proved")
    proved = problem.take(sets)
    place = torch.full((len(problem),), -1).index_copy(0, sets, torch.arange(len(sets)))
    files = folder / "model.onnx", folder / "problem.json"
    try:
        export(proved, folder)
        moved = [(place[about], record) for about, record in records]
        return certify(proved, torch.arange(len(sets)), moved, files, folder / "certificate.npz", numbered=True)
    except NotUnderstood as reason:
        return Check(accepted=False, words=str(reason))
    except KeyboardInterrupt:
        return UNWRITTEN


def check(model: Path, prop: Path, out: Path, seconds: float | None = None) -> Check:
    """What the independent checker says about a certificate."""
    began, size = time.monotonic(), out.stat().st_size
    # -P: a file called numpy.py in the folder where the user works is no part of the checker.
    command: Sequence[str] = [sys.executable, "-P", "-m", "fathom_checker", *map(str, (model, prop, out))]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, env=_quiet()) as process:
        try:
            verdict, said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            words = "no time was left to check it; run `fathom check`"
            return Check(accepted=False, words=words, seconds=seconds or 0.0, size=size)
        finally:  # `subprocess.run` would not wait for it after an interrupt
            process.kill()
            process.wait()
    spent = time.monotonic() - began
    lines = [line for line in (verdict + said).splitlines() if line.strip()]
    words = lines[0] if lines else f"the checker ended with {process.returncode} and said nothing"
    accepted = process.returncode == 0 and lines[:1] == ["accepted"]
    return Check(accepted=accepted, words=words, seconds=spent, size=size)


def _quiet() -> dict[str, str]:
    """One thread for the checker: its arrays are small."""
    return {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **os.environ}
