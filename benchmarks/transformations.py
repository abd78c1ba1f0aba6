"""Transformations of pictures: how many are proved and broken, what that costs, and how many mere sampling breaks.

    make audit  # trains the network
    python -m benchmarks.transformations FOLDER --csv benchmarks/transformations.csv [--limit 20] [--seconds 120] [--only WORDS]
    python -m benchmarks.transformations FOLDER --csv benchmarks/transformations.csv --public ../shared/vnncomp --limit 4

FOLDER holds digits.safetensors and digits.npz. Each chain of transformations is one audit of the first `limit` images. Prints a
line for each: proved, broken and unknown among those that the network reads rightly, how many of the images a grid of values
and as many random ones break, processor seconds of the audit, and sub-problems; and on the screen the most memory so far. With
`--public` the images are 32 x 32, in colour, and the network is the public ResNet of sri_resnet_a.
"""

from __future__ import annotations

import argparse
import csv
import resource
import tempfile
import time
from pathlib import Path

import numpy
import torch
from torch import Tensor, nn

import fathom
from benchmarks.attack_networks import cifar
from examples.digits.model import trained
from fathom.capture.onnx_file import read_onnx
from fathom.capture.torch_module import capture_module
from fathom.transforms.blur import Blur
from fathom.transforms.brightness import Brightness
from fathom.transforms.contrast import Contrast
from fathom.transforms.program import in_front
from fathom.transforms.region import Transformed
from fathom.transforms.rotation import Rotation
from fathom.transforms.scaling import Scaling
from fathom.transforms.transformation import Transformation
from fathom.transforms.translation import Translation
from fathom.transforms.warp import Warp

CHAINS: tuple[tuple[Transformation, ...], ...] = (
    (Rotation((-5, 5)),),
    (Rotation((-10, 10)),),
    (Rotation((-20, 20)),),
    (Translation((-0.1, 0.1), (-0.1, 0.1)),),
    (Translation((-0.3, 0.3), (-0.3, 0.3)),),
    (Scaling((0.9, 1.1)),),
    (Brightness((-0.2, 0.2)), Contrast((0.8, 1.2))),
    (Blur((0.1, 0.8)),),
    (Warp((-0.2, 0.2)),),
    (Rotation((-5, 5)), Translation((-0.1, 0.1), (-0.1, 0.1)), Scaling((0.95, 1.05))),
    (Rotation((-5, 5)), Brightness((-0.1, 0.1)), Contrast((0.9, 1.1))),
    (Brightness((-0.05, 0.05)), Rotation((-3, 3))),
)


LARGE: tuple[tuple[Transformation, ...], ...] = (
    (Rotation((-1, 1)),),
    (Brightness((-0.02, 0.02)),),
    (Rotation((-1, 1)), Brightness((-0.02, 0.02))),
)
GRID = 4000  # points, about; and as many random ones
COLUMNS = "transformations,shape,cases,already_wrong,proved,broken,unknown,sampled_broken,cpu_seconds,boxes"


def main() -> None:
    parser = argparse.ArgumentParser(description="Audit pictures under transformations.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--only", default="")
    parser.add_argument("--public", type=Path)
    asked = parser.parse_args()
    if asked.public is None:
        model = trained(asked.folder / "digits.safetensors")
        with numpy.load(asked.folder / "digits.npz") as data:
            x, y = (torch.from_numpy(data[name][: asked.limit]) for name in ("x", "y"))
        measure(model, x, y, CHAINS, asked)
        return
    with tempfile.TemporaryDirectory() as into:
        subject = next(cifar(asked.public, Path(into), ["sri_resnet_a/resnet_3b2"]))
        measure(subject.model, subject.images[: asked.limit], subject.labels[: asked.limit], LARGE, asked)


def measure(
    model: nn.Module | Path, x: Tensor, y: Tensor, chains: tuple[tuple[Transformation, ...], ...], asked: argparse.Namespace
) -> None:
    """Audit images x [n, c, h, w] with labels y [n] under every chain; a row each in the file asked for."""
    new = not asked.csv.exists()
    with asked.csv.open("a", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        if new:
            rows.writerow(COLUMNS.split(","))
        for chain in chains:
            region = Transformed.around(x, chain, clip=(0, 1))
            if asked.only not in str(region):
                continue
            began = time.process_time()
            judge = fathom.Misclassification(label=y, classes=10)
            result = fathom.audit(model, region, judge, budget=fathom.Budget(seconds=asked.seconds))
            spent, counts = time.process_time() - began, result.counts
            tally = counts.cases, counts.already_wrong, counts.proved, counts.broken, counts.unknown
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            shape, boxes = "x".join(map(str, x.shape[1:])), int(result.answers.cost.boxes.sum())
            row = (str(region), shape, *tally, sampled(model, region, y), round(spent, 1), boxes)
            print(*row, f"{memory:.2f} GB", sep="   ", flush=True)
            rows.writerow(row)
            file.flush()


def sampled(model: nn.Module | Path, region: Transformed, y: Tensor) -> int:
    """How many images fail at a point of a grid over the parameters, or at a random point of as many."""
    captured = read_onnx(model) if isinstance(model, Path) else capture_module(model, region.shape)
    program = in_front(region, captured).program
    box = region.box()
    lower, upper = box.lower[:, region.pixels :], box.upper[:, region.pixels :]
    count = lower.shape[1]
    steps = [torch.linspace(0, 1, max(2, round(GRID ** (1 / count))), dtype=torch.float64)] * count
    grid = torch.cartesian_prod(*steps).reshape(-1, count)
    share = torch.cat([grid, torch.rand(len(grid), count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)])
    broken = 0
    for picture, low, high, label in zip(region.pictures(box.lower), lower, upper, y.tolist(), strict=True):
        found = False
        for part in share.split(500):
            values = low + part * (high - low)
            scores = program(torch.cat([picture.expand(len(part), -1), values], 1).to(program.dtype))
            found = found or bool((scores.argmax(1) != label).any())
        broken += found
    return broken


if __name__ == "__main__":
    main()
