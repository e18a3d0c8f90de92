"""A few processes that decode strangers' bytes, and are started again when one of them dies."""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import asdict
from io import FileIO
from types import TracebackType
from typing import Any, Self, cast

import numpy as np

from headstart.data import wire
from headstart.data.colours import Colours
from headstart.data.formats import SUPPORTED
from headstart.data.images import REASONS, Decoded
from headstart.data.limits import Limits
from headstart.errors import DataError, StorageError

_MODULE = ("-P", "-m", "headstart.data.decoding_child")
_SECONDS_TO_START = 60.0
# What a decoder leaks, picture by picture, must not add up to the limit.
_PICTURES_A_CHILD = 5000


class CrashError(DataError):
    """A child died or hung over a picture; `lasting`: the decoder is to blame, and would do so again."""

    def __init__(self, message: str, *, code: str, lasting: bool) -> None:
        super().__init__(message, "leave it out, or save it anew with a program that reads it", code=code)
        self.lasting = lasting


class DecodingChildren:
    """Decodes as `decode_with_size` does, in other processes.

    A child costs 0.17 s of processor time to start. Pixels come back over its pipe, at 0.3 ms a picture of
    350 kB (1,100 pictures: 0.67 s of processor time in threads, 1.36 s with two children and their starts,
    median of 3); pipes of 1 MiB in place of 64 kB gained nothing.

    `count`: how many there are at most. Each is started when it is first needed, holds one picture at a
    time and dies alone. `pictures_before_another`: another one is started only when those that there are
    have answered so many pictures each, for callers who do not know how many are to come. `command`: the
    arguments to Python, in place of those that start the module `decoding_child`. Safe to use from many
    threads; at the end of a `with` block all of them end at once, whatever they are at.
    """

    def __init__(
        self,
        *,
        short_side: int | None,
        limits: Limits | None = None,
        colours: Colours | None = None,
        count: int = 1,
        pictures_before_another: int = 0,
        command: Sequence[str] = _MODULE,
    ) -> None:
        self.limits = limits or Limits()
        self.colours = colours or Colours()
        settings = _settings(short_side, self.limits, self.colours)
        self._command = [sys.executable, *command, settings]
        # The places for children: None where none lives yet. The last one used is the first one reused.
        self._places: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        self._count, self._before_another = max(1, count), pictures_before_another
        self._opened, self._answered = 0, 0
        self._alive: set[_Child] = set()
        self._lock = threading.Lock()
        self._open_places()
        self._closed = threading.Event()
        self._watch: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def decode(self, data: bytes) -> Decoded:
        """Decode the bytes of a picture file in a child.

        Raises `DataError` as `decode` does, and `CrashError` with the code DECODE_TIMEOUT where it takes
        longer than `limits.decode_seconds`, or DECODER_CRASH where the child dies, and a fresh one too;
        `StorageError` where no process can be started; `CancelledError` after `close`.
        """
        try:
            return self._decode_once(data)
        except CrashError as error:
            if error.code == "DECODE_TIMEOUT":
                raise
        return self._decode_once(data)

    def _decode_once(self, data: bytes) -> Decoded:
        child = self._places.get()
        usable = None
        try:
            child = child or self._start()
            answer = child.ask(data, self.limits, self.colours)
            usable = child if child.answered < _PICTURES_A_CHILD else None
        except (EOFError, OSError, ValueError) as error:
            if child is None or self._closed.is_set():
                raise CancelledError from error
            raise child.blamed(error, self.limits) from error
        finally:
            if usable is None and child is not None:
                self._end(child)
            with self._lock:
                self._answered += 1
            self._open_places()
            self._places.put(usable)  # above the new ones: a child that lives is asked before one is started
        if isinstance(answer, DataError):
            raise answer
        return answer

    def _open_places(self) -> None:
        """Open the places for as many children as there may be by now."""
        with self._lock:
            while self._opened < self._count and self._answered >= self._opened * self._before_another:
                self._places.put(None)
                self._opened += 1

    def _start(self) -> _Child:
        with self._lock:
            if self._closed.is_set():
                raise CancelledError
            try:
                child = _Child(self._command)
            except OSError as error:
                raise _not_started(str(error)) from error
            self._alive.add(child)
            if self._watch is None:
                self._watch = threading.Thread(target=self._kill_overdue, name="decoding watch", daemon=True)
                self._watch.start()
        try:
            child.wait_until_ready()
        except (EOFError, OSError, ValueError) as error:
            said = child.last_words()
            self._end(child)
            if self._closed.is_set():
                raise CancelledError from error
            raise _not_started(said) from error
        except BaseException:
            self._end(child)
            raise
        return child

    def _end(self, child: _Child) -> None:
        with self._lock:
            self._alive.discard(child)
        child.end()

    def _kill_overdue(self) -> None:
        while not self._closed.wait(0.05):
            now = time.monotonic()
            with self._lock:
                overdue = [child for child in self._alive if now > child.deadline]
            for child in overdue:
                child.overdue = True
                child.process.kill()

    def close(self) -> None:
        """End all children at once."""
        with self._lock:
            self._closed.set()
            alive = list(self._alive)
        for child in alive:
            child.process.kill()
        for child in alive:
            child.process.wait()
        # Those that are asked something at this moment are ended by the thread that asks.
        idle = []
        with contextlib.suppress(queue.Empty):
            while True:
                idle.append(self._places.get_nowait())
        for place in idle:
            if place is not None:
                self._end(place)
            self._places.put(None)


