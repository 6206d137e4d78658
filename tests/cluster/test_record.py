# SPDX-License-Identifier: Apache-2.0
"""The record of what was submitted for a run."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

from gaff.cluster.record import record, submissions

NAME = Path("jobs", "submitted.jsonl")


def test_nothing_was_submitted_for_a_run_that_is_not_there(tmp_path: Path) -> None:
    assert submissions(tmp_path / "none") == []


def test_what_is_recorded_is_read_back_oldest_first(tmp_path: Path) -> None:
    root = tmp_path / "größe 1"
    record(root, "slurm", "17_3", Path("/runs/größe 1/jobs/gaff.sbatch"))
    record(root, "sge", "9.1", Path("jobs/gaff.sge"))
    first, second = submissions(root)
    assert (first.scheduler, first.job, first.script) == ("slurm", "17_3", "/runs/größe 1/jobs/gaff.sbatch")
    assert (second.scheduler, second.job, second.script) == ("sge", "9.1", "jobs/gaff.sge")
    told = datetime.fromisoformat(second.time)
    assert abs(datetime.now(timezone.utc) - told) < timedelta(hours=1)


def test_lines_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    record(tmp_path, "slurm", "1", Path("a"))
    with open(tmp_path / NAME, "ab") as file:
        file.write(b'not json\n[]\n"x"\nnull\n{"scheduler": "slurm"}\n\xff\xfe\n{"scheduler": "slurm", "jo\n')
    record(tmp_path, "slurm", "2", Path("b"))
    assert [one.job for one in submissions(tmp_path)] == ["1", "2"]


def test_a_line_that_a_crash_cut_off_takes_no_other_with_it(tmp_path: Path) -> None:
    record(tmp_path, "slurm", "1", Path("a"))
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole + whole[:20])
    record(tmp_path, "slurm", "2", Path("b"))
    assert [one.job for one in submissions(tmp_path)] == ["1", "2"]
