"""Attacks by torchattacks, foolbox and adv-lib, in a process of their own, with the interpreter that has them.

    python peer_attacks.py MODEL.onnx POINTS.npz NORM RADIUS

POINTS.npz: images [n, c, h, w] in [0, 1] that the network reads rightly, and labels [n].
Prints a line of JSON an attack: which points it broke, and how many forward and backward passes it made in all. A batch of n
counts n passes. A point counts as broken if the attack's own output is misread, inside the range, and inside the ball up to a
ten-thousandth of the radius.
"""

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from onnx2torch import convert
from torch import Tensor, nn

SEED = 0
CLASSES = 10
ORDER = {"Linf": float("inf"), "L2": 2, "L1": 1}


class Counted(nn.Module):
    """A network that counts the inputs it is given, and the gradients that are asked of its outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.forwards, self.backwards = network, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        y = self.network(x)
        if y.requires_grad:
            y = y.view_as(y)
            y.register_hook(self._backward)
        return y

    def _backward(self, slope: Tensor) -> None:
        self.backwards += len(slope)


def readable(model: onnx.ModelProto, images: np.ndarray) -> onnx.ModelProto:
    """The same network in the operators that the conversion to torch knows, for batches of any size.

    Batch normalisation of unknown rank becomes a product and a sum; reshaping to rows, whatever the batch was, flattens.
    """
    model = onnx.version_converter.convert_version(model, 13) if model.opset_import[0].version < 13 else model
    shapes = _shapes(model, images)
    constants = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            scale, shift, mean, variance = (constants[name].astype(np.float64) for name in node.input[1:])
            epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
            factor = scale / np.sqrt(variance + epsilon)
            tail = [1] * (len(shapes[node.input[0]]) - 2)
            for name, value in (("factor", factor), ("shift", shift - mean * factor)):
                array = value.astype(np.float32).reshape(-1, *tail)
                model.graph.initializer.append(numpy_helper.from_array(array, f"{node.output[0]}_{name}"))
            product = f"{node.output[0]}_product"
            nodes.append(helper.make_node("Mul", [node.input[0], f"{node.output[0]}_factor"], [product]))
            nodes.append(helper.make_node("Add", [product, f"{node.output[0]}_shift"], list(node.output)))
        elif node.op_type == "Reshape" and len(shapes[node.output[0]]) == 2:
            nodes.append(helper.make_node("Flatten", [node.input[0]], list(node.output), axis=1))
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _shapes(model: onnx.ModelProto, images: np.ndarray) -> dict[str, tuple[int, ...]]:
    """The shape of every value when the first image is read."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output]
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(probe.SerializeToString())
    values = session.run(None, {session.get_inputs()[0].name: images[:1]})
    return {name: value.shape for name, value in zip(names, values, strict=True)}


def attacks(model: Counted, norm: str, radius: float) -> Iterator[tuple[str, Callable[[Tensor, Tensor], Tensor]]]:
    """The attacks of each peer for a norm."""
    sys.modules.setdefault("visdom", ModuleType("visdom"))  # adv-lib asks for it, to draw; it does not install everywhere
    import adv_lib.attacks as adv
    import foolbox as fb
    import torchattacks as ta

    order = ORDER[norm]
    adv_norm = {"norm": order}

    def targeted(x: Tensor, y: Tensor) -> Tensor:
        return adv.apgd_targeted(model, x, y, radius, order, **({"use_large_reps": True} if norm == "L1" else {}))

    def untargeted(x: Tensor, y: Tensor) -> Tensor:
        more = {"use_large_reps": True} if norm == "L1" else {}
        return adv.apgd(model, x, y, radius, order, loss_function="ce", **more)

    def fab(x: Tensor, y: Tensor) -> Tensor:
        return adv.fab(model, x, y, order, targeted_restarts=True)

    if norm == "L1":  # torchattacks' own knows no L1: the same parts as its authors use there, Square left out
        yield "AutoAttack", one_after_another(model, untargeted, targeted, fab)
    else:
        yield "AutoAttack", ta.AutoAttack(model, norm=norm, eps=radius, n_classes=CLASSES, seed=SEED)
    yield "adv-lib APGD-T", targeted
    yield "adv-lib FMN", lambda x, y: adv.fmn(model, x, y, steps=200, **adv_norm)
    if norm != "Linf":
        yield "adv-lib ALMA", lambda x, y: adv.alma(model, x, y, num_steps=200, distance=norm.lower())
    foolbox = fb.PyTorchModel(model, bounds=(0, 1), device="cpu")
    kinds = {
        "Linf": [fb.attacks.LinfPGD(steps=100), fb.attacks.LinfDeepFoolAttack()],
        "L2": [fb.attacks.L2PGD(steps=100), fb.attacks.DDNAttack(steps=200)],
        "L1": [fb.attacks.L1FMNAttack(steps=200), fb.attacks.SparseL1DescentAttack(steps=100)],
    }
    for kind in kinds[norm]:
        name = f"foolbox {type(kind).__name__.removesuffix('Attack')}"
        yield name, lambda x, y, kind=kind: kind(foolbox, x, y, epsilons=radius)[1]


def one_after_another(model: Counted, *parts: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Each attack on what the ones before it left standing."""

    def run(x: Tensor, y: Tensor) -> Tensor:
        best = x.clone()
        left = torch.arange(len(x))
        for part in parts:
            if len(left):
                found = part(x[left], y[left]).detach()
                best[left] = found
                with torch.no_grad():
                    left = left[model(found).argmax(1) == y[left]]
        return best

    return run


def main() -> None:
    warnings.simplefilter("ignore")
    path, points, norm, radius = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
    with np.load(points, allow_pickle=False) as file:
        images, labels = file["images"], file["labels"]
    network = convert(readable(onnx.load(path), images)).eval().requires_grad_(requires_grad=False)
    model, x, y = Counted(network).eval(), torch.from_numpy(images), torch.from_numpy(labels)
    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    direct = np.concatenate([session.run(None, {name: image[None]})[0] for image in images[:5]])
    assert np.allclose(network(x[:5]).numpy(), direct, atol=1e-4), "the conversion to torch changed the network"
    for tool, attack in attacks(model, norm, radius):
        torch.manual_seed(SEED)
        model.forwards = model.backwards = 0
        try:
            found = attack(x.clone(), y.clone()).detach()
        except Exception as error:  # a peer that fails is a row of the table
            print(json.dumps({"tool": tool, "error": f"{type(error).__name__}: {error}"[:200]}), flush=True)
            continue
        passes = model.forwards, model.backwards
        change = (found - x).double().flatten(1)
        size = change.abs().amax(1) if norm == "Linf" else change.norm(p=ORDER[norm], dim=1)
        inside = (size <= radius * 1.0001) & ((found >= 0) & (found <= 1)).flatten(1).all(1)
        with torch.no_grad():
            broken = (network(found).argmax(1) != y) & inside
        row = {"tool": tool, "broken": broken.tolist(), "forward": passes[0], "backward": passes[1]}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
