# SPDX-License-Identifier: Apache-2.0
"""The step that hears of a preemption, with a stand-in for ``srun`` that really runs it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from gaff.cluster.sentinel import sentinel
from gaff.cluster.slurm_job import SlurmJob
from tests.cluster import stand_in
from tests.cluster.stand_in import StandIn

JOB = SlurmJob("17", 0, ("n1", "n2"), 4, {})
# Its own pid, then the words after srun's options, in its own place.
STEP = 'echo $$ >"$0.pid"; while [ "$1" != sh ]; do shift; done; exec "$@"'


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    found = stand_in.install(tmp_path / "bin", monkeypatch)
    found.does("srun", STEP)
    return found


@pytest.fixture
def supervisor() -> Iterator[subprocess.Popen[str]]:
    """A process that tells the signals which it gets."""
    script = (
        "import signal, time\n"
        "signal.signal(signal.SIGUSR1, lambda *a: print('USR1', flush=True))\n"
        "print('ready', flush=True)\nwhile True: time.sleep(0.02)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def is_over(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def step(programs: StandIn) -> psutil.Process:
    """The step, when its shell waits for ``cat`` and so has its trap."""
    path = programs.folder / "srun.pid"
    wait_for(lambda: path.exists() and path.read_text().strip() != "")
    process = psutil.Process(int(path.read_text()))
    wait_for(lambda: any(child.name() == "cat" for child in process.children()))
    return process


@pytest.mark.parametrize("first", ["shell", "children"])
def test_sigterm_to_the_step_is_a_warning_to_the_supervisor(
    programs: StandIn, supervisor: subprocess.Popen[str], first: str
) -> None:
    assert supervisor.stdout is not None
    with sentinel(JOB, supervisor.pid):
        process = step(programs)
        every = [*process.children(), process] if first == "children" else [process, *process.children()]
        for one in every:  # Slurm signals all processes of a step, one after the other
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        heard, _, _ = select.select([supervisor.stdout], [], [], 30)
        assert heard
        assert supervisor.stdout.readline() == "USR1\n"
        wait_for(lambda: is_over(process.pid))
    assert supervisor.poll() is None


def test_it_runs_beside_everything_else_on_the_first_node(programs: StandIn) -> None:
    with sentinel(JOB):
        step(programs)
    [call] = programs.calls("srun")
    options = call[: call.index("sh")]
    assert {"--overlap", "--nodes=1", "--ntasks=1", "--gres=none", "--nodelist=n1"} <= set(options)
    assert call[-1] == str(os.getpid())


def test_it_ends_with_the_block_and_signals_nobody(programs: StandIn, supervisor: subprocess.Popen[str]) -> None:
    with sentinel(JOB, supervisor.pid):
        process = step(programs)
        started = time.monotonic()
    assert time.monotonic() - started < 4.5  # not by the patience that a hanging srun gets
    assert not process.is_running()
    supervisor.kill()
    assert supervisor.stdout is not None
    assert supervisor.stdout.read() == ""


def test_it_ends_when_the_supervisor_is_killed(programs: StandIn) -> None:
    script = (
        "import time\nfrom gaff.cluster.sentinel import sentinel\nfrom gaff.cluster.slurm_job import SlurmJob\n"
        "with sentinel(SlurmJob('17', 0, ('n1',), 4, {})): time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        watching = step(programs)
        process.kill()
    wait_for(lambda: is_over(watching.pid))


def test_an_error_in_the_block_comes_through(programs: StandIn) -> None:
    watching = []

    def work() -> None:
        with sentinel(JOB):
            watching.append(step(programs))
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        work()
    assert not watching[0].is_running()


def test_an_srun_that_fails_or_hangs_holds_nobody_up(programs: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaff.cluster.sentinel._END_S", 0.1)
    for script in ("exit 1", 'echo $$ >"$0.pid"; exec sleep 60'):
        programs.does("srun", script)
        with sentinel(JOB):
            pass
    pid = programs.folder / "srun.pid"
    wait_for(lambda: not pid.exists() or is_over(int(pid.read_text())))


@pytest.mark.parametrize("job", [None, SlurmJob("17", 0, (), 1, {}), SlurmJob("17", 0, ("n1",), 1, {}, "Grid Engine")])
def test_nothing_is_started_where_there_is_no_job_of_slurm(programs: StandIn, job: SlurmJob | None) -> None:
    with sentinel(job):
        pass
    assert programs.calls("srun") == []


def test_nothing_is_started_without_srun(programs: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with sentinel(JOB):
        pass
    assert programs.calls("srun") == []
