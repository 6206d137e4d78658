# SPDX-License-Identifier: Apache-2.0
"""One launch from its first line to its end: its log read as it grows, itself ended where it must be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gaff.supervisor.child import Child
from gaff.supervisor.stopping import Verdict
from gaff.supervisor.watch import Watch
from gaff.supervisor.watchdogs.alarm import Alarm
from gaff.supervisor.watchdogs.watchdogs import Watchdogs
from gaff.trainers.contract import Event

_POLL_S = 0.1  # how often the log is read; a line is seen this much late at most, the trainer's end at once


def _nothing(*_: Any) -> None:
    return


def _go_on(_: int) -> Verdict:
    return Verdict.GO_ON


def follow(
    child: Child,
    watch: Watch,
    *,
    tell: Callable[[Event], None],
    message: Callable[[str], None],
    verdict: Callable[[int], Verdict] = _go_on,
    watchdogs: Watchdogs | None = None,
    alarm: Callable[[Alarm], None] = _nothing,
    tick: Callable[[], None] = _nothing,
) -> int:
    """Read the log until the trainer has ended, or must be ended.  Returns its exit code, negative for a signal.

    Args:
        child: the launch.
        watch: is given every line, and decides what is wrong with them or with the lack of any.
        tell: is given every event.
        message: is given a sentence where the trainer is ended for its silence.
        verdict: asked with the last iteration logged whether the trainer is to end for something outside.
        watchdogs: are given every event, and the time.
        alarm: is given what they see.
        tick: called about ten times a second.
    """
    while True:
        code = child.poll()  # before reading, so that the last lines are not missed
        for line in child.log.read(last=code is not None):
            for event in watch.read(line):
                tell(event)
                _heed(watchdogs.see(event) if watchdogs else [], watch, alarm)
        if child.log.grew:
            watch.hear()
        told = verdict(watch.iteration)
        if code is not None:
            if child.log.at_end or told is Verdict.KILL:
                return code
            continue
        if child.is_overdue:
            return child.stop()
        if told is Verdict.KILL:
            child.kill()
        elif told is Verdict.ASK or watch.fatal or watch.alarm:
            child.ask_to_stop()
        elif watch.is_silent():
            _act_on_silence(child, watch, message, alarm)
        else:
            _heed(watchdogs.tick() if watchdogs else [], watch, alarm)
        tick()
        if child.log.at_end:
            child.wait(_POLL_S)


def _heed(alarms: list[Alarm], watch: Watch, tell: Callable[[Alarm], None]) -> None:
    """Tell every alarm; the first one that is more than a warning ends the launch."""
    for alarm in alarms:
        if watch.alarm is None:
            tell(alarm)
            watch.alarm = None if alarm.policy == "warn" else alarm


def _act_on_silence(child: Child, watch: Watch, message: Callable[[str], None], tell: Callable[[Alarm], None]) -> None:
    minutes = f"{watch.silence_minutes:g} min"
    if watch.on_silence == "warn":
        child.show_stacks()
        tell(Alarm("silent", f"no word from the trainer for {minutes}", "warn", watch.iteration, {}))
        watch.hear()
        return
    message(f"no word from the trainer for {minutes}: its ranks are told to say where they stand")
    ranks, locks = child.print_stacks()
    watch.hang(ranks, locks)
    child.ask_to_stop()
