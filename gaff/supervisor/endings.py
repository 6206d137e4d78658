# SPDX-License-Identifier: Apache-2.0
"""The errors with which a supervisor ends a run, in its own words."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence

from gaff.errors import GaffError, Interrupted, Location, Problem
from gaff.supervisor.failures import safe_words
from gaff.supervisor.journal import Entry
from gaff.supervisor.ownership import SAVE_MARK
from gaff.supervisor.run_context import RunContext
from gaff.supervisor.stopping import WALLTIME


def confirm_lock(run: RunContext) -> None:
    """Make sure that the run is still this supervisor's, before anything is touched.

    Raises:
        Interrupted: its job is another process by now, or will be.
        GaffError: it is another one's by now.
    """
    gone = run.gone()
    if gone:
        raise Interrupted(Problem("job-gone", gone, "leave the run to the job's next start"), "job")
    lost = run.confirm()
    if lost:
        where = Location(str(run.directory.root))
        raise GaffError(Problem("lock-lost", lost, "leave the run to it", where))


def confirm_save(run: RunContext) -> None:
    """Make sure that ``save`` is what it was when the run was opened, and not an empty mount point.

    Raises:
        GaffError: the mark that was left in it is gone.
    """
    if not (run.directory.save / SAVE_MARK).exists():
        what = f"its {SAVE_MARK} is gone, so this is not the directory that the run was saving to"
        remedy = "mount it or move it back, and run the same command again to carry on"
        raise GaffError(Problem("save-gone", what, remedy, Location(str(run.directory.save))))


def refuse_to_begin_anew(run: RunContext, earlier: Iterable[Entry]) -> None:
    """Make sure that a run without any checkpoint never had one, as far as its journal tells.

    Raises:
        GaffError: it had, and nothing at all is left: an empty mount point, say.  Who moves a tag away leaves `latest`.
    """
    save = run.directory.save
    reached = max((entry.number("iteration") or 0 for entry in earlier if entry.event == "segment_done"), default=0)
    if reached and set(os.listdir(save)) <= {SAVE_MARK}:
        what = f"is empty, and this run had come to iteration {reached}"
        remedy = "mount it or restore a checkpoint; to train from the beginning, name another --run-dir"
        raise GaffError(Problem("checkpoints-gone", what, remedy, Location(str(save))))


def was_out_of_time(earlier: Sequence[Entry], iteration: int) -> bool:
    """Whether the call before began at ``iteration`` too, and ended by its walltime."""
    calls = [number for number, entry in enumerate(earlier) if entry.event == "run_started"]
    if not calls:
        return False
    began = earlier[calls[-1]]
    reasons = (entry.text("why") or "" for entry in earlier[calls[-1] :] if entry.event == "run_interrupted")
    return began.number("resume_iteration") == iteration and any(WALLTIME in why for why in reasons)


def out_of_time(what: str, iteration: int, *, again: bool) -> GaffError:
    """The walltime is over; ``again`` where the call before ended so at the same iteration, as any other would."""
    if not again:
        return interrupted(what, iteration)
    words = f"{what}, for the second time without a new checkpoint; {safe_words(iteration)}"
    return GaffError(Problem("too-little-time", words, "give the job more time than a start and some iterations take"))


def interrupted(what: str, iteration: int, signal: str | None = None) -> Interrupted:
    """It was stopped from outside, by ``signal`` if by one, and the same command carries on after ``iteration``."""
    words = f"{what}; {safe_words(iteration)}"
    return Interrupted(Problem("interrupted", words, "run the same command again to carry on"), signal)


def system_error(error: OSError) -> GaffError:
    """Trouble of the machine in the supervisor's own work, as a full disk: nothing is lost by it."""
    where = Location(str(error.filename)) if error.filename else None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = "the disk is full, or this user's share of it"
        return GaffError(Problem("disk-full", what, "make room, and run the same command again to carry on", where))
    what = f"the supervisor met `{error.strerror or error}`"
    return GaffError(Problem("system", what, "mend that, and run the same command again to carry on", where))
