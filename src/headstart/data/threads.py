"""How many threads, and who may start them."""

from __future__ import annotations

import os

from headstart.processes import on_this_machine


def thread_count(wanted: int | None) -> int:
    """Return `wanted`, or where it is None the processors that this process may use (at most 16).

    Processes that were started together on one machine share them out.
    """
    if wanted is not None:
        return max(0, wanted)
    try:
        available = len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux tells
        available = os.cpu_count() or 1
    return min(max(1, available // on_this_machine()), 16)


def one_opencv_thread() -> None:
    """Keep OpenCV to one thread in this process: pictures run side by side, not each over all cores."""
    import cv2

    cv2.setNumThreads(1)
