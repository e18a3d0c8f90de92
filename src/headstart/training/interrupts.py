"""Ctrl-C and SIGTERM end training between two steps, so that what was trained is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Holds back the first SIGINT or SIGTERM until `allowed`; a second one ends at once.

    While waiting (for a batch, for validation) the signal is `allowed`: KeyboardInterrupt is raised
    there. Outside of the main thread, and for signals that the process ignores, nothing is changed.
    The handlers that were there are put back at the end.
    """

    def __init__(self) -> None:
        self.count = 0
        self.received: int | None = None
        self._open = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self.received = self.received or number
        if self._open or self.count > 1:
            raise KeyboardInterrupt

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Let a signal, or one that came before, raise KeyboardInterrupt in this block."""
        self._open = True
        try:
            if self.count:
                raise KeyboardInterrupt
            yield
        finally:
            self._open = False
