"""Ctrl-C and SIGTERM end training between two steps, so that what was trained is whole."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from headstart.errors import StoppedError

AT_ONCE = "ended at once"
"""The reason to stop when a second signal came: the step under way may be half done."""

FAILED = "failed"
"""The reason to stop when something else raised an error: somebody's transform, loss, metric or callback."""

PASSING_REASONS = ("interrupted", "non-finite loss", FAILED, AT_ONCE)
"""Reasons to stop that hold for a process, not for the run: after a restart training goes on."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM came while it could end things at once."""


def stopped_by(number: int, folder: Path) -> StoppedError:
    """Return the error that ends a process whose run was saved when a signal came."""
    error = StoppedError(
        f"stopped by {signal.Signals(number).name}; all that was trained is kept in {folder}",
        f"go on with: headstart resume {folder}",
    )
    error.exit_code = 128 + number
    return error


@contextmanager
def termination_raised() -> Iterator[None]:
    """Let SIGTERM raise `Terminated`, so that what has begun is cleared up; put back what it did before.

    Only in the main thread, and where SIGTERM would end the process.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def second_signal_ends(after: float = 1.0) -> Iterator[None]:
    """End the process `after` seconds from a second SIGINT or SIGTERM, whatever it is doing then.

    Python looks at signals between two of its own steps only, and one call into a library may take many
    seconds. What is on the disk is whole at every moment. For the command line: in the main thread.
    """
    if os.name != "posix" or threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def watch() -> None:
        seen: list[int] = []
        while received := reader.recv(16):
            seen += [number for number in received if number in SIGNALS]
            if len(seen) > 1:
                ending = threading.Timer(after, os._exit, (128 + seen[0],))
                ending.daemon = True
                ending.start()
                return

    watcher = threading.Thread(target=watch, daemon=True, name="second signal")
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writer.close()
        watcher.join()
        reader.close()


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

    def heard(self, number: int) -> None:
        """Take note of a signal that another rank received: this one stops at the same step."""
        self.count = max(self.count, 1)
        self.received = self.received or number

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self.received = self.received or number
        if self._open or self.count > 1:
            raise self._error()

    def _error(self) -> KeyboardInterrupt:
        return Terminated() if self.received == signal.SIGTERM else KeyboardInterrupt()

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Let a signal, or one that came before, raise KeyboardInterrupt in this block."""
        self._open = True
        try:
            if self.count:
                raise self._error()
            yield
        finally:
            self._open = False
