# SPDX-License-Identifier: Apache-2.0
"""A supervisor that has outlived its job learns of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

from gaff.cluster.vigil import Vigil

ORPHAN = """
import os, sys, time
from types import SimpleNamespace
from gaff.cluster.vigil import Vigil
if os.fork():
    os._exit(0) if sys.stdin.readline() else None
vigil = Vigil(SimpleNamespace(id="7", scheduler="Slurm", script="job.sh"))
print(vigil.lost, flush=True)
until = time.monotonic() + 20
while vigil.lost is None and time.monotonic() < until:
    time.sleep(0.05)
print(vigil.lost, flush=True)
"""


def job(answers: list[bool]) -> Any:
    return SimpleNamespace(id="12_3", scheduler="Slurm", script=None, is_superseded=lambda: answers.pop(0))


def test_another_start_of_the_job_is_noticed() -> None:
    answers = [False, True]
    with Vigil(job(answers), period_s=0.01) as vigil:
        until = time.monotonic() + 20
        while vigil.lost is None and time.monotonic() < until:
            time.sleep(0.01)
        assert vigil.lost == "Slurm has started job 12_3 anew"
    assert answers == [], "it is not asked again"


def test_a_job_at_work_is_left_in_peace() -> None:
    with Vigil(job([]), period_s=60) as vigil:
        assert vigil.lost is None


def test_the_death_of_the_process_above_it_is_noticed() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ORPHAN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline().strip() == "None"
    process.stdin.write("die\n")
    process.stdin.flush()
    assert "is gone" in process.stdout.readline()
    process.stdin.close()
    process.wait(20)
