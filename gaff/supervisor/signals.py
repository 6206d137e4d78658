# SPDX-License-Identifier: Apache-2.0
"""Signals that tell a supervisor to stop, remembered until its loop has time for them."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_WARNING = (signal.SIGUSR1, signal.SIGUSR2)  # what Slurm's --signal and Grid Engine's -notify send ahead of the end
_ECHO_S = 2.0  # launchers and process groups deliver one SIGTERM twice


@contextmanager
def raised() -> Iterator[None]:
    """While the block runs, each of them raises KeyboardInterrupt: what is done there may be left half done."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    numbers = (*_STOPPING, *_WARNING)
    before = {number: signal.signal(number, interrupt) for number in numbers if _is_heard(number)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_heard(number: signal.Signals) -> bool:
    """``nohup`` ignores SIGHUP, and means it."""
    return number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN


class Signals:
    """What has come in from outside.

    Attributes:
        name: the signal that asks for the earliest end; None while there was none.
        urgent: at once: a second SIGINT, or a SIGTERM or SIGHUP that is no echo of the first.
        warned: only warnings have come (SIGUSR1, SIGUSR2), which leave more time than the others.
        since: when the one in ``name`` came, in seconds of the clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.name: str | None = None
        self.urgent = False
        self.warned = False
        self.since = 0.0
        self._clock = clock
        self._warnings = self._told_warnings = 0

    def is_new_warning(self) -> bool:
        """Whether a warning has come since this was asked before."""
        before, self._told_warnings = self._told_warnings, self._warnings
        return before < self._warnings

    def _receive(self, number: int, frame: object) -> None:
        now, warning = self._clock(), number in _WARNING
        self._warnings += warning
        if self.name is None or (self.warned and not warning):
            self.name, self.warned, self.since = signal.Signals(number).name, warning, now
        elif not warning:
            self.urgent = self.urgent or number == signal.SIGINT or now - self.since > _ECHO_S

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch them while the block runs; but not SIGHUP under ``nohup``, which ignores it."""
        before = {number: signal.getsignal(number) for number in (*_STOPPING, *_WARNING)}
        caught = [n for n in before if _is_heard(n)]
        for number in caught:
            signal.signal(number, self._receive)
        try:
            yield
        finally:
            for number in caught:
                signal.signal(number, before[number])
