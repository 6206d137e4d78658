# SPDX-License-Identifier: Apache-2.0
"""``gaff submit`` and the jobs that it makes, in a real Grid Engine."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gaff.cluster.profile import TEMPLATES
from gaff.cluster.sge import GridEngine as Scheduler
from tests.cluster.sge import GridEngine, NotInstalledError, local_grid_engine, wait_for
from tests.cluster.slurm_runs import ITERATIONS, K, processes_of, slowed
from tests.live import different, finish, gaff, journal, log_text

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

# -l gpu=4, -pe smp 8, -ac allow=L, -l mem=8G, -l tmpfs=10G; sums depend on the number of threads.
SEED = ("--profile", "sge-gpu", "--job", "environment={OMP_NUM_THREADS: 1}")
# Twenty iterations, whose speed is not measured first: `log_interval` is more than half of them.
SHORT = ("-o", "train_iters=20", "-o", "lr_decay_iters=20", "-o", "log_interval=10")
# Days of it, with a checkpoint every few iterations.
LONG = ("-o", "train_iters=40000", "-o", "lr_decay_iters=40000", "-o", "checkpoint_factor=5")

# A job that does what it is told to with what gaff.cluster.job gives it, and writes a line for each of its starts.
PROBE = """
import json, os, signal, sys, time
from gaff.cluster.schedulers import this_job
from gaff.errors import GaffError
file, act = sys.argv[1:]
job, heard, until = this_job(), [], time.time() + 60
for number in (signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, lambda number, frame: heard.append(signal.Signals(number).name))
starts = sum(1 for line in open(file)) if os.path.exists(file) else 0
said = {"id": job.id, "restarts": job.restarts, "nodes": job.nodes, "slots": job.slots, "left": job.seconds_left(30)}
said["notice"] = job.notice_s
while act.startswith("wait") and not starts and not heard and time.time() < until:
    time.sleep(0.1)
said["cause"] = job.cause(heard[0]).name if heard else None
try:
    code = 0 if starts else 99 if act == "wait-99" else job.put_back()
except GaffError as error:
    said["refused"], said["follower"], code = str(error), job.add_follower(), 75
with open(file, "a") as out:
    out.write(json.dumps(said | {"code": code}) + "\\n")
