# SPDX-License-Identifier: Apache-2.0
"""The process between supervisor and trainer: no rank outlives it, and it does not outlive the supervisor.

``python guardian.py LIFELINE_FD -- COMMAND …`` runs COMMAND in a session of its own and waits.  It is
the reaper of all that the command starts (Linux ``PR_SET_CHILD_SUBREAPER``), so it finds every rank, also those whose
launcher is gone, and it ends them all

* when the supervisor is dead, however it died: the lifeline, a pipe whose other end only the supervisor holds, closes;
* when it is told to by SIGTERM: the command's group is asked first, and killed after ``GRACE_S``;
* when the command has ended and left something behind (GPT-NeoX's ``deepy.py`` exits 0 when its launcher is killed,
  and the ranks train on).

It then dies the command's own death: the same exit code, or the same signal.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import subprocess
import sys
import time

import psutil

GRACE_S = 10.0  # for ranks to end by themselves after SIGTERM, before SIGKILL
_LINGER_S = 3.0  # for helpers (data loader workers) to go once the command has ended
_BREATH_S = 0.02  # between two rounds of killing what hangs in the kernel
_DYING_S = 30.0  # for what SIGKILL was sent to; what hangs in the kernel longer is left to it

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True)


def guard(lifeline: int, command: list[str]) -> int:
    """Run ``command`` until it ends, the supervisor dies, or SIGTERM comes.  Returns its exit code, or -signal."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    told_to_stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, frame: told_to_stop.append(received))
    signal.signal(signal.SIGCHLD, lambda received, frame: None)

    child = subprocess.Popen(command, start_new_session=True, preexec_fn=_die_with_parent, stdin=subprocess.DEVNULL)
    while child.poll() is None:
        readable, _, _ = select.select([lifeline, wake_read], [], [], 1.0)
        if wake_read in readable:
            os.read(wake_read, 4096)
        if lifeline in readable:  # end of file: the supervisor is dead
            _kill(_descendants())
            time.sleep(_BREATH_S)
        elif told_to_stop:
            _stop(child)
        _reap(child.pid)
    _end_leftovers()
    return child.returncode


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Ask the command's group, wait, then kill everything."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    _kill(_descendants())


def _end_leftovers() -> None:
    deadline = time.monotonic() + _LINGER_S
    while _descendants() and time.monotonic() < deadline:
        _reap(0)
        time.sleep(0.05)
    deadline = time.monotonic() + _DYING_S
    while (left := _descendants()) and time.monotonic() < deadline:
        _kill(left)
        _reap(0)
        time.sleep(_BREATH_S)


def _descendants() -> list[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    return [p for p in found if _status(p) not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)]


def _status(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.NoSuchProcess:
        return str(psutil.STATUS_DEAD)


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _reap(child: int) -> None:
    """Collect ended orphans, but never ``child``, whose status is Popen's to collect."""
    with contextlib.suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid == child:
                return
            os.waitpid(ended.si_pid, os.WNOHANG)


def main() -> None:
    lifeline, command = int(sys.argv[1]), sys.argv[3:]
    code = guard(lifeline, command)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError, ValueError):  # SIGKILL has no handler to reset
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
