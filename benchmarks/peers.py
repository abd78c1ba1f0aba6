"""Fathom beside what a user could install from PyPI instead, in one run on one machine.

    python -m benchmarks.peers verdicts ../shared/vnncomp --peer PYTHON --csv FILE    # maraboupy: verdicts and times
    python -m benchmarks.peers bounds ../shared/vnncomp --peer PYTHON --csv FILE      # auto-LiRPA: CROWN and alpha-CROWN

PYTHON is the interpreter of an environment of its own that has the peer (see README.md): auto-LiRPA asks for a torch that Fathom
is too new for. `--device cuda` has the bounds of both computed on the GPU.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import torch

from benchmarks.chains import NotAChain, write_chain
from benchmarks.queries import Instance, instances, problem, write_query
from fathom.bounds.alpha import AlphaCrown
from fathom.bounds.crown import Crown
from fathom.core.budget import Budget, Goal
from fathom.core.problem import Problem
from fathom.core.solver import Solver
from fathom.overseers.linear_rules import LinearRules

HERE = Path(__file__).parent
GRACE = 5.0  # seconds beyond the limit after which a process is ended
FAR = 1000.0  # added to every row while alpha-CROWN runs, so that no bound is good enough to stop at
STEPS = 20  # of alpha-CROWN's optimisation, on both sides
VERDICTS = {"acasxu": 4, "rl_benchmarks": 8, "mnist_fc": 4}  # of each family, every so many instances
BOUNDS = {"acasxu": 31, "rl_benchmarks": 20, "mnist_fc": 5, "oval21": 15}


@dataclass(frozen=True)
class Verdict:
    """One instance, decided by one tool."""

    family: str
    model: str
    prop: str
    expected: str
    tool: str
    verdict: str
    seconds: float


@dataclass(frozen=True)
class Bounds:
    """One instance, bounded by both."""

    family: str
    model: str
    prop: str
    method: str
    fathom: float  # the lower bound on the margin
    lirpa: float
    fathom_seconds: float
    lirpa_seconds: float


def verdicts(root: Path, peer: str, seconds: float, into: Path) -> Iterator[Verdict]:
    """Both tools, whole processes, one after the other, on every instance."""
    for family, every in VERDICTS.items():
        for instance in instances(root, family, every, into):
            asked = into / "query.json"
            write_query(problem(instance), asked)
            ours = [sys.executable, "-m", "fathom", "verify", str(instance.prop), "--network", str(instance.model)]
            theirs = [peer, str(HERE / "peer_marabou.py"), str(instance.model), str(asked), str(seconds)]
            for tool, command in (("fathom", [*ours, "--timeout", str(seconds)]), ("marabou", theirs)):
                word, spent = _run(command, seconds)
                yield Verdict(family, instance.model.name, instance.prop.name, instance.expected, tool, word, spent)


def _run(command: list[str], seconds: float) -> tuple[str, float]:
    """The verdict of a fresh process, and its time, start included."""
    began = time.monotonic()
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds + GRACE)
        words = [line for line in ended.stdout.split() if line in ("sat", "unsat", "unknown", "timed-out")]
        word = words[0] if words else "error"
    except subprocess.TimeoutExpired:
        word = "timed-out"
    return word, time.monotonic() - began


def bounds(root: Path, peer: str, device: str, into: Path) -> Iterator[Bounds]:
    """CROWN and alpha-CROWN by both, in float64, on networks that are chains of what both know."""
    for family, every in BOUNDS.items():
        for instance in instances(root, family, every, into):
            asked = problem(instance)
            try:
                write_chain(asked, into / "chain.npz")
            except NotAChain as reason:
                print(f"{instance.model.name}: left out, {reason}", file=sys.stderr)
                continue
            command = [peer, str(HERE / "peer_lirpa.py"), str(into / "chain.npz"), str(STEPS), device]
            ended = subprocess.run(command, capture_output=True, text=True)
            if ended.returncode:
                print(f"{instance.model.name}: auto-LiRPA: {ended.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                continue
            found = json.loads(ended.stdout.strip().splitlines()[-1])
            for method, key, solver in (
                ("CROWN", "CROWN", Crown(device)),
                ("alpha-CROWN", "CROWN-Optimized", AlphaCrown(steps=STEPS, inner_steps=STEPS, device=device)),
            ):
                values, spent = found[key]
                margin, seconds = _ours(solver, asked)
                yield Bounds(*_names(instance), method, margin, _margin(asked, values), seconds, spent)


def _names(instance: Instance) -> tuple[str, str, str]:
    return instance.family, instance.model.name, instance.prop.name


def _ours(solver: Solver, asked: Problem) -> tuple[float, float]:
    """The least margin by a solver of Fathom's, and the seconds: the least of three runs after one for warming up.

    The problem is moved where nothing is proved, so that all steps are taken; what it was moved by is taken off again.
    """
    assert asked.spec is not None
    spec = replace(asked.spec, offsets=asked.spec.offsets - FAR)
    moved = replace(asked, spec=spec, overseer=LinearRules(spec))
    seconds, margin = [], 0.0
    for _ in range(4):
        began = time.perf_counter()
        margin = solver.solve(moved, Budget(goal=Goal.VALUE)).lower[0].item() + FAR
        seconds.append(time.perf_counter() - began)
    return margin, min(seconds[1:])


def _margin(asked: Problem, values: list[float]) -> float:
    """The margin that bounds on the products of rows and output give."""
    assert asked.spec is not None
    spec = asked.spec.take(torch.zeros(1, dtype=torch.int64))
    return float(spec.combine(torch.tensor([values], dtype=torch.float64) + spec.offsets[spec.of])[0])


def _write(path: Path, kind: type[Verdict] | type[Bounds], rows: list[Verdict] | list[Bounds]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([f.name for f in fields(kind)])
        for row in rows:
            writer.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in astuple(row)])


def tell_verdicts(rows: list[Verdict]) -> None:
    """Decided, wrong and times, by family and tool."""
    for family in VERDICTS:
        for tool in ("fathom", "marabou"):
            mine = [row for row in rows if (row.family, row.tool) == (family, tool)]
            decided = [row for row in mine if row.verdict in ("sat", "unsat")]
            against = sum(row.verdict != row.expected for row in decided if row.expected in ("sat", "unsat"))
            times = [row.seconds for row in mine]
            if mine:
                print(
                    f"{family:15} {tool:8} decided {len(decided)} of {len(mine)}, against the expected {against}; seconds: "
                    f"median {statistics.median(times):.2f}, longest {max(times):.1f}, sum {sum(times):.0f}"
                )


def tell_bounds(rows: list[Bounds]) -> None:
    """How tight and how fast, by family and method."""
    for family in BOUNDS:
        for method in ("CROWN", "alpha-CROWN"):
            mine = [row for row in rows if (row.family, row.method) == (family, method)]
            if not mine:
                continue
            near = [1e-6 * (1 + abs(row.lirpa)) for row in mine]
            tighter = sum(row.fathom > row.lirpa + slack for row, slack in zip(mine, near, strict=True))
            looser = sum(row.fathom < row.lirpa - slack for row, slack in zip(mine, near, strict=True))
            ratio = statistics.median(row.fathom_seconds / row.lirpa_seconds for row in mine)
            print(
                f"{family:15} {method:11} {len(mine)} instances: Fathom's bound tighter on {tighter}, looser on {looser}, the "
                f"same on {len(mine) - tighter - looser}; time, Fathom's over auto-LiRPA's, median {ratio:.2f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description="Fathom beside maraboupy and auto-LiRPA.")
    parser.add_argument("what", choices=["verdicts", "bounds"])
    parser.add_argument("folder", type=Path, help="the public benchmarks")
    parser.add_argument("--peer", default=sys.executable, help="interpreter that has the peer")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds an instance, for verdicts")
    parser.add_argument("--device", default="cpu", help="of the bounds: cpu or cuda")
    parser.add_argument("--csv", type=Path, required=True, help="a row for each tool and instance")
    asked = parser.parse_args()
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}", flush=True)
    with tempfile.TemporaryDirectory() as into:
        if asked.what == "verdicts":
            given = []
            for row in verdicts(asked.folder, asked.peer, asked.timeout, Path(into)):
                given.append(row)
                _write(asked.csv, Verdict, given)
            tell_verdicts(given)
        else:
            found = []
            for line in bounds(asked.folder, asked.peer, asked.device, Path(into)):
                found.append(line)
                _write(asked.csv, Bounds, found)
            tell_bounds(found)


if __name__ == "__main__":
    main()
