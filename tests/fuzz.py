"""Random questions whose answer is known: whatever the search does, it may not call one of them wrongly.

    python -m tests.fuzz --seconds 600 --seed 0 --keep found/

Each network is small and drawn from what verifiers trip over: weights of very different magnitude, rows that are copies or
negatives of one another but for the last bit, branches that cancel, every operator that bends. The lowest point of a random
rule is searched by sampling, with onnxruntime. Then the rule is moved so that this very point fails by a hair, over the real
numbers too, as float64 shows: that is never `unsat`. And moved so that the point passes; how often the checker rejects the
certificate of an `unsat` is counted.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from fathom.audits.verify import Verification, verify
from tests.onnx_models import Array, Node, f, model, op

Random = np.random.Generator
SAMPLES = 4096  # a round
ROUNDS = 6  # the best points, and closer and closer around them
HAIR = 1e-6  # by how much the lowest point fails, of how large the rule's terms are there


# --- Networks ---------------------------------------------------------------------------------------------------------------


def weights(random: Random, rows: int, columns: int) -> Array:
    """[rows, columns] float32, one column a neuron."""
    w = random.normal(size=(rows, columns)) / np.sqrt(rows)
    match random.integers(5):
        case 0:  # of very different magnitude
            w *= 10.0 ** random.uniform(-4, 2, (rows, columns))
        case 1:  # small whole numbers, so that much is exactly 0
            w = np.round(2 * w)
        case 2:  # every second neuron the negative of the one before
            w[:, 1::2] = -w[:, : columns - columns % 2 : 2]
        case 3:  # the same but for the last bit
            w[:, 1::2] = w[:, : columns - columns % 2 : 2] * (1 + random.choice([-1, 1]) * 2.0**-23)
    return np.asarray(w, np.float32)


def dense(random: Random, x: str, name: str, before: int, after: int) -> Node:
    w, b = weights(random, before, after), random.normal(size=after) * random.choice([0, 0.3, 3])
    if random.random() < 0.3 and after > 1:
        b[1] = -b[0]
    return op("Gemm", x, w, f(*b)).named(name)


BENDS: dict[str, Callable[[str, str], list[Node]]] = {
    "relu": lambda x, y: [op("Relu", x).named(y)],
    "leaky": lambda x, y: [op("LeakyRelu", x, alpha=0.1).named(y)],
    "abs": lambda x, y: [op("Abs", x).named(y)],
    "clip": lambda x, y: [op("Clip", x, np.array(-0.5, np.float32), np.array(1, np.float32)).named(y)],
    "pair": lambda x, y: [  # relu(z) + relu(-z)
        op("Neg", x).named(f"{y}n"),
        op("Relu", f"{y}n").named(f"{y}b"),
        op("Relu", x).named(f"{y}a"),
        op("Add", f"{y}a", f"{y}b").named(y),
    ],
    "difference": lambda x, y: [  # relu(z) - relu(-z), which is z
        op("Neg", x).named(f"{y}n"),
        op("Relu", f"{y}n").named(f"{y}b"),
        op("Relu", x).named(f"{y}a"),
        op("Sub", f"{y}a", f"{y}b").named(y),
    ],
    "cancel": lambda x, y: [op("Relu", x).named(f"{y}r"), op("Sub", x, f"{y}r").named(y)],
    "larger": lambda x, y: [op("Neg", x).named(f"{y}n"), op("Max", f"{y}n", x, f(0.3)).named(y)],
    "sigmoid": lambda x, y: [op("Sigmoid", x).named(y)],
    "tanh": lambda x, y: [op("Tanh", x).named(y)],
    "gate": lambda x, y: [op("Sigmoid", x).named(f"{y}s"), op("Mul", x, f"{y}s").named(y)],
    "softmax": lambda x, y: [op("Softmax", x, axis=1).named(y)],
    "square": lambda x, y: [
        op("Clip", x, np.array(-3, np.float32), np.array(3, np.float32)).named(f"{y}c"),
        op("Mul", f"{y}c", x).named(y),
    ],
}
KINKED = ("relu", "leaky", "abs", "clip", "pair", "difference", "cancel", "larger")


def network(random: Random) -> tuple[onnx.ModelProto, int, int]:
    """A model on a batch of any size; how many inputs and outputs it has."""
    inputs, outputs = int(random.integers(1, 6)), int(random.integers(1, 4))
    bends = ("relu",) if random.random() < 0.5 else KINKED if random.random() < 0.6 else tuple(BENDS)
    nodes, x, width = [], "x", inputs
    for depth in range(int(random.integers(1, 4))):
        after = int(random.integers(2, 11))
        nodes += [dense(random, x, f"z{depth}", width, after), *BENDS[str(random.choice(bends))](f"z{depth}", f"v{depth}")]
        x, width = f"v{depth}", after
        if random.random() < 0.2:
            nodes.append(op("Add", x, f"z{depth}").named(f"s{depth}"))
            x = f"s{depth}"
    nodes.append(dense(random, x, "y", width, outputs))
    return model(*nodes, x=("N", inputs)), inputs, outputs


def doubled(network: onnx.ModelProto) -> onnx.ModelProto:
    """The same weights as float64 numbers."""
    twin = onnx.ModelProto()
    twin.CopyFrom(network)
    for tensor in twin.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for port in (*twin.graph.input, *twin.graph.output):
        port.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    return twin


# --- Rules ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """A catastrophe: a clause all of whose rows are <= 0. A row is coefficients . y + offset."""

    clauses: tuple[tuple[tuple[Array, float], ...], ...]

    def values(self, y: Array) -> Array:
        """[n] margins of outputs [n, m]."""
        return np.min([np.max([y @ row + offset for row, offset in clause], 0) for clause in self.clauses], 0)

    def size(self, y: Array) -> float:
        return max(float(np.abs(y) @ np.abs(row) + abs(offset)) for clause in self.clauses for row, offset in clause)

    def moved(self, by: float) -> Rule:
        return Rule(tuple(tuple((row, offset + by) for row, offset in clause) for clause in self.clauses))

    def text(self) -> str:
        clauses = (" ".join(_row(row, offset) for row, offset in clause) for clause in self.clauses)
        return f"(assert (or {' '.join(f'(and {clause})' for clause in clauses)}))"


def _row(row: Array, offset: float) -> str:
    terms = " ".join(f"(* {_decimal(c)} Y_{j})" for j, c in enumerate(row))
    return f"(<= (+ {terms} {_decimal(offset)}) 0.0)"


def _decimal(value: float) -> str:
    """All digits of a float64 number, without an exponent."""
    return np.format_float_positional(value, unique=True, trim="0")


def rule(random: Random, outputs: int) -> Rule:
    clauses = []
    for _ in range(int(random.integers(1, 4))):
        rows = random.integers(-2, 3, (int(random.integers(1, 4)), outputs)).astype(float)
        clauses.append(tuple((row, float(random.normal())) for row in rows))
    return Rule(tuple(clauses))


# --- Questions --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """A rule, the box it is asked over, and the lowest point that sampling found."""

    network: onnx.ModelProto
    lower: Array  # float32
    upper: Array
    rule: Rule
    point: Array
    margin: float  # there, in float64
    size: float

    def write(self, folder: Path, shift: float) -> tuple[Path, Path]:
        ports = zip(("X", "Y"), (len(self.lower), len(self.rule.clauses[0][0][0])), strict=True)
        lines = [f"(declare-const {name}_{i} Real)" for name, count in ports for i in range(count)]
        ends = enumerate(zip(self.lower.tolist(), self.upper.tolist(), strict=True))
        lines += [f"(assert (>= X_{i} {_decimal(a)}))\n(assert (<= X_{i} {_decimal(b)}))" for i, (a, b) in ends]
        onnx.save(self.network, folder / "model.onnx")
        (folder / "rule.vnnlib").write_text("\n".join([*lines, self.rule.moved(shift).text()]) + "\n")
        return folder / "model.onnx", folder / "rule.vnnlib"


def question(seed: int) -> Question:
    random = np.random.default_rng(seed)
    net, inputs, outputs = network(random)
    middle, radius = random.normal(size=inputs), 10.0 ** random.uniform(-2, 1, inputs) * (random.random(inputs) < 0.9)
    lower, upper = (middle - radius).astype(np.float32), (middle + radius).astype(np.float32)
    session = onnxruntime.InferenceSession(net.SerializeToString(), providers=["CPUExecutionProvider"])
    asked = rule(random, outputs)
    x = random.uniform(lower, upper, (SAMPLES, inputs))
    x[: SAMPLES // 4] = random.choice([lower, upper], (SAMPLES // 4,))  # whole corners, all low or all high
    x[SAMPLES // 4 : SAMPLES // 2] = np.where(random.random((SAMPLES // 4, inputs)) < 0.5, lower, upper)
    for k in range(ROUNDS):
        x = np.clip(x.astype(np.float32), lower, upper)
        best = x[np.argsort(asked.values(session.run(None, {"x": x})[0].astype(np.float64)))[:16]]
        steps = random.normal(size=(SAMPLES // 16, 16, inputs)) * (upper - lower) * 0.3 ** (k + 1)
        x = np.concatenate([best, (best + steps).reshape(-1, inputs)])
    y = ReferenceEvaluator(doubled(net)).run(None, {"x": best[:1].astype(np.float64)})[0]
    return Question(net, lower, upper, asked, best[0], float(asked.values(y)[0]), asked.size(y[0]))


def judge(seed: int, folder: Path, seconds: float) -> tuple[str, str]:
    """What came of a failing question, and of one that may hold; a word that begins with WRONG is a bug."""
    asked = question(seed)
    if not np.isfinite(asked.size):
        return "overflow", "overflow"
    hair = HAIR * (1 + asked.size)
    failing = verify(*asked.write(folder, -asked.margin - hair), seconds=seconds)
    first = "WRONG unsat" if failing.verdict == "unsat" else _confirmed(failing, asked.rule.moved(-asked.margin - hair), asked)
    gap = hair * 10.0 ** np.random.default_rng(seed).uniform(0, 5)
    holding = verify(*asked.write(folder, gap - asked.margin), seconds=seconds, certificate=folder / "proof.npz")
    if holding.verdict == "unsat":
        check = holding.check
        assert check is not None
        rejected = not check.accepted and "rejected" in check.words
        return first, "unsat, rejected" if rejected else "unsat, checked" if check.accepted else "unsat, unchecked"
    return first, _confirmed(holding, asked.rule.moved(gap - asked.margin), asked)


def _confirmed(answer: Verification, moved: Rule, asked: Question) -> str:
    """A `sat` is run again in onnxruntime, inside the box, and in float64."""
    if answer.witness is None:
        return answer.verdict
    x = answer.witness[0].numpy()
    session = onnxruntime.InferenceSession(asked.network.SerializeToString(), providers=["CPUExecutionProvider"])
    y = session.run(None, {"x": x[None]})[0].astype(np.float64)
    real = ReferenceEvaluator(doubled(asked.network)).run(None, {"x": x[None].astype(np.float64)})[0]
    inside = bool(((asked.lower <= x) & (x <= asked.upper)).all())
    slack = 1e-12 * (1 + moved.size(real[0]))
    return "sat" if inside and moved.values(y)[0] <= slack and moved.values(real)[0] <= slack else "WRONG sat"


def main() -> None:
    words = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    words.add_argument("--seconds", type=float, default=60, help="how long in all")
    words.add_argument("--each", type=float, default=5, help="seconds a question")
    words.add_argument("--seed", type=int, default=0, help="of the first question; the next ones count on")
    words.add_argument("--keep", type=Path, help="a folder for questions that were called wrongly")
    given = words.parse_args()
    end, counts, seed = time.monotonic() + given.seconds, Counter[str](), given.seed
    while time.monotonic() < end:
        with tempfile.TemporaryDirectory() as folder:
            results = judge(seed, Path(folder), given.each)
            counts.update({f"failing: {results[0]}": 1, f"passing: {results[1]}": 1})
            if any(result.startswith("WRONG") for result in results):
                print(f"seed {seed}: {results}", flush=True)
                if given.keep is not None:
                    shutil.copytree(folder, given.keep / f"seed-{seed}")
        seed += 1
    for name, count in sorted(counts.items()):
        print(f"{count:6d}  {name}")
    raise SystemExit(any("WRONG" in name for name in counts))


if __name__ == "__main__":
    main()
