# SPDX-License-Identifier: Apache-2.0
"""A real Slurm of two nodes on this machine."""

from __future__ import annotations

import contextlib
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

import psutil
import pytest

SCRIPT = Path(__file__).with_name("slurm-local.sh")
SETTINGS = ("4", "--nodes", "2", "--node-timeout", "10", "--kill-wait", "30", "--grace", "10")  # 30: as a stock Slurm
PATIENCE_S = 200.0  # for one thing to come about, on two cores that others use too

_NOT_INSTALLED = 3  # the script's exit code
_POLL_S = 0.2
_FACT = re.compile(r"(?:^|\s)([A-Za-z]+)=(\S*)")
# It outlives a test run that is killed: the end of its input comes then, too.
_GUARD = 'cat >/dev/null; "$1" stop "$2"; rm -rf "$2"'


class NotInstalledError(Exception):
    """Slurm is not installed; the text says how to get it."""


def wait_for(what: str, condition: Callable[[], Any], within_s: float = PATIENCE_S) -> Any:
    """What ``condition`` gives, as soon as it is true."""
    until = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < until, f"waited {within_s:.0f} s for {what}"
        time.sleep(_POLL_S)
    return found


@dataclass(frozen=True)
class Slurm:
    """Talks to the Slurm that ``SLURM_CONF`` of this process names.

    Attributes:
        folder: of all its files.
    """

    folder: Path

    @property
    def conf(self) -> Path:
        return self.folder / "etc" / "slurm.conf"

    def ask(self, *words: str | Path) -> str:
        """What one of its programs says."""
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{shlex.join(map(str, words))}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def facts(self, job: str) -> dict[str, str]:
        """``scontrol show job``: ``JobState``, ``ExitCode``, ``Restarts``, ``Reason`` …"""
        said = self.ask("scontrol", "show", "job", job)
        return dict(_FACT.findall(said)) | {"Comment": said.partition("Comment=")[2].partition("\n")[0].strip()}

    def steps(self, job: str) -> list[psutil.Process]:
        """The slurmstepd processes of a job."""
        return [p for p in psutil.process_iter() if _is_step(p, job, self.folder)]

    def update(self, job: str, **values: str) -> None:
        self.ask("scontrol", "update", f"jobid={job}", *(f"{key}={value}" for key, value in values.items()))

    def daemon(self, name: str) -> psutil.Process:
        """``slurmctld`` or ``slurmd.n1``."""
        return psutil.Process(int((self.folder / "run" / f"{name}.pid").read_text()))

    def stop_controller(self) -> None:
        controller = self.daemon("slurmctld")
        controller.terminate()
        controller.wait(30)

    def start_controller(self) -> None:
        self.ask("slurmctld", "-f", self.conf)
        wait_for("the controller", lambda: "is UP" in subprocess.getoutput("scontrol ping"))

    def revive(self) -> None:
        """Have all daemons run and all nodes answer again."""
        self.ask(SCRIPT, "start", self.folder, *SETTINGS)

    def tidy(self) -> None:
        """Mend what a test has broken, and end its jobs."""
        if subprocess.run([SCRIPT, "status", self.folder], capture_output=True, timeout=120).returncode:
            self.revive()
        jobs = self.ask("squeue", "-h", "-o", "%A").split()
        if jobs:
            self.ask("scancel", *jobs)
            wait_for("the queue to be empty", lambda: not self.ask("squeue", "-h", "-o", "%A"))


def _is_step(process: psutil.Process, job: str, folder: Path) -> bool:
    """The daemon of a node works where its logs are."""
    try:
        title = " ".join(process.cmdline())
        return title.startswith(f"slurmstepd: [{job}.") and process.cwd() == str(folder / "log")
    except psutil.Error:
        return False


@contextmanager
def local_slurm() -> Iterator[Slurm]:
    """Start one in a directory of its own, for this process and its children; stop it, even if this process is killed.

    Raises:
        NotInstalledError: its programs are not here.
    """
    folder = Path(tempfile.mkdtemp(prefix="gaff-slurm-", dir="/tmp"))  # the names of its sockets must be short
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("SLURM_", "SBATCH_")):  # a test run may be inside a job of another Slurm
                patch.delenv(name)
        patch.setenv("PATH", os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"]))
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
            patch.setenv("SLURM_CONF", str(folder / "etc" / "slurm.conf"))
            yield Slurm(folder)
        finally:
            assert guard.stdin is not None
            guard.stdin.close()
            guard.wait(120)


def kill(*processes: psutil.Process) -> None:
    """All at once, without a word to any."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
