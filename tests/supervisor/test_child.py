# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from gaff.plan.settings import WatchSettings
from gaff.supervisor import child as child_module
from gaff.supervisor.child import RUN_ID, Child, clean_up, end_leftovers
from gaff.supervisor.follow import follow
from gaff.supervisor.pace import Pace
from gaff.supervisor.signals import Signals
from gaff.supervisor.stopping import Stopping, Verdict
from gaff.supervisor.watch import Watch
from gaff.trainers.contract import Launch

PYTHON = (sys.executable, "-c")


def nothing(*args: object) -> None:
    return


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def verdict_of(signals: Signals) -> Callable[[int], Verdict]:
    return Stopping(signals, WatchSettings(), Pace()).verdict


def run(code: str, folder: Path, watch: Watch | None = None, signals: Signals | None = None) -> int:
    with Child(Launch((*PYTHON, code), folder, {}), folder / "log", "some-run") as child:
        return follow(child, watch or Watch(0), tell=nothing, message=nothing, verdict=verdict_of(signals or Signals()))


def test_every_line_is_read_also_one_without_an_end(tmp_path: Path) -> None:
    watch = Watch(0)
    assert run("print('one'); print('and out', end=''); raise SystemExit(3)", tmp_path, watch) == 3
    assert watch.lines == 2


def test_a_progress_bar_is_no_silence(tmp_path: Path) -> None:
    watch = Watch(0, silence_minutes=1.5 / 60)
    bar = "import time\nfor _ in range(30): print('#', end='\\r', flush=True); time.sleep(0.1)"
    assert run(bar, tmp_path, watch) == 0
    assert not watch.hung


def test_a_launch_whose_log_is_deleted_goes_on(tmp_path: Path) -> None:
    watch = Watch(0)
    code = f"import os, time; os.unlink({str(tmp_path / 'log')!r}); time.sleep(0.5); print('gone on')"
    assert run(code, tmp_path, watch) == 0
    assert watch.lines == 1


def test_a_flood_does_not_keep_a_signal_from_being_heard(tmp_path: Path) -> None:
    signals, watch = Signals(), Watch(0)
    flood = "import os\nwhile True: os.write(1, b'x\\n' * 100000)"
    read = watch.read

    def read_and_interrupt(line: str) -> object:
        signals.name, signals.urgent = "SIGINT", watch.lines > 1000
        return read(line)

    watch.read = read_and_interrupt  # type: ignore[method-assign, assignment]
    assert run(flood, tmp_path, watch, signals) == -signal.SIGKILL


def test_a_rank_that_the_shell_once_was_is_not_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_over = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "x", "MASTER_PORT": "1"}
    for name, value in left_over.items():
        monkeypatch.setenv(name, value)
    code = f"import os; print([name for name in {sorted(left_over)} if name in os.environ])"
    with Child(Launch((*PYTHON, code), tmp_path, {"MASTER_PORT": "2"}), tmp_path / "log", "some-run") as child:
        follow(child, Watch(0), tell=nothing, message=nothing)
    assert (tmp_path / "log").read_text() == "['MASTER_PORT']\n"


def test_a_launch_that_cannot_be_ended_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a process hangs in the kernel, and the guardian waits for it."""
    deaf = tmp_path / "deaf_guardian.py"
    trainer = "import time; print('up', flush=True); time.sleep(600)"
    deaf.write_text(
        "import signal, subprocess, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"subprocess.Popen([sys.executable, '-c', {trainer!r}])\ntime.sleep(600)\n"
    )
    monkeypatch.setattr(child_module.guardian, "__file__", str(deaf))
    monkeypatch.setattr(child_module, "_STOP_WAIT_S", 0.5)
    signals = Signals()
    signals.name = "SIGTERM"
    with Child(Launch(("true",), tmp_path, {}), tmp_path / "log", "given-up") as child:
        wait_for(lambda: "up" in (tmp_path / "log").read_text())
        assert follow(child, Watch(0), tell=nothing, message=nothing, verdict=verdict_of(signals)) == -signal.SIGKILL
    assert end_leftovers("given-up") == []


def test_cleaning_up_runs_every_command_with_the_launchs_variables_but_not_the_runs_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RUN_ID, "r1")
    say = f"import os; open('said', 'a').write(os.environ['WORD'] + str(os.environ.get('{RUN_ID}')))"
    commands = (("no-such-program",), (*PYTHON, "raise SystemExit(3)"), (*PYTHON, say))
    clean_up(Launch(("true",), tmp_path, {"WORD": "swept "}, commands))
    assert (tmp_path / "said").read_text() == "swept None"


def test_cleaning_up_that_hangs_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "_CLEAN_UP_S", 0.5)
    clean_up(Launch(("true",), tmp_path, {}, (("sh", "-c", "sleep 600 & echo $! >pid; wait"),)))
    left = int((tmp_path / "pid").read_text())
    wait_for(lambda: not lives(left))


def test_an_interrupt_from_the_keyboard_does_not_reach_what_cleans_up(tmp_path: Path) -> None:
    say = "import os; open('group', 'w').write(str(os.getpgrp()))"
    clean_up(Launch(("true",), tmp_path, {}, ((*PYTHON, say),)))
    assert int((tmp_path / "group").read_text()) != os.getpgrp()
