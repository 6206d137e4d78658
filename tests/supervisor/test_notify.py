# SPDX-License-Identifier: Apache-2.0
"""Notifications by a real shell: what the command is told, and that it can neither hold up nor harm a run."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from gaff.supervisor.child import RUN_ID
from gaff.supervisor.notify import Notifier

REPOSITORY = Path(__file__).parents[2]


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


class Clock:
    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


class Bench:
    """A notifier with a clock that can be put forward, and what it said of failures."""

    def __init__(self, folder: Path, command: str | None) -> None:
        self.folder, self.clock = folder, Clock()
        self._before = psutil.Process().children()
        self.failures: list[str] = []
        self.notifier = Notifier(command, folder, self.failures.append, self.clock)

    def is_idle(self) -> bool:
        """Whether nothing is left of the commands, zombies included."""
        self.notifier.tick()
        return psutil.Process().children() == self._before

    def pid(self, name: str) -> int:
        path = self.folder / name
        wait_for(lambda: path.exists() and path.read_text().endswith("\n"), name)
        return int(path.read_text())

    def told(self) -> list[dict[str, Any]]:
        """What the command ``cat >> told`` has been told, whole lines."""
        path = self.folder / "told"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def bench(tmp_path: Path) -> Callable[[str | None], Bench]:
    return lambda command: Bench(tmp_path, None if command is None else command.replace("DIR", str(tmp_path)))


def test_the_command_is_told_what_happened_in_its_environment_and_on_its_input(
    bench: Callable[[str], Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RUN_ID, "marked")
    one = bench("env -0 > DIR/env; cat > DIR/told")
    message = 'loss ⇒ NaN; it\'s "$HOME" `id`\nsecond line'
    one.notifier.tell("failed", message, 1200)
    one.notifier.close()
    environment = dict(item.split("=", 1) for item in (tmp_path / "env").read_text().split("\0") if item)
    expected = {"GAFF_EVENT": "failed", "GAFF_MESSAGE": message, "GAFF_ITERATION": "1200"}
    assert expected.items() <= environment.items()
    assert environment["GAFF_RUN_DIR"] == str(tmp_path)
    assert RUN_ID not in environment, "what bears it is killed with the leftovers of a run"
    (told,) = one.told()
    assert (told["schema"], told["event"], told["message"]) == ("gaff.notification/1", "failed", message)
    assert (told["iteration"], told["run_dir"]) == (1200, str(tmp_path))
    assert one.failures == []


def test_without_a_command_nothing_happens(bench: Callable[[None], Bench]) -> None:
    one = bench(None)
    one.notifier.tell("finished", "done", 40)
    assert one.is_idle()
    one.notifier.close()


def test_telling_does_not_wait_and_leaves_no_zombie(bench: Callable[[str], Bench]) -> None:
    one = bench("sleep 0.3; cat >> DIR/told")
    one.notifier.tell("finished", "done", 40)
    assert one.told() == []
    wait_for(one.is_idle, "the command's end")
    assert [told["message"] for told in one.told()] == ["done"]
    assert one.failures == []


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("echo first >&2; echo no route to host >&2; exit 3", "exit code 3: no route to host"),
        ("exit 4", "exit code 4"),
        ("no-such-command-here", "exit code 127: "),
        ("yes 'much too much' >&2", "took too long and was ended: much too much"),
    ],
)
def test_a_notification_that_fails_is_told_in_one_clause(
    command: str, said: str, bench: Callable[[str], Bench]
) -> None:
    one = bench(command)
    one.notifier.tell("warning", "slow", 7)
    one.notifier.close(wait_s=1.5)
    assert len(one.failures) == 1
    assert one.failures[0].startswith(said)
    assert "\n" not in one.failures[0]


def test_a_command_that_cannot_be_started_is_no_error_of_the_run(
    bench: Callable[[str], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bench("true")
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    one.notifier.tell("failed", "x", 1)
    one.notifier.close()
    assert one.failures == ["cannot be started: No such file or directory"]


def test_a_failure_that_cannot_be_journalled_is_no_error_of_the_run(tmp_path: Path) -> None:
    def full(what: str) -> None:
        raise OSError(errno.ENOSPC, what)

    notifier = Notifier("exit 3", tmp_path, full)
    notifier.tell("failed", "no room", 1)
    notifier.close()


def test_a_command_that_hangs_is_killed_with_all_that_it_started(bench: Callable[[str], Bench]) -> None:
    one = bench("setsid sh -c 'trap \"\" TERM; echo $$ > DIR/child; sleep 600' & echo $$ > DIR/shell; sleep 600")
    one.notifier.tell("warning", "slow", 7)
    pids = [one.pid("child"), one.pid("shell")]
    one.notifier.tick()
    assert all(map(alive, pids))
    one.clock.ahead_s = 61

    def over() -> bool:
        one.notifier.tick()
        return bool(one.failures)

    wait_for(over, "its end")
    assert one.failures == ["took too long and was ended"]
    assert not any(map(alive, pids))


def test_the_last_notification_gets_its_time_and_no_more(bench: Callable[[str], Bench]) -> None:
    one = bench(
        "echo $$ > DIR/$GAFF_MESSAGE; case $GAFF_MESSAGE in hangs) sleep 600;; *) sleep 0.5; cat >> DIR/told; esac"
    )
    one.notifier.tell("warning", "hangs", 7)
    one.notifier.tell("finished", "ends", 40)
    one.notifier.close(wait_s=3)
    assert [told["message"] for told in one.told()] == ["ends"]
    assert one.failures == ["took too long and was ended"]
    assert not alive(one.pid("hangs"))


def test_the_end_does_not_wait_behind_warnings_that_hang(bench: Callable[[str], Bench]) -> None:
    one = bench("[ $GAFF_EVENT = warning ] && sleep 600; cat >> DIR/told")
    for number in range(5):
        one.notifier.tell("warning", f"warning {number}", number)
    one.notifier.tell("interrupted", "SIGTERM", 9)
    one.notifier.close(wait_s=1.5)
    assert [told["message"] for told in one.told()] == ["SIGTERM"]
    assert one.failures == ["2 left out at the end of the run", *["took too long and was ended"] * 3]


def test_the_same_warning_is_told_every_ten_minutes_and_the_end_always(bench: Callable[[str], Bench]) -> None:
    one = bench("cat >> DIR/told")
    one.notifier.tell("warning", "slow: 1.2 s", 10, "slow")
    one.notifier.tell("warning", "slow: 1.3 s", 20, "slow")
    one.notifier.tell("warning", "nan", 20, "nan")
    wait_for(lambda: len(one.told()) == 2 and one.is_idle(), "the first two")
    one.clock.ahead_s = 601
    one.notifier.tell("warning", "slow: 1.4 s", 30, "slow")
    for _ in range(2):
        one.notifier.tell("failed", "the end", 30)
    one.notifier.close()
    expected = ["nan", "slow: 1.2 s", "slow: 1.4 s", "the end", "the end"]
    assert sorted(told["message"] for told in one.told()) == expected


def test_a_flood_of_warnings_is_worked_off_a_few_at_a_time(bench: Callable[[str], Bench]) -> None:
    one = bench("cat >> DIR/told; sleep 0.2")
    others = {p.pid for p in psutil.Process().children()}
    for number in range(30):
        one.notifier.tell("warning", f"warning {number}", number)
        assert len({p.pid for p in psutil.Process().children()} - others) <= 3
    one.notifier.tell("failed", "the end", 30)
    one.notifier.close()
    messages = {told["message"] for told in one.told()}
    assert {"warning 0", "warning 22", "the end"} <= messages
    assert len(messages) == 24
    assert one.failures == ["a warning was left out, 20 are waiting"] * 7


DRIVER = """
import sys, time
from pathlib import Path
from gaff.supervisor.notify import Notifier
Notifier(sys.argv[2], Path(sys.argv[1]), print).tell("warning", "slow", 7)
time.sleep(600)
"""


def test_it_does_not_outlive_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    command = f"echo $$ > {tmp_path}/shell; sleep 600"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    supervisor = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path), command], env=environment)
    pid = Bench(tmp_path, None).pid("shell")
    supervisor.kill()
    supervisor.wait()
    wait_for(lambda: not alive(pid), "the command's end")
