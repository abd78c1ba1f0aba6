"""Measure where src/ breaks docs/style.md, and write the list at that page's end: `make violations`."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "style.md"
START = "<!-- measured by `make violations` -->\n"
ENTRIES = ("ops", "regions", "overseers", "report/panels", "capture/onnx_operators", "capture/torch_operators")
LONGEST_ENTRY, LONGEST_ENGINE, LONGEST_FUNCTION, MOST_ARGUMENTS = 150, 400, 60, 7


def long_files() -> Iterator[str]:
    for path in sorted((ROOT / "src").rglob("*.py")):
        lines = len(path.read_text().splitlines())
        entry = any(path.is_relative_to(ROOT / "src" / "fathom" / room) for room in ENTRIES)
        limit, kind = (LONGEST_ENTRY, "entry") if entry else (LONGEST_ENGINE, "engine file")
        if lines > limit:
            yield f"`{path.relative_to(ROOT / 'src')}`: {lines} lines, an {kind} of more than {limit}"


def long_functions() -> Iterator[str]:
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"`{path.relative_to(ROOT / 'src')}`: `{node.name}`"
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    yield f"{name} has {lines} lines, more than {LONGEST_FUNCTION}"
                arguments = len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs)
                if arguments > MOST_ARGUMENTS:
                    yield f"{name} takes {arguments} arguments, more than {MOST_ARGUMENTS}"


def complex_functions() -> Iterator[str]:
    """What ruff finds: more than 10 ways through a function, or a global that is assigned."""
    command = [sys.executable, "-m", "ruff", "check", "src", "--select", "C901,PLW0603", "--output-format", "json", "--exit-zero"]
    found = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    for item in sorted(found, key=lambda item: (item["filename"], item["location"]["row"])):
        yield f"`{Path(item['filename']).relative_to(ROOT / 'src')}`: {item['message']}"


def main() -> None:
    found = [*long_files(), *long_functions(), *complex_functions()]
    rules, marker, _ = PAGE.read_text().partition(START)
    if not marker:
        sys.exit(f"expected the line {START.strip()!r} in {PAGE}, found none; put it where the list is to stand")
    PAGE.write_text(rules + START + "".join(f"\n- {line}." for line in found or ["None"]) + "\n")
    print(f"{len(found)} violations, listed in {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
