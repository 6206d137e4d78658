# SPDX-License-Identifier: Apache-2.0
"""How the loss came back after each reset.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gaff.plan.schedule import Reset

_LEVEL_LINES = 3  # one line alone is a noisy level to come back to


@dataclass(frozen=True)
class Recovery:
    """The loss around one reset; each number is None where no line tells it.

    Attributes:
        before: mean of the last logged losses (up to three, of the same segment) up to the reset.
        peak: the highest logged loss after it, until it has recovered or the next reset comes.
        peak_iteration: where that was logged.
        recovered_iteration: the first logged iteration after the reset with a loss at or below ``before``, up to the
            next reset; None when it has not come back by then.
        iterations: from the reset to there, as fine as the trainer's log interval.
    """

    reset: Reset
    before: float | None
    peak: float | None
    peak_iteration: int | None
    recovered_iteration: int | None

    @property
    def iterations(self) -> int | None:
        return None if self.recovered_iteration is None else self.recovered_iteration - self.reset.iteration


def recoveries(curve: Sequence[tuple[int, float]], resets: Sequence[Reset]) -> tuple[Recovery, ...]:
    """One for each reset.  ``curve`` is (iteration, finite loss) in the order of iterations, ``resets`` too."""
    edges = [0, *(reset.iteration for reset in resets)]
    ends = [*edges[2:], None]
    return tuple(
        _recovery(
            reset,
            [loss for i, loss in curve if start < i <= reset.iteration],
            [(i, loss) for i, loss in curve if reset.iteration < i and (end is None or i <= end)],
        )
        for start, reset, end in zip(edges, resets, ends, strict=False)
    )


def _recovery(reset: Reset, earlier: Sequence[float], later: Sequence[tuple[int, float]]) -> Recovery:
    level = earlier[-_LEVEL_LINES:]
    before = sum(level) / len(level) if level else None
    recovered = next((i for i, loss in later if before is not None and loss <= before), None)
    rise = [(i, loss) for i, loss in later if recovered is None or i <= recovered]
    peak_iteration, peak = max(rise, key=lambda point: point[1], default=(None, None))
    return Recovery(reset, before, peak, peak_iteration, recovered)
