"""Checks certificates of Fathom: reads model, property and certificate by itself, derives every bound again, accepts or rejects.

Stands alone: numpy, onnx and the standard library. What a certificate is and what is proved by it: docs/certificate.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fathom_checker.bounds import Bounder
from fathom_checker.certificate import read_certificate
from fathom_checker.errors import Malformed, Rejected
from fathom_checker.model import read_model
from fathom_checker.numbers import Numbers
from fathom_checker.problem import read_problem
from fathom_checker.question import require_answered
from fathom_checker.reading import digest, read_bytes
from fathom_checker.region import Balls
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
    numbers, model_bytes, property_bytes = Numbers(exact), read_bytes(Path(model)), read_bytes(Path(property))
    network = read_model(model_bytes, numbers)
    is_problem = property_bytes.lstrip()[:1] == b"{"
    question = read_problem(property_bytes, digest(model_bytes)) if is_problem else read_vnnlib(property_bytes, network.dtype)
    if (question.inputs, question.outputs) != (network.inputs, network.outputs):
        raise Malformed(
            f"the property is about {question.inputs} inputs and {question.outputs} outputs, the model has "
            f"{network.inputs} and {network.outputs}"
        )
    file = read_certificate(read_bytes(Path(certificate)), network.inputs, network.outputs, network.neurons)
    for name, content in (("model", model_bytes), ("property", property_bytes)):
        if file.header[name] != digest(content):
            raise Rejected(f"the certificate is about another {name} file")
    single = file.header["arithmetic"] == "float32"
    if single and network.dtype != np.float32:
        raise Malformed("float32 arithmetic of a float64 model is not understood")
    require_answered(question, file)
    sets = file["tree_set"]
    balls = question.balls
    if balls is not None:
        if len(sets) and not ((sets >= 0) & (sets < len(balls.radius))).all():
            raise Malformed("the certificate has trees about no set of the problem")
        balls = Balls(balls.p, balls.centre[sets], balls.radius[sets])
    with np.errstate(all="ignore"):
        Walk(file, Bounder(network.numbered(file.header["relus"]), numbers, balls, memory, single=single)).run()
    return f"{len(file['kind'])} nodes in {len(sets)} trees, {file.header['arithmetic']} arithmetic"
