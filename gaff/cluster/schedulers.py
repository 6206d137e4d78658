# SPDX-License-Identifier: Apache-2.0
"""The schedulers that there are, and the job of one of them that this process runs in."""

from __future__ import annotations

import os
from collections.abc import Mapping

from gaff.cluster.job import Job
from gaff.cluster.profile import SchedulerName
from gaff.cluster.request import Scheduler
from gaff.cluster.sge import GridEngine
from gaff.cluster.sge_job import SgeJob
from gaff.cluster.slurm import Slurm
from gaff.cluster.slurm_job import SlurmJob
from gaff.errors import InputError, Problem


def scheduler(name: SchedulerName) -> Scheduler:
    """The scheduler of this name."""
    return Slurm() if name == "slurm" else GridEngine()


def require(name: SchedulerName) -> Scheduler:
    """The scheduler of this name, whose programs are on PATH.

    Raises:
        InputError: one is not.
    """
    found = scheduler(name)
    missing = found.missing()
    if missing:
        what = f"{found.title} is not here: {missing} is not on PATH"
        remedy = "submit from a login node of the cluster, or use `gaff run` on a machine of your own"
        raise InputError(Problem("scheduler-missing", what, remedy))
    return found


def this_job(environ: Mapping[str, str] = os.environ) -> Job | None:
    """The job that a process with this environment belongs to; None outside of any."""
    return SlurmJob.of(environ) or SgeJob.of(environ)
