"""Writes the folders of certificates beside this file: `python -m tests.certificates.make`.

Each case is a folder with a model, a property and a certificate. Those in rejected/ are named for the lie they tell, those in
malformed/ for what is wrong with them.
"""

from __future__ import annotations

import gzip
import io
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from fathom.capture.export import export
from fathom.capture.torch_module import capture_module
from fathom.core.problem import Problem
from fathom.core.region import Region
from fathom.overseers.misclassification import Misclassification
from fathom.regions.box import BoxRegion
from fathom.regions.l1 import L1Ball
from fathom.regions.l2 import L2Ball
from fathom.regions.linf import LinfBall
from tests.certifier import Node, Spec, arrays, branch, certify, header, packed, trees
from tests.onnx_models import f, i, model, number, op, w

FOLDER = Path(__file__).parent
Parts = dict[str, Any]


def vnnlib(inputs: int, outputs: int, rule: str, low: str = "-1", high: str = "1") -> bytes:
    lines = [f"(declare-const X_{k} Real)" for k in range(inputs)] + [f"(declare-const Y_{k} Real)" for k in range(outputs)]
    lines += [f"(assert (>= X_{k} {low}))\n(assert (<= X_{k} {high}))" for k in range(inputs)]
    return "\n".join([*lines, f"(assert {rule})", ""]).encode()


def put(kind: str, name: str, network: bytes, rule: bytes, certificate: bytes) -> None:
    folder = FOLDER / kind / name
    folder.mkdir(parents=True)
    suffix = "json" if rule.lstrip().startswith(b"{") else "vnnlib"
    for stem, content in (("model.onnx", network), (f"property.{suffix}", rule), ("certificate.npz", certificate)):
        zipped = content.startswith(b"\x1f\x8b")
        (folder / (stem + ".gz" * zipped)).write_bytes(content)


def tent() -> bytes:
    """y0 = |x0| + |x1|, y1 = x0, from four rectifiers."""
    first = np.array([[1, -1, 0, 0], [0, 0, 1, -1]], np.float32)
    last = np.array([[1, 1], [1, -1], [1, 0], [1, 0]], np.float32)
    network = model(op("MatMul", "x", first).named("a"), op("Relu", "a").named("r"), op("MatMul", "r", last), x=(1, 2))
    return network.SerializeToString()


def identity() -> bytes:
    """y = relu(z) - relu(-z) - z of z = 3 x + 1, which is 0."""
    parts = op("Gemm", "x", f(3, -3)[None], f(1, -1)).named("a"), op("Relu", "a").named("r")
    ends = op("MatMul", "r", f(1, -1)[:, None]).named("b"), op("Gemm", "x", f(3)[None], f(1)).named("c")
    return model(*parts, *ends, op("Sub", "b", "c"), x=(1, 1)).SerializeToString()


def proof(network: bytes, rule: bytes, **more: Any) -> tuple[Parts, Parts]:
    made = certify(network, rule, **more)
    assert made is not None
    return made


def accept(name: str, network: bytes, rule: bytes, **more: Any) -> None:
    put("accepted", name, network, rule, packed(*proof(network, rule, **more)))


