# SPDX-License-Identifier: Apache-2.0
"""A job of Slurm from inside: who it is, how long it has, why it was signalled, and how it comes back.

What the stand-in for ``scontrol show job`` prints was taken from Slurm 22.05, line for line.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from gaff.cluster import asking, slurm_job
from gaff.cluster.job import CANCELLED, Cause
from gaff.cluster.schedulers import this_job
from gaff.cluster.slurm_job import SlurmJob
from gaff.errors import EXIT_RESUMABLE, GaffError
from tests.cluster import stand_in
from tests.cluster.stand_in import StandIn

PLAIN = {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "n1", "SLURM_NTASKS": "1", "SLURM_GPUS_ON_NODE": "4"}
SHOWN = """\
JobId=17 JobName=pythia:12%
   UserId=me(1000) GroupId=me(1000) MCS_label=N/A
   Priority=4294901740 Nice=0 Account=(null) QOS=(null)
   JobState={state} Reason={reason} Dependency=(null)
   Requeue=1 Restarts={restarts} BatchFlag=1 Reboot=0 ExitCode=0:0
   RunTime=00:00:10 TimeLimit=01:00:00 TimeMin=N/A
   SubmitTime=2026-11-21T21:18:00 EligibleTime=2026-11-21T21:18:00
   StartTime=2026-11-21T21:18:01 EndTime={end} Deadline=N/A
   PreemptEligibleTime=2026-11-21T21:18:01 PreemptTime={preempted}
   SuspendTime=None SecsPreSuspend=0 LastSchedEval=2026-11-21T21:18:01 Scheduler=Main
   Partition=scavenge AllocNode:Sid=vm:1
   Command=/runs/a b/jobs/gaff.sbatch --config x=y
   WorkDir=/work
   StdOut=/runs/a b/jobs/17.log
   Comment=gaff: iteration 12 of 100, reset 1 of 9
