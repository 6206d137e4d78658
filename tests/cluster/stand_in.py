# SPDX-License-Identifier: Apache-2.0
"""Slurm's programs as small shell scripts that record how they were called and say what a test wants to hear."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAMS = ("sbatch", "scancel", "scontrol", "squeue", "srun")
_RECORD = r"""#!/bin/sh
{ printf '%s\0' "$@"; printf '\036\0'; } >>"$0.calls"
env -0 >"$0.environment"
"""


@dataclass(frozen=True)
class StandIn:
    """Attributes:
    folder: of the programs; the only one on PATH before the system's own.
    """

    folder: Path

    def does(self, program: str, script: str) -> None:
        """From now on ``program`` is this shell script."""
        path = self.folder / program
        path.with_name(f"{program}.new").write_text(_RECORD + script + "\n")
        path.with_name(f"{program}.new").chmod(0o755)
        path.with_name(f"{program}.new").replace(path)

    def calls(self, program: str) -> list[list[str]]:
        """The arguments of each call so far."""
        path = self.folder / f"{program}.calls"
        whole = path.read_text() if path.exists() else ""
        return [call.split("\0")[:-1] for call in whole.split("\036\0")[:-1]]

    def environment(self, program: str) -> dict[str, str]:
        """Of its last call."""
        whole = (self.folder / f"{program}.environment").read_text()
        return dict(item.split("=", 1) for item in whole.split("\0")[:-1])


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Put stand-ins for all programs on PATH, which succeed and say nothing; outside of any job."""
    folder.mkdir()
    slurm = StandIn(folder)
    for program in PROGRAMS:
        slurm.does(program, "")
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SBATCH_", "SQUEUE_", "GAFF_JOB")) or name in ("JOB_ID", "SGE_TASK_ID"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return slurm
