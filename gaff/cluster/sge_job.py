# SPDX-License-Identifier: Apache-2.0
"""A job of Grid Engine, seen from inside.  Verified with Grid Engine 8.1.9; qstat(1), submit(1), queue_conf(5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gaff.cluster.job import SCRIPT, Cause

PUT_BACK = 99  # the exit code that has a job queued again; queue_conf(5)


@dataclass(frozen=True)
class SgeJob:
    """See :class:`gaff.cluster.job.Job`."""

    id: str
    restarts: int
    nodes: tuple[str, ...]
    slots: int
    environ: Mapping[str, str] = field(repr=False)
    scheduler: str = "Grid Engine"

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> SgeJob | None:
        """From the variables that Grid Engine sets; None outside of a job."""
        number = environ.get("JOB_ID", "")
        if not number.isdecimal() or "SGE_TASK_ID" not in environ:
            return None
        task = environ["SGE_TASK_ID"]
        own = f"{number}.{task}" if task.isdecimal() else number
        return cls(own, 0, (), 1, environ)

    @property
    def script(self) -> Path | None:
        named = self.environ.get(SCRIPT)
        return Path(named) if named else None

    def seconds_left(self, patience_s: float = 0.0) -> float | None:
        return None

    def cause(self, signal: str) -> Cause:
        return Cause.UNKNOWN

    def put_back(self) -> int:
        return PUT_BACK

    def add_follower(self) -> str:
        raise NotImplementedError

    def drop(self, follower: str) -> None:
        raise NotImplementedError

    def tell(self, name: str, comment: str) -> bool:
        return False