"""
AWAY = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    monkeypatch.setattr(asking, "_PAUSE_S", 0.01)
    return stand_in.install(tmp_path / "bin", monkeypatch)


def job_of(**changes: str) -> SlurmJob:
    job = SlurmJob.of({**PLAIN, **changes})
    assert job is not None
    return job


def shows(programs: StandIn, **facts: str) -> None:
    """``scontrol show job`` answers so."""
    whole = {"state": "RUNNING", "reason": "None", "restarts": "0", "preempted": "None", "end": "Unknown", **facts}
    text = programs.folder / "shown"
    text.write_text(SHOWN.format(**whole))
    programs.does("scontrol", f'[ "$1" != show ] || cat "{text}"')


@pytest.mark.parametrize(
    "environ", [{}, {"SLURM_JOB_ID": ""}, {"SLURM_JOB_ID": "x"}, {"SLURM_CONF": "/etc/slurm.conf"}]
)
def test_outside_of_any_job(environ: Mapping[str, str]) -> None:
    assert SlurmJob.of(environ) is None
    assert this_job(environ) is None


def test_a_plain_job() -> None:
    job = job_of()
    assert (job.id, job.restarts, job.nodes, job.slots, job.scheduler) == ("17", 0, ("n1",), 4, "Slurm")
    assert this_job(PLAIN) == job


def test_a_job_without_gpus_has_one_rank() -> None:
    job = SlurmJob.of({"SLURM_JOB_ID": "17"})
    assert job is not None
    assert (job.nodes, job.slots) == ((), 1)


def test_a_task_of_an_array_is_not_the_whole_array() -> None:
    assert job_of(SLURM_ARRAY_JOB_ID="15", SLURM_ARRAY_TASK_ID="2").id == "15_2"


def test_a_job_that_was_put_back() -> None:
    assert job_of(SLURM_RESTART_COUNT="3").restarts == 3


@pytest.mark.parametrize("listed", ["n[1-2]", "n1,n2"])
def test_several_nodes_in_slurms_order_with_a_task_for_each_rank(programs: StandIn, listed: str) -> None:
    programs.does("scontrol", "printf 'n1\\nn2\\n'")
    job = job_of(SLURM_JOB_NODELIST=listed, SLURM_NTASKS="16", SLURM_GPUS_ON_NODE="8")
    assert (job.nodes, job.slots) == (("n1", "n2"), 8)
    assert programs.calls("scontrol") == [["show", "hostnames", listed]]


def test_several_nodes_with_one_task_each_have_a_rank_for_each_gpu(programs: StandIn) -> None:
    programs.does("scontrol", "printf 'n1\\nn2\\n'")
    assert job_of(SLURM_JOB_NODELIST="n[1-2]", SLURM_NTASKS="2").slots == 4


def test_nodes_that_cannot_be_told_are_not_passed_over(programs: StandIn) -> None:
    programs.does("scontrol", "echo 'scontrol: error: no' >&2; exit 1")
    with pytest.raises(GaffError) as caught:
        job_of(SLURM_JOB_NODELIST="n[1-2]")
    assert "n[1-2]" in caught.value.problems[0].what


def test_the_time_that_is_left(programs: StandIn) -> None:
    end = datetime.now().replace(microsecond=0) + timedelta(minutes=30)
    shows(programs, end=end.isoformat())
    left = job_of().seconds_left()
    assert left is not None
    assert 1700 < left <= 1800
    assert programs.calls("scontrol") == [["show", "job", "17"]]


def test_a_format_of_times_of_the_users_own_changes_nothing(programs: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    shows(programs)
    job_of().seconds_left()
    assert programs.environment("scontrol")["SLURM_TIME_FORMAT"] == "standard"


@pytest.mark.parametrize("end", ["Unknown", "UNLIMITED", "N/A", ""])
def test_a_job_without_an_end(programs: StandIn, end: str) -> None:
    shows(programs, end=end)
    assert job_of().seconds_left() is None


def test_newer_versions_say_the_end_in_a_variable(programs: StandIn) -> None:
    programs.does("scontrol", f"echo '{AWAY}' >&2; exit 1")
    left = job_of(SLURM_JOB_END_TIME=str(int(time.time()) + 100)).seconds_left()
    assert left is not None
    assert 50 < left <= 100


def test_a_controller_that_is_away_at_the_start_is_waited_for(programs: StandIn) -> None:
    shows(programs, end="2030-01-01T00:00:00")
    shown = programs.folder / "shown"
    programs.does("scontrol", f'[ -e "$0.2" ] && exec cat "{shown}"; touch "$0.2"; echo "{AWAY}" >&2; exit 1')
    assert job_of().seconds_left(30.0) is not None
    assert len(programs.calls("scontrol")) == 2


def test_a_controller_that_stays_away_tells_no_end(programs: StandIn) -> None:
    programs.does("scontrol", f"echo '{AWAY}' >&2; exit 1")
    assert job_of().seconds_left(0.05) is None
    assert job_of().seconds_left() is None


@pytest.mark.parametrize(
    ("signal", "shown", "cause"),
    [
        ("SIGTERM", {"state": "COMPLETING"}, Cause.CANCELLED),
        ("SIGTERM", {"state": "COMPLETING", "restarts": "1"}, Cause.PUT_BACK),
        ("SIGTERM", {"state": "PENDING", "reason": "BeginTime", "restarts": "1"}, Cause.PUT_BACK),
        ("SIGUSR1", {}, Cause.TIME),
        ("SIGUSR2", {}, Cause.TIME),
        ("SIGTERM", {"state": "COMPLETING", "reason": "TimeLimit"}, Cause.TIME),
        ("SIGTERM", {"state": "TIMEOUT", "reason": "TimeLimit"}, Cause.TIME),
        ("SIGUSR1", {"preempted": "2026-11-21T21:19:17", "end": "2026-11-21T21:19:27"}, Cause.PREEMPTED),
        ("SIGTERM", {"preempted": "2026-11-21T21:19:17", "end": "2026-11-21T21:19:27"}, Cause.PREEMPTED),
        ("SIGTERM", {"state": "COMPLETING", "restarts": "1", "preempted": "2026-11-21T21:19:17"}, Cause.PUT_BACK),
        ("SIGUSR1", {"preempted": "Unknown"}, Cause.TIME),
        ("SIGTERM", {}, Cause.CANCELLED),
    ],
)
def test_why_a_signal_came(programs: StandIn, signal: str, shown: dict[str, str], cause: Cause) -> None:
    shows(programs, **shown)
    assert job_of().cause(signal) is cause


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED"])
def test_a_warning_to_a_job_that_is_ended_already_is_its_cancellation(programs: StandIn, state: str) -> None:
    shows(programs, state=state)
    assert job_of().cause("SIGUSR1") is Cause.CANCELLED


def test_restarts_before_this_start_are_not_one_now(programs: StandIn) -> None:
    shows(programs, state="COMPLETING", restarts="2")
    assert job_of(SLURM_RESTART_COUNT="2").cause("SIGTERM") is Cause.CANCELLED
    assert job_of(SLURM_RESTART_COUNT="1").cause("SIGTERM") is Cause.PUT_BACK


def test_a_controller_that_is_away_makes_no_cancellation_of_a_warning(programs: StandIn) -> None:
    programs.does("scontrol", f"echo '{AWAY}' >&2; exit 1")
    assert job_of().cause("SIGUSR1") is Cause.TIME
    assert job_of().cause("SIGTERM") is Cause.UNKNOWN


def test_whether_another_start_has_begun(programs: StandIn) -> None:
    shows(programs, restarts="1")
    assert job_of().is_superseded()
    assert not job_of(SLURM_RESTART_COUNT="1").is_superseded()
    programs.does("scontrol", "exit 1")
    assert not job_of().is_superseded()


def requeued(programs: StandIn) -> list[list[str]]:
    return [call for call in programs.calls("scontrol") if call[0] == "requeue"]


def test_a_job_is_put_back_under_its_own_id(programs: StandIn) -> None:
    assert job_of(SLURM_ARRAY_JOB_ID="15", SLURM_ARRAY_TASK_ID="2").put_back() == EXIT_RESUMABLE
    assert requeued(programs) == [["requeue", "15_2"]]


def test_putting_back_outlasts_a_controller_that_is_away(programs: StandIn) -> None:
    twice = '[ -e "$0.3" ] && exit 0; [ -e "$0.2" ] && touch "$0.3"; touch "$0.2"'
    programs.does("scontrol", f'[ "$1" = show ] || {{ {twice}; }}; echo "{AWAY}" >&2; exit 1')
    assert job_of().put_back() == EXIT_RESUMABLE
    assert requeued(programs) == [["requeue", "17"]] * 3


def test_putting_back_is_given_up_with_a_sentence(programs: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_job, "_PATIENCE_S", 0.05)
    programs.does("scontrol", f"echo '{AWAY}' >&2; exit 1")
    with pytest.raises(GaffError) as caught:
        job_of().put_back()
    [problem] = caught.value.problems
    assert problem.what == f"Slurm did not put this job back into the queue ({AWAY})"
    assert "scontrol requeue 17" in problem.remedy


def test_a_job_that_must_not_be_put_back_is_told_at_once(programs: StandIn) -> None:
    words = "Requested operation is presently disabled for job 17"
    shown = programs.folder / "shown"
    shows(programs)
    programs.does("scontrol", f'[ "$1" = show ] && exec cat "{shown}"; echo "{words}" >&2; exit 1')
    with pytest.raises(GaffError, match="presently disabled"):
        job_of().put_back()
    assert len(requeued(programs)) == 1


def test_a_requeue_that_cut_off_its_own_answer_has_worked(programs: StandIn) -> None:
    shows(programs, state="COMPLETING", restarts="1")
    shown = programs.folder / "shown"
    programs.does("scontrol", f'[ "$1" = show ] && exec cat "{shown}"; kill -TERM $$')
    assert job_of().put_back() == EXIT_RESUMABLE


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED"])
def test_a_cancelled_job_is_left_dead(programs: StandIn, state: str) -> None:
    """Slurm 22.05 would put it back."""
    shows(programs, state=state)
    with pytest.raises(GaffError) as caught:
        job_of().put_back()
    assert caught.value.problems[0].id == CANCELLED
    assert requeued(programs) == []


@pytest.mark.parametrize("shown", [{"reason": "TimeLimit"}, {"restarts": "1"}, {"preempted": "2026-11-21T21:19:17"}])
def test_a_job_that_ends_for_another_reason_is_put_back(programs: StandIn, shown: dict[str, str]) -> None:
    shows(programs, state="COMPLETING", **shown)
    assert job_of().put_back() == EXIT_RESUMABLE
    assert requeued(programs) == [["requeue", "17"]]


SCRIPT = {"GAFF_JOB_SCRIPT": "/var/spool/slurmd/job00017/slurm_script"}


def test_a_follower_is_the_same_script_behind_this_job(programs: StandIn) -> None:
    programs.does("sbatch", "echo 18")
    assert job_of(**SCRIPT).add_follower() == "18"
    assert programs.calls("sbatch") == [["--parsable", "--dependency=afterany:17", SCRIPT["GAFF_JOB_SCRIPT"]]]


def test_a_follower_of_a_task_is_that_task_alone_and_is_handed_the_same(programs: StandIn) -> None:
    programs.does("sbatch", "echo '18;west'")
    job = job_of(SLURM_ARRAY_JOB_ID="15", SLURM_ARRAY_TASK_ID="2", GAFF_JOB_HANDED="A,B", **SCRIPT)
    assert job.add_follower() == "18"
    [call] = programs.calls("sbatch")
    assert call[:-1] == ["--parsable", "--dependency=afterany:15_2", "--export=A,B", "--array=2"]


def test_a_follower_of_a_script_that_was_submitted_by_hand_gets_its_arguments(programs: StandIn) -> None:
    programs.does("sbatch", "echo 18")
    job_of(GAFF_JOB_ARGUMENTS="--config\n/runs/a b.yml", **SCRIPT).add_follower()
    [call] = programs.calls("sbatch")
    assert call[-3:] == [SCRIPT["GAFF_JOB_SCRIPT"], "--config", "/runs/a b.yml"]


def test_a_follower_inherits_nothing_of_this_job(programs: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_CPUS_PER_TASK", "SBATCH_TIMELIMIT", "SLURM_EXPORT_ENV"):
        monkeypatch.setenv(name, "5")
    monkeypatch.setenv("SLURM_CONF", "/site.conf")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    programs.does("sbatch", "echo 18")
    job_of(**SCRIPT).add_follower()
    seen = programs.environment("sbatch")
    assert {name for name in seen if name.startswith(("SLURM_", "SBATCH_"))} <= {"SLURM_CONF", "SLURM_TIME_FORMAT"}
    assert (seen["SLURM_CONF"], seen["WANDB_API_KEY"]) == ("/site.conf", "secret")


def test_a_job_whose_script_nobody_names_has_no_follower(programs: StandIn) -> None:
    with pytest.raises(GaffError, match="GAFF_JOB_SCRIPT"):
        job_of().add_follower()
    assert programs.calls("sbatch") == []


def test_a_follower_that_slurm_refuses(programs: StandIn) -> None:
    words = "sbatch: error: AssocMaxSubmitJobLimit"
    programs.does("sbatch", f"echo '{words}' >&2; exit 1")
    with pytest.raises(GaffError) as caught:
        job_of(**SCRIPT).add_follower()
    assert caught.value.problems[0].what == f"Slurm did not take the job that is to follow ({words})"


def test_a_follower_is_dropped(programs: StandIn) -> None:
    job_of().drop("18")
    assert programs.calls("scancel") == [["18"]]
    programs.does("scancel", "echo 'scancel: error: Kill job error' >&2; exit 1")
    with pytest.raises(GaffError, match="cancel the job that was to follow"):
        job_of().drop("18")


def test_progress_is_shown_in_the_queue(programs: StandIn) -> None:
    assert job_of(SLURM_ARRAY_JOB_ID="15", SLURM_ARRAY_TASK_ID="2").tell("a b:5%", "gaff: iteration 5, it's fine")
    assert programs.calls("scontrol") == [
        ["update", "jobid=15_2", "name=a b:5%", "comment=gaff: iteration 5, it's fine"]
    ]
    programs.does("scontrol", "exit 1")
    assert not job_of().tell("a", "b")
