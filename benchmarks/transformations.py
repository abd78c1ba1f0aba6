"""Transformations of digits: how many are proved and broken, and what that costs.

    make audit  # trains the network
    python -m benchmarks.transformations FOLDER --csv benchmarks/transformations.csv [--limit 20] [--seconds 120] [--only WORDS]

FOLDER holds digits.safetensors and digits.npz. Each chain of transformations is one audit of the first `limit` images. Prints a
line for each: proved, broken and unknown among those that the network reads rightly, processor seconds, and sub-problems.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import numpy
import torch

import fathom
from examples.digits.model import trained
from fathom.transforms.blur import Blur
from fathom.transforms.brightness import Brightness
from fathom.transforms.contrast import Contrast
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Audit digits under transformations.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    model = trained(asked.folder / "digits.safetensors")
    with numpy.load(asked.folder / "digits.npz") as data:
        x, y = (torch.from_numpy(data[name][: asked.limit]) for name in ("x", "y"))
    new = not asked.csv.exists()
    with asked.csv.open("a", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        if new:
            rows.writerow(("transformations", "cases", "already_wrong", "proved", "broken", "unknown", "cpu_seconds", "boxes"))
        for chain in CHAINS:
            region = Transformed.around(x, chain, clip=(0, 1))
            if asked.only not in str(region):
                continue
            began = time.process_time()
            judge = fathom.Misclassification(label=y, classes=10)
            result = fathom.audit(model, region, judge, budget=fathom.Budget(seconds=asked.seconds))
            spent, counts = time.process_time() - began, result.counts
            tally = counts.cases, counts.already_wrong, counts.proved, counts.broken, counts.unknown
            row = (str(region), *tally, round(spent, 1), int(result.answers.cost.boxes.sum()))
            print(*row, sep="   ", flush=True)
            rows.writerow(row)
            file.flush()


if __name__ == "__main__":
    main()
