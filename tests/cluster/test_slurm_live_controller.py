# SPDX-License-Identifier: Apache-2.0
"""Slurm's controller is away for a while: when a run is submitted, while it trains, when it is to be queued again."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gaff.cli.main import main
from tests.cluster.slurm import wait_for
from tests.cluster.slurm_runs import K, Run, cut_short, end_of, processes_of, slowed
from tests.live import different

pytest.importorskip("deepspeed")
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

AWAY_S = 25


def test_a_run_outlasts_a_controller_that_is_away(run: Run, undisturbed: Path) -> None:
    with slowed(run.root, per_second=4, after=K):
        job = run.submit()
        run.reach(6)
        run.slurm.stop_controller()
        run.reach(K + 10)
        run.slurm.start_controller()
    facts = end_of(run.slurm, job)
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "0"), run.log(job)
    assert run.done_twice == []
    assert different(run.tag, undisturbed) == []


def test_a_run_is_queued_again_when_the_controller_is_back(run: Run, undisturbed: Path) -> None:
    with slowed(run.root, per_second=0.5, after=K):
        job = run.submit()
        run.reach(K + 3)
        cut_short(run.slurm, job, 20)
        wait_for("the end of its time", lambda: run.journal("stop_asked"))
        run.slurm.stop_controller()
        wait_for("the run to end", lambda: run.journal("requeue_asked"))
        time.sleep(AWAY_S)
        assert processes_of(run.root), "it goes on asking"
        run.slurm.start_controller()
    facts = end_of(run.slurm, job)
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), run.log(job)
    assert f"Slurm's job {job} goes back into the queue and carries the run on." in run.log(job)
    assert all(iteration > K for iteration in run.done_twice)
    assert different(run.tag, undisturbed) == []


def test_submitting_without_a_controller_is_refused_in_a_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gaff.cluster.slurm._PATIENCE_S", 0.0)
    run.slurm.stop_controller()
    words = ("--config", run.config, "--profile", run.profile, "--run-dir", run.root)
    assert main(["submit", *map(str, words)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    last = said.err.splitlines()[-1]
    assert last.startswith("gaff: Slurm's controller does not answer (")
    assert last.endswith("; give the same command again when `squeue` answers.")
    run.slurm.start_controller()
    assert run.slurm.ask("squeue", "-h") == ""
