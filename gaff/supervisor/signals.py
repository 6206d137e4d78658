# SPDX-License-Identifier: Apache-2.0
"""Signals that tell a supervisor to stop, remembered until its loop has time for them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """What has come in from outside.

    Attributes:
        name: the last signal that came; None while there was none.
        urgent: it was not the first, which means: at once.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.urgent = False

    def _receive(self, number: int, frame: object) -> None:
        self.urgent = self.name is not None
        self.name = signal.Signals(number).name

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch SIGINT, SIGTERM and SIGHUP while the block runs; but not SIGHUP under ``nohup``, which ignores it."""
        before = {number: signal.getsignal(number) for number in _STOPPING}
        caught = [n for n in _STOPPING if n is not signal.SIGHUP or before[n] is not signal.SIG_IGN]
        for number in caught:
            signal.signal(number, self._receive)
        try:
            yield
        finally:
            for number in caught:
                signal.signal(number, before[number])
