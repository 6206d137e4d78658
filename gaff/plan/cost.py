# SPDX-License-Identifier: Apache-2.0
"""What a run costs in time and GPU hours, once somebody says how long its parts take.  Pure arithmetic.

A boundary is all that lies between the iterations of two launches: the checkpoint written, the reset, the trainer
started and loaded.  Each launch of the trainer costs one: also the first, which only starts, and the last, which only
saves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

HOW_TO_SAY_IT = "give --iteration-ms N, or --measured RUN with the directory of a finished run like this one"


@dataclass(frozen=True)
class Timing:
    """How long the parts of a run take.

    Attributes:
        iteration_s: seconds of one iteration; None when nobody says.
        iteration_source: who does, in words.
        boundary_s: seconds of one boundary; None when nobody says.
        boundary_source: who does, in words.
        differs: keys in which the run that was measured is another than this one.
    """

    iteration_s: float | None = None
    iteration_source: str = ""
    boundary_s: float | None = None
    boundary_source: str = ""
    differs: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "ms_per_iteration": None if self.iteration_s is None else self.iteration_s * 1000,
            "ms_per_iteration_source": self.iteration_source or None,
            "boundary_seconds": self.boundary_s,
            "boundary_seconds_source": self.boundary_source or None,
            "measured_differs_in": list(self.differs),
        }


@dataclass(frozen=True)
class Cost:
    """Of a whole run that nothing interrupts.

    Attributes:
        timing: what it was worked out from.
        training_s: all iterations.
        launches: of the trainer, one for each segment; each costs a boundary.
        boundaries_s: all boundaries; None when the time of one is not known.
        gpus: that are held all the time; None when their number is not known.
    """

    timing: Timing
    training_s: float
    launches: int
    boundaries_s: float | None
    gpus: int | None

    @property
    def total_s(self) -> float:
        """Training, and boundaries where they are known."""
        return self.training_s + (self.boundaries_s or 0.0)

    @property
    def boundary_share(self) -> float | None:
        """Of the run's time."""
        return None if self.boundaries_s is None else self.boundaries_s / self.total_s

    @property
    def gpu_hours(self) -> float | None:
        return None if self.gpus is None else self.gpus * self.total_s / 3600

    def to_json(self) -> dict[str, Any]:
        return {
            **self.timing.to_json(),
            "training_seconds": self.training_s,
            "launches": self.launches,
            "boundaries_seconds": self.boundaries_s,
            "boundary_share": self.boundary_share,
            "total_seconds": self.total_s,
            "gpus": self.gpus,
            "gpu_hours": self.gpu_hours,
        }


def cost(timing: Timing, train_iters: int, segments: int, gpus: int | None) -> Cost | str:
    """The cost of a run, or a sentence why it is not known."""
    if timing.iteration_s is None:
        return HOW_TO_SAY_IT
    boundaries = None if timing.boundary_s is None else timing.boundary_s * segments
    return Cost(timing, timing.iteration_s * train_iters, segments, boundaries, gpus)
