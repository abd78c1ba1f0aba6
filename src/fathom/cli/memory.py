"""Memory: keeping what is freed, since bounds allocate and free a thousand times a second; and how much it was at most."""

from __future__ import annotations

import ctypes
import sys

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


def peak_mib() -> int | None:
    """The memory of this process so far, at most, in MiB; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1 << 20 if sys.platform == "darwin" else 1 << 10)
