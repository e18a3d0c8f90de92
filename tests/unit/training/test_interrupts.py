"""Signals wait for the end of a step, and the handlers that were there come back."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from headstart.training.interrupts import Interrupts, Terminated, termination_raised


def test_the_first_signal_waits_and_is_raised_where_it_is_allowed() -> None:
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGTERM)
        assert (interrupts.count, interrupts.received) == (1, signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt), interrupts.allowed():
            pytest.fail("a signal that came before is raised at the door")


def test_a_signal_is_raised_at_once_while_allowed() -> None:
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt), interrupts.allowed():
        signal.raise_signal(signal.SIGINT)
    assert interrupts.count == 1


def test_the_second_signal_does_not_wait() -> None:
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert interrupts.received == signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_handlers_come_back_and_an_ignored_signal_stays_ignored(number: int) -> None:
    def own(number, frame):
        pass

    for handler in (own, signal.SIG_IGN):
        before = signal.signal(number, handler)
        try:
            with Interrupts() as interrupts:
                assert (signal.getsignal(number) == handler) == (handler is signal.SIG_IGN)
                if handler is signal.SIG_IGN:
                    signal.raise_signal(number)
                    assert interrupts.count == 0
            assert signal.getsignal(number) == handler
        finally:
            signal.signal(number, before)


def test_sigterm_is_raised_as_such_and_its_handler_comes_back() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(Terminated), termination_raised():
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        with (
            termination_raised(),
            Interrupts() as interrupts,
            pytest.raises(Terminated),
            interrupts.allowed(),
        ):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


# One call that takes a minute: Python sees no signal within it, but other threads run, as beside torch.
HELD_UP = """
import hashlib
from headstart.training.interrupts import Interrupts, second_signal_ends
with second_signal_ends(), Interrupts():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 300_000_000)
"""


def test_a_second_signal_ends_a_process_that_a_library_holds_up() -> None:
    with subprocess.Popen([sys.executable, "-c", HELD_UP], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        try:
            assert process.wait(20) == 143
        finally:
            process.kill()
        assert time.monotonic() - started < 10, "the library would have taken half a minute"
