# SPDX-License-Identifier: Apache-2.0
"""``gaff run`` in a job: what it asks of the scheduler, in which order, and with which exit code it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gaff.cli import in_job
from gaff.cli.execute import held
from gaff.cli.in_job import held_by_job, run_in_job, spread
from gaff.cluster.job import Cause
from gaff.cluster.record import submissions
from gaff.cluster.slurm_job import SlurmJob
from gaff.data.indexed_dataset import write_dataset
from gaff.errors import EXIT_RESUMABLE, GaffError, InputError, Interrupted, Problem
from gaff.plan.config import load_config
from gaff.supervisor.journal import Journal, read_entries
from gaff.supervisor.lock import run_lock
from tests.cluster import stand_in
from tests.cluster.stand_in import StandIn
from tests.live import write_config

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Those of the test run itself come back: a job sets its own, and ends with them."""
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@dataclass
class Job:
    """A job of no scheduler that a machine has, so that no sentinel is started."""

    why: Cause = Cause.TIME
    refuses: tuple[str, ...] = ()
    scheduler: str = "Grid Engine"
    id: str = "17"
    restarts: int = 0
    nodes: tuple[str, ...] = ("n1",)
    slots: int = 4
    script: Path | None = Path("/spool/17")
    asked: list[str] = field(default_factory=list)
    meanwhile: Callable[[], None] = lambda: None

    def cause(self, signal: str) -> Cause:
        self.meanwhile()
        return self.why

    def is_superseded(self) -> bool:
        return False

    def add_follower(self) -> str:
        self._ask("add_follower")
        return "18"

    def drop(self, follower: str) -> None:
        self._ask(f"drop {follower}")

    def put_back(self) -> int:
        self._ask("put_back")
        return 99

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if what in self.refuses:
            raise GaffError(Problem("scheduler-refused", "it says no", "ask it"))


def in_a_job(root: Path, job: Job, mode: Any, *events: BaseException | str) -> Callable[[], int] | None:
    """Run in a job.  Each event is noted beside what is asked of the scheduler, or raised."""

    def work(*given: object) -> None:
        Journal(root / "journal.jsonl").write("run_started", resume_iteration=10)
        for event in events:
            if isinstance(event, BaseException):
                raise event
            job.asked.append(event)

    anything: Any = job
    return run_in_job(anything, mode, root, 40, None, work)


def interrupted(signal: str | None = None) -> Interrupted:
    return Interrupted(Problem("interrupted", "stopped here", "run it again"), signal)


def test_a_finished_run_asks_for_nothing(tmp_path: Path) -> None:
    job = Job()
    assert in_a_job(tmp_path, job, "requeue", "train") is None
    assert job.asked == ["train"]


def test_a_run_whose_time_is_over_is_put_back_last_of_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = Job()
    last = in_a_job(tmp_path, job, "requeue", "train", interrupted())
    assert job.asked == ["train"]  # the run directory is still held
    assert last is not None
    assert last() == 99  # as the scheduler wants it
    assert job.asked == ["train", "put_back"]
    said = capsys.readouterr()
    assert "gaff: stopped here; run it again." in said.err
    assert "Grid Engine's job 17 goes back into the queue" in said.err
    assert "Grid Engine's job 17, on n1, no end of its time is known" in said.out


def test_a_follower_carries_on_where_a_site_forbids_to_put_jobs_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job(refuses=("put_back",))
    last = in_a_job(tmp_path, job, "requeue", interrupted())
    assert last is not None
    assert last() == EXIT_RESUMABLE
    assert job.asked == ["put_back", "add_follower"]
    assert [one.job for one in submissions(tmp_path)] == ["18"]
    assert "instead, job 18 waits behind Grid Engine's job 17" in capsys.readouterr().err


def test_a_scheduler_that_refuses_everything_is_told(tmp_path: Path) -> None:
    last = in_a_job(tmp_path, Job(refuses=("put_back", "add_follower")), "requeue", interrupted())
    assert last is not None
    with pytest.raises(GaffError, match="it says no"):
        last()


def test_a_follower_comes_first_and_stays_where_the_time_is_over(tmp_path: Path) -> None:
    job = Job()
    last = in_a_job(tmp_path, job, "follower", "train", interrupted())
    assert last is not None
    assert last() == EXIT_RESUMABLE
    assert job.asked == ["add_follower", "train"]


