"""What attacks are compared on: digits networks of three trainings and two shapes, and CIFAR networks of the public benchmarks.

All networks are ONNX files from images [n, channels, height, width] in [0, 1] to ten scores. The digits networks are trained
here, in seconds, with fixed seeds; those of CIFAR get their normalisation put in front, and their images are the centres of
the published properties' boxes.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from examples.digits.train import split_digits, train, write_onnx
from fathom.capture.onnx_file import read_onnx
from fathom.capture.vnnlib import read_property, to_problem

POINTS = {"digits": 60, "cifar": 8}
RADII = {  # by network: L-infinity, L2, L1; a good share of the points survives
    "mlp-standard": (0.09, 0.5, 1.5),
    "mlp-adversarial": (0.14, 0.6, 1.5),
    "mlp-ibp": (0.16, 0.6, 1.2),
    "cnn-standard": (0.09, 0.5, 1.5),
    "cnn-adversarial": (0.14, 0.6, 1.5),
    "cnn-ibp": (0.16, 0.6, 1.2),
    "vit_2023/pgd_2_3_16": (4 / 255, 0.7, 7.0),
    "vit_2023/ibp_3_3_8": (1.15 / 255, 0.135, 0.9),
    "sri_resnet_a/resnet_3b2": (2 / 255, 0.3, 4.0),
}
NORMS = ("Linf", "L2", "L1")
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # of CIFAR-10, as the published networks were trained
STRENGTH = 0.1  # the L-infinity radius that the robust trainings train for


@dataclass(frozen=True, eq=False)
class Subject:
    """A network as an ONNX file, with images [n, c, h, w] in [0, 1] and their labels [n]."""

    name: str
    model: Path
    images: Tensor
    labels: Tensor


def digits(into: Path, names: list[str]) -> Iterator[Subject]:
    """The digits networks that are asked for, trained."""
    x, y, held_x, held_y = split_digits(0)
    count = POINTS["digits"]
    for name in names:
        if name not in RADII or "/" in name:
            continue
        shape, training = name.split("-")
        torch.manual_seed(0)
        model, generator = mlp() if shape == "mlp" else cnn(), torch.Generator().manual_seed(0)
        if training == "standard":
            train(model, x, y, generator, epochs=20)
        else:
            train_robustly(model, x, y, generator, certified=training == "ibp")
        path = into / f"{name}.onnx"
        write_onnx(model.eval(), path)
        yield Subject(name, path, held_x[:count], held_y[:count])


def mlp() -> nn.Sequential:
    """Two hidden layers of a hundred rectifiers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))


def cnn() -> nn.Sequential:
    """Two convolutions and a hidden layer."""
    return nn.Sequential(
        nn.Conv2d(1, 12, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 24, kernel_size=3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(384, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def train_robustly(model: nn.Sequential, x: Tensor, y: Tensor, generator: torch.Generator, *, certified: bool) -> None:
    """Adam on what an adversary within `STRENGTH` makes of the images, or on what intervals say that it may.

    Madry et al., Towards deep learning models resistant to adversarial attacks, ICLR 2018; Gowal et al., On the effectiveness
    of interval bound propagation, 2018. The radius grows over the first half.
    """
    epochs = 60 if certified else 20
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for epoch in range(epochs):
        radius = STRENGTH * min(1.0, 2 * epoch / epochs)
        for rows in torch.randperm(len(x), generator=generator).split(64):
            if certified:
                worst = interval_scores(model, x[rows], y[rows], radius)
                loss = 0.5 * nn.functional.cross_entropy(worst, y[rows]) + 0.5 * nn.functional.cross_entropy(
                    model(x[rows]), y[rows]
                )
            else:
                loss = nn.functional.cross_entropy(model(perturbed(model, x[rows], y[rows], radius)), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()


def perturbed(model: nn.Module, x: Tensor, y: Tensor, radius: float, steps: int = 5) -> Tensor:
    """Images moved against the model by signed steps."""
    moved = x
    for _ in range(steps):
        moved = moved.detach().requires_grad_()
        (slope,) = torch.autograd.grad(nn.functional.cross_entropy(model(moved), y), moved)
        moved = moved.detach() + 2.5 * radius / steps * slope.sign()
        moved = torch.maximum(torch.minimum(moved, x + radius), x - radius).clamp(0, 1)
    return moved.detach()


def interval_scores(model: nn.Sequential, x: Tensor, y: Tensor, radius: float) -> Tensor:
    """The worst scores by intervals: the least of the right class, the greatest of the others."""
    lower, upper = (x - radius).clamp(0, 1), (x + radius).clamp(0, 1)
    for layer in model:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            middle, half = layer((lower + upper) / 2), (upper - lower) / 2
            if isinstance(layer, nn.Linear):
                spread = half @ layer.weight.abs().T
            else:
                spread = nn.functional.conv2d(half, layer.weight.abs(), None, layer.stride, layer.padding)
            lower, upper = middle - spread, middle + spread
        else:
            lower, upper = layer(lower), layer(upper)
    return torch.where(nn.functional.one_hot(y, upper.shape[1]).bool(), lower, upper)


def cifar(root: Path, into: Path, names: list[str]) -> Iterator[Subject]:
    """The public networks that are asked for; the labels are what the network says of the centres."""
    for name in names:
        if "/" not in name:
            continue
        family, start = name.split("/")
        with (root / family / "instances.csv").open() as file:
            pairs = [row[:2] for row in csv.reader(file) if Path(row[0]).name.startswith(start)][: POINTS["cifar"]]
        path = into / f"{start}.onnx"
        raw = gzip.decompress((root / family / f"{pairs[0][0]}.gz").read_bytes())
        path.write_bytes(raw)
        captured = read_onnx(path)
        boxes = [to_problem(read_property(root / family / f"{prop}.gz"), captured).region.box() for _, prop in pairs]
        mean, deviation = (torch.tensor(t, dtype=torch.float64)[:, None, None] for t in (MEAN, DEVIATION))
        images = torch.stack([box.middle.reshape(3, 32, 32) for box in boxes]) * deviation + mean
        onnx.save(normalised(onnx.load_from_string(raw)), path)
        images = images.clamp(0, 1).float()
        labels = read_onnx(path).program(images.flatten(1)).argmax(1)
        yield Subject(name, path, images, labels)


def normalised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model behind the normalisation of its images."""
    graph = model.graph
    constants = {constant.name for constant in graph.initializer}
    old = next(entry for entry in graph.input if entry.name not in constants)
    parts = {"image_mean": MEAN, "image_deviation": DEVIATION}
    for name, numbers in parts.items():
        graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.float32).reshape(1, 3, 1, 1), name))
    front = [
        helper.make_node("Sub", ["image", "image_mean"], ["image_centred"]),
        helper.make_node("Div", ["image_centred", "image_deviation"], [old.name]),
    ]
    nodes = [*front, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    shape = [dim.dim_param or dim.dim_value for dim in old.type.tensor_type.shape.dim]
    graph.input.remove(old)
    graph.input.insert(0, helper.make_tensor_value_info("image", TensorProto.FLOAT, shape))
    return model
