# SPDX-License-Identifier: Apache-2.0
"""One launch from its first line to its end: its log read as it grows, itself ended where it must be."""

from __future__ import annotations

import time
from collections.abc import Callable

from gaff.supervisor.child import Child
from gaff.supervisor.signals import Signals
from gaff.supervisor.watch import Watch
from gaff.trainers.contract import Event

_POLL_S = 0.1  # how often the log is read; a line is seen this much late at most


def follow(
    child: Child,
    watch: Watch,
    *,
    tell: Callable[[Event], None],
    message: Callable[[str], None],
    signals: Signals | None = None,
) -> int:
    """Read the log until the trainer has ended, or must be ended.  Returns its exit code, negative for a signal.

    Args:
        child: the launch.
        watch: is given every line, and decides what is wrong with them or with the lack of any.
        tell: is given every event.
        message: is given a sentence where the trainer is ended for its silence.
        signals: what asks for an end from outside; None where it is raised as an exception.
    """
    signals = signals or Signals()
    while True:
        code = child.poll()  # before reading, so that the last lines are not missed
        for line in child.log.read(last=code is not None):
            for event in watch.read(line):
                tell(event)
        if child.log.grew:
            watch.hear()
        if code is not None:
            if child.log.at_end or signals.urgent:
                return code
            continue
        if child.is_overdue:
            return child.stop()
        if signals.urgent:
            child.kill()
        if signals.name or watch.fatal:
            child.ask_to_stop()
        elif watch.is_silent():
            _end_silent(child, watch, message)
        if child.log.at_end:
            time.sleep(_POLL_S)


def _end_silent(child: Child, watch: Watch, message: Callable[[str], None]) -> None:
    message(f"no word from the trainer for {watch.silence_minutes:g} min: its ranks are told to say where they stand")
    ranks, locks = child.print_stacks()
    watch.hang(ranks, locks)
    child.ask_to_stop()
