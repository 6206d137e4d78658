# SPDX-License-Identifier: Apache-2.0
"""Holds a run directory's lock in a process of its own, as on one node of a cluster, until its input ends.

``python hold_lock.py LOCK_FILE '{"node": NAME, "flock": false, "late": true, "waits": true, "periods": {}}'``.  With a
node it goes by that name and by another kernel; without flock it finds a file system that has none (as Lustre says
it); with ``waits`` it begins at a line of input; with ``late`` its name stays on the way to the file until there is
one; ``periods`` are other than usual here.  What happens is told as lines of JSON.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from gaff.errors import GaffError
from gaff.supervisor import lock_held, lock_owner
from gaff.supervisor.lock import run_lock
from gaff.supervisor.lock_presence import Periods

PERIODS = Periods(beat_s=0.1, stale_s=2.0, settle_s=0.3)


def say(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def no_flock(descriptor: int, operation: int) -> None:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def pretend(node: str | None = None, flock: bool = True, late: bool = False) -> None:
    if node is not None:
        lock_owner._host = lambda: node
        lock_owner._boot = lambda: f"boot of {node}"
    if not flock:
        fcntl.flock = no_flock
    if late:
        real = lock_held.Lock.write

        def write(self: lock_held.Lock, path: Path) -> None:
            say("writes")
            sys.stdin.readline()
            real(self, path)

        lock_held.Lock.write = write


def main() -> int:
    path, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    waits, periods = options.pop("waits", False), replace(PERIODS, **options.pop("periods", {}))
    pretend(**options)
    say("ready")
    if waits:
        sys.stdin.readline()
    try:
        with run_lock(path, lambda text: say("told", text=text), periods) as lock:
            before = lock.taken_over
            facts = {"pid": before.owner and before.owner.pid, "silent_s": before.silent_s} if before else None
            say("held", taken_over=facts)
            while lock.lost is None and not select.select([sys.stdin], [], [], 0.02)[0]:
                pass
            if lock.lost is not None:
                say("lost", why=lock.lost)
    except GaffError as error:
        say("refused", id=error.problems[0].id, what=str(error), code=error.exit_code)
        return error.exit_code
    say("done", threads=[thread.name for thread in threading.enumerate()])
    return 0


if __name__ == "__main__":
    sys.exit(main())
