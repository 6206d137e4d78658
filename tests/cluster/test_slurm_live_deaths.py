# SPDX-License-Identifier: Apache-2.0
"""Jobs of a real Slurm that are ended by hand, by force, or with their node."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.slurm import kill, wait_for
from tests.cluster.slurm_runs import (
    K,
    Outcome,
    Run,
    end_of,
    hasten,
    outcome,
    processes_of,
    put_back,
    ranks_of,
    slowed,
)

pytest.importorskip("deepspeed")
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

IN_SECOND_SEGMENT = K + 3


def test_scancel_ends_it_cleanly_and_for_good(run: Run, undisturbed: Path) -> None:
    with slowed(run.root, per_second=5, after=K):
        job = run.submit("-o", "gaff.watch={grace_seconds: 1}")  # there is no waiting for the last checkpoint
        run.reach(IN_SECOND_SEGMENT)
        run.slurm.ask("scancel", job)
        facts = end_of(run.slurm, job)
        wait_for("all to end", lambda: not processes_of(run.root), within_s=20)
    assert (facts["JobState"], facts["Restarts"]) == ("CANCELLED", "0")
    assert run.slurm.ask("squeue", "-h") == ""
    (interrupted,) = run.journal("run_interrupted")
    assert (interrupted["signal"], interrupted["iteration"]) == ("SIGTERM", K)
    assert [(e["signal"], e["cause"]) for e in run.journal("job_signalled")] == [("SIGTERM", "cancellation")]
    assert run.journal("requeue_asked") == []
    assert f"stopped by SIGTERM; iteration {K} is safe; run the same command again to carry on." in run.log(job)
    status = run.status()
    assert (status["state"], status["checkpoint"]["iteration"]) == ("interrupted", K)
    job = run.submit("-o", "gaff.watch={grace_seconds: 1}")
    assert outcome(run, job, undisturbed) == Outcome()
    assert all(iteration > K for iteration in run.done_twice)


def test_killed_ranks_are_restarted_within_the_job(run: Run, undisturbed: Path) -> None:
    with slowed(run.root, per_second=5, after=K):
        job = run.submit("-o", "gaff.watch={backoff_seconds: 0}")
        run.reach(IN_SECOND_SEGMENT)
        kill(*ranks_of(run.root)[-1:])
        wait_for("a restart", lambda: run.journal("restart_planned"))
    assert outcome(run, job, undisturbed) == Outcome()
    assert len(run.journal("restart_planned")) == 1
    assert all(iteration > K for iteration in run.done_twice)


def test_a_killed_slurmstepd_costs_no_more_than_the_segment(run: Run, undisturbed: Path) -> None:
    """Slurm puts the job back, by itself, some time later; the supervisor, which it lost, must be gone by then."""
    with slowed(run.root, per_second=2, after=K):
        job = run.submit()
        run.reach(IN_SECOND_SEGMENT)
        (batch,) = (step for step in run.slurm.steps(job) if ".batch]" in " ".join(step.cmdline()))
        kill(batch)
        wait_for("the supervisor to make way", lambda: not processes_of(run.root), within_s=30)
        assert run.status()["state"] in ("interrupted", "failed")
        put_back(run.slurm, job)
    assert outcome(run, job, undisturbed) == Outcome(restarts=1)
    assert all(iteration > K for iteration in run.done_twice)


@pytest.mark.parametrize("power", ["off", "on"])
def test_a_lost_nodes_run_goes_on_on_another(run: Run, undisturbed: Path, power: str) -> None:
    """With its power on, the node is but cut off: what runs there runs on, beside the same job's next start."""
    with slowed(run.root, per_second=0.5, after=K):
        job = run.submit()
        run.reach(IN_SECOND_SEGMENT)
        node = run.slurm.facts(job)["BatchHost"]
        kill(run.slurm.daemon(f"slurmd.{node}"))
        if power == "off":
            kill(*run.slurm.steps(job), *processes_of(run.root))
        run.slurm.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")
        put_back(run.slurm, job)
        hasten(run.slurm, job)
        wait_for("the next start", lambda: len(run.journal("run_started")) == 2)
    assert run.slurm.facts(job)["BatchHost"] != node
    assert outcome(run, job, undisturbed) == Outcome(restarts=1)
    assert all(iteration > K for iteration in run.done_twice)
    run.slurm.revive()
