"""How many threads, and who may start them."""

from __future__ import annotations

import os


def thread_count(wanted: int | None) -> int:
    """Return `wanted`, or where it is None the processors that this process may use (at most 16)."""
    if wanted is not None:
        return max(0, wanted)
    try:
        available = len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux tells
        available = os.cpu_count() or 1
    return min(available, 16)


def one_opencv_thread() -> None:
    """Keep OpenCV to one thread in this process: pictures run side by side, not each over all cores."""
    import cv2

    cv2.setNumThreads(1)
