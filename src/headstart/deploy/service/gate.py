"""Keeps networks still while another one is being made.

To make a network its body is traced, and `torch.fx` does that by exchanging `Module.__call__` for the whole
process: 17 of 309 requests failed that were judged while a model was loaded beside them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Many may pass at a time, until one closes it, who waits for those inside and is alone then."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside, self._closing = 0, 0

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Be one of many; waits while the gate is closed, or is about to be."""
        with self._changed:
            self._changed.wait_for(lambda: not self._closing)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Be alone."""
        with self._changed:
            self._closing += 1
            self._changed.wait_for(lambda: not self._inside)
            # Held until the end, so that two who close it do so one after the other.
            try:
                yield
            finally:
                self._closing -= 1
                self._changed.notify_all()


MAKING = Gate()
"""One for the process, as what is traced with is."""
