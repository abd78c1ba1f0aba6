"""How the cost of a bound grows with batch, width, depth and leaves, on seeded random networks.

    OMP_NUM_THREADS=1 python -m benchmarks.cost --svg FILE --csv FILE

Batch, width and depth are varied one at a time, from CROWN on 16 boxes round points of 20 inputs through four layers of 64
rectifiers. Leaves are those of two searches that are stopped undecided: over boxes of 5 inputs through six layers of 50
rectifiers, and over phases of 60 inputs and three layers of 100. Seconds are the processor's, the least of a few rounds over all
sizes, so that what else the machine does counts for little. Figures of one run compare with each other, not with those of another
machine.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.throughput import problem
from fathom.bounds.crown import crown
from fathom.cli.memory import keep_freed_memory
from fathom.core.budget import Budget
from fathom.prove.branch import BranchAndBound

BATCHES = (1, 4, 16, 64, 256, 1024)
WIDTHS = (16, 32, 64, 128, 256, 512)
DEPTHS = (1, 2, 4, 8, 16)
LEAVES = (64, 256, 1024, 4096, 16384)
ROUNDS = {"batch": 5, "width": 5, "depth": 5, "boxes": 2, "phases": 2}
PANELS = {
    "sets in a batch": ("batch",),
    "neurons in a layer": ("width",),
    "layers": ("depth",),
    "leaves of a search": ("boxes", "phases"),
}
LEFT, WIDE, HIGH, TOP, BELOW = 62, 290, 190, 64, 46  # of a panel, in pixels: its margins, and the plot inside
NOTE = "Seconds of one processor, both axes logarithmic; dashed: in proportion. Times as long: at the right end."
COLOURS = ("#0b62a4", "#c4440c")

Work = Callable[[], int]
"""Does the work of one size, and says the size."""


@dataclass(frozen=True)
class Series:
    """Sizes, ascending, and the seconds that each took."""

    name: str
    points: list[tuple[int, float]]

    @property
    def doubling(self) -> float:
        """What twice the size costs, by the last two points."""
        (size, seconds), (last, end) = self.points[-2:]
        return (end / seconds) ** (math.log(2) / math.log(last / size))


def bound(batch: int, width: int, depth: int, size: int) -> Work:
    """CROWN on so many boxes through so many layers of so many rectifiers."""
    asked = problem([20, *[width] * depth, 10], 0.05, batch, 0)
    assert asked.network is not None
    network = asked.network.freeze(torch.float64)

    def work() -> int:
        crown(asked, network)
        return size

    return work


def search(sizes: list[int], radius: float, seed: int, leaves: int) -> Work:
    """Branch and bound of a case that so many leaves do not decide."""
    asked = problem(sizes, radius, 8, seed).take(torch.tensor([4]))

    def work() -> int:
        answers = BranchAndBound().solve(asked, Budget(passes=leaves))
        assert not answers.decided[0], "a search that ends early does not show what leaves cost"
        return int(answers.cost.boxes[0])

    return work


def measured(name: str, works: list[Work]) -> Series:
    """The least processor time of each work, over rounds through all of them after one for warming up."""
    works[0]()
    least, sizes = [math.inf] * len(works), [0] * len(works)
    for _ in range(ROUNDS[name]):
        for k, work in enumerate(works):
            began = time.process_time()
            sizes[k] = work()
            least[k] = min(least[k], time.process_time() - began)
    return Series(name, list(zip(sizes, least, strict=True)))


def drawn(series: dict[str, Series]) -> str:
    """An SVG of the panels, two by two, both axes logarithmic."""
    width, height = 2 * (LEFT + WIDE + 24), 2 * (TOP + HIGH + BELOW) + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#333">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{LEFT}" y="{height - 12}" fill="#666">{NOTE}</text>',
    ]
    for k, (title, names) in enumerate(PANELS.items()):
        left, top = LEFT + (k % 2) * (width // 2), TOP + (k // 2) * (TOP + HIGH + BELOW)
        parts += _panel(title, [series[name] for name in names], left, top)
    return "\n".join([*parts, "</svg>\n"])


def _panel(title: str, lines: list[Series], left: int, top: int) -> list[str]:
    """Axes and lines, with a dashed one for time in proportion to the size, through the first line's last point."""
    sizes = sorted({2 ** round(math.log2(size)) for size, _ in lines[0].points} if len(lines) == 1 else LEAVES)
    first, last = math.log(sizes[0] / 1.3), math.log(sizes[-1] * 1.3)
    seconds = [spent for line in lines for _, spent in line.points]
    low, high = math.floor(math.log10(min(seconds))), math.ceil(math.log10(max(seconds)))

    def x(size: float) -> float:
        return left + WIDE * (math.log(size) - first) / (last - first)

    def y(spent: float) -> float:
        return top + HIGH - HIGH * (math.log10(spent) - low) / (high - low)

    grows = " and ".join(f"{line.doubling:.1f}" for line in lines)
    parts = [
        f'<text x="{left}" y="{top - 30}" font-size="14" font-weight="600">{title}</text>',
        f'<text x="{left}" y="{top - 12}" fill="#666">twice as many: {grows} times as long</text>',
    ]
    for power in range(low, high + 1):
        at = y(10.0**power)
        parts.append(f'<line x1="{left}" x2="{left + WIDE}" y1="{at:.1f}" y2="{at:.1f}" stroke="#e2e4e6"/>')
        parts.append(f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end" fill="#666">{10.0**power:g} s</text>')
    for size in sizes:
        parts.append(f'<text x="{x(size):.1f}" y="{top + HIGH + 18}" text-anchor="middle" fill="#666">{size}</text>')
    return [*parts, *_lines(lines, x, y, 10.0**low)]


def _lines(lines: list[Series], x: Callable[[float], float], y: Callable[[float], float], least: float) -> list[str]:
    last, end = lines[0].points[-1]
    start = max(lines[0].points[0][0], last * least / end)
    dashed = f'x1="{x(start):.1f}" y1="{y(end * start / last):.1f}" x2="{x(last):.1f}" y2="{y(end):.1f}"'
    parts = [f'<line {dashed} stroke="#888" stroke-dasharray="3 4"/>']
    for line, colour in zip(lines, COLOURS, strict=False):
        points = [(x(size), y(spent)) for size, spent in line.points]
        places = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.75" points="{places}"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{colour}"/>' for a, b in points]
        if len(lines) > 1:
            (a, b), above = points[-2], line is lines[0]
            anchor = 'text-anchor="end"' if above else 'text-anchor="start"'
            at = f'x="{a + (-8 if above else 8):.1f}" y="{b + (-8 if above else 18):.1f}"'
            parts.append(f'<text {at} {anchor} fill="{colour}">{line.name}</text>')
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description="How the cost of bounds grows.")
    parser.add_argument("--svg", type=Path, required=True)
    parser.add_argument("--csv", type=Path, required=True)
    asked = parser.parse_args()
    keep_freed_memory()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    works = {
        "batch": [bound(n, 64, 4, n) for n in BATCHES],
        "width": [bound(16, n, 4, n) for n in WIDTHS],
        "depth": [bound(16, 64, n, n) for n in DEPTHS],
        "boxes": [search([5, *[50] * 6, 5], 0.4, 0, n) for n in LEAVES],
        "phases": [search([60, *[100] * 3, 10], 0.03, 1, n) for n in LEAVES],
    }
    series = {}
    for name, each in works.items():
        series[name] = measured(name, each)
        sizes = ", ".join(f"{size} {spent:.4f} s" for size, spent in series[name].points)
        print(f"{name}: {sizes}; twice as many take {series[name].doubling:.2f} times as long", flush=True)
    with asked.csv.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["varied", "size", "seconds"])
        writer.writerows([name, size, f"{spent:.4g}"] for name, line in series.items() for size, spent in line.points)
    asked.svg.write_text(drawn(series), encoding="utf-8")


if __name__ == "__main__":
    main()
