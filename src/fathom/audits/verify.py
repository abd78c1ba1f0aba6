"""One property of one model, in the standard's words: sat, unsat, unknown, timed-out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fathom.audits.cases import by_case
from fathom.audits.checking import UNWRITTEN, Check, Records, certify
from fathom.audits.portfolio import quick, recorded_at_no_cost
from fathom.capture.captured import Captured
from fathom.capture.onnx_file import read_onnx
from fathom.capture.onnx_program import OnnxProgram
from fathom.capture.vnnlib import Property, Query, read_property, to_problem
from fathom.core.answer import Answers, Reason, Verdict, Witnesses
from fathom.core.arguments import require_file, require_files, require_seconds
from fathom.core.arithmetic import Arithmetic
from fathom.core.budget import Budget
from fathom.core.confirm import confirm
from fathom.core.errors import FathomError
from fathom.core.network import Port
from fathom.core.problem import Problem
from fathom.core.program import Program
from fathom.prove.work import suited_threads

UNREPEATED = "in the time left the proof could not be repeated by the means that a certificate has a place for; give more seconds"
WORDS = {Verdict.PROVED: "unsat", Verdict.BROKEN: "sat", Verdict.UNKNOWN: "unknown"}


@dataclass(frozen=True, eq=False)
class Verification:
    """The answer about one property: of the network over the real numbers, or of the float32 program, as `arithmetic` says."""

    verdict: str  # "sat", "unsat", "unknown" or "timed-out"
    answers: Answers | None  # of the one case; None where the property holds because it allows no input at all
    program: Program
    reason: str  # a sentence
    seconds: float
    check: Check | None = None  # of an `unsat` for which a certificate was asked
    query: Query | None = None  # what a property of VNN-LIB 2 declares
    arithmetic: Arithmetic = Arithmetic.REAL

    @property
    def witness(self) -> tuple[Tensor, Tensor] | None:
        """For `sat`: input [d] in the program's dtype, and the output [m] that the deployed program gives there.

        Those of VNN-LIB 2 are the inputs of all networks end to end, and the outputs and hidden values of all.
        """
        if self.verdict != "sat" or self.answers is None:
            return None
        x, y = self.answers.found.x[0], self.answers.found.y[0]
        if self.query is None:
            return x, y
        return torch.stack([x[v] if v >= 0 else y[~v].to(x.dtype) for v in self.query.columns]), y[: self.query.outputs]

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

    @property
    def assignment(self) -> tuple[Tensor, Tensor, Sequence[Port], Sequence[Port]]:
        """For `sat`, inputs [d] and outputs [m], and the variables that are slices of them.

        Those of VNN-LIB 2 all count as inputs here, in the order in which they are declared: networks follow one another.
        """
        assert self.witness is not None
        x, y = self.witness
        if self.query is None:
            return (x, y, *self.variables)
        dtype = str(self.program.dtype).removeprefix("torch.")
        ports = [
            Port(tensor.name, tensor.shape, tensor.start + (0 if tensor.kind == "input" else len(x)), dtype)
            for network in self.query.networks
            for tensor in network.tensors
        ]
        return torch.cat([x.to(torch.float64), y.to(torch.float64)]), y[:0], ports, ()

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
    network: str | Path | Mapping[str, str | Path],
    prop: str | Path,
    seconds: float | None = None,
    seed: int = 0,
    certificate: str | Path | None = None,
    arithmetic: Arithmetic | str | None = None,
    tell: Callable[[str], None] = lambda verdict: None,
) -> Verification:
    """Decide a VNN-LIB property of an ONNX model, or of several.

    Args:
        network: an .onnx or .onnx.gz file; or one for each network that a property of VNN-LIB 2 declares, by its name.
        prop: a .vnnlib or .vnnlib.gz file.
        seconds: wall clock, from now on; None for no limit.
        certificate: where to write the proof of an `unsat`, for the independent checker; it is run at once, in what is left of
            the time, and `check` says what it found.
        arithmetic: "real" or "float32": whether the answer is about the network over the real numbers, or about the float32
            program under any order of summation. None: what a property of VNN-LIB 2 declares its variables as, and else "real".
        tell: told the verdict as soon as it stands, before the work on a certificate begins.

    Raises:
        FathomError: a file that is not understood, or a model whose float32 program is not.
    """
    began = time.monotonic()
    require_files("network", network, "the path of an .onnx file")
    require_file("prop", prop, "the path of a .vnnlib file")
    require_seconds(seconds)

    def left() -> float | None:
        return None if seconds is None else seconds - (time.monotonic() - began)

    found = read_property(prop)
    if found.query is not None and certificate is not None:
        raise FathomError(f"{found.name}: expected a property of VNN-LIB 1 for a certificate, got VNN-LIB 2; leave it out")
    way = _arithmetic(found, arithmetic)
    captured = _captured(found, network, way)
    problem = to_problem(found, captured)
    records: Records = []
    at_once = certificate is not None and recorded_at_no_cost(problem)
    if not len(problem):
        answers, verdict, reason = None, "unsat", "the property allows no input"
    else:
        answers = solve_one(problem, Budget(seconds=left()), seed, records if at_once else None)
        verdict, why = WORDS[answers.verdict(0)], answers.why(0)
        reason = why.value
        if verdict == "unknown" and why is Reason.TIME:
            verdict = "timed-out"
    tell(verdict)
    check = None
    if certificate is not None and verdict == "unsat":
        files, every = (_only(found, network), Path(prop)), torch.arange(len(problem))
        try:
            if at_once or not len(problem) or solve_one(problem, Budget(seconds=_some(left())), seed, records).proved[0]:
                check = certify(problem, every, records, files, Path(certificate), numbered=False, seconds=_some(left()))
            else:
                check = Check(accepted=False, words=UNREPEATED)
        except KeyboardInterrupt:  # the verdict stands
            check = UNWRITTEN
    return Verification(verdict, answers, captured.program, reason, time.monotonic() - began, check, found.query, way)


def _some(seconds: float | None) -> float | None:
    """What is left of a time limit, and not less than nothing."""
    return None if seconds is None else max(seconds, 0.0)


def _arithmetic(prop: Property, asked: Arithmetic | str | None) -> Arithmetic:
    """What the answer is to be about; a query's own types count where nothing else is asked for."""
    if asked is not None:
        return Arithmetic(asked)
    types = set() if prop.query is None else {tensor.dtype for network in prop.query.networks for tensor in network.tensors}
    return Arithmetic.FLOAT32 if types == {Arithmetic.FLOAT32.value} else Arithmetic.REAL


def _captured(prop: Property, network: str | Path | Mapping[str, str | Path], arithmetic: Arithmetic) -> Captured:
    if prop.query is None:
        return read_onnx(_only(prop, network), arithmetic)
    from fathom.capture.joint import read_joint

    return read_joint(prop.query, network, arithmetic)


def _only(prop: Property, network: str | Path | Mapping[str, str | Path]) -> Path:
    """The one file that VNN-LIB 1 speaks of."""
    if isinstance(network, Mapping):
        if len(network) != 1:
            raise FathomError(f"{prop.name}: expected one model, since VNN-LIB 1 speaks of one, got {len(network)}")
        (network,) = network.values()
    return Path(network)


def solve_one(problem: Problem, budget: Budget, seed: int = 0, records: Records | None = None) -> Answers:
    """The answers of a problem that is a single case; `records` is filled with what its proofs are made of."""
    with torch.random.fork_rng(devices=[]), suited_threads(problem.network):
        answers = quick(problem, seed, records).solve(problem, budget)
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
