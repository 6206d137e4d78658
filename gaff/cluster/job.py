# SPDX-License-Identifier: Apache-2.0
"""The job that this process runs in, and what it may ask of its scheduler."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Protocol

from gaff.cluster.profile import SchedulerName

CANCELLED = "job-cancelled"  # the id of the problem with which a cancelled job refuses to be put back
SCRIPT = "GAFF_JOB_SCRIPT"  # set by the templates of slurm/: the script as the scheduler keeps it
HANDED = "GAFF_JOB_HANDED"  # set by `gaff submit`: names of variables that a follower must be handed as well


class Cause(Enum):
    """Why a job was told to end."""

    TIME = "the end of its walltime"
    PREEMPTED = "preemption"
    PUT_BACK = "its scheduler puts it back into the queue"  # requeued by somebody, or a node was lost
    CANCELLED = "cancellation"
    UNKNOWN = "unknown"


class Job(Protocol):
    """A job at work, one task of an array included."""

    @property
    def scheduler(self) -> str:
        """``Slurm`` or ``Grid Engine``."""
        ...

    @property
    def id(self) -> str:
        """As the scheduler's programs take it, an array task with its number."""
        ...

    @property
    def restarts(self) -> int:
        """How often it was started before, as far as the scheduler tells."""
        ...

    @property
    def nodes(self) -> tuple[str, ...]:
        """In the order of the ranks; the first is this one."""
        ...

    @property
    def slots(self) -> int:
        """Ranks on each node."""
        ...

    @property
    def script(self) -> Path | None:
        """The job script; None where nobody says."""
        ...

    @property
    def notice_s(self) -> float | None:
        """Seconds between a warning and SIGKILL; None where the job's end tells that, or nobody does."""
        ...

    def seconds_left(self, patience_s: float = 0.0) -> float | None:
        """Until it is ended; None without a limit, or where the scheduler does not answer within ``patience_s``."""
        ...

    def cause(self, signal: str) -> Cause:
        """Why ``signal`` came."""
        ...

    def is_superseded(self) -> bool:
        """Whether the scheduler counts another start of it since this one; False where it does not answer."""
        ...

    def put_back(self) -> int:
        """Have it queued again under its own id.  The last thing that a process does: it may be ended by it.

        Returns:
            The exit code that the job must now end with.

        Raises:
            GaffError: the scheduler refuses, or does not answer; or, with the id ``job-cancelled``, it was cancelled.
        """
        ...

    def add_follower(self) -> str:
        """Submit the same script to run when this job has ended, however it ends.  Returns the new job's id.

        Raises:
            GaffError: the scheduler refuses, or does not answer.
        """
        ...

    def drop(self, follower: str) -> None:
        """Cancel a job that :meth:`add_follower` submitted.

        Raises:
            GaffError: the scheduler refuses, or does not answer.
        """
        ...

    def tell(self, name: str, comment: str) -> bool:
        """Show how far the run is in the queue's listing.  Returns whether the scheduler took it."""
        ...


def kind_of(job: Job) -> SchedulerName:
    """The scheduler's name in profiles and records."""
    return "slurm" if job.scheduler == "Slurm" else "sge"
