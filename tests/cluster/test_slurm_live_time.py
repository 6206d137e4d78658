# SPDX-License-Identifier: Apache-2.0
"""Jobs of a real Slurm whose time is over before the run is: it comes back, or another job follows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.slurm import kill, wait_for
from tests.cluster.slurm_runs import (
    K,
    Outcome,
    Run,
    cut_short,
    end_of,
    outcome,
    processes_of,
    put_back,
    slowed,
)

pytest.importorskip("deepspeed")
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

IN_SECOND_SEGMENT = K + 3


def test_a_walltime_much_too_short_is_gone_beyond_under_the_same_id(run: Run, undisturbed: Path) -> None:
    with slowed(run.root, per_second=1.5):  # eighty iterations take as many seconds as a job has, and a launch is more
        job = run.submit("--job", "time=1", "--job", "signal_seconds=20")
        facts = end_of(run.slurm, job, within_s=500)
    restarts = int(facts["Restarts"])
    assert restarts >= 1
    assert outcome(run, job, undisturbed) == Outcome(restarts=restarts)
    assert {entry["job"] for entry in run.journal("run_started")} == {job}
    assert len(run.journal("requeue_asked")) == restarts
    assert f"restart {restarts}" in run.log(job)
    ended = run.journal("stop_asked")  # launches that were to be ended, as the machine had slowed down by itself
    assert len(run.done_twice) <= K * len(ended)


def test_a_preempted_run_comes_back(run: Run, undisturbed: Path) -> None:
    """A stock Slurm tells steps alone, of which the run has one for that purpose."""
    with slowed(run.root, per_second=2, after=K):
        job = run.submit("--job", "partition=scavenge", "-o", "checkpoint_factor=10")
        run.reach(IN_SECOND_SEGMENT)
        urgent = run.slurm.ask(
            "sbatch", "--parsable", "-p", "urgent", "-N2", "--exclusive", "-o", "/dev/null", "--wrap=:"
        )
        run.slurm.facts(urgent)
        put_back(run.slurm, job)
    assert end_of(run.slurm, urgent)["JobState"] == "COMPLETED"
    assert outcome(run, job, undisturbed) == Outcome(restarts=1)
    assert len(run.done_twice) <= 10
    assert [entry["cause"] for entry in run.journal("job_signalled")] == ["preemption"]
    assert "for the job's end was moved forward" in run.log(job)


def test_a_follower_takes_over_when_the_time_is_over(run: Run, undisturbed: Path) -> None:
    with slowed(run.root, per_second=0.5, after=K):
        first = run.submit("--job", "resubmit=follower")
        run.reach(IN_SECOND_SEGMENT)
        (added,) = run.journal("follower_added")
        waiting = run.slurm.facts(added["follower"])
        assert (waiting["JobState"], waiting["Reason"]) == ("PENDING", "Dependency")
        cut_short(run.slurm, first, 20)
        facts = end_of(run.slurm, first)
    assert (facts["JobState"], facts["ExitCode"], facts["Restarts"]) == ("FAILED", "75:0", "0"), run.log(first)
    assert f"the run goes on in the job that waits behind Slurm's {first}" in run.log(first)
    assert outcome(run, added["follower"], undisturbed) == Outcome()
    assert all(iteration > K for iteration in run.done_twice)
    assert run.slurm.ask("squeue", "-h") == "", "the last one's follower must be gone"


def test_a_follower_takes_over_from_a_supervisor_that_was_killed(run: Run, undisturbed: Path) -> None:
    """As the kernel does that runs out of memory.  A job that is to put itself back could not."""
    with slowed(run.root, per_second=2, after=K):
        first = run.submit("--job", "resubmit=follower")
        run.reach(IN_SECOND_SEGMENT)
        (supervisor,) = (process for process in processes_of(run.root) if "--resubmit" in process.cmdline())
        kill(supervisor)
        facts = end_of(run.slurm, first)
    assert (facts["JobState"], facts["ExitCode"]) == ("FAILED", "0:9")
    (added, *_) = run.journal("follower_added")
    assert outcome(run, added["follower"], undisturbed) == Outcome()
    assert all(iteration > K for iteration in run.done_twice)


def test_where_a_requeue_is_refused_a_follower_carries_on(run: Run, undisturbed: Path) -> None:
    """The profile's own options come last, and win."""
    with slowed(run.root, per_second=0.5, after=K):
        first = run.submit("--job", "options=[--no-requeue]")
        run.reach(IN_SECOND_SEGMENT)
        cut_short(run.slurm, first, 20)
        facts = end_of(run.slurm, first)
    assert (facts["JobState"], facts["ExitCode"]) == ("FAILED", "75:0"), run.log(first)
    assert "Requested operation is presently disabled" in run.log(first), "Slurm's words"
    (added,) = run.journal("follower_added")
    assert outcome(run, added["follower"], undisturbed) == Outcome()
    assert all(iteration > K for iteration in run.done_twice)


def test_scancel_cancels_the_follower_too(run: Run) -> None:
    job = run.submit("--job", "resubmit=follower")
    wait_for("the first launch", lambda: run.journal("segment_launched"))
    run.slurm.ask("scancel", job)
    assert end_of(run.slurm, job)["JobState"] == "CANCELLED"
    wait_for("the queue to be empty", lambda: run.slurm.ask("squeue", "-h") == "", within_s=30)
    (added,), (dropped,) = run.journal("follower_added"), run.journal("follower_dropped")
    assert added["follower"] == dropped["follower"]
    assert run.slurm.facts(added["follower"])["JobState"] == "CANCELLED"
    assert len(run.journal("run_started")) == 1
