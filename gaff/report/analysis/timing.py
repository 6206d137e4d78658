# SPDX-License-Identifier: Apache-2.0
"""Where a run's time went: training, or everything between (starts of the trainer, checkpoints, resets).  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gaff.report.metrics.gather import key_of
from gaff.report.metrics.run_metrics import Attempt
from gaff.supervisor.journal import Entry


@dataclass(frozen=True)
class Times:
    """Seconds.

    Attributes:
        active_s: the supervisor was at work, by the journal's times; waiting between two commands does not count.
        training_s: the iterations of the run's final history took, by the trainer's own clock.
        boundary_s: what is left of ``active_s`` when all training, also that done again later, is taken off.
        resets_s: of that, the edits of the checkpoint, where the journal says how long each took.

    Note:
        An attempt that was cut off together with its supervisor has no end in the journal; its time is in none of them
        but ``training_s``.
    """

    active_s: float
    training_s: float
    boundary_s: float
    resets_s: float


def times(entries: Sequence[Entry], attempts: Sequence[Attempt], training_s: float) -> Times:
    """``attempts`` are those of the journal's ``segment_launched`` entries."""
    launched = {(attempt.segment, attempt.attempt): attempt for attempt in attempts}
    active_s = busy_s = resets_s = 0.0
    open_attempt: Attempt | None = None
    previous: Entry | None = None
    for entry in entries:
        if entry.event != "run_started":
            if previous is not None and previous.time is not None and entry.time is not None:
                active_s += max(0.0, (entry.time - previous.time).total_seconds())
            busy_s += open_attempt.trained_s if open_attempt else 0.0
        open_attempt = launched.get(key_of(entry)) if entry.event == "segment_launched" else None
        seconds = entry.fields.get("seconds")
        if entry.event == "reset_done" and isinstance(seconds, int | float):
            resets_s += seconds
        previous = entry
    return Times(active_s, training_s, max(0.0, active_s - busy_s), resets_s)
