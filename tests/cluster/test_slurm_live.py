# SPDX-License-Identifier: Apache-2.0
"""``gaff submit`` and runs in a real Slurm that nobody disturbs."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gaff.cluster.profile import TEMPLATES
from tests.cluster.slurm import wait_for
from tests.cluster.slurm_runs import K, Run, end_of, put_back, slowed
from tests.live import different, finish, gaff

pytest.importorskip("deepspeed")
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

# Twenty iterations, whose speed is not measured first: `log_interval` is more than half of them.
SHORT = ("-o", "train_iters=20", "-o", "lr_decay_iters=20", "-o", "log_interval=10")


def test_a_submitted_run_finishes(run: Run, undisturbed: Path) -> None:
    job = run.submit()
    code, _, errors = run.try_to_submit()
    assert code == 2
    assert f"Slurm's job {job} of this run is waiting or running" in errors
    facts = end_of(run.slurm, job)
    assert (facts["JobState"], facts["ExitCode"], facts["Restarts"]) == ("COMPLETED", "0:0", "0"), run.log(job)
    assert facts["JobName"] == "run:100%"
    assert re.fullmatch(r"gaff: iteration 80 of 80, reset 1 of 1, loss \d.\d+, finished", facts["Comment"])
    assert facts["StdOut"] == str(run.root / "jobs" / f"{job}.log")
    assert f"Slurm's job {job}, on n" in run.log(job)
    assert [entry["job"] for entry in run.journal("run_started")] == [job]
    assert run.status()["state"] == "finished"
    assert run.done_twice == []
    assert different(run.tag, undisturbed) == []
    code, _, errors = run.try_to_submit()
    assert code == 2
    assert "this run is finished already" in errors


def test_a_sweep_is_an_array_of_runs_side_by_side(run: Run) -> None:
    resets = {"5": 3, "10": 1, "never": 0}
    array = run.submit("--sweep", f"gaff.reset_every={','.join(resets)}", *SHORT)
    tasks = {k: f"{array}_{number}" for number, k in enumerate(resets)}
    runs = {k: replace(run, root=run.root / f"reset_every={k}") for k in resets}
    running = {"RUNNING"}
    wait_for("all three", lambda: {run.slurm.facts(task)["JobState"] for task in tasks.values()} == running)
    wait_for("the first segment", lambda: len(runs["5"].journal("segment_done")) == 1)
    run.slurm.ask("scontrol", "requeue", tasks["5"])
    put_back(run.slurm, tasks["5"])
    ends = {k: end_of(run.slurm, task) for k, task in tasks.items()}
    assert {k: (facts["JobState"], facts["Restarts"]) for k, facts in ends.items()} == {
        "5": ("COMPLETED", "1"),
        "10": ("COMPLETED", "0"),
        "never": ("COMPLETED", "0"),
    }
    assert {k: len(own.journal("reset_done")) for k, own in runs.items()} == resets
    for k, own in runs.items():
        assert own.status()["state"] == "finished"
        assert {entry["job"] for entry in own.journal("run_started")} == {tasks[k]}
        assert (run.root / "jobs" / f"{tasks[k]}.log").exists()
    put_back_by = [entry["cause"] for entry in runs["5"].journal("job_signalled")]
    assert put_back_by == ["its scheduler puts it back into the queue"]


def test_two_nodes_train_what_one_does(run: Run, tmp_path: Path) -> None:
    two = ("-o", "global_num_gpus=2", *SHORT, "-o", "gaff.reset_every=10")
    nodes = ("nodes=2", "ranks_per_node=1", "environment={OMP_NUM_THREADS: 1, MASTER_ADDR: 127.0.0.1}")
    job = run.submit(*two, *(word for value in nodes for word in ("--job", value)))
    here = tmp_path / "here"
    code, _, errors = finish(gaff("run", "--config", run.config, "--run-dir", here, *two))
    assert code == 0, errors
    facts = end_of(run.slurm, job)
    assert (facts["JobState"], facts["NumNodes"]) == ("COMPLETED", "2"), run.log(job)
    assert f"Slurm's job {job}, on n1, n2" in run.log(job)
    assert (run.root / "jobs" / f"hostfile-{job}-0").read_text() == "n1 slots=1\nn2 slots=1\n"
    command = run.journal("segment_launched")[0]["command"]
    assert command[command.index("srun") :][:2] == ["srun", "-n"]
    assert "--nodes=2" in command
    assert [entry["reset"] for entry in run.journal("reset_done")] == [1]
    tag = "checkpoints/global_step20"
    assert different(run.root / tag, here / tag) == []


def test_the_second_of_two_jobs_leaves_the_first_alone(run: Run, undisturbed: Path) -> None:
    with slowed(run.root, per_second=2, after=K):
        first = run.submit()
        run.reach(K + 1)
        second = run.slurm.ask("sbatch", "--parsable", run.root / "jobs" / "gaff.sbatch")
        facts = end_of(run.slurm, second)
        assert run.slurm.facts(first)["JobState"] == "RUNNING"
    assert (facts["JobState"], facts["ExitCode"], facts["Restarts"]) == ("FAILED", "2:0", "0")
    assert "another supervisor is at work in this run directory" in run.log(second)
    assert first in run.log(second).partition("another supervisor")[2]
    assert end_of(run.slurm, first)["JobState"] == "COMPLETED", run.log(first)
    assert run.done_twice == []
    assert different(run.tag, undisturbed) == []


def test_a_stop_file_stops_between_launches_until_it_is_gone(run: Run, undisturbed: Path) -> None:
    job = run.submit()
    wait_for("the first launch", lambda: run.journal("segment_launched"))
    stop = run.root / "stop"
    stop.touch()
    facts = end_of(run.slurm, job)
    assert (facts["JobState"], facts["ExitCode"], facts["Restarts"]) == ("FAILED", "75:0", "0"), run.log(job)
    assert f"stopped by the file {stop}" in run.log(job)
    assert len(run.journal("segment_launched")) == 1
    assert run.status()["state"] == "interrupted"
    stop.unlink()
    assert end_of(run.slurm, run.submit())["JobState"] == "COMPLETED"
    assert run.done_twice == []
    assert different(run.tag, undisturbed) == []


def test_the_template_is_submitted_by_hand(run: Run, tmp_path: Path) -> None:
    """As a user would who copies it and mends what is marked."""
    text = (TEMPLATES / "gaff.sbatch").read_text()
    for was, now in (
        ("--gres=gpu:8", "--gres=gpu:1"),
        ("--exclusive", "--partition=main"),
        ("gaff=(gaff)", f"gaff=({sys.executable} -m gaff)"),
        ("--time=24:00:00", "--time=10"),
    ):
        assert text.count(was) == 1
        text = text.replace(was, now)
    (tmp_path / "mine.sbatch").write_text(text)
    words = ("sbatch", "--parsable", "--chdir", tmp_path, tmp_path / "mine.sbatch")
    job = run.slurm.ask(*words, "--config", run.config, "--run-dir", run.root, *SHORT, "-o", "gaff.reset_every=10")
    facts = end_of(run.slurm, job)
    log = (tmp_path / f"gaff-{job}.log").read_text()
    assert (facts["JobState"], facts["ExitCode"]) == ("COMPLETED", "0:0"), log
    assert [entry["reset"] for entry in run.journal("reset_done")] == [1]
    assert run.status()["state"] == "finished"
