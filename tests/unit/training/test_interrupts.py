"""Signals wait for the end of a step, and the handlers that were there come back."""

from __future__ import annotations

import signal

import pytest

from headstart.training.interrupts import Interrupts


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
