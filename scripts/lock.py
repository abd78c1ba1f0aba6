"""Write requirements.lock and requirements-dev.lock from the ranges of pyproject.toml: `make lock`.

Asks pip, without installing anything, what it would install today, and writes that down: first what the core needs, then what the
examples and the developers' tools add. Run it on the oldest Python that is supported, so that the pins suit all.
CUDA's libraries are left out: torch names the versions it needs itself, on the machines that have a use for them.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
APART = {"peers"}  # extras that have an environment of their own
FROM_TORCH = re.compile(r"^(nvidia|cuda|triton)\b")


def resolve(requirements: list[str]) -> dict[str, str]:
    """Name to version of all that pip would install for these requirements into an empty environment."""
    options = ["--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    command = [sys.executable, "-m", "pip", "install", *options, *requirements]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    pins = {}
    for item in report["install"]:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        if not FROM_TORCH.match(name):
            pins[name] = item["metadata"]["version"].split("+")[0]  # 2.13.0+cpu and 2.13.0 are one release
    return pins


def write(path: Path, head: str, pins: dict[str, str]) -> None:
    lines = [head, *(f"{name}=={version}" for name, version in sorted(pins.items()))]
    path.write_text("\n".join(lines) + "\n")
    print(f"{path.name}: {len(pins)} packages")


def main() -> None:
    parser = argparse.ArgumentParser(description="Pin what pyproject.toml asks for.")
    parser.add_argument("pins", nargs="*", help="releases to hold to, such as torch==2.13.0")
    held = parser.parse_args().pins
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = declared["project"]["optional-dependencies"].items()
    extras = [line for name, group in groups if name not in APART for line in group]
    core = resolve([*declared["project"]["dependencies"], *held])
    # setuptools builds the package itself, without a second download.
    held = [f"{name}=={version}" for name, version in core.items()]
    everything = resolve([*held, *extras, *declared["build-system"]["requires"]])
    write(ROOT / "requirements.lock", "# What Fathom needs to run. Made by `make lock`.", core)
    more = {name: version for name, version in everything.items() if name not in core}
    head = "# What the examples, the tests and the build need on top. Made by `make lock`.\n-r requirements.lock"
    write(ROOT / "requirements-dev.lock", head, more)


if __name__ == "__main__":
    main()
