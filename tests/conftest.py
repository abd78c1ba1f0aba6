"""What every test starts from: one thread a process, fixed seeds, and a skip that says what is missing."""

import os
import shutil
import signal
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in the processes that tests start

import hypothesis
import pytest
import torch

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs in its background deaf to Ctrl-C, and the processes that tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent
VNNCOMP = ROOT.parent / "shared" / "vnncomp"

hypothesis.settings.register_profile("fathom", derandomize=True, deadline=None)
hypothesis.settings.load_profile("fathom")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = {
    "public": None if VNNCOMP.is_dir() else "the public benchmarks are not in ../shared/vnncomp",
    "browser": None if CHROMIUM else "Debian's chromium is not installed: apt-get install chromium",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, the tests whose marker names something this machine does not have."""
    for item in items:
        for marker, missing in MISSING.items():
            if missing and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=missing))


@pytest.fixture(autouse=True)
def one_seed() -> None:
    """Every test draws the same numbers, alone or among others."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def vnncomp() -> Path:
    """The public benchmarks; for tests marked `public`."""
    return VNNCOMP