sys.exit(code)
"""


@pytest.fixture(scope="module")
def sge() -> Iterator[GridEngine]:
    try:
        with local_grid_engine() as running:
            yield running
    except NotInstalledError as error:
        pytest.skip(str(error))


@pytest.fixture
def probe(sge: GridEngine, tmp_path: Path) -> Path:
    """A script for qsub; its argument says what it is to do."""
    (tmp_path / "probe.py").write_text(PROBE)
    words = [sys.executable, str(tmp_path / "probe.py"), str(tmp_path / "said"), '"$@"']
    lines = ["#!/bin/bash", "#$ -S /bin/bash -N probe -notify -j y", f"#$ -o {tmp_path}/$JOB_ID.log"]
    lines += ["#$ -l h_rt=0:10:0", "export GAFF_JOB_SCRIPT=$0", f"exec {' '.join(words)}"]
    (tmp_path / "probe.sh").write_text("\n".join(lines) + "\n")
    return tmp_path / "probe.sh"


def said(probe: Path) -> list[dict[str, Any]]:
    path = probe.with_name("said")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def submit(config: Path, root: Path, *options: str) -> tuple[int, str, str]:
    return finish(gaff("submit", "--config", config, "--run-dir", root, *SEED, *options))


def submitted(config: Path, root: Path, *options: str) -> str:
    code, output, errors = submit(config, root, "--json", *options)
    assert code == 0, output + errors
    return str(json.loads(output)["job"])


def logs(root: Path) -> str:
    return "".join(path.read_text() for path in sorted((root / "jobs").glob("*.log")))


def iterations(root: Path) -> list[int]:
    return sorted(int(number) for number in re.findall(r"\| iteration +(\d+)/", log_text(root)))


def test_a_run_with_the_seed_papers_options_finishes(
    sge: GridEngine, config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    job = submitted(config, root)
    facts = sge.facts(job)
    assert {"h_rt=86400", "gpu=4", "mem=8G", "tmpfs=10G"} == set(facts["hard resource_list"].split(","))
    assert (facts["parallel environment"], facts["context"]) == ("smp range: 8", "allow=L")
    code, _, errors = submit(config, root)
    assert code == 2
    assert f"Grid Engine's job {job} of this run is waiting or running" in errors
    wait_for("the name to tell how far the run is", lambda: sge.facts(job)["job_name"].startswith("at-"))
    assert sge.facts(job)["context"].startswith("allow=L,gaff=gaff: iteration ")
    sge.wait_for_end(job)
    assert sge.exit_codes(job) == [0], logs(root)
    assert f"in Grid Engine's job {job}, on localhost, 23:59:" in logs(root)
    assert different(root / "checkpoints" / f"global_step{ITERATIONS}", undisturbed) == []
    assert Scheduler().state(job) == ""


def test_a_run_longer_than_its_walltime_comes_back_until_it_is_finished(
    sge: GridEngine, config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    job = submitted(config, root, "--job", "time=75s")
    with slowed(root, per_second=1.2):  # so that one job is too short, on any machine
        wait_for("the end of the run", lambda: (root / "journal.jsonl").exists() and journal(root, "run_finished"), 700)
    followers = [entry["follower"] for entry in journal(root, "follower_added")]  # where a busy machine was too late
    sge.wait_for_end([job, *followers][-1])
    times = len(journal(root, "requeue_asked"))
    assert times > 0
    codes = sge.exit_codes(job, *followers, starts=times + 1)
    assert (codes[-1], codes.count(75), codes.count(99)) == (0, len(followers), times - len(followers)), logs(root)
    done = iterations(root)
    assert sorted(set(done)) == list(range(1, ITERATIONS + 1))
    cut_off = [end for end in journal(root, "run_interrupted") if end["why"].startswith("stopped by")]
    assert len(done) - ITERATIONS <= K * len(cut_off), (
        "pieces end at checkpoints: none is done twice but of one cut off"
    )
    assert different(root / "checkpoints" / f"global_step{ITERATIONS}", undisturbed) == []


@pytest.mark.parametrize("time", ["1:00:00", "0:10:00"])
def test_qdel_ends_a_run_for_good(sge: GridEngine, config: Path, tmp_path: Path, time: str) -> None:
    root = tmp_path / "run"
    job = submitted(config, root, "--job", f"time={time}", *LONG)
    wait_for("some iterations", lambda: len(iterations(root)) > 5)
    sge.ask("qdel", job)
    sge.wait_for_end(job)
    assert sge.exit_codes(job) == [75], logs(root)
    (heard,) = journal(root, "job_signalled")
    assert (heard["signal"], heard["cause"]) == ("SIGUSR2", "cancellation")
    (stopped,) = journal(root, "run_interrupted")
    assert stopped["signal"] == "SIGUSR2"
    assert journal(root, "requeue_asked") == []
    assert processes_of(root) == []
    assert Scheduler().state(job) == ""


def test_a_template_by_hand(sge: GridEngine, config: Path, tmp_path: Path) -> None:
    text = (TEMPLATES / "gaff.sge").read_text()
    (tmp_path / "gaff.sge").write_text(text.replace("gaff=(gaff)", f"gaff=({sys.executable} -m gaff)"))
    words = ["--config", config, "--run-dir", tmp_path / "a run", *SHORT, "-o", "gaff.reset_every=never"]
    job = sge.ask("qsub", "-terse", "-wd", tmp_path, tmp_path / "gaff.sge", *words)
    sge.wait_for_end(job)
    assert sge.exit_codes(job) == [0], (tmp_path / f"gaff-{job}.log").read_text()
    assert journal(tmp_path / "a run", "run_finished")


def test_a_sweep_is_an_array_whose_tasks_come_back_alone(sge: GridEngine, config: Path, tmp_path: Path) -> None:
    root = tmp_path / "sweep"
    job = submitted(config, root, "--sweep", "gaff.reset_every=5,10", *SHORT, "--job", "gpus_per_node=2")
    assert len(sge.states(job)) == 2
    assert Scheduler().state(f"{job}.2")
    assert Scheduler().state(f"{job}.3") == ""
    sge.wait_for_end(job)
    for number, k in enumerate((5, 10), start=1):
        own = root / f"reset_every={k}"
        assert journal(own, "run_finished"), (root / "jobs" / f"{job}.{number}.log").read_text()
        assert len(journal(own, "reset_done")) == 20 // k - 1


def test_before_the_walltime_is_over_a_job_puts_itself_back(sge: GridEngine, probe: Path) -> None:
    job = sge.ask("qsub", "-terse", "-pe", "smp", "3", probe, "put-back")
    sge.wait_for_end(job)
    first, second = said(probe)
    assert (first["id"], first["restarts"], first["nodes"], first["slots"]) == (job, 0, ["localhost"], 3)
    assert first["left"] == pytest.approx(595, abs=15)
    assert first["notice"] == 40
    assert (first["code"], second["id"], second["restarts"], second["code"]) == (99, job, 1, 0)
    assert second["left"] == pytest.approx(595, abs=15), "it counts from the second start"


def test_a_task_of_an_array_puts_itself_back_alone(sge: GridEngine, probe: Path) -> None:
    job = sge.ask("qsub", "-terse", "-t", "2-2", probe, "put-back").partition(".")[0]
    sge.wait_for_end(job)
    assert [(start["id"], start["restarts"]) for start in said(probe)] == [(f"{job}.2", 0), (f"{job}.2", 1)]


def test_after_the_walltime_a_follower_carries_on(sge: GridEngine, probe: Path) -> None:
    job = sge.ask("qsub", "-terse", "-l", "h_rt=0:0:8", probe, "wait")
    wait_for("the follower", lambda: len(said(probe)) == 2)
    sge.wait_for_end(job)
    first, second = said(probe)
    assert (first["id"], first["cause"], first["code"]) == (job, "TIME", 75)
    assert "its h_rt is over" in first["refused"]
    assert (second["id"], second["code"]) == (first["follower"], 0), "it was given the same arguments"


def test_a_deleted_job_is_not_started_again_even_by_exit_code_99(sge: GridEngine, probe: Path) -> None:
    job = sge.ask("qsub", "-terse", "-r", "y", probe, "wait-99")
    wait_for("its start", lambda: sge.states(job) == ["r"])
    wait_for("its program", lambda: processes_of(probe.parent))
    sge.ask("qdel", job)
    sge.wait_for_end(job)
    assert sge.exit_codes(job) == [99]
    assert [start["cause"] for start in said(probe)] == ["CANCELLED"]
    later = sge.ask("qsub", "-terse", "-b", "y", "-o", probe.parent, "-j", "y", "true")
    sge.wait_for_end(later)  # and by then nothing has come of it
    assert sge.states(job) == []
    assert len(said(probe)) == 1


def test_a_suspended_job_is_preempted(sge: GridEngine, probe: Path) -> None:
    job = sge.ask("qsub", "-terse", probe, "wait")
    wait_for("its program", lambda: processes_of(probe.parent))
    sge.ask("qmod", "-sj", job)
    wait_for("its end", lambda: len(said(probe)) == 2)
    assert [(start["cause"], start["code"]) for start in said(probe)] == [("PREEMPTED", 99), (None, 0)]


def test_a_follower_waits_and_can_be_dropped(sge: GridEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gaff.cluster.sge_job import SgeJob

    (tmp_path / "sleep.sh").write_text(f"#!/bin/bash\n#$ -S /bin/bash -j y -o {tmp_path}\nsleep 60\n")
    number = sge.ask("qsub", "-terse", tmp_path / "sleep.sh")
    wait_for("its start", lambda: sge.states(number) == ["r"])
    environ = {"JOB_ID": number, "SGE_TASK_ID": "undefined", "GAFF_JOB_SCRIPT": str(tmp_path / "sleep.sh")}
    environ |= {"GAFF_JOB_HANDED": "HF_TOKEN", "GAFF_JOB_STARTED": "1"}
    monkeypatch.setenv("HF_TOKEN", "x,y")
    job = SgeJob.of(environ)
    assert job is not None
    assert job.is_superseded()
    follower = job.add_follower()
    assert sge.states(follower) == ["hqw"]
    assert sge.facts(follower)["jid_predecessor_list"] == number
    assert "HF_TOKEN=x,y" in sge.facts(follower)["env_list"]
    job.drop(follower)
    job.drop(follower)
    assert sge.states(follower) == []
    assert job.tell("7/8 pythia:40%", "iteration 40, loss 2.1")
    assert sge.facts(number)["job_name"] == "at-40%-7-8-pythia"
    assert sge.facts(number)["context"] == "gaff=iteration 40; loss 2.1"
    sge.ask("qdel", number)


@pytest.mark.parametrize(
    ("override", "key", "words"),
    [
        ("partition=nosuch.q", "partition", 'requests unknown queue "nosuch.q"'),
        ("account=nobody", "account", 'the requested project "nobody" does not exist'),
        ("parallel_environment=nope", "parallel_environment", 'parallel environment "nope" does not exist'),
        ("gres=nogpu", "gres", 'unknown resource "nogpu"'),
        ("gpus_per_node=99", "gpus_per_node", "offers only hc:gpu=4"),
        ("cpus_per_node=99", "cpus_per_node", 'cannot run in PE "smp"'),
        ("memory=9000G", "memory", "offers only hc:mem=500.000G"),
        ("options=[-ac allow=L, -l tmpfs=many]", "options", 'attribute "tmpfs" is not a memory value'),
    ],
)
def test_a_refusal_in_grid_engines_words_with_the_profiles_line(
    sge: GridEngine, config: Path, tmp_path: Path, override: str, key: str, words: str
) -> None:
    code, _, errors = submit(config, tmp_path / "run", "--job", override)
    assert code == 2
    assert f"--job {key}: Grid Engine does not take the job with `-" in errors
    assert words in errors


def test_what_is_refused_only_together_is_told_in_grid_engines_words(
    sge: GridEngine, config: Path, tmp_path: Path
) -> None:
    code, _, errors = submit(config, tmp_path / "run", "--job", "memory=100G")
    assert code == 2
    assert "Grid Engine does not take the job" in errors
    assert 'cannot run in PE "smp" because it only offers 0 slots' in errors
