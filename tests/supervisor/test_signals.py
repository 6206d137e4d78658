# SPDX-License-Identifier: Apache-2.0
"""Signals to the supervisor are remembered, not acted on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from gaff.supervisor.signals import Signals, raised

CAUGHT = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    """As a program finds them that no ``nohup`` started."""
    before = {number: signal.getsignal(number) for number in CAUGHT}
    for number in CAUGHT:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def send(*numbers: signal.Signals) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_remembered_and_a_second_one_is_urgent(number: signal.Signals) -> None:
    clock = Clock()
    signals = Signals(clock)
    with signals.caught():
        send(number)
        assert (signals.name, signals.urgent, signals.warned) == (number.name, False, False)
        clock.now = 3.0
        send(number)
        assert (signals.name, signals.urgent) == (number.name, True)
    assert signal.getsignal(number) is signal.SIG_DFL


def test_one_sigterm_delivered_twice_is_one_but_ctrl_c_twice_is_two() -> None:
    signals = Signals(Clock())
    with signals.caught():
        send(signal.SIGTERM, signal.SIGTERM)
        assert not signals.urgent
        send(signal.SIGINT)
        assert signals.urgent


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_warnings_are_never_urgent_and_give_way_to_a_real_signal(number: signal.Signals) -> None:
    clock = Clock()
    signals = Signals(clock)
    with signals.caught():
        send(number)
        clock.now = 50.0
        send(number)
        assert (signals.name, signals.urgent, signals.warned, signals.since) == (number.name, False, True, 0.0)
        send(signal.SIGTERM)
        assert (signals.name, signals.urgent, signals.warned, signals.since) == ("SIGTERM", False, False, 50.0)


def test_what_may_be_left_half_done_is_interrupted_by_each() -> None:
    for number in CAUGHT:
        with pytest.raises(KeyboardInterrupt), raised():
            send(number)
        assert signal.getsignal(number) is signal.SIG_DFL


def test_nohup_stays_in_force() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals = Signals()
    with signals.caught():
        send(signal.SIGHUP)
        assert signals.name is None
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
