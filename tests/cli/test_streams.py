# SPDX-License-Identifier: Apache-2.0
"""What becomes of a command whose output nobody reads any more, and of one that is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live import gaff, write_config

REPOSITORY = Path(__file__).parents[2]

RUN = """
import sys
from pathlib import Path
from gaff.cli.execute import execute, held
from gaff.plan.config import load_config
from gaff.plan.plan import build_plan
from tests.supervisor.fake_trainer import FakeTrainer
config = load_config([Path("run.yml")])
with held(Path("run")) as lock:
    execute(config, build_plan(config), FakeTrainer(Path(sys.argv[1]), 40), Path("run"), lock)
"""
CONFIG = "train_iters: 40\nlog_interval: 1\ngaff: {reset_every: 20}\n"


def with_broken_output(command: list[str], folder: Path) -> tuple[int, str]:
    """Exit code and standard error of a command whose reader is gone before it says a word."""
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120
    )
    os.close(writer)
    return done.returncode, done.stderr


def test_a_run_ends_well_though_nobody_reads_its_output(tmp_path: Path, unpacked_checkpoints: Path) -> None:
    (tmp_path / "run.yml").write_text(CONFIG)
    template = unpacked_checkpoints / "zero1-fp32-tp2-pp2-dp2" / "global_step5"
    code, errors = with_broken_output([sys.executable, "-c", RUN, str(template)], tmp_path)
    assert code == 0, errors
    assert "rror" not in errors, errors
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["iterations"]["done"] == 40
    assert (tmp_path / "run" / "loss_curve.png").is_file()


def test_a_page_that_nobody_reads_ends_quietly(tmp_path: Path) -> None:
    code, errors = with_broken_output([sys.executable, "-m", "gaff", "plan", "--keys"], tmp_path)
    assert (code, errors) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_output_that_does_not_fit_is_no_success(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "gaff", "plan", "--keys"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "gaff: the system: No space left on device.\n")


def test_closed_streams_are_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(f"{sys.executable} -m gaff plan --keys >&-", shell=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_interrupt_outside_the_training_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    config = write_config(tmp_path / "run.yml", tmp_path / "data", train_iters=40, reset_every=10)
    process = gaff("rehearse", "--config", config, cwd=tmp_path)
    assert process.stdout
    assert "preparing" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "gaff: interrupted.\n")
