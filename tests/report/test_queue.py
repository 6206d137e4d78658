# SPDX-License-Identifier: Apache-2.0
"""The job of a run in its scheduler's queue; squeue is a stand-in here, the real one has its own bench."""

from __future__ import annotations

from pathlib import Path

import pytest

from gaff.cluster.record import record
from gaff.report.queue import QueueLook
from gaff.report.status import StatusReader


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose text the stand-in says; sbatch and scontrol are there as well."""
    folder, said = tmp_path / "bin", tmp_path / "said"
    folder.mkdir()
    for name in ("sbatch", "scontrol", "squeue"):
        (folder / name).write_text(f"#!/bin/sh\necho asked >> {tmp_path}/asked\ncat {said}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
    return said


def test_a_run_that_was_never_submitted_has_no_job(tmp_path: Path) -> None:
    assert QueueLook(tmp_path).read() is None


def test_the_newest_job_in_its_schedulers_words(tmp_path: Path, squeue: Path) -> None:
    for job in ("7", "8"):
        record(tmp_path, "slurm", job, tmp_path / "jobs" / "gaff.sbatch")
    squeue.write_text("PENDING BeginTime\n")
    found = QueueLook(tmp_path).read()
    assert found is not None
    assert (found["id"], found["scheduler"], found["state"]) == ("8", "slurm", "pending (BeginTime)")


@pytest.mark.parametrize(("said", "state"), [("RUNNING None", "running"), ("COMPLETED None", ""), ("", "")])
def test_a_job_that_runs_and_one_that_is_over(said: str, state: str, tmp_path: Path, squeue: Path) -> None:
    record(tmp_path, "slurm", "8", Path("script"))
    squeue.write_text(said)
    found = QueueLook(tmp_path).read()
    assert found is not None
    assert found["state"] == state


def test_the_scheduler_is_not_asked_all_the_time(tmp_path: Path, squeue: Path) -> None:
    now = 0.0
    record(tmp_path, "slurm", "8", Path("script"))
    squeue.write_text("RUNNING None")
    look = QueueLook(tmp_path, lambda: now)
    for _ in range(10):
        look.read()
    assert (tmp_path / "asked").read_text().count("asked") == 1
    now = 60.0
    look.read()
    assert (tmp_path / "asked").read_text().count("asked") == 2
    record(tmp_path, "slurm", "9", Path("script"))
    look.read()
    assert (tmp_path / "asked").read_text().count("asked") == 3, "another job"


def test_where_the_scheduler_is_not_here_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path, "slurm", "8", Path("script"))
    monkeypatch.setenv("PATH", str(tmp_path))
    found = QueueLook(tmp_path).read()
    assert found is not None
    assert found["state"] is None


def test_a_run_that_waits_in_the_queue_is_a_run_already(tmp_path: Path, squeue: Path) -> None:
    record(tmp_path, "slurm", "8", Path("script"))
    squeue.write_text("PENDING Priority")
    status = StatusReader(tmp_path).read()
    assert status["state"] == "not started"
    assert status["job"]["state"] == "pending (Priority)"
