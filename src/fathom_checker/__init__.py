"""Checks certificates of Fathom: reads model, property and certificate by itself, derives every bound again, accepts or rejects.

Stands alone: numpy, onnx and the standard library. What a certificate is, what is proved by it, and the mathematics that this
rests on: docs/certificate.md. To be read in this order: numbers, certificate, question, operators, model, bounds, tree.
"""

import hashlib
from pathlib import Path

import numpy as np

from fathom_checker.bounds import Bounder
from fathom_checker.certificate import Certificate, Malformed, Rejected, read_bytes, reading, require, unpack
from fathom_checker.model import Model
from fathom_checker.numbers import Numbers
from fathom_checker.question import read_problem, read_vnnlib, require_answered
from fathom_checker.tree import Walk

__all__ = ["Malformed", "Rejected", "check"]


def check(model: str | Path, property: str | Path, certificate: str | Path, *, exact: bool = False) -> str:
    """Accept a certificate, and say in words what was checked; or raise `Rejected` or `Malformed`, which say why.

    The model is an `.onnx` file, the property one of VNN-LIB 1 or the `problem.json` of `fathom.export`; each may be gzipped.
    `exact`: in rational numbers, slowly.
    """
    numbers, files = Numbers(exact=exact), [read_bytes(Path(path)) for path in (model, property, certificate)]
    (header, arrays), sums = unpack(files[2]), [hashlib.sha256(file).hexdigest() for file in files]
    single = header["arithmetic"] == "float32"
    network = Model(files[0], numbers, header["relus"], single=single)
    require(not single or network.dtype == np.float32, "a model of float32 for its arithmetic", network.dtype)
    if files[1].lstrip()[:1] == b"{":
        obligations, balls = read_problem(files[1], network.sizes, sums[0])
    else:
        obligations, balls = read_vnnlib(files[1], network.sizes, network.dtype)
    if [header["model"], header["property"]] != sums[:2]:
        raise Rejected("the certificate is about another model file, or another property file")
    with reading("the certificate names something that is not there"), np.errstate(all="ignore"):
        file = Certificate(arrays, *network.sizes, network.neurons)
        require_answered(obligations, file)
        Walk(file, Bounder(network, balls)).run()
    return f"{len(file['kind'])} nodes in {len(file['tree_set'])} trees, {header['arithmetic']} arithmetic"
