# SPDX-License-Identifier: Apache-2.0
"""Grid Engine, seen from a login node: directives, ``qsub -w v``, ``qsub``, ``qstat``."""

from __future__ import annotations

import shutil
from pathlib import Path

from gaff.cluster.request import JobRequest


class GridEngine:
    """See :class:`gaff.cluster.request.Scheduler`."""

    name = "sge"
    title = "Grid Engine"
    template = "gaff.sge"
    directive = "#$"

    def missing(self) -> str | None:
        return next((name for name in ("qsub", "qstat") if shutil.which(name) is None), None)

    def directives(self, request: JobRequest) -> list[str]:
        return [f"-N {request.name}"]

    def task_number(self) -> tuple[str, int]:
        return "SGE_TASK_ID", 1

    def task(self, job: str, number: int) -> str:
        return f"{job}.{number}"

    def check(self, script: Path, request: JobRequest) -> str | None:
        return None

    def submit(self, script: Path, request: JobRequest) -> str:
        raise NotImplementedError

    def alive(self, job: str) -> bool | None:
        return None