def accepted() -> None:
    bowl = tent()
    accept("one_leaf", bowl, vnnlib(2, 2, "(>= Y_0 2.001)"))
    accept("box_splits", bowl, vnnlib(2, 2, "(and (<= Y_0 0.9) (>= Y_1 0.95))"), flags=1)
    accept("phase_splits", bowl, vnnlib(2, 2, "(and (<= Y_0 0.9) (>= Y_1 0.95))"), split=branch)
    accept("two_clauses", bowl, vnnlib(2, 2, "(or (<= Y_0 -0.1) (>= Y_1 1.1))"))
    accept("a_strict_row", bowl, vnnlib(2, 2, "(> Y_1 1.001)"))
    nothing = vnnlib(2, 2, "(and (< X_0 -1) (<= Y_0 5))")
    none = {name: array[:0] for name, array in proof(bowl, vnnlib(2, 2, "(>= Y_0 2.001)"))[1].items()}
    put("accepted", "strict_bounds_that_leave_nothing", bowl, nothing, packed(header(bowl, nothing, []), none))
    accept("twins", identity(), vnnlib(1, 1, "(>= Y_0 0.001)"), rounds=1)
    accept("float32_arithmetic", bowl, vnnlib(2, 2, "(>= Y_0 2.001)"), arithmetic="float32")
    rule = vnnlib(2, 2, "(or (and (<= X_0 -0.5) (>= Y_1 -0.4)) (and (>= X_0 0.5) (<= Y_1 0.4)))")
    accept("two_boxes", bowl, rule)
    head, parts = proof(bowl, rule)
    put("accepted", "gzipped", gzip.compress(bowl, mtime=0), gzip.compress(rule, mtime=0), packed(head, parts))
    rule = vnnlib(2, 2, "(and (<= Y_0 0.9) (>= Y_1 0.95))")
    put("accepted", "weights_and_multipliers", bowl, rule, packed(*priced(bowl, rule, [1.0, 1.0], [2.0, 0.0])))
    picture = model(
        op("Reshape", "x", i(1, 2, 3, 3)).named("a"),
        op("Pad", "a", i(0, 0, 1, 0, 0, 0, 0, 1), number(0.5)).named("b"),
        op("Conv", "b", w(4, 1, 2, 2), w(4), group=2, strides=[1, 2], pads=[0, 1, 1, 0]).named("c"),
        op("BatchNormalization", "c", f(1, 2, 1, 1), w(4), w(4), f(1, 2, 3, 4)).named("d"),
        op("LeakyRelu", "d", alpha=0.25).named("e"),
        op("ReduceMean", "e", axes=[2, 3], keepdims=0).named("h"),
        op("Slice", "h", i(1), i(4), i(1)).named("s"),
        op("Concat", "s", "h", axis=1).named("j"),
        op("Gather", "j", i(0, 0, 4, 2), axis=1).named("k"),
        op("Sub", f(1, 2, 3, 4), "k").named("l"),
        op("Add", "l", "k").named("m"),
        op("Slice", "m", i(1), i(4), i(1)),
        x=(1, 18),
    ).SerializeToString()
    accept("many_operators", picture, vnnlib(18, 3, "(or (<= Y_0 -9) (>= Y_2 9))"))
    for kind in ("Box", "Linf", "L1", "L2"):
        problem(kind)


def priced(network: bytes, rule: bytes, weights: list[float], multipliers: list[float]) -> tuple[Parts, Parts]:
    """One phase split of `tent`'s first neuron, with a choice record a leaf."""
    boxes, specs, of = trees(network, rule)
    root = Node(kind=2, index=0, flags=1, children=[Node(flags=0, index=0), Node(flags=0, index=1)])
    parts = arrays(boxes, specs, of, [root])
    parts["record_weights"] = np.array([weights, weights])
    parts["record_slopes"] = np.full((2, 4), 128, np.uint8)
    parts["multiplier_record"], parts["multiplier_neuron"] = np.array([0, 1]), np.array([0, 0])
    parts["multipliers"] = np.array(multipliers, np.float32)
    return header(network, rule, ["r"]), parts


