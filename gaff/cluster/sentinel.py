# SPDX-License-Identifier: Apache-2.0
"""A step that hears of a preemption when Slurm tells steps alone, and passes it on to the supervisor.

At the start of the grace time a stock Slurm signals the job's steps; the batch process hears nothing before its end,
unless the site set ``preempt_send_user_signal`` (slurm.conf(5); measured with 22.05).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from gaff.cluster.job import Job

_END_S = 5.0
# One signal is passed on.  The end of its input, when the supervisor is gone, ends the step.  `cat` is deaf to SIGTERM:
# Slurm signals a step's processes one after the other, and a `cat` that went first would take the shell with it.
_WATCH = 'trap "kill -USR1 $1; kill -KILL \\$!" TERM; exec 3<&0; (trap "" TERM; exec cat <&3 >/dev/null) & wait $!'
_SIZE = ("--nodes=1", "--ntasks=1", "--cpus-per-task=1", "--gres=none", "--mem=0")
_STEP = ("srun", "--overlap", *_SIZE, "--quiet", "--job-name=gaff-sentinel")


@contextmanager
def sentinel(job: Job | None, pid: int | None = None) -> Iterator[None]:
    """While the block runs, SIGTERM to the steps of a Slurm job comes to ``pid`` (this process) as SIGUSR1."""
    if job is None or job.scheduler != "Slurm" or not job.nodes or shutil.which("srun") is None:
        yield
        return
    words = [*_STEP, f"--nodelist={job.nodes[0]}", "sh", "-c", _WATCH, "gaff-sentinel", str(pid or os.getpid())]
    quiet = subprocess.DEVNULL
    try:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()  # the controller is away; the step ends with the job
            process.wait()
