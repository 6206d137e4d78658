# SPDX-License-Identifier: Apache-2.0
"""``gaff status`` beside a run that is really at work, killed, carried on and finished."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gaff.cli.main import main
from gaff.supervisor.lock import run_lock
from tests.live import gaff, listen_to_sigint

REPOSITORY = Path(__file__).parents[2]
RUN = """
import json, sys
from pathlib import Path
from gaff.cli.execute import execute, held
from gaff.plan.config import load_config
from gaff.plan.plan import build_plan
from tests.supervisor.fake_trainer import FakeTrainer
config = load_config([Path("run.yml")])
modes = {int(stop): mode for stop, mode in json.loads(sys.argv[2]).items()}
with held(Path("run")) as lock:
    execute(config, build_plan(config), FakeTrainer(Path(sys.argv[1]), 40, modes, 0.05), Path("run"), lock)
"""
CONFIG = """
train_iters: 40
log_interval: 1
gaff:
  reset_every: 20
  notify: cat >> told
  watch: {backoff_seconds: 0}
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, unpacked_checkpoints: Path) -> Start:
    """Start, or carry on, the run in tmp_path/run."""
    template = unpacked_checkpoints / "zero1-fp32-tp2-pp2-dp2" / "global_step5"

    def launch(modes: dict[int, str] | None = None, notify: str = "cat >> told") -> subprocess.Popen[str]:
        (tmp_path / "run.yml").write_text(CONFIG.replace("cat >> told", notify))
        command = [sys.executable, "-c", RUN, str(template), json.dumps(modes or {})]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=tmp_path, env=environment, **output)

    return launch


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def test_a_run_that_is_killed_and_carried_on(tmp_path: Path, start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "run"

    def told(*options: str) -> str:
        assert main(["status", str(root), *options]) == 0
        return capsys.readouterr().out

    def status() -> dict[str, Any]:
        return dict(json.loads(told("--json")))

    process = start({40: "hangs"})
    wait_for(lambda: root.is_dir() and any(root.iterdir()), "a run directory")
    wait_for(lambda: status()["iteration"] == 23, "iteration 23")
    found = status()
    assert (found["state"], found["phase"], found["checkpoint"]["iteration"]) == ("running", "training", 20)
    assert (found["resets"]["done"], found["resets"]["next"]) == (1, None)
    assert found["supervisor"] == {**found["supervisor"], "pid": process.pid, "at_work": True}
    assert found["seconds_left"] > 0
    assert told().startswith("running (training) · iteration 23 of 40 (57%)")
    process.kill()
    process.wait()
    found = status()
    assert (found["state"], found["phase"], found["seconds_left"]) == ("died", None, None)
    assert told().startswith("died: no supervisor is at work and no end was journalled; the same command carries on")
    output, _ = start().communicate(timeout=60)
    assert "carrying on after iteration 20 of 40" in output
    found = status()
    assert (found["state"], found["iteration"], found["supervisor"]["at_work"]) == ("finished", 40, False)
    text = told()
    assert text.startswith("finished · iteration 40 of 40 (100%)\n")
    assert "40 of 40 iterations · loss 9.000 → 0.225" in text
    assert re.search(r"^ +1 +20 ", text, re.MULTILINE), "the table of resets"
    output, _ = start(notify="echo no such host >&2; exit 7").communicate(timeout=60)  # there is nothing left to do
    assert "notify failed: exit code 7: no such host" in output
    assert re.search(r"^warnings .* notify failed: exit code 7: no such host$", told(), re.MULTILINE)


def test_watching_a_run_to_its_end_where_there_is_no_terminal(tmp_path: Path, start: Start) -> None:
    root = tmp_path / "run"
    process = start({20: "killed"})
    wait_for(lambda: (root / "journal.jsonl").is_file(), "the run")
    plain, objects = gaff("status", root, "--watch"), gaff("status", root, "--watch", "--json")
    output, errors = plain.communicate(timeout=60)
    assert (plain.returncode, errors) == (0, "")
    lines = output.splitlines()
    assert len(lines) >= 2
    assert all(re.match(r"\d\d:\d\d:\d\d  running \(", line) for line in lines[:-1])
    assert re.match(r"\d\d:\d\d:\d\d  finished · iteration 40 of 40 \(100%\) .* · 1 restart$", lines[-1])
    output, _ = objects.communicate(timeout=60)
    assert [json.loads(line)["state"] for line in output.splitlines()][-1] == "finished"
    assert process.wait(60) == 0
    told = [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]
    assert [one["event"] for one in told] == ["warning", "finished"]
    assert "killed by SIGKILL" in told[0]["message"]
    assert (told[1]["iteration"], told[1]["run_dir"]) == (40, str(root))


def test_watching_on_a_terminal_until_the_user_has_seen_enough(tmp_path: Path) -> None:
    """The run stays at work, here in this process."""
    with run_lock(tmp_path / "lock"):
        ours, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-m", "gaff", "status", str(tmp_path), "--watch"]
        process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, preexec_fn=listen_to_sigint
        )
        os.close(theirs)
        shown = _read(ours, "running (starting)")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        shown += _read(ours, None)
        os.close(ours)
    assert "\x1b[" in shown, "it redraws"
    assert "Traceback" not in shown
    assert "interrupted" not in shown


def _read(descriptor: int, until: str | None) -> str:
    """What a terminal was sent, until a text comes, or nothing more."""
    shown = ""
    while until is None or until not in shown:
        ready, _, _ = select.select([descriptor], [], [], 0.2 if until is None else 30)
        if not ready:
            break
        try:
            shown += os.read(descriptor, 65536).decode()
        except OSError:  # the other end is closed
            break
    return shown


def test_what_is_no_run_directory_is_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in ([], ["--json"], ["--watch"]):
        assert main(["status", str(tmp_path), *options]) == 2
        assert "is no run directory" in capsys.readouterr().err


def test_a_directory_that_was_only_just_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lock").touch()
    for options in ([], ["--watch"]):
        assert main(["status", str(tmp_path), *options]) == 0
        assert capsys.readouterr().out.splitlines()[-1].endswith("not started")
