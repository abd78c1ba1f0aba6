"""The last word on a time limit, for when the work is too deep in one step to look at its clock."""

from __future__ import annotations

import math
import os
import threading

GRACE = 0.5  # seconds beyond the limit within which the work may still stop by itself, and say more


class Watchdog:
    """A context manager: if the work inside outlasts the limit, prints `timed-out`, or the verdict that stands by then, and ends
    the process.

    Reading a file of a hundred megabytes, or the first bound of a deep network, is one step that may outlast the limit by far,
    and cannot be stopped from within. So a thread ends the whole process, at once and without tidying up: a single property has
    nothing that needs tidying. Commands that store something do not do this. (Only a C function that keeps the interpreter's lock
    all the while could outlast it; none that runs here does for long.)
    """

    def __init__(self, seconds: float | None) -> None:
        self._answered = threading.Lock()  # held, for ever, by whoever gives the answer: the work, or the thread
        self._verdict: str | None = None
        limit = math.inf if seconds is None else max(seconds, 0.0) + GRACE
        self._timer = None if limit > threading.TIMEOUT_MAX else threading.Timer(limit, self._bite)

    def __enter__(self) -> Watchdog:
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        """The work has an answer or an error. Does not return if the thread has begun to give its own."""
        self._answered.acquire()
        if self._timer is not None:
            self._timer.cancel()

    def stands(self, verdict: str) -> None:
        """The verdict is known; what still goes on is its certificate, without which it stands as well."""
        self._verdict = verdict

    def _bite(self) -> None:
        if self._answered.acquire(blocking=False):
            if os.isatty(2):
                os.write(2, b"\r\x1b[K\x1b[?25h")  # the spinner's line cleared, and the cursor shown that it hid
            where = "in the middle of a long step" if self._verdict is None else "before there was a certificate"
            os.write(1, f"{self._verdict or 'timed-out'}\n".encode())
            os.write(2, f"fathom: the time budget ran out {where}; give more seconds\n".encode())
            os._exit(0)
