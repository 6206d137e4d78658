# SPDX-License-Identifier: Apache-2.0
"""A real Grid Engine of one host on this machine."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("sge-local.sh")
SETTINGS = ("4", "--notify", "40")  # GPUs; seconds between SIGUSR2 and SIGKILL
PATIENCE_S = 200.0  # for one thing to come about, on two cores that others use too

_NOT_INSTALLED = 3  # the script's exit code
_POLL_S = 0.5
_FOREIGN = re.compile(r"SGE_|JOB_ID$|PE_HOSTFILE$|RESTARTED$")
# It outlives a test run that is killed: the end of its input comes then, too.
_GUARD = 'cat >/dev/null; "$1" stop "$2"; rm -rf "$2"'


class NotInstalledError(Exception):
    """Grid Engine is not installed; the text says how to get it."""


def wait_for(what: str, condition: Callable[[], Any], within_s: float = PATIENCE_S) -> Any:
    """What ``condition`` gives, as soon as it is true."""
    until = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < until, f"waited {within_s:.0f} s for {what}"
        time.sleep(_POLL_S)
    return found


@dataclass(frozen=True)
class GridEngine:
    """Talks to the Grid Engine that ``SGE_ROOT`` of this process names.

    Attributes:
        folder: of all its files.
    """

    folder: Path

    def ask(self, *words: str | Path) -> str:
        """What one of its programs says."""
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{shlex.join(map(str, words))}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def states(self, job: str) -> list[str]:
        """The state of each task that is in the queue, as qstat writes it; none when the job is over."""
        lines = [line.split() for line in self.ask("qstat", "-u", "*", "-g", "d").splitlines()]
        return [words[4] for words in lines if words and words[0] == job]

    def facts(self, job: str) -> dict[str, str]:
        """``qstat -j``: what was asked for."""
        found = re.findall(r"^([\w ]+):[ \t]+(.*)$", self.ask("qstat", "-j", job), re.MULTILINE)
        return {name.strip(): value.strip() for name, value in found}

    def wait_for_end(self, job: str) -> None:
        wait_for(f"the end of job {job}", lambda: not self.states(job))

    def exit_codes(self, *jobs: str, starts: int = 1) -> list[int]:
        """Of each start of jobs that are over, oldest first, as soon as so many are accounted for; qacct(1)."""

        def found() -> list[int]:
            words = [["qacct", "-j", job] for job in jobs]
            said = [subprocess.run(word, capture_output=True, text=True, timeout=120).stdout for word in words]
            codes = re.findall(r"^exit_status +(\d+)", "".join(said), re.MULTILINE)
            return [int(code) for code in codes] if len(codes) >= starts else []

        codes: list[int] = wait_for(f"the accounting of {starts} starts of {', '.join(jobs)}", found)
        return codes


@contextmanager
def local_grid_engine() -> Iterator[GridEngine]:
    """Start one in a directory of its own, for this process and its children; stop it, even if this process is killed.

    Raises:
        NotInstalledError: its programs are not here.
    """
    folder = Path(tempfile.mkdtemp(prefix="gaff-sge-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if _FOREIGN.match(name):  # a test run may be inside a job of another Grid Engine
                patch.delenv(name)
        started = subprocess.run([SCRIPT, "start", folder, *SETTINGS], capture_output=True, text=True, timeout=120)
        if started.returncode == _NOT_INSTALLED:
            shutil.rmtree(folder)
            raise NotInstalledError(started.stderr.strip())
        guard = subprocess.Popen(
            ["sh", "-c", _GUARD, "guard", SCRIPT, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            assert started.returncode == 0, started.stdout + started.stderr
            exports = subprocess.check_output([SCRIPT, "env", folder], text=True)
            for name, value in re.findall(r"\b(SGE_\w+)=(\S+)", exports):
                patch.setenv(name, value)
            patch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
            yield GridEngine(folder)
        finally:
            assert guard.stdin is not None
            guard.stdin.close()
            guard.wait(120)
