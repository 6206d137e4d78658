# SPDX-License-Identifier: Apache-2.0
"""Several observers of one run hear the same, in the same order."""

from __future__ import annotations

import inspect
from typing import Any

from gaff.plan.schedule import schedule
from gaff.report.several import Several
from gaff.supervisor.observer import NullObserver, Observer
from gaff.trainers.contract import ErrorLogged

VERBS = [name for name, _ in inspect.getmembers(Observer, inspect.isfunction) if not name.startswith("_")]


class Notes:
    """Takes down whatever it is told."""

    def __init__(self, name: str, log: list[tuple[Any, ...]]) -> None:
        self._name, self._log = name, log

    def __getattr__(self, verb: str) -> Any:
        assert verb in VERBS
        return lambda *words: self._log.append((self._name, verb, *words))


def test_everything_is_passed_on_to_each_in_turn() -> None:
    segment = schedule(40, 10)[0]
    assert segment.reset
    told: dict[str, tuple[Any, ...]] = {
        "run_started": ([segment], 40, 10),
        "segment_started": (segment, 2, 10),
        "event": (ErrorLogged("oh"),),
        "reset_started": (segment.reset,),
        "reset_done": (segment.reset, 1.5, 3, 100),
        "segment_finished": (segment,),
        "waiting": (),
        "message": ("a word",),
        "close": ("finished",),
    }
    assert sorted(told) == sorted(VERBS)
    log: list[tuple[Any, ...]] = []
    several = Several(Notes("a", log), Notes("b", log))
    for verb, words in told.items():
        getattr(several, verb)(*words)
    assert log == [(name, verb, *words) for verb, words in told.items() for name in "ab"]


def test_it_is_an_observer_itself() -> None:
    for verb in VERBS:
        assert inspect.signature(getattr(Several, verb)) == inspect.signature(getattr(NullObserver, verb))


def test_nobody_need_listen() -> None:
    Several().close("finished")
