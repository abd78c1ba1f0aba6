"""How the cost of a bound grows with batch, width, depth and leaves, on seeded random networks.

    python -m benchmarks.cost --svg FILE --csv FILE

One of the four is varied at a time, from a batch of 16 boxes round points of 20 inputs and four layers of 64 rectifiers. Figures
of one run compare with each other, not with those of another machine.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.throughput import problem
from fathom.bounds.crown import crown
from fathom.cli.memory import keep_freed_memory
from fathom.core.budget import Budget
from fathom.prove.branch import BranchAndBound

BATCHES = (1, 4, 16, 64, 256)
WIDTHS = (16, 32, 64, 128, 256)
DEPTHS = (1, 2, 4, 8)
LEAVES = (64, 256, 1024, 4096)
SIZE, GAP = 220, 60  # of one plot, in pixels

Series = list[tuple[int, float]]


def seconds(work: Callable[[], object]) -> float:
    """The least of three runs after one for warming up."""
    times = []
    for _ in range(4):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def bound(batch: int, width: int, depth: int) -> float:
    """CROWN on so many boxes through so many layers of so many rectifiers."""
    asked = problem([20, *[width] * depth, 10], 0.05, batch, 0)
    assert asked.network is not None
    network = asked.network.freeze(torch.float64)
    return seconds(lambda: crown(asked, network))


def split(leaves: int) -> float:
    """Branch and bound of one case that is far from decided, until so many leaves are bounded."""
    asked = problem([5, *[50] * 6, 5], 0.4, 1, 0)
    began = time.perf_counter()
    BranchAndBound().solve(asked, Budget(passes=leaves))
    return time.perf_counter() - began


def slope(series: Series) -> float:
    """The exponent: how the logarithm of the time grows with that of the size, from the first point to the last."""
    (first, begin), (last, end) = series[0], series[-1]
    return math.log(end / begin) / math.log(last / first)


def drawn(all_series: dict[str, Series]) -> str:
    """An SVG of one log-log plot a series."""
    width = len(all_series) * (SIZE + GAP) + GAP
    size = f'width="{width}" height="{SIZE + 2 * GAP}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">']
    for k, (name, series) in enumerate(all_series.items()):
        left, bottom = GAP + k * (SIZE + GAP), GAP + SIZE
        x, y = _scale([at for at, _ in series], left, left + SIZE), _scale([s for _, s in series], bottom, GAP)
        points = [(x(at), y(spent)) for at, spent in series]
        parts.append(f'<rect x="{left}" y="{GAP}" width="{SIZE}" height="{SIZE}" fill="none" stroke="#999"/>')
        parts.append(f'<text x="{left}" y="{GAP - 10}">seconds against {name}: exponent {slope(series):.2f}</text>')
        parts.append(f'<polyline fill="none" stroke="#06c" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>')
        for (a, b), (at, spent) in zip(points, series, strict=True):
            parts.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="#06c"/>')
            parts.append(f'<text x="{a:.1f}" y="{bottom + 14}" text-anchor="middle">{at}</text>')
            parts.append(f'<text x="{a:.1f}" y="{b - 7:.1f}" text-anchor="middle">{spent:.2g}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _scale(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    low, high = math.log(min(values)), math.log(max(values))
    return lambda value: start + (end - start) * (math.log(value) - low) / max(high - low, 1e-9)


def main() -> None:
    parser = argparse.ArgumentParser(description="How the cost of bounds grows.")
    parser.add_argument("--svg", type=Path, required=True)
    parser.add_argument("--csv", type=Path, required=True)
    asked = parser.parse_args()
    keep_freed_memory()
    series: dict[str, Series] = {
        "batch": [(n, bound(n, 64, 4)) for n in BATCHES],
        "width": [(n, bound(16, n, 4)) for n in WIDTHS],
        "depth": [(n, bound(16, 64, n)) for n in DEPTHS],
        "leaves": [(n, split(n)) for n in LEAVES],
    }
    with asked.csv.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["varied", "size", "seconds"])
        writer.writerows([name, size, f"{spent:.6g}"] for name, points in series.items() for size, spent in points)
    asked.svg.write_text(drawn(series), encoding="utf-8")
    for name, points in series.items():
        print(f"{name}: exponent {slope(points):.2f}, " + ", ".join(f"{size} {spent:.4f} s" for size, spent in points))


if __name__ == "__main__":
    main()
