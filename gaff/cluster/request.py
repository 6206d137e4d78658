# SPDX-License-Identifier: Apache-2.0
"""What is to be submitted, in words that every scheduler's module understands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gaff.cluster.profile import ClusterProfile, SchedulerName


@dataclass(frozen=True)
class JobRequest:
    """One job, or one array of jobs.

    Attributes:
        name: of the job; letters, digits, ``.``, ``_`` and ``-``.
        profile: how the site wants it.
        runs: the arguments of ``gaff run`` of each array task, one for a job that is no array.
        logs: the directory of its logs; absolute, and it must be there when the job starts.
        directory: in which it starts; absolute.
        handed: variables whose values the job takes over from the submitting shell.
        exported: variables and values that are written into the script.
        array: whether the runs are tasks of an array, also where there is only one.
    """

    name: str
    profile: ClusterProfile
    runs: tuple[tuple[str, ...], ...]
    logs: Path
    directory: Path
    handed: tuple[str, ...] = ()
    exported: Mapping[str, str] | None = None
    array: bool = False


class Scheduler(Protocol):
    """One kind of scheduler, seen from a login node."""

    @property
    def name(self) -> SchedulerName: ...

    @property
    def title(self) -> str:
        """Its name in sentences."""
        ...

    @property
    def template(self) -> str:
        """The name of its job script in slurm/."""
        ...

    @property
    def directive(self) -> str:
        """How a line for it begins in a job script."""
        ...

    def missing(self) -> str | None:
        """Which of its programs is not on PATH; None where all are there."""
        ...

    def directives(self, request: JobRequest) -> list[str]:
        """The words of each directive line, without what they begin with."""
        ...

    def task_number(self) -> tuple[str, int]:
        """The variable with the number of an array task, and the number of the first."""
        ...

    def task(self, job: str, number: int) -> str:
        """The id of one task of an array."""
        ...

    def check(self, script: Path, request: JobRequest) -> str | None:
        """Ask the scheduler whether it would take the script, without submitting it.

        Returns:
            What it says of when the job would start; None where it says nothing.

        Raises:
            InputError: it would not, with its own words and the profile's line.
        """
        ...

    def submit(self, script: Path, request: JobRequest) -> str:
        """Submit the script.  Returns the job's id.

        Raises:
            GaffError: it did not take it.
        """
        ...

    def state(self, job: str) -> str | None:
        """How a job stands, in the scheduler's words; "" when it neither waits nor runs, None if that is not known."""
        ...
