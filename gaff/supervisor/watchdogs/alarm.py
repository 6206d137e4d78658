# SPDX-License-Identifier: Apache-2.0
"""The words that all watchdogs share: what they are shown, and what they say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gaff.plan.settings import Policy
from gaff.trainers.contract import IterationLogged


@dataclass(frozen=True)
class Alarm:
    """A watchdog saw what it watches for.  There is one for each spell of it, not one for each line.

    Attributes:
        id: ``slow``, ``nan``, ``skipped``, ``loss-scale``, ``loss-high`` or ``checkpoint-late``; ``silent`` for a hang.
        what: one clause with the figures, no full stop at its end.
        policy: what the config wants to be done.
        iteration: the last one that was logged.
        facts: the figures for the journal; all finite.
    """

    id: str
    what: str
    policy: Policy
    iteration: int
    facts: Mapping[str, float | int | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """An iteration line of this launch, later than all before it.

    Attributes:
        logged: its figures.
        covers: iterations that it speaks of, at least 1.
        is_first: it is the launch's first one.
    """

    logged: IterationLogged
    covers: int
    is_first: bool