def problem(kind: str) -> None:
    """A problem made in Python, as files: which class wins may not change near two points."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)).eval()
    centre = torch.linspace(-0.5, 0.5, 8).reshape(2, 4)
    balls = {"Linf": LinfBall, "L1": L1Ball, "L2": L2Ball}
    if kind == "Box":
        region: Region = BoxRegion(centre.double() - 0.001, centre.double() + 0.001)
    else:
        region = balls[kind].around(centre, 0.002, clip=(-0.5, 0.52))
    captured = capture_module(module, (4,))
    judge = Misclassification(module(centre).argmax(1), 3)
    made = Problem.make(captured.program, captured.network, region, judge)
    with tempfile.TemporaryDirectory() as folder:
        export(made, folder)
        network, rule = (Path(folder, name).read_bytes() for name in ("model.onnx", "problem.json"))
    put("accepted", f"problem_{kind}", network, rule, packed(*of_problem(made, network, rule)))


def of_problem(problem: Problem, network: bytes, rule: bytes) -> tuple[Parts, Parts]:
    """One leaf for each set of a problem."""
    assert problem.spec is not None
    box, spec = problem.region.box(), problem.spec
    specs = []
    for k in range(len(spec.rows)):
        clauses = sorted(set(spec.clause[k].tolist()) - {-1})
        places = [[r for r in range(spec.rows.shape[1]) if spec.clause[k, r] == c] for c in clauses]
        specs.append(Spec([[(spec.rows[k, r].tolist(), spec.offsets[k, r].item(), False) for r in rows] for rows in places]))
    boxes = [(low.numpy(), high.numpy()) for low, high in zip(box.lower, box.upper)]
    of, sets = spec.of.tolist(), [*range(len(boxes))]
    return header(network, rule, []), arrays(boxes, specs, of, [Node() for _ in boxes], sets)


def rejected() -> None:
    bowl, rule = tent(), vnnlib(2, 2, "(and (<= Y_0 0.9) (>= Y_1 0.95))")
    sat = vnnlib(2, 2, "(and (<= Y_0 0.9) (>= Y_1 0.85))")

    def lie(name: str, change: Callable[[Parts, Parts], None], asked: bytes = rule, network: bytes = bowl) -> None:
        head, parts = proof(bowl, rule)
        head |= header(network, asked, [])
        change(head, parts)
        put("rejected", name, network, asked, packed(head, parts))

    def set_(name: str, value: Any) -> Callable[[Parts, Parts], None]:
        return lambda _, parts: parts.__setitem__(name, value(parts[name]) if callable(value) else np.asarray(value))

    lie("another_model", lambda head, _: None, network=bowl)
    network = onnx.load_from_string(bowl)
    network.graph.name = "another"
    put("rejected", "another_model_file", network.SerializeToString(), rule, packed(*proof(bowl, rule)))
    shutil.rmtree(FOLDER / "rejected" / "another_model")
    put("rejected", "another_property_file", bowl, rule + b"; changed", packed(*proof(bowl, rule)))
    lie("a_property_that_is_sat", lambda head, parts: None, asked=sat)
    lie("the_box_leaves_out_a_corner", set_("tree_upper", lambda a: a - 1e-9))
    lie("the_box_is_empty", set_("tree_upper", lambda a: a - 3))
    lie("a_constant_rounded_up", set_("row_constant", lambda a: a + 1e-15))
    lie("a_row_made_strict", set_("row_strict", lambda a: 1 - a))
    lie("a_row_of_the_other_sign", set_("rows", lambda a: -a))
    lie("a_row_of_another_output", set_("rows", lambda a: a[:, [1, 0, 2, 3]]))
    lie("a_leaf_that_is_not_proved", lambda _, parts: parts.update(one_leaf(parts)))
    below = vnnlib(2, 2, "(<= Y_0 -0.1)", low="-1", high="0.1")
    head, parts = proof(bowl, below)
    parts["tree_upper"] = np.full((1, 2), 0.1)  # the decimal, and not what it is in float32
    put("rejected", "decimals_that_no_float32_equals_are_not_covered", bowl, below, packed(head, parts))
    two = vnnlib(2, 2, "(or (and (<= X_0 -0.5) (>= Y_1 -0.4)) (and (>= X_0 0.5) (<= Y_1 0.4)))")
    head, parts = proof(bowl, two)
    for name in ("tree_lower", "tree_upper", "tree_spec", "tree_set", "kind", "flags", "index", "cut"):
        parts[name] = parts[name][:1]
    put("rejected", "a_disjunct_without_a_tree", bowl, two, packed(head, parts))
    either = vnnlib(2, 2, "(or (<= Y_0 0.9) (<= Y_1 -5))")
    head, parts = proof(bowl, vnnlib(2, 2, "(and (<= Y_0 0.9) (<= Y_1 -5))"))
    put("rejected", "and_for_or", bowl, either, packed(head | header(bowl, either, []), parts))
    put("rejected", "multipliers_that_are_too_large", bowl, rule, packed(*priced(bowl, rule, [1.0, 1.0], [9.0, 9.0])))
    head, parts = priced(bowl, rule, [1.0, 1.0], [2.0, 0.0])
    parts["multiplier_neuron"] = np.array([2, 2])
    put("rejected", "a_multiplier_of_a_neuron_that_is_not_split", bowl, rule, packed(head, parts))
    put("rejected", "weights_on_one_row_only", bowl, rule, packed(*priced(bowl, rule, [1.0, 0.0], [2.0, 0.0])))
    closed = vnnlib(2, 2, "(>= Y_1 1.001)")
    head, parts = proof(bowl, vnnlib(2, 2, "(> Y_1 1.001)"))
    put("rejected", "strict_for_not_strict", bowl, closed, packed(head | header(bowl, closed, []), parts))
    rule = vnnlib(1, 1, "(>= Y_0 0.001)")
    head, parts = proof(identity(), rule, rounds=1)
    put("rejected", "twins_in_float32", identity(), rule, packed({**head, "arithmetic": "float32"}, parts))
    wide = np.full((64, 2), 1000, np.float32)
    steep = model(op("MatMul", "x", wide).named("a"), op("MatMul", "a", f(1, -1)[:, None]), x=(1, 64))
    rule = vnnlib(64, 1, "(>= Y_0 0.001)")
    head, parts = proof(steep.SerializeToString(), rule)
    head["arithmetic"] = "float32"
    put("rejected", "real_for_float32", steep.SerializeToString(), rule, packed(head, parts))


def one_leaf(parts: Parts) -> Parts:
    """Only the root."""
    return {"kind": np.zeros(1, np.uint8), "flags": parts["flags"][:1], "index": np.full(1, -1), "cut": np.zeros(1)}


def malformed() -> None:
    bowl, rule = tent(), vnnlib(2, 2, "(and (<= Y_0 0.9) (>= Y_1 0.95))")
    head, parts = proof(bowl, rule, flags=1)
    right = packed(head, parts)

    def wrong(name: str, *, certificate: bytes = right, network: bytes = bowl, asked: bytes = rule) -> None:
        put("malformed", name, network, asked, certificate)

    def change(name: str, **more: Any) -> None:
        wrong(name, certificate=packed(head, {n: a for n, a in {**parts, **more}.items() if a is not None}))

    wrong("no_archive", certificate=b"nothing")
    wrong("a_broken_off_archive", certificate=right[:-50])
    wrong("a_damaged_array", certificate=right[:400] + bytes(40) + right[440:])
    wrong("a_pickle", certificate=objects())
    wrong("a_shape_of_terabytes", certificate=entry("kind", huge()))
    wrong("an_unfolded_size_of_gigabytes", certificate=right.replace(sizes(right), b"\xff\xff\xff\xef"))
    wrong("no_header", certificate=packed({}, parts))
    wrong("another_version", certificate=packed({**head, "format": "fathom certificate, version 2"}, parts))
    wrong("another_arithmetic", certificate=packed({**head, "arithmetic": "float16"}, parts))
    wrong("relus_that_are_none", certificate=packed({**head, "relus": ["y"]}, parts))
    change("an_array_left_out", cut=None)
    change("an_array_unheard_of", more=np.zeros(1))
    change("a_cut_that_is_no_number", cut=np.full(len(parts["cut"]), np.nan))
    change("a_child_left_out", **{n: parts[n][:-1] for n in ("kind", "flags", "index", "cut")})
    change("a_node_too_many", **{n: np.append(parts[n], parts[n][-1]) for n in ("kind", "flags", "index", "cut")})
    change("an_input_that_is_none", index=np.where(parts["kind"] == 1, 2, -1))
    change("a_record_that_is_none", index=np.where(parts["kind"] == 0, 0, 0))
    fan = {"kind": np.array([3, 0]), "flags": np.zeros(2, int), "index": np.array([1, -1]), "cut": np.zeros(2)}
    either = certify(bowl, vnnlib(2, 2, "(or (<= Y_0 -0.1) (>= Y_1 1.1))"))
    assert either is not None
    wrong(
        "a_clause_without_a_child",
        certificate=packed(either[0], either[1] | fan),
        asked=vnnlib(2, 2, "(or (<= Y_0 -0.1) (>= Y_1 1.1))"),
    )
    change("boxes_of_other_inputs", tree_lower=np.zeros((1, 3)), tree_upper=np.zeros((1, 3)))
    choices = priced(bowl, rule, [1.0, 1.0], [-1.0, 0.0])
    wrong("a_negative_multiplier", certificate=packed(choices[0], choices[1]))
    wrong("no_model", network=b"nothing")
    strange = model(op("Relu", "x").named("r"), op("Sin", "r"), x=(1, 2))
    wrong("an_operator_unheard_of", network=strange.SerializeToString())
    square = model(op("Relu", "x").named("r"), op("Mul", "r", "r"), x=(1, 2))
    wrong("a_product_of_two_values", network=square.SerializeToString())
    padded = model(op("Conv", "x", w(1, 1, 2), auto_pad="SAME_UPPER"), x=(1, 1, 2))
    wrong("auto_pad", network=padded.SerializeToString())
    outside = onnx.load_from_string(bowl)
    outside.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    wrong("weights_in_another_file", network=outside.SerializeToString())
    wrong("an_unbounded_input", asked=rule.replace(b"(assert (<= X_1 1))", b""))
    wrong("a_property_of_other_sizes", asked=vnnlib(3, 2, "(<= Y_0 -0.1)"))
    wrong("a_property_that_is_not_affine", asked=vnnlib(2, 2, "(<= (* Y_0 Y_0) -0.1)"))
    wrong("a_number_of_a_thousand_million_digits", asked=vnnlib(2, 2, "(<= Y_0 -1e1000000000)"))
    wrong("a_parenthesis_not_closed", asked=rule + b"(")
    wrong("parentheses_without_end", asked=vnnlib(2, 2, "(and " * 5000 + "(<= Y_0 -0.1)" + ")" * 5000))
    wrong("a_damaged_gzip_file", asked=gzip.compress(rule, mtime=0)[:-9])


def entry(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def huge() -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (2**45,)})
    return file.getvalue()


def objects() -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.array([print, print], object), allow_pickle=True)
    return entry("header", file.getvalue())


def sizes(content: bytes) -> bytes:
    """How the archive writes the unfolded size of its first array."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.infolist()[0].file_size.to_bytes(4, "little")


if __name__ == "__main__":
    for kind, write in (("accepted", accepted), ("rejected", rejected), ("malformed", malformed)):
        shutil.rmtree(FOLDER / kind, ignore_errors=True)
        write()
