# SPDX-License-Identifier: Apache-2.0
"""What a job of Grid Engine knows by itself, while nobody answers; with a real one in ``test_sge_live.py``."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gaff.cluster.job import Cause
from gaff.cluster.schedulers import this_job
from gaff.cluster.sge_job import SgeJob
from gaff.errors import GaffError

JOB = {"JOB_ID": "17", "SGE_TASK_ID": "undefined", "RESTARTED": "0", "NSLOTS": "8", "HOSTNAME": "node-a"}


def job_of(**variables: str) -> SgeJob:
    found = SgeJob.of({**JOB, **variables})
    assert found is not None
    return found


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No program of Grid Engine is here."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("SGE_ROOT", "SGE_BINARY_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("environ", [{}, {"JOB_ID": "17"}, {"SGE_TASK_ID": "1"}, {**JOB, "JOB_ID": "a"}])
def test_a_job_id_alone_may_be_anybodys(environ: dict[str, str]) -> None:
    assert SgeJob.of(environ) is None
    assert this_job(environ) is None


def test_facts_of_a_job_without_a_parallel_environment() -> None:
    job = job_of()
    assert (job.scheduler, job.id, job.restarts, job.nodes, job.slots) == ("Grid Engine", "17", 0, ("node-a",), 8)
    assert job.script is None


def test_a_task_of_an_array_is_named_with_its_number() -> None:
    assert job_of(SGE_TASK_ID="3", RESTARTED="1").id == "17.3"
    assert job_of(SGE_TASK_ID="3", RESTARTED="1").restarts == 1


def test_hosts_of_a_parallel_environment(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("node-b 4 all.q@node-b UNDEFINED\nnode-a 4 all.q@node-a UNDEFINED\n")
    job = job_of(PE_HOSTFILE=str(tmp_path / "hosts"))
    assert (job.nodes, job.slots) == (("node-b", "node-a"), 4)


@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize(
    ("directive", "seconds"),
    [("-l h_rt=0:02:00", 120), ("-l mem=4G,h_rt=90", 90), ("-l h_rt=1::", 3600), ("-l mem=4G", None)],
)
def test_without_an_answer_the_scripts_own_walltime_counts(tmp_path: Path, directive: str, seconds: int | None) -> None:
    script = tmp_path / "17"
    script.write_text(f"#!/bin/bash\n# -l h_rt=9:00:00\n#$ -N a\n#$ {directive}\nexec gaff run\n")
    began = str(int(time.time()) - 10)
    left = job_of(GAFF_JOB_SCRIPT=str(script), GAFF_JOB_STARTED=began).seconds_left()
    assert left == (None if seconds is None else pytest.approx(seconds - 10, abs=3))
    assert job_of(GAFF_JOB_SCRIPT=str(script)).seconds_left() is None
    assert job_of(GAFF_JOB_SCRIPT=str(tmp_path / "none"), GAFF_JOB_STARTED=began).seconds_left() is None


@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize(
    ("signal", "ago_s", "cause"),
    [
        ("SIGUSR2", 3601, Cause.TIME),
        ("SIGUSR2", 60, Cause.UNKNOWN),
        ("SIGUSR1", 3601, Cause.UNKNOWN),
        ("SIGTERM", 3601, Cause.UNKNOWN),
    ],
)
def test_without_an_answer_a_signal_counts_as_the_walltimes_only_at_its_end(
    tmp_path: Path, signal: str, ago_s: int, cause: Cause
) -> None:
    (tmp_path / "17").write_text("#$ -l h_rt=1:00:00\n")
    started = str(int(time.time()) - ago_s)
    assert job_of(GAFF_JOB_SCRIPT=str(tmp_path / "17"), GAFF_JOB_STARTED=started).cause(signal) is cause


@pytest.mark.usefixtures("nobody")
def test_exit_code_99_means_nothing_where_the_job_is_about_to_be_killed(tmp_path: Path) -> None:
    (tmp_path / "17").write_text("#$ -l h_rt=1:00:00\n")
    began = int(time.time()) - 3570  # half a minute is left, by this clock
    job = job_of(GAFF_JOB_SCRIPT=str(tmp_path / "17"), GAFF_JOB_STARTED=str(began))
    assert job.put_back() == 99
    assert job.cause("SIGUSR2") is Cause.TIME
    with pytest.raises(GaffError, match="its h_rt is over, and exit code 99 means nothing then"):
        job.put_back()
    late = job_of(GAFF_JOB_SCRIPT=str(tmp_path / "17"), GAFF_JOB_STARTED=str(began - 29))
    with pytest.raises(GaffError, match="its h_rt is over"):
        late.put_back()


@pytest.mark.usefixtures("nobody")
def test_what_the_execution_host_has_noted(tmp_path: Path) -> None:
    job = job_of(SGE_JOB_SPOOL_DIR=str(tmp_path))
    assert job.notice_s is None
    assert job.put_back() == 99
    (tmp_path / "config").write_text("notify=60\nforbid_reschedule=1\nnotify_kill=default\n")
    assert job.notice_s == 60
    with pytest.raises(GaffError, match="this site gives exit code 99 no meaning"):
        job.put_back()


@pytest.mark.usefixtures("nobody")
def test_without_an_answer() -> None:
    job = job_of(GAFF_JOB_STARTED="1")
    assert job.put_back() == 99
    assert not job.is_superseded()
    assert not job.tell("pythia:40%", "iteration 40 of 100")
    with pytest.raises(GaffError, match="does not name the job's script"):
        job.add_follower()
