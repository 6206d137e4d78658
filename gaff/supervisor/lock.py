# SPDX-License-Identifier: Apache-2.0
"""One supervisor per run directory, also where several machines share it.

Two things hold it.  The kernel's own lock on the file (``flock``) is decisive within one machine and dies with its
owner; but many shared file systems keep it to one machine, have none, or leave one behind when a machine dies.  So the
file also names its owner, who counts up a beat in it while it works and empties it when done (``lock_held``).

What that guarantees:

* An owner whose beat moves, or whose process is seen to live, is never pushed aside.
* One that died is replaced: at once on its own machine, also after a reboot where the disk is its own, and elsewhere
  after ``Periods.stale_s`` of silence.
* Of several that find the file free at the same moment one goes on: each writes its own name, waits ``settle_s``, and
  goes on if its name still stands (Fischer's algorithm).  One whose name took so long to be written that another may
  have gone on meanwhile waits until that one has found its own name gone.
* In any case the file holds one name.  An owner whose name it is no longer, because it was frozen or cut off for longer
  than the silence, learns so at the first beat after it wakes: ``Lock.lost``.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path

from gaff.errors import GaffError, InputError, Location, Problem
from gaff.files import exclusive_lock
from gaff.supervisor.lock_held import Lock, Takeover
from gaff.supervisor.lock_owner import LOCK_NAME, Owner, is_local, open_lock, read_owner
from gaff.supervisor.lock_presence import PERIODS, Onlooker, Periods, Presence

__all__ = ["LOCK_NAME", "Lock", "run_lock"]

Tell = Callable[[str], None]

# What the user did, not the machine.
_USERS = {"EISDIR", "EINVAL", "ENXIO", "ELOOP", "ENOENT", "EACCES", "EPERM", "EROFS"}
_FULL = {"ENOSPC", "EDQUOT", "EFBIG"}


@contextmanager
def run_lock(path: Path, tell: Tell = lambda text: None, periods: Periods = PERIODS) -> Iterator[Lock]:
    """Hold the lock file ``path`` while the block runs.

    Where the last owner was on another machine and did not let go, this waits for its next beat, or for
    ``periods.stale_s`` without one.

    Args:
        path: the file; it is created, and stays there, empty.
        tell: is told of such a waiting and of the takeover after it, a clause each without a full stop.
        periods: the same for all who use the file.

    Raises:
        InputError: another process is at work, and the message says which; or the file cannot be used.
        GaffError: it cannot be written, for want of space, say.
    """
    with ExitStack() as stack:
        try:
            lock = _acquire(path.absolute(), tell, periods, stack)
        except OSError as error:
            raise _unusable(path, error) from None
        yield lock


def _acquire(path: Path, tell: Tell, periods: Periods, stack: ExitStack) -> Lock:
    descriptor = _open(path, stack)
    onlooker = Onlooker(path, periods)
    for looks in count(1):
        since = time.monotonic()
        held = _flock(descriptor, stack)
        seen = onlooker.look()
        silent = seen.at_work is not True and seen.silent_s >= periods.stale_s
        if silent or _is_free(seen, held):
            break
        if _is_taken(seen, held):
            raise _refusal(path, seen.owner)
        if looks == 2:
            tell(f"{_name(seen.owner)} did not release this run directory: watching it for {periods.stale_s:g} s")
        time.sleep(periods.beat_s / 10)
    left = silent or (seen.owner is not None and seen.at_work is False)
    lock = Lock(path, periods, Takeover(seen.owner, seen.silent_s) if left else None)
    stack.callback(lock.release)
    if silent:
        _put_in_place(lock, path, stack)
    else:
        lock.write(path)
    if silent or not held or not is_local(path):
        took = time.monotonic() - since
        _settle(lock, path, periods.settle_s if took < periods.settle_s / 2 else 2 * max(took, periods.beat_s))
    if silent:
        tell(f"{_name(seen.owner)} did not stir for {seen.silent_s:.0f} s: this run directory is taken over")
    lock.start()
    return lock


def _put_in_place(lock: Lock, path: Path, stack: ExitStack) -> None:
    """Take over from an owner that may live: by another file, so that what it has on its way to its own ends there."""
    own = path.with_name(f".{path.name}.{lock.token}")
    try:
        lock.write(own)
        _flock(_open(own, stack), stack)
        os.replace(own, path)
    finally:
        with suppress(OSError):
            own.unlink()


def _settle(lock: Lock, path: Path, seconds: float) -> None:
    """Give those the time to write their names who saw the file free when this one did.

    Raises:
        InputError: another's name stands.
    """
    time.sleep(seconds)
    if lock.confirm() is not None:
        raise _refusal(path, read_owner(path))


def _is_free(seen: Presence, held: bool | None) -> bool:
    if held and seen.owner is not None and not seen.owner.token:  # of a GAFF that never emptied the file
        return True
    return held is not None and seen.at_work is False


def _is_taken(seen: Presence, held: bool | None) -> bool:
    """Whether there is no sense in watching any longer."""
    return bool(seen.at_work) or (held is None and (seen.owner is None or not seen.owner.token))


def _open(path: Path, stack: ExitStack) -> int:
    descriptor = open_lock(path, os.O_RDWR | os.O_CREAT)
    stack.callback(os.close, descriptor)
    return descriptor


def _flock(descriptor: int, stack: ExitStack) -> bool | None:
    """Whether the kernel's lock is held; None when another has it, perhaps a machine that died with it."""
    try:
        return stack.enter_context(exclusive_lock(descriptor))
    except BlockingIOError:
        return None


def _name(owner: Owner | None) -> str:
    return "a supervisor that left no name" if owner is None else str(owner)


def _refusal(path: Path, owner: Owner | None) -> InputError:
    who = "it left no name" if owner is None else str(owner)
    what = f"another supervisor is at work in this run directory ({who})"
    return InputError(Problem("run-locked", what, "wait for it or stop it", Location(str(path.parent))))


def _unusable(path: Path, error: OSError) -> GaffError:
    what = f"the lock of this run directory cannot be used ({error.strerror})"
    where = Location(str(path))
    name = errno.errorcode.get(error.errno or 0)
    if name in _USERS:
        remedy = "remove it, make it writable, or name another run directory with --run-dir"
        return InputError(Problem("lock-unusable", what, remedy, where))
    remedy = "free some space" if name in _FULL else "see to the file system"
    return GaffError(Problem("lock-unusable", what, f"{remedy}, then give the same command again", where))
