"""Memory: keeping what is freed, since bounds allocate and free a thousand times a second; not looking for garbage where there
is none; and how much it was at most."""

from __future__ import annotations

import atexit
import ctypes
import gc
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Ask glibc to reuse large blocks instead of unmapping them; elsewhere, nothing.

    glibc maps every block over 32 MiB afresh, and the kernel clears its pages: on a search over boxes half of all time and more.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        tune = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library, such as musl, with an allocator of its own
        return
    for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 << 20)):
        tune(option, value)


@contextmanager
def loading() -> Iterator[None]:
    """While modules are imported: no collector runs, and what they made is left out of all later collections.

    Nearly all that torch makes while it loads lives as long as the process: to look through it again and again for garbage takes
    a tenth of that time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def leave_unreached_objects() -> None:
    """Let the process end without a last collection, which takes a quarter of the time to load torch.

    Nothing waits for it: what must be written is written by a `with`, and the standard streams are flushed in any case.
    """
    atexit.register(gc.freeze)


def peak_mib() -> int | None:
    """The memory of this process so far, at most, in MiB; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    import resource

    status = Path("/proc/self/status")
    if status.is_file():  # the other account begins with what the process was started from, which may be far larger
        peak = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)
        if peak is not None:
            return int(peak[1]) // (1 << 10)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1 << 20 if sys.platform == "darwin" else 1 << 10)
