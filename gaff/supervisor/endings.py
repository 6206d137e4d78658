# SPDX-License-Identifier: Apache-2.0
"""The errors with which a supervisor ends a run, in its own words."""

from __future__ import annotations

import errno

from gaff.errors import GaffError, Interrupted, Location, Problem
from gaff.supervisor.run_context import RunContext


def confirm_lock(run: RunContext) -> None:
    """Make sure that the run is still this supervisor's, before anything is touched.

    Raises:
        GaffError: it is another one's by now.
    """
    lost = run.confirm()
    if lost:
        where = Location(str(run.directory.root))
        raise GaffError(Problem("lock-lost", lost, "leave the run to it", where))


def interrupted(what: str, iteration: int) -> Interrupted:
    """It was stopped from outside, and the same command carries on after ``iteration``."""
    safe = f"{what}; iteration {iteration} is safe"
    return Interrupted(Problem("interrupted", safe, "run the same command again to carry on"))


def system_error(error: OSError) -> GaffError:
    """Trouble of the machine in the supervisor's own work, as a full disk: nothing is lost by it."""
    where = Location(str(error.filename)) if error.filename else None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = "the disk is full, or this user's share of it"
        return GaffError(Problem("disk-full", what, "make room, and run the same command again to carry on", where))
    what = f"the supervisor met `{error.strerror or error}`"
    return GaffError(Problem("system", what, "mend that, and run the same command again to carry on", where))