@pytest.mark.parametrize(
    ("events", "raised"),
    [
        ([], None),
        ([GaffError(Problem("x", "failed", "mend it"))], GaffError),
        ([interrupted("SIGINT")], Interrupted),
        ([interrupted("stop")], Interrupted),
        ([OSError("disk")], OSError),
        ([KeyboardInterrupt()], KeyboardInterrupt),
    ],
)
def test_a_follower_goes_where_the_run_is_over(
    tmp_path: Path, events: list[BaseException], raised: type[BaseException] | None
) -> None:
    job = Job()
    if raised is None:
        assert in_a_job(tmp_path, job, "follower", "train", *events) is None
    else:
        with pytest.raises(raised):
            in_a_job(tmp_path, job, "follower", "train", *events)
    assert job.asked == ["add_follower", "train", "drop 18"]


@pytest.mark.parametrize("mode", ["requeue", "follower"])
def test_a_cancelled_job_does_not_come_back(tmp_path: Path, mode: str) -> None:
    job = Job(Cause.CANCELLED)
    with pytest.raises(Interrupted):
        in_a_job(tmp_path, job, mode, "train", interrupted("SIGTERM"))
    assert "put_back" not in job.asked
    assert job.asked[-1] == ("drop 18" if mode == "follower" else "train")


def test_nothing_is_trained_without_the_follower_that_was_asked_for(tmp_path: Path) -> None:
    job = Job(refuses=("add_follower",))
    with pytest.raises(GaffError, match="it says no"):
        in_a_job(tmp_path, job, "follower", "train")
    assert job.asked == ["add_follower"]


def test_a_follower_that_cannot_be_dropped_does_not_hide_how_the_run_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(GaffError, match="failed"):
        in_a_job(tmp_path, Job(refuses=("drop 18",)), "follower", GaffError(Problem("x", "failed", "mend it")))
    assert "gaff: it says no" in capsys.readouterr().err


