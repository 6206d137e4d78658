# SPDX-License-Identifier: Apache-2.0
"""Asking a scheduler's programs, which block or fail for a while when its controller is away."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

ONCE_S = 30.0  # Slurm's clients give up by themselves after about 20 s
_PAUSE_S = 5.0
_NOT_THERE = 127  # as a shell says it


@dataclass(frozen=True)
class Answer:
    """What a program said.

    Attributes:
        code: its exit code, 127 where it cannot be started; None where it did not end in time.
        out, err: its output, without blanks at the ends.
    """

    code: int | None
    out: str = ""
    err: str = ""

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def words(self) -> str:
        """What it complained of, in one line."""
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        return "; ".join(lines) or ("no answer" if self.code is None else f"exit code {self.code}")


def ask(argv: Sequence[str], timeout_s: float = ONCE_S, environment: Mapping[str, str] | None = None) -> Answer:
    """Run a program to its end, without input."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            errors="replace",
            timeout=timeout_s,
            env=environment,
            check=False,
            start_new_session=True,  # schedulers signal whole process groups
        )
    except subprocess.TimeoutExpired:
        return Answer(None, err=f"{argv[0]} did not answer within {timeout_s:.0f} s")
    except OSError as error:
        return Answer(_NOT_THERE, err=f"{argv[0]}: {error.strerror or error}")
    return Answer(done.returncode, done.stdout.strip(), done.stderr.strip())


def insist(
    argv: Sequence[str],
    patience_s: float,
    passing: Callable[[Answer], bool],
    environment: Mapping[str, str] | None = None,
) -> Answer:
    """The same again and again while ``passing`` says that it failed for the controller's sake; at least once."""
    until = time.monotonic() + patience_s
    while True:
        answer = ask(argv, environment=environment)
        if answer.ok or not passing(answer) or time.monotonic() + _PAUSE_S >= until:
            return answer
        time.sleep(_PAUSE_S)
