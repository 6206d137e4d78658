# SPDX-License-Identifier: Apache-2.0
"""One rank as a task of srun's step: which one it is, and how it ends when the step does.  Pure; no torch.

When a rank fails Slurm ends the step with SIGTERM, and srun's exit code is the highest of all tasks, a signal counted
as 128 and its number.  Ranks that died of that SIGTERM would therefore hide the code of the one that failed (143 for
1).  So a rank that fails leaves a mark beside its config, and the others then leave with 0; without the mark, when
somebody else ended the step, with 143.  Measured on Slurm 22.05; the rule is in srun's manual.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gaff.errors import InputError, Location, Problem
from gaff.trainers.bundled import settings

_MARK = "rank-failed"
_POLL_S = 1.0


def is_started_by_srun(neox: Mapping[str, Any]) -> bool:
    """Whether a segment's config has srun start every rank: ``launcher: slurm`` with a hostfile."""
    return str(neox.get("launcher")).lower() == "slurm" and bool(neox.get("hostfile"))


def rank_variables(neox: Mapping[str, Any], environ: Mapping[str, str], config: Path) -> dict[str, str]:
    """RANK, LOCAL_RANK and WORLD_SIZE of this task of a step.

    Raises:
        InputError: this process is no task of a step, or the step has another number of tasks than the config ranks.
    """
    where, world = Location(str(config)), settings.layout(neox).world
    if "SLURM_STEP_ID" not in environ:  # a batch script has the others, too
        what = "`launcher: slurm` with a hostfile has srun start each rank, and this process is in no step of srun's"
        raise InputError(Problem("not-in-a-step", what, "start it with `gaff run`, or remove `hostfile`", where))
    if environ["SLURM_NTASKS"] != str(world):
        what = f"srun started {environ['SLURM_NTASKS']} tasks, and the config has {world} ranks"
        raise InputError(Problem("gpus-hostfile", what, "let global_num_gpus and the hostfile's slots agree", where))
    return {"RANK": environ["SLURM_PROCID"], "LOCAL_RANK": environ["SLURM_LOCALID"], "WORLD_SIZE": str(world)}


def mark_failed(config: Path) -> None:
    """Let the other ranks know that this one fails, before it ends."""
    with contextlib.suppress(OSError):  # it must not hide what failed
        (config.parent / _MARK).touch()


def forget_failed(directory: Path) -> None:
    """Remove the mark that an earlier launch left beside its config."""
    (directory / _MARK).unlink(missing_ok=True)


def end_with_the_step(config: Path) -> None:
    """From now on SIGTERM, or the death of slurmstepd, ends this process with the code that the module's words give.

    To be called before any other thread is there.  A thread waits for the signal, because a handler would not run while
    the main thread waits for other ranks.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait_for_the_end, args=(config.parent / _MARK, os.getppid()), daemon=True).start()


def _wait_for_the_end(mark: Path, parent: int) -> None:
    while signal.sigtimedwait({signal.SIGTERM}, _POLL_S) is None:
        if os.getppid() != parent:  # nobody would end it any more
            break
    os._exit(0 if mark.exists() else 128 + signal.SIGTERM)
