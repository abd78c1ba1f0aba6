"""A few of the random questions of `python -m tests.fuzz`, the same ones every time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import judge, question


@pytest.mark.parametrize("seed", range(16))
def test_a_random_question_is_not_called_wrongly(tmp_path: Path, seed: int) -> None:
    failing, passing = judge(seed, tmp_path, seconds=3)
    assert failing in ("sat", "unknown", "timed-out")
    assert not passing.startswith("WRONG")


def test_most_failing_questions_are_found_to_fail(tmp_path: Path) -> None:
    """So that the questions are such that a search can be wrong about them."""
    assert sum(judge(seed, tmp_path, seconds=3)[0] == "sat" for seed in range(16, 24)) >= 6
    assert all(question(seed).margin < float("inf") for seed in range(16, 24))
