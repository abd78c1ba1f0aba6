"""Bounds on another device than the CPU: on one that is pretended, which refuses what a GPU would refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.contracts.test_bounds import MAKERS

ROOT = Path(__file__).parents[1]


def test_every_bound_runs_whole_on_another_device() -> None:
    ended = subprocess.run([sys.executable, "-m", "tests.elsewhere"], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr[-2000:]
    lines = ended.stdout.splitlines()
    assert [line.split()[2] for line in lines[:-1]] == [maker.__name__ for maker in MAKERS]
    assert lines[-1] == "refused: tensors on two devices met in aten.add.Tensor"  # so the pretence does refuse
