# SPDX-License-Identifier: Apache-2.0
"""A real Slurm of two nodes on this machine, and jobs in it."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "cluster" / "slurm-local.sh"
_NOT_INSTALLED = 3  # the script's exit code
_POLL_S = 0.2


class NotInstalledError(Exception):
    """Slurm is not installed; the text says how to get it."""


@dataclass(frozen=True)
class Slurm:
    """Attributes:
    environ: of a shell that talks to it.
    """

    environ: Mapping[str, str]

    def command(self, *words: str) -> str:
        """Run a command of Slurm's (or another) to its end; its output."""
        done = subprocess.run(words, env=dict(self.environ), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def submit(self, folder: Path, script: str) -> Job:
        """Submit a bash script to both nodes, a task on each.  It runs in ``folder``, where ``nodes`` lists them."""
        lines = ["#!/bin/bash", "scontrol show hostnames >nodes", "(", script, ") >log 2>&1", "echo $? >code.new"]
        (folder / "job.sh").write_text("\n".join([*lines, "mv code.new code", ""]))
        (folder / "code").unlink(missing_ok=True)
        options = ["--parsable", "--nodes=2", "--ntasks-per-node=1", "--output=job.out", f"--chdir={folder}"]
        return Job(self, folder, self.command("sbatch", *options, str(folder / "job.sh")).strip())


@dataclass(frozen=True)
class Job:
    """A job that was submitted."""

    slurm: Slurm
    folder: Path
    number: str

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""

    def code(self, within_s: float = 120.0) -> int:
        """The script's exit code, once it has ended."""
        path, deadline = self.folder / "code", time.monotonic() + within_s
        while not path.exists():
            assert time.monotonic() < deadline, self.log
            time.sleep(_POLL_S)
        return int(path.read_text())

    def wait_for(self, text: str, within_s: float = 120.0) -> None:
        """Until the log has ``text``."""
        deadline = time.monotonic() + within_s
        while text not in self.log:
            assert time.monotonic() < deadline, self.log
            assert not (self.folder / "code").exists(), self.log
            time.sleep(_POLL_S)


def quoted(*words: str | Path) -> str:
    return shlex.join(map(str, words))


@contextmanager
def local_slurm(folder: Path) -> Iterator[Slurm]:
    """Start it in ``folder``, and end it.

    Raises:
        NotInstalledError: its programs are not here.
    """
    started = subprocess.run(
        [SCRIPT, "start", folder, "0", "--nodes", "2"], capture_output=True, text=True, timeout=120
    )
    if started.returncode == _NOT_INSTALLED:
        raise NotInstalledError(started.stderr.strip())
    assert started.returncode == 0, started.stdout + started.stderr
    try:
        # a test run may be inside a job of another Slurm
        outside = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        yield Slurm({**outside, "SLURM_CONF": str(folder / "etc" / "slurm.conf"), "OMP_NUM_THREADS": "1"})
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=True, capture_output=True, timeout=120)
