# SPDX-License-Identifier: Apache-2.0
"""What a person is told when something is wrong: one sentence with the place and the remedy, and an exit code.

Mistakes in what the user gave, and trouble with the machine, derive from :class:`GaffError`.  Programming mistakes do
not: they are assertions and crash with a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_WRONG_INPUT = 2
EXIT_RESUMABLE = 75  # sysexits.h EX_TEMPFAIL: interrupted, and the same command carries on


@dataclass(frozen=True)
class Location:
    """A place in a file that a person can open.  ``line`` counts from 1; 0 means the file as a whole."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: what, where, and what to do about it.

    Attributes:
        id: stable kebab-case name, for scripts and tests.
        what: what is wrong, without a final full stop.
        remedy: what to do now, an imperative clause without a final full stop.
        where: the file and line, or the checkpoint file, or None when it is the machine.
        detail: lines to show below, as they are: the decisive ones of a log.
    """

    id: str
    what: str
    remedy: str
    where: Location | None = None
    detail: tuple[str, ...] = ()

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return "\n    ".join((f"{place}{self.what}; {self.remedy}.", *self.detail))


class GaffError(Exception):
    """Something that the user or the machine must mend.  Carries its facts as :class:`Problem` objects."""

    exit_code = EXIT_FAILED

    def __init__(self, problems: Problem | Sequence[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        assert self.problems, "an error needs at least one problem"
        super().__init__("\n".join(str(p) for p in self.problems))


class InputError(GaffError):
    """Wrong usage or input: nothing was started and nothing was written."""

    exit_code = EXIT_WRONG_INPUT


class CheckpointError(GaffError):
    """A checkpoint that is damaged, incomplete or not of a kind that GAFF handles."""


class TrainerError(GaffError):
    """The trainer failed, or did not do what it was asked."""


class Interrupted(GaffError):
    """The run was stopped from outside; the same command carries on.

    Attributes:
        signal: the name of the signal that asked for it; None where the time was over or nothing outside asked.
    """

    exit_code = EXIT_RESUMABLE

    def __init__(self, problems: Problem | Sequence[Problem], signal: str | None = None) -> None:
        super().__init__(problems)
        self.signal = signal
