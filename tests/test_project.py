"""The project's habits: what must hold of the files themselves."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())
LONGEST_FILE = 450  # lines
LONGEST_FUNCTION = 90
LARGEST_FILE = 1_000_000  # bytes


@cache
def tracked() -> tuple[Path, ...]:
    """The files that git keeps; those still to be committed count too."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git checkout: nothing says which files belong to the project")
    return tuple(path for name in listing.stdout.splitlines() if (path := ROOT / name).is_file())


@cache
def text_of(path: Path) -> str | None:
    """The text of a file; None for a binary one."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def offending_lines(pattern: str) -> list[str]:
    """The tracked lines that match, as file:line: text."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:90]}"
        for path in tracked()
        for number, line in enumerate((text_of(path) or "").splitlines(), 1)
        if re.search(pattern, line)
    ]


def nodes(path: Path) -> Iterator[ast.AST]:
    yield from ast.walk(ast.parse(path.read_text()))


def where(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


# Files


def test_no_path_of_a_machine_is_written_down() -> None:
    assert offending_lines(r"(?<![\w.])/(root|work|home|Users|farm)/\w") == []


def test_no_work_is_left_as_a_comment() -> None:
    assert offending_lines(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]) + r")\b") == []


def test_no_large_file_is_tracked() -> None:
    assert [
        f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes" for path in tracked() if path.stat().st_size > LARGEST_FILE
    ] == []


def test_examples_commit_no_binaries() -> None:
    assert [str(path) for path in tracked() if path.is_relative_to(ROOT / "examples") and text_of(path) is None] == []


def test_source_files_stay_small_enough_to_read() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in SOURCES}
    assert {str(path): length for path, length in lengths.items() if length > LONGEST_FILE} == {}


def test_every_source_file_says_what_it_is_for() -> None:
    assert [str(path.relative_to(ROOT)) for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text()))] == []


# Code


def test_functions_stay_short() -> None:
    found = [
        f"{where(path, node)}: {node.name} has {node.end_lineno - node.lineno} lines"
        for path in SOURCES
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef) and node.end_lineno and node.end_lineno - node.lineno > LONGEST_FUNCTION
    ]
    assert found == []


def test_nothing_that_is_read_can_run_code() -> None:
    """No pickle, in any dress; no evaluation of text; no shell."""
    modules = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
    calls = {"eval", "exec", "compile", "os.system", "os.popen", "torch.load", "yaml.load", "numpy.load", "np.load"}
    found = []
    for path in SOURCES:
        for node in nodes(path):
            if isinstance(node, ast.Import):
                found += [f"{where(path, node)}: {name.name}" for name in node.names if name.name.split(".")[0] in modules]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in modules:
                found.append(f"{where(path, node)}: {node.module}")
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in calls:
                safe = ast.unparse(node)
                if "allow_pickle=False" not in safe and "weights_only=True" not in safe:
                    found.append(f"{where(path, node)}: {safe[:60]}")
    assert found == []


def test_no_exception_is_swallowed() -> None:
    found = [
        where(path, node)
        for path in [*SOURCES, *TESTS]
        for node in nodes(path)
        if isinstance(node, ast.ExceptHandler) and all(isinstance(step, ast.Pass) for step in node.body)
    ]
    assert found == []


def test_every_test_can_fail() -> None:
    """Each asserts something, itself or through a helper of its file that does."""
    able = re.compile(r"\b(assert|raises|warns|check|expect|law)")
    found = []
    for path in TESTS:
        functions = {node.name: ast.unparse(node) for node in nodes(path) if isinstance(node, ast.FunctionDef)}
        helpers = "|".join(name for name, body in functions.items() if able.search(body) and not name.startswith("test_"))
        calls = re.compile(rf"\b({helpers})\(") if helpers else able
        idle = [name for name, body in functions.items() if not (able.search(body) or calls.search(body))]
        found += [f"{path.relative_to(ROOT)}: {name}" for name in idle if name.startswith("test_")]
    assert found == []


# The lock


def pins(name: str) -> dict[str, str]:
    """Package to version, by a lock file and those it includes."""
    found: dict[str, str] = {}
    for line in (ROOT / name).read_text().splitlines():
        if line.startswith("-r "):
            found |= pins(line.removeprefix("-r ").strip())
        elif line and not line.startswith("#"):
            package, exactly, version = line.partition("==")
            assert exactly, f"{name}: expected package==version, got {line!r}"
            found[package] = version
    return found


def unmet(requirements: list[str], lock: str) -> list[str]:
    """The requirements that the lock does not pin, or pins outside their range."""
    held = pins(lock)
    wanted = [Requirement(line) for line in requirements]
    return [str(need) for need in wanted if not need.specifier.contains(held.get(canonicalize_name(need.name), "0"))]


def test_the_lock_pins_what_the_core_needs() -> None:
    assert unmet(DECLARED["project"]["dependencies"], "requirements.lock") == []


def test_the_development_lock_pins_the_extras_and_the_build() -> None:
    """But for the peers, which run in an environment of their own."""
    groups = DECLARED["project"]["optional-dependencies"].items()
    extras = [line for name, group in groups if name != "peers" for line in group]
    assert unmet([*extras, *DECLARED["build-system"]["requires"]], "requirements-dev.lock") == []


def test_the_core_lock_holds_nothing_of_the_extras() -> None:
    extras = {Requirement(line).name for group in DECLARED["project"]["optional-dependencies"].values() for line in group}
    assert extras & pins("requirements.lock").keys() == set()


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_the_lock_suits_any_machine(lock: str) -> None:
    """No hosts, hashes, local builds or CUDA packages: torch names those itself where they are of use."""
    for package, version in pins(lock).items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", package), package
        assert re.fullmatch(r"[0-9]+(\.[0-9]+)*(\.?(post|rc|a|b)[0-9]+)*", version), f"{package} {version}"
        assert not re.match(r"nvidia|cuda|triton", package), package


# The texts


def test_the_changelog_names_the_current_version() -> None:
    version = DECLARED["project"]["version"]
    assert re.search(rf"^## \[?{re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE), version


def test_links_between_the_texts_lead_somewhere() -> None:
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in tracked()
        if path.suffix == ".md"
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text())
        if "://" not in target and not (path.parent / target).exists()
    ]
    assert broken == []


def test_the_texts_name_only_targets_that_make_has() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for path in tracked() if path.suffix == ".md" for name in re.findall(r"`make ([a-z]+)", path.read_text())}
    assert named - targets == set()
