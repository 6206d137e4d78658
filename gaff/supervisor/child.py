# SPDX-License-Identifier: Apache-2.0
"""One launch of the trainer: started under a guardian, its log read as it grows, ended for sure.

The trainer writes straight into its log file, so no line is lost and nothing blocks when the supervisor dies.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from gaff.errors import GaffError, Problem
from gaff.supervisor import guardian
from gaff.supervisor.ranks import FAULT_HANDLER, build_locks, find_ranks, print_stacks
from gaff.trainers.contract import Launch

RUN_ID = "GAFF_RUN_ID"  # in the environment of every process of a run
_CLEAN_UP_S = 60.0  # for one command
_STOP_WAIT_S = 30.0  # longer than the guardian's own grace


class Child:
    """A trainer at work.  Use as a context manager: leaving the block ends every process of it."""

    def __init__(self, launch: Launch, log: Path, run_id: str) -> None:
        self._log = log
        self._read_to = 0
        self._rest = b""
        self._asked = False
        lifeline_read, self._lifeline = os.pipe()
        environment = {**os.environ, **launch.env, **FAULT_HANDLER, RUN_ID: run_id}
        # -I: what the launch puts on PYTHONPATH is for the trainer, not for the guardian
        command = [sys.executable, "-I", guardian.__file__, str(lifeline_read), "--", *launch.argv]
        with open(log, "ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=launch.cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(lifeline_read,),
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which then decides
            )
        os.close(lifeline_read)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        os.close(self._lifeline)

    @property
    def pid(self) -> int:
        """The guardian's."""
        return self._process.pid

    def poll(self) -> int | None:
        """Exit code once all has ended, negative for a signal; None while it runs."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """Ask the trainer to end.  Returns at once; the guardian kills what has not ended within its grace."""
        if not self._asked:
            self._asked = True
            self._process.terminate()

    def stop(self) -> None:
        """End the trainer, and wait until it has."""
        if self._process.poll() is None:
            self.ask_to_stop()
            try:
                self._process.wait(_STOP_WAIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def kill(self) -> None:
        """End the trainer at once.  The guardian, which is left, then ends as well."""
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def print_stacks(self) -> tuple[int, tuple[Path, ...]]:
        """Have the ranks print their Python stacks into the log, and die by it.

        Returns how many ranks were found on this machine, and the lock files of builds that they may wait for.
        """
        ranks = find_ranks(self._process.pid)
        locks = build_locks(ranks)
        print_stacks(self._process.pid, ranks, self._log)
        return len(ranks), locks

    def new_lines(self, *, last: bool = False) -> Iterator[str]:
        """Whole lines written since the previous call; with ``last`` also one that was never ended."""
        with open(self._log, "rb") as file:
            file.seek(self._read_to)
            data = file.read()
        self._read_to += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if last and self._rest:
            lines.append(self._rest)
        for line in lines:
            yield line.decode("utf-8", errors="replace")


def end_leftovers(run_id: str) -> list[int]:
    """Kill every process of the run that this user has.  Returns their ids.

    To be called where none should be: there are none unless a guardian was killed with -9.

    Raises:
        GaffError: one of them does not end, as when it hangs in the kernel.
    """
    mine = psutil.Process().pid
    found = [p for p in psutil.process_iter() if p.pid != mine and _run_of(p) == run_id]
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _, alive = psutil.wait_procs(found, timeout=_STOP_WAIT_S)
    if alive:
        what = f"processes {[p.pid for p in alive]} of an earlier launch do not end"
        raise GaffError(Problem("leftovers", what, "end them, or restart the machine, before the run goes on"))
    return [p.pid for p in found]


def _run_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(RUN_ID)
    except (psutil.Error, OSError):
        return None


def clean_up(launch: Launch) -> None:
    """Run the launch's commands that end what no kill here reaches.  They may fail; each has a minute."""
    environment = {name: value for name, value in {**os.environ, **launch.env}.items() if name != RUN_ID}
    for command in launch.clean_up:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                command,
                cwd=launch.cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_CLEAN_UP_S,
                check=False,
            )
