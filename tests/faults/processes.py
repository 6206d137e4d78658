# SPDX-License-Identifier: Apache-2.0
"""The processes of a run under test: started as a user would, and found again by who started whom."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).parents[2]
GONE = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def start(command: Sequence[str], output: Path, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """``python -m`` of a module with arguments, in a process of its own.  What it says goes to a file."""
    told = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", **(environment or {})}
    with open(output, "w", encoding="utf-8") as file:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            env=told,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=_listen,
        )


def _listen() -> None:
    """A shell starts background jobs, and so perhaps this bench, with signals ignored."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def guardian_of(supervisor: int) -> psutil.Process | None:
    for process in _children(supervisor):
        with contextlib.suppress(psutil.Error):
            if any(word.endswith("guardian.py") for word in process.cmdline()):
                return process
    return None


def trainer_of(supervisor: int) -> list[psutil.Process]:
    """The launcher first, then its ranks; the stand-in is its own rank."""
    guardian = guardian_of(supervisor)
    return [] if guardian is None else _children(guardian.pid, recursive=True)


def _children(pid: int, *, recursive: bool = False) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return [p for p in psutil.Process(pid).children(recursive=recursive) if lives(p)]
    return []


def lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.status() not in GONE
    return False


def is_halted(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    return False


def send(number: signal.Signals, processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def wait_until_gone(processes: Iterable[psutil.Process], seconds: float) -> list[int]:
    """Those that are still there after so long."""
    deadline = time.monotonic() + seconds
    left = list(processes)
    while (left := [p for p in left if lives(p)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [p.pid for p in left]
