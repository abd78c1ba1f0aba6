"""The checker's folders of small certificates: what is accepted, what is rejected, and what is not even a certificate."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fathom_checker
from fathom_checker.__main__ import main

FOLDER = Path(__file__).parent / "certificates"


def cases(kind: str) -> list[Path]:
    return sorted(path for path in (FOLDER / kind).iterdir() if path.is_dir())


def files(case: Path) -> list[str]:
    return [str(next(case.glob(f"{stem}*"))) for stem in ("model", "property", "certificate")]


@pytest.mark.parametrize("case", cases("accepted"), ids=lambda case: case.name)
def test_what_proves_is_accepted(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(files(case)) == 0
    assert capsys.readouterr().out == "accepted\n"


@pytest.mark.parametrize("case", cases("rejected"), ids=lambda case: case.name)
def test_a_lie_is_rejected(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(files(case)) == 1
    said = capsys.readouterr().out
    assert said.startswith("rejected: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("case", cases("malformed"), ids=lambda case: case.name)
def test_what_is_no_certificate_is_said_to_be_none(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(files(case)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("malformed: ")
    assert len(said.err) < 400
    assert said.err.count("\n") == 1


def test_rational_numbers_agree(capsys: pytest.CaptureFixture[str]) -> None:
    for kind, code in (("accepted", 0), ("rejected", 1)):
        for case in cases(kind):
            if case.name not in ("many_operators", "real_for_float32"):  # a square root, and large
                assert main([*files(case), "--exact"]) == code, case.name


def test_a_program_of_its_own_says_the_same_and_imports_nothing_of_fathom() -> None:
    case = FOLDER / "accepted" / "one_leaf"
    watch = "import runpy, sys; sys.argv = ['fathom_checker', *sys.argv[1:]]\ntry: runpy.run_module('fathom_checker')\n"
    watch += "finally: print(sorted({name.split('.')[0] for name in sys.modules} & {'fathom', 'torch', 'scipy'}))"
    done = subprocess.run([sys.executable, "-m", "fathom_checker", *files(case)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "accepted\n")
    done = subprocess.run([sys.executable, "-c", watch, *files(case)], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_file_that_is_not_there_is_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    names = files(FOLDER / "accepted" / "one_leaf")
    for place in range(3):
        assert main([*names[:place], "nowhere", *names[place + 1 :]]) == 2
        assert "nowhere" in capsys.readouterr().err


SOURCE = Path(fathom_checker.__file__).parent


def test_it_is_short_enough_to_be_read_and_needs_little() -> None:
    """Whoever doubts a proof reads this package, and nothing else: no more lines than these, and no other packages."""
    texts = [path.read_text() for path in SOURCE.rglob("*.py")]
    trees = [ast.parse(text) for text in texts]
    assert sum(len(text.splitlines()) for text in texts) <= 1200
    named = {alias.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named |= {str(node.module) for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in named} <= {"numpy", "onnx", "fathom_checker", *sys.stdlib_module_names}
