"""Checks certificates of Fathom: reads model, property and certificate by itself, derives every bound again, accepts or rejects.

Stands alone: numpy, onnx and the standard library. What a certificate is and what is proved by it: docs/certificate.md.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from fathom_checker.bounds import Bounder
from fathom_checker.certificate import read_certificate, unpack
from fathom_checker.model import read_model
from fathom_checker.numbers import Numbers
from fathom_checker.problem import read_problem
from fathom_checker.question import require_answered
from fathom_checker.reading import Malformed, Rejected, read_bytes
from fathom_checker.tree import Walk
from fathom_checker.vnnlib import read_vnnlib

__all__ = ["Malformed", "Rejected", "check"]


def check(model: str | Path, property: str | Path, certificate: str | Path, *, exact: bool = False, memory: int = 1 << 28) -> str:
    """Accept a certificate: returns what was checked, in words.

    Args:
        model: an `.onnx` file, plain or gzipped.
        property: a VNN-LIB 1 file, plain or gzipped, or the `problem.json` of `fathom.export`.
        exact: in rational numbers, slowly.
        memory: bytes of working arrays, about.

    Raises:
        Rejected: the certificate does not prove it; says where.
        Malformed: a file cannot be read, or is not understood.
    """
    numbers, files = Numbers(exact), [read_bytes(Path(path)) for path in (model, property, certificate)]
    (header, arrays), sums = unpack(files[2]), [hashlib.sha256(file).hexdigest() for file in files]
    single = header["arithmetic"] == "float32"
    network = read_model(files[0], numbers, header["relus"], real=not single)
    exported = files[1].lstrip()[:1] == b"{"
    question = read_problem(files[1], sums[0]) if exported else read_vnnlib(files[1], network.dtype)
    if (question.inputs, question.outputs) != (network.inputs, network.outputs):
        theirs, ours = f"{question.inputs} inputs and {question.outputs} outputs", f"{network.inputs} and {network.outputs}"
        raise Malformed(f"the property is about {theirs}, the model has {ours}")
    for name, found in zip(("model", "property"), sums):
        if header[name] != found:
            raise Rejected(f"the certificate is about another {name} file")
    file = read_certificate(arrays, network.inputs, network.outputs, network.neurons)
    if single and network.dtype != np.float32:
        raise Malformed("float32 arithmetic of a float64 model is not understood")
    require_answered(question, file)
    try:
        with np.errstate(all="ignore"):
            Walk(file, Bounder(network, numbers, question.balls, memory, single=single)).run()
    except IndexError as reason:
        raise Malformed(f"the certificate names something that is not there: {reason}") from reason
    return f"{len(file['kind'])} nodes in {len(file['tree_set'])} trees, {header['arithmetic']} arithmetic"