class _Child:
    """One process, and the pipes to it.

    `deadline`: when it is to be killed, in monotonic seconds. `answered`: how many pictures it had.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.deadline = time.monotonic() + _SECONDS_TO_START
        self.overdue = False
        self.answered = 0
        self.process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
        )
        # Without a buffer of Python's own, they are plain files.
        self._requests = cast(FileIO, self.process.stdin)
        self._answers = cast(FileIO, self.process.stdout)

    def wait_until_ready(self) -> None:
        """Wait until it says that it is there."""
        wire.receive(self._answers)
        self.deadline = math.inf

    def ask(self, data: bytes, limits: Limits, colours: Colours) -> Decoded | DataError:
        """Give it a picture and wait for the answer, which is trusted no more than the picture was.

        Raises `EOFError` or `OSError` where it dies, `ValueError` for an answer that no picture has.
        """
        self.deadline = time.monotonic() + limits.decode_seconds
        wire.send(self._requests, {"bytes": len(data)}, data)
        answer = wire.receive(self._answers)
        self.answered += 1
        if "code" in answer:
            self.deadline = math.inf
            return _error_of(answer)
        decoded = _empty(answer, limits, colours)
        wire.fill_view(self._answers, decoded.pixels.data.cast("B"))
        self.deadline = math.inf
        return decoded

    def blamed(self, error: Exception, limits: Limits) -> CrashError:
        """Say what it died of."""
        if isinstance(error, ValueError):
            return CrashError("the decoder's answer makes no sense", code="DECODER_CRASH", lasting=True)
        try:
            status = self.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:  # it closed its pipe and lives
            self.process.kill()
            status = self.process.wait()
        if self.overdue or (os.name == "posix" and status == -signal.SIGALRM):
            # A busy machine may be to blame, so another look may end better.
            return CrashError(
                f"decoding it takes longer than {limits.decode_seconds:g} s",
                code="DECODE_TIMEOUT",
                lasting=False,
            )
        name = f"exit code {status}"
        with contextlib.suppress(ValueError):
            name = signal.Signals(-status).name
        # Nothing in a decoder ends by SIGKILL: somebody else, or the system for want of memory, sends it.
        return CrashError(f"its decoder crashed ({name})", code="DECODER_CRASH", lasting=name != "SIGKILL")

    def last_words(self) -> str:
        """Return the last line of what it wrote on stderr before it died at its start."""
        self.process.kill()
        _, errors = self.process.communicate()
        lines = errors.decode("utf-8", errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "it ended without a word"

    def end(self) -> None:
        """Kill it, wait until it is gone, and close the pipes; more than once does no harm."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


def _settings(short_side: int | None, limits: Limits, colours: Colours) -> str:
    """Return what a child is told when it is started."""
    return json.dumps({"short_side": short_side, "limits": asdict(limits), "colours": asdict(colours)})


def _error_of(answer: dict[str, Any]) -> DataError:
    code, message, hint = (str(answer.get(key, ""))[:500] for key in ("code", "message", "hint"))
    if code not in REASONS:
        raise ValueError(f"no reason code: {code[:40]!r}")
    return DataError(message, hint, code=code)


def _empty(answer: dict[str, Any], limits: Limits, colours: Colours) -> Decoded:
    """Return what a child announces, its pixels still to be filled in; raises `ValueError`."""
    match answer:
        case {
            "shape": [int(height), int(width), colours.channels],
            "size": [int(whole_height), int(whole_width)],
            "format": str(name),
            "mode": str(mode),
            "orientation": int(orientation),
        } if name in SUPPORTED and height > 0 and width > 0:
            if height * width <= whole_height * whole_width <= limits.pixels:
                pixels = np.empty((height, width, colours.channels), np.uint8)
                return Decoded(pixels, (whole_height, whole_width), name, mode[:20], orientation)
    raise ValueError("no picture")


def _not_started(why: str) -> StorageError:
    return StorageError(
        f"the process in which pictures are decoded cannot be started: {why}",
        "allow it more processes or memory (ulimit -u, ulimit -v)",
    )


def _environment() -> dict[str, str]:
    """Return our own environment, with all that we import from; its libraries get one thread each."""
    paths = (path or os.getcwd() for path in sys.path)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
