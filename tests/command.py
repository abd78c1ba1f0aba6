"""Running the command line: in this process where only words and codes matter, in its own where processes do; and small files
for it to work on."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def verdict(self) -> str:
        return self.out.split("\n", 1)[0]


def fathom(*words: object, folder: Path | None = None) -> Outcome:
    """`fathom WORDS` in this process and in `folder`, through the entry point itself."""
    from fathom import cli

    out, err = io.StringIO(), io.StringIO()
    code = 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["fathom", *map(str, words)])
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(cli, "keep_freed_memory", lambda: None)  # of this process, which runs other tests too
        patch.setattr(cli, "STARTED", time.monotonic())  # this process has run for long already
        patch.setenv("COLUMNS", "200")
        if folder is not None:
            patch.chdir(folder)
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def arguments(*words: object) -> list[str]:
    """The command line that runs `fathom WORDS` in a process of its own."""
    return [sys.executable, "-m", "fathom", *map(str, words)]


def environment(**more: str) -> dict[str, str]:
    """For such a process: one thread, and nothing that changes how text is drawn."""
    plain = {
        name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "GITHUB_ACTIONS", "NO_COLOR", "COLUMNS")
    }
    return {**plain, "OMP_NUM_THREADS": "1", **more}


def start(*words: object, folder: Path) -> subprocess.Popen[str]:
    """`fathom WORDS` in a process of its own, in `folder`."""
    pipe = subprocess.PIPE
    return subprocess.Popen(arguments(*words), cwd=folder, env=environment(), stdout=pipe, stderr=pipe, text=True)


def finish(process: subprocess.Popen[str]) -> Outcome:
    """Waits for the end of a process."""
    out, err = process.communicate(timeout=120)
    return Outcome(process.returncode, out, err)


def write_model(path: Path, widths: Sequence[int], seed: int = 0, shape: Sequence[int | str] | None = None) -> Path:
    """A network of dense layers and rectifiers with random weights, as ONNX; `shape` of its input, by default [1, widths[0]]."""
    random = np.random.default_rng(seed)
    nodes, weights, value = [helper.make_node("Flatten", ["x"], ["v0"])], [], "v0"
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        w = random.normal(size=(before, after)).astype(np.float32) / np.float32(np.sqrt(before))
        b = random.normal(size=after).astype(np.float32) / 4
        weights += [numpy_helper.from_array(w, f"w{i}"), numpy_helper.from_array(b, f"b{i}")]
        last = i == len(widths) - 2
        nodes.append(helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], ["y" if last else f"h{i}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"h{i}"], [f"v{i + 1}"]))
            value = f"v{i + 1}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, widths[0]] if shape is None else list(shape))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, widths[-1]])
    graph = helper.make_graph(nodes, "dense", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def write_data(path: Path, model: Path, count: int, seed: int = 1, wrong: int = 0) -> Path:
    """Samples in [0, 1], labelled as the model reads them but for the first `wrong`."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.read_bytes(), providers=["CPUExecutionProvider"])
    shape = [size if isinstance(size, int) else 1 for size in session.get_inputs()[0].shape]
    x = np.random.default_rng(seed).random((count, *shape[1:]), dtype=np.float32)
    scores = np.concatenate([session.run(None, {"x": sample[None]})[0] for sample in x])
    y = scores.argmax(1)
    y[:wrong] = (y[:wrong] + 1) % scores.shape[1]
    np.savez(path, x=x, y=y)
    return path


def write_property(path: Path, lower: float, upper: float, inputs: int, outputs: int, rule: str) -> Path:
    """A VNN-LIB property over a box that is [lower, upper] in every input."""
    lines = [f"(declare-const X_{i} Real)" for i in range(inputs)] + [f"(declare-const Y_{i} Real)" for i in range(outputs)]
    lines += [f"(assert (>= X_{i} {lower}))\n(assert (<= X_{i} {upper}))" for i in range(inputs)]
    path.write_text("\n".join([*lines, f"(assert {rule})"]) + "\n")
    return path
