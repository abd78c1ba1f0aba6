"""One property of one model, in the standard's words: sat, unsat, unknown, timed-out."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fathom.audits.cases import by_case
from fathom.audits.checking import Check, Records, certify
from fathom.audits.portfolio import quick
from fathom.capture.onnx_file import read_onnx
from fathom.capture.onnx_program import OnnxProgram
from fathom.capture.vnnlib import read_property, to_problem
from fathom.core.answer import Answers, Reason, Verdict, Witnesses
from fathom.core.budget import Budget
from fathom.core.confirm import confirm
from fathom.core.network import Port
from fathom.core.problem import Problem
from fathom.core.program import Program

WORDS = {Verdict.PROVED: "unsat", Verdict.BROKEN: "sat", Verdict.UNKNOWN: "unknown"}


@dataclass(frozen=True, eq=False)
class Verification:
    """The answer about one property, under `real` arithmetic with the model file's weights."""

    verdict: str  # "sat", "unsat", "unknown" or "timed-out"
    answers: Answers | None  # of the one case; None where the property holds because it allows no input at all
    program: Program
    reason: str  # a sentence
    seconds: float
    check: Check | None = None  # of an `unsat` for which a certificate was asked

    @property
    def witness(self) -> tuple[Tensor, Tensor] | None:
        """For `sat`: input [d] in the program's dtype, and the output [m] that the deployed program gives there."""
        if self.verdict != "sat" or self.answers is None:
            return None
        return self.answers.found.x[0], self.answers.found.y[0]

    @property
    def variables(self) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        """X and Y, all the inputs and all the outputs, as VNN-LIB 1 calls them.

        Their shapes are the model's own, its batch of one included, so that who reads an assignment can give it to the model as
        it is; flat where the model has several inputs, or several outputs, which VNN-LIB 1 numbers through.
        """
        from onnx import ModelProto

        program = self.program
        values = []
        if isinstance(program, OnnxProgram):
            graph = ModelProto.FromString(program.model).graph
            values = [*graph.input, *graph.output]
        shapes = {value.name: value.type.tensor_type.shape.dim for value in values}

        def variable(name: str, ports: tuple[Port, ...]) -> Port:
            if len(ports) != 1:
                return Port(name, (sum(port.size for port in ports),), 0, ports[0].dtype)
            port = ports[0]
            declared = tuple(max(size.dim_value, 1) for size in shapes.get(port.name, ()))  # 1 for a symbolic batch
            return Port(name, declared if math.prod(declared) == port.size else (1, *port.shape), 0, port.dtype)

        return (variable("X", program.inputs),), (variable("Y", program.outputs),)

    def notes(self) -> list[str]:
        """What a reviewer should know besides: sentences."""
        notes = [] if self.check is None else [self.check.line()]
        if self.answers is None:
            return notes
        found = self.answers.found
        if self.verdict == "sat" and not found.in_written[0]:
            notes.append(
                "the witness lies in the region rounded to the model's input type, and by that rounding outside the decimals as "
                "written; no failure was found inside them"
            )
        if found.rounding_failure[0]:
            notes.append(
                f"rounding failure: at one input the deployed program's margin is {found.deployed[0].item()!r}, while the real "
                f"network's is between {found.real_lower[0].item()!r} and {found.real_upper[0].item()!r}"
            )
        return notes


def verify(
    network: str | Path,
    prop: str | Path,
    seconds: float | None = None,
    seed: int = 0,
    certificate: str | Path | None = None,
) -> Verification:
    """Decide a VNN-LIB property of an ONNX model.

    Args:
        network: an .onnx or .onnx.gz file.
        prop: a .vnnlib or .vnnlib.gz file.
        seconds: wall clock, from now on; None for no limit.
        certificate: where to write the proof of an `unsat`, for the independent checker; it is run at once, in what is left of
            the time, and `check` says what it found.

    Raises:
        FathomError: a file that is not understood.
    """
    began = time.monotonic()

    def left() -> float | None:
        return None if seconds is None else seconds - (time.monotonic() - began)

    captured = read_onnx(network)
    problem = to_problem(read_property(prop), captured)
    records: Records | None = None if certificate is None else []
    if not len(problem):
        answers, verdict, reason = None, "unsat", "the property allows no input"
    else:
        answers = solve_one(problem, Budget(seconds=left()), seed, records)
        verdict, why = WORDS[answers.verdict(0)], answers.why(0)
        reason = why.value
        if verdict == "unknown" and why is Reason.TIME:
            verdict = "timed-out"
    check = None
    if certificate is not None and records is not None and verdict == "unsat":
        files, time_left = (Path(network), Path(prop)), left()
        every = torch.arange(len(problem))
        seconds_left = None if time_left is None else max(time_left, 0.0)
        check = certify(problem, every, records, files, Path(certificate), numbered=False, seconds=seconds_left)
    return Verification(verdict, answers, captured.program, reason, time.monotonic() - began, check)


def solve_one(problem: Problem, budget: Budget, seed: int = 0, records: Records | None = None) -> Answers:
    """The answers of a problem that is a single case; `records` is filled with what its proofs are made of."""
    with torch.random.fork_rng(devices=[]):
        answers = quick(seed, records).solve(problem, budget)
    return by_case(problem, replace(answers, found=inside_written(problem, answers.found)))


def inside_written(problem: Problem, found: Witnesses) -> Witnesses:
    """The same failures, moved from the rounded ends of the region into the decimals as written where they fail there too."""
    if not bool((found.broken & ~found.in_written).any()):
        return found
    box, dtype = problem.written.box(), problem.program.dtype
    lower, upper = box.lower.to(dtype), box.upper.to(dtype)
    lower = torch.where(lower.to(torch.float64) < box.lower, lower.nextafter(torch.full_like(lower, torch.inf)), lower)
    upper = torch.where(upper.to(torch.float64) > box.upper, upper.nextafter(torch.full_like(upper, -torch.inf)), upper)
    moved = confirm(problem, torch.minimum(torch.maximum(found.x, lower), upper))
    return moved.where(moved.broken & moved.in_written & ~found.in_written, found)
