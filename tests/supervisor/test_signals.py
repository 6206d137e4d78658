# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal

import pytest

from gaff.supervisor.signals import Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_remembered_and_a_second_one_is_urgent(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    signals = Signals()
    with signals.caught():
        os.kill(os.getpid(), number)
        assert (signals.name, signals.urgent) == (number.name, False)
        os.kill(os.getpid(), signal.SIGTERM)
        assert (signals.name, signals.urgent) == ("SIGTERM", True)
    assert signal.getsignal(number) == before


def test_under_nohup_the_end_of_the_terminal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        signals = Signals()
        with signals.caught():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.name is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