def test_a_run_that_trains_nothing_is_not_put_back_for_ever(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    for _ in range(3):
        journal.write("run_started", resume_iteration=10)
        journal.write("run_interrupted", iteration=10, signal=None)
    job = Job()
    with pytest.raises(GaffError, match="3 jobs in a row") as caught:
        in_a_job(tmp_path, job, "follower", interrupted())
    assert not isinstance(caught.value, Interrupted)
    assert job.asked == ["add_follower", "drop 18"]


def test_a_run_that_was_finished_before_ends_the_chain(tmp_path: Path) -> None:
    Journal(tmp_path / "journal.jsonl").write("run_finished", iteration=40)
    job = Job()
    assert in_a_job(tmp_path, job, "follower") is None
    assert job.asked == []


def test_a_run_that_was_finished_at_fewer_iterations_goes_on(tmp_path: Path) -> None:
    Journal(tmp_path / "journal.jsonl").write("run_finished", iteration=30)
    job = Job()
    in_a_job(tmp_path, job, "follower")
    assert job.asked == ["add_follower", "drop 18"]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_while_the_scheduler_is_asked_why_does_not_kill_the_job(tmp_path: Path, number: int) -> None:
    job = Job(meanwhile=lambda: os.kill(os.getpid(), number))
    last = in_a_job(tmp_path, job, "requeue", interrupted("SIGUSR1"))
    assert last is not None
    assert last() == 99
    assert job.asked == ["put_back"]


def test_a_cancellation_in_the_last_moment_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = Job()
    last = in_a_job(tmp_path, job, "requeue", interrupted())
    os.kill(os.getpid(), signal.SIGTERM)
    job.why = Cause.CANCELLED
    assert last is not None
    assert last() == EXIT_RESUMABLE
    assert job.asked == []
    assert "was cancelled" in capsys.readouterr().err


def test_a_cancellation_in_the_last_moment_is_one_for_the_follower_too(tmp_path: Path) -> None:
    job = Job()
    last = in_a_job(tmp_path, job, "follower", interrupted())
    os.kill(os.getpid(), signal.SIGTERM)
    job.why = Cause.CANCELLED
    assert last is not None
    last()
    assert job.asked == ["add_follower", "drop 18"]


def test_several_nodes_get_a_hostfile_of_this_start(tmp_path: Path) -> None:
    path = tmp_path / "run.yml"
    path.write_text("train_iters: 4\nseed: 1\ngaff: {reset_every: 2}\n")
    config = load_config([path], ["seed=2"])
    one_node = SlurmJob("17", 0, ("n1",), 4, {})
    assert spread(config, [path], ["seed=2"], one_node, tmp_path / "run") is config
    assert not (tmp_path / "run").exists()
    for restarts in (0, 1):
        job = SlurmJob("17", restarts, (f"n{restarts}", "n9"), 4, {})
        spreaded = spread(config, [path], ["seed=2"], job, tmp_path / "run")
        hostfile = Path(str(spreaded.get("hostfile")))
        assert hostfile.name == f"hostfile-17-{restarts}"
        assert hostfile.read_text() == f"n{restarts} slots=4\nn9 slots=4\n"
        assert (spreaded.get("launcher"), spreaded.get("seed")) == ("slurm", 2)


def test_a_hostfile_of_the_config_is_the_users_own_affair(tmp_path: Path) -> None:
    path = tmp_path / "run.yml"
    path.write_text("train_iters: 4\nhostfile: /my/hosts\ngaff: {reset_every: 2}\n")
    config = load_config([path])
    assert spread(config, [path], [], SlurmJob("17", 0, ("n1", "n2"), 4, {}), tmp_path / "run") is config


def begun_by(root: Path, job: str) -> None:
    root.mkdir()
    Journal(root / "journal.jsonl").write("run_started", job=job)


def test_an_earlier_start_of_the_same_job_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(in_job, "_LOOK_S", 0.05)
    root = tmp_path / "run"
    begun_by(root, "17")
    lets_go = threading.Event()

    def earlier() -> None:
        with run_lock(root / "lock"):
            holds.set()
            lets_go.wait(30)

    holds = threading.Event()
    thread = threading.Thread(target=earlier)
    thread.start()
    assert holds.wait(30)
    threading.Timer(0.5, lets_go.set).start()
    job: Any = Job(restarts=1)
    with held_by_job(root, job):
        assert lets_go.is_set()
    thread.join()
    assert capsys.readouterr().err.count("an earlier start of Grid Engine's job 17 is still at work here") == 1


@pytest.mark.parametrize(("restarts", "begun"), [(0, "17"), (1, "16")])
def test_another_job_is_not_waited_for(tmp_path: Path, restarts: int, begun: str) -> None:
    root = tmp_path / "run"
    begun_by(root, begun)
    job: Any = Job(restarts=restarts)
    started = time.monotonic()
    with held(root), pytest.raises(InputError) as caught, held_by_job(root, job):
        raise AssertionError("two at work in one run directory")
    assert caught.value.problems[0].id == "run-locked"
    assert time.monotonic() - started < 30


# --- The command itself, with a trainer that writes real checkpoints, beside stand-ins for Slurm's programs.

GAFF = """
import os, signal, sys
from pathlib import Path
from gaff.trainers import select
from tests.supervisor.fake_trainer import FakeTrainer
modes = {10: sys.argv[2]} if sys.argv[2] else {}
select.select_trainer = lambda config, neox_dir: FakeTrainer(Path(sys.argv[1]), 20, modes, 0.05)
from gaff.cli import execute
def scancel(*given, **named):
    shown = Path(os.environ["CANCEL_IN_REPORT"])
    shown.write_text(shown.read_text().replace("RUNNING", "COMPLETING"))
    os.kill(os.getpid(), signal.SIGTERM)
if "CANCEL_IN_REPORT" in os.environ:
    execute.write_report = scancel
from gaff.cli.main import main
sys.exit(main(sys.argv[3:]))
"""
SHOWN = "JobId=17\n   JobState={state} Reason={reason}\n   Requeue=1 Restarts=0\n   EndTime=Unknown PreemptTime=None\n"


@dataclass
class Bench:
    """A run directory and a Slurm that does not do anything."""

    folder: Path
    slurm: StandIn
    template: Path

    @property
    def root(self) -> Path:
        return self.folder / "run"

    def start(self, mode: str, trainer: str = "", **environ: str) -> subprocess.Popen[str]:
        variables = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "SLURM_JOB_ID": "17",
            "SLURM_JOB_NODELIST": "n1",
            "GAFF_JOB_SCRIPT": "/spool/17",
            **environ,
        }
        words = ["run", "--config", "run.yml", "--run-dir", "run", "--resubmit", mode, "-o", "gaff.watch.restarts=0"]
        return subprocess.Popen(
            [sys.executable, "-c", GAFF, str(self.template), trainer, *words],
            cwd=self.folder,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def interrupt(self, process: subprocess.Popen[str], number: int, state: str = "RUNNING") -> int:
        """Signal it when it trains.  Its exit code."""
        self.shows(state)
        until = time.monotonic() + 60
        while "segment_launched" not in self.events():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.02)
        time.sleep(0.2)
        process.send_signal(number)
        return self.finish(process)

    def finish(self, process: subprocess.Popen[str]) -> int:
        output, errors = process.communicate(timeout=60)
        assert "Traceback" not in errors, errors
        self.said = output + errors
        return process.returncode

    def events(self) -> list[str]:
        return [entry.event for entry in read_entries(self.root)]

    def shows(self, state: str, reason: str = "None") -> None:
        """What ``scontrol`` says; ``requeue`` notes whether the run directory is free by then."""
        (self.slurm.folder / "shown").write_text(SHOWN.format(state=state, reason=reason))
        lock = shutil.which("flock")
        assert lock, "util-linux is not installed"
        self.slurm.does(
            "scontrol",
            f'case $1 in show) cat "$0.shown" 2>/dev/null || cat "{self.slurm.folder}/shown" ;;\n'
            f'requeue) {lock} -n "{self.root}/lock" touch "$0.free" ;; esac',
        )

    def requeued(self) -> list[list[str]]:
        return [call for call in self.slurm.calls("scontrol") if call[0] == "requeue"]

    def comments(self) -> list[str]:
        return [call[-1] for call in self.slurm.calls("scontrol") if call[0] == "update"]


