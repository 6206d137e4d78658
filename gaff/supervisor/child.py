# SPDX-License-Identifier: Apache-2.0
"""One launch of the trainer: started under a guardian, its log read as it grows, ended for sure.

The trainer writes straight into its log file, so no line is lost and nothing blocks when the supervisor dies.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from gaff.errors import GaffError, Problem
from gaff.supervisor import guardian
from gaff.supervisor.log_reader import LogReader
from gaff.supervisor.ranks import FAULT_HANDLER, build_locks, find_ranks, print_stacks, show_stacks
from gaff.trainers.contract import Launch

RUN_ID = "GAFF_RUN_ID"  # in the environment of every process of a run
_CLEAN_UP_S = 60.0  # for one command
_STOP_WAIT_S = 30.0  # longer than the guardian's own grace
_KILL_WAIT_S = 5.0  # SIGKILL takes effect in its own time

#: What torchrun and its like set for one rank.  GAFF may run in a shell that has them still, and every process of a
#: launch, its launchers too, would take itself for that rank.
_OF_ONE_RANK = frozenset(
    [
        *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "MASTER_PORT"),
        *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "CROSS_RANK", "CROSS_SIZE"),
    ]
)


class Child:
    """A trainer at work.  Use as a context manager: leaving the block ends every process of it."""

    def __init__(self, launch: Launch, log: Path, run_id: str) -> None:
        self._asked_at: float | None = None
        self._ended: int | None = None
        inherited = {name: value for name, value in os.environ.items() if not _is_of_one_rank(name)}
        environment = {**inherited, **launch.env, **FAULT_HANDLER, RUN_ID: run_id}
        lifeline_read, self._lifeline = os.pipe()
        self._output = open(log, "ab", buffering=0)  # noqa: SIM115 - closed on leaving the block
        self.log = LogReader(log)
        # -I: what the launch puts on PYTHONPATH is for the trainer, not for the guardian
        command = [sys.executable, "-I", guardian.__file__, str(lifeline_read), "--", *launch.argv]
        try:
            self._process = subprocess.Popen(
                command,
                cwd=launch.cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                pass_fds=(lifeline_read,),
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which then decides
            )
        except BaseException:
            self._close()
            raise
        finally:
            os.close(lifeline_read)
        with contextlib.suppress(OSError, AttributeError):  # Linux 5.3, Python 3.9
            self._ended = os.pidfd_open(self._process.pid)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        self._close()

    def _close(self) -> None:
        self.log.close()
        self._output.close()
        os.close(self._lifeline)
        if self._ended is not None:
            os.close(self._ended)

    @property
    def pid(self) -> int:
        """The guardian's."""
        return self._process.pid

    def poll(self) -> int | None:
        """Exit code once all has ended, negative for a signal; None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float) -> None:
        """Sleep so long, or until all has ended."""
        if self._ended is None:
            time.sleep(seconds)
        else:
            select.select([self._ended], [], [], seconds)

    def ask_to_stop(self) -> None:
        """Ask the trainer to end.  Returns at once; the guardian kills what has not ended within its grace."""
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            self._process.terminate()

    @property
    def is_overdue(self) -> bool:
        """Whether it was asked to end so long ago that not even SIGKILL seems to end it."""
        return self._asked_at is not None and time.monotonic() - self._asked_at > _STOP_WAIT_S

    def stop(self) -> int:
        """End the trainer, and wait until it has, or until it is clear that it cannot.  Returns the exit code."""
        self.ask_to_stop()
        assert self._asked_at is not None
        try:
            return self._process.wait(max(0.0, self._asked_at + _STOP_WAIT_S - time.monotonic()))
        except subprocess.TimeoutExpired:
            killed = self.kill()
            self._process.kill()
            psutil.wait_procs(killed, timeout=_KILL_WAIT_S)
            return self._process.wait()

    def kill(self) -> list[psutil.Process]:
        """End the trainer at once.  The guardian, which is left, then ends as well.  Returns what was killed."""
        killed: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self._process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
                    killed.append(process)
        return killed

    def print_stacks(self) -> tuple[int, tuple[Path, ...]]:
        """Have the ranks print their Python stacks into the log, and die by it.

        Returns how many ranks were found on this machine, and the lock files of builds that they may wait for.
        """
        ranks = find_ranks(self._process.pid)
        locks = build_locks(ranks)
        print_stacks(self._process.pid, ranks, self._output)
        return len(ranks), locks

    def show_stacks(self) -> None:
        """Write the ranks' stacks into the log, where py-spy is installed, and let them live."""
        show_stacks(find_ranks(self._process.pid), self._output)


def _is_of_one_rank(name: str) -> bool:
    return name in _OF_ONE_RANK or name.startswith("TORCHELASTIC_")


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
    alive = [p for p in alive if _lives(p)]
    if alive:
        what = f"processes {[p.pid for p in alive]} of an earlier launch do not end"
        raise GaffError(Problem("leftovers", what, "end them, or restart the machine, before the run goes on"))
    return [p.pid for p in found]


def _lives(process: psutil.Process) -> bool:
    """Not so a zombie: what does not collect it, as the first process of a container may not, is no reason to stop."""
    try:
        return process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error:
        return False


def _run_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(RUN_ID)
    except (psutil.Error, OSError):
        return None


def clean_up(launch: Launch) -> None:
    """Run the launch's commands that end what no kill here reaches.  They may fail; each has a minute."""
    environment = {name: value for name, value in {**os.environ, **launch.env}.items() if name != RUN_ID}
    for command in launch.clean_up:
        with contextlib.suppress(OSError):
            process = subprocess.Popen(
                command,
                cwd=launch.cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C must not keep it from its work, nor leave a part of it behind
            )
            try:
                process.wait(_CLEAN_UP_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