@pytest.fixture
def bench(tmp_path: Path, unpacked_checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    write_dataset(tmp_path / "data_text_document", [list(range(100))], np.dtype(np.uint16))
    write_config(tmp_path / "run.yml", tmp_path / "data_text_document", train_iters=20, reset_every=10)
    slurm = stand_in.install(tmp_path / "bin", monkeypatch)
    slurm.does("sbatch", "echo 18")
    slurm.does("srun", "exec cat")
    template = unpacked_checkpoints / "zero1-fp32-tp2-pp2-dp2" / "global_step5"
    made = Bench(tmp_path, slurm, template)
    made.shows("RUNNING")
    return made


def test_a_warning_puts_the_job_back_and_its_next_start_finishes(bench: Bench) -> None:
    assert bench.interrupt(bench.start("requeue"), signal.SIGUSR1) == EXIT_RESUMABLE, bench.said
    assert bench.requeued() == [["requeue", "17"]]
    assert (bench.slurm.folder / "scontrol.free").exists(), "the next start would have found the run directory held"
    assert bench.events()[-1] == "requeue_asked"
    assert "Slurm's job 17 goes back into the queue" in bench.said
    assert bench.finish(bench.start("requeue", SLURM_RESTART_COUNT="1")) == 0, bench.said
    assert "restart 1" in bench.said
    assert len(bench.requeued()) == 1
    assert "run_finished" in bench.events()
    assert bench.comments()[-1].startswith("comment=gaff: iteration 20 of 20, reset 1 of 1")
    assert bench.comments()[-1].endswith("finished")


def test_scancel_ends_the_run_for_now(bench: Bench) -> None:
    assert bench.interrupt(bench.start("follower"), signal.SIGTERM, "COMPLETING") == EXIT_RESUMABLE, bench.said
    assert bench.requeued() == []
    assert bench.slurm.calls("sbatch") == [["--parsable", "--dependency=afterany:17", "/spool/17"]]
    assert bench.slurm.calls("scancel") == [["18"]]
    assert bench.events()[-1] == "follower_dropped"


def test_scancel_while_the_report_is_written(bench: Bench) -> None:
    process = bench.start("requeue", CANCEL_IN_REPORT=str(bench.slurm.folder / "shown"))
    assert bench.interrupt(process, signal.SIGUSR1) == EXIT_RESUMABLE, bench.said
    assert bench.requeued() == []


def test_a_failed_run_takes_its_follower_with_it(bench: Bench) -> None:
    assert bench.finish(bench.start("follower", "raises!")) == 1, bench.said
    assert bench.slurm.calls("scancel") == [["18"]]
    assert bench.requeued() == []


def test_a_wrong_config_asks_nothing_of_the_queue(bench: Bench) -> None:
    (bench.folder / "run.yml").write_text("train_iters: 40\n")
    assert bench.finish(bench.start("follower")) == 2, bench.said
    assert bench.slurm.calls("sbatch") == []
    assert bench.requeued() == []
