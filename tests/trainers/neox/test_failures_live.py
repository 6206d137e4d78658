# SPDX-License-Identifier: Apache-2.0
"""Unmodified GPT-NeoX failing for real, and the one sentence that GAFF makes of it."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from gaff.errors import TrainerError
from gaff.plan.checks import check
from gaff.plan.config import load_config
from gaff.plan.schedule import schedule
from gaff.supervisor.child import RUN_ID
from gaff.supervisor.loop import Supervisor
from gaff.supervisor.run_directory import open_run, run_directory
from gaff.trainers.select import select_trainer
from tests.live import journal, write_config
from tests.supervisor import drive
from tests.trainers.neox.live import MARKS, Finished, corpus, train

pytestmark = MARKS

LEFT_TO_US = "gaff.watch.restarts=0"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("corpus"))


# --- launches that were not checked, or were spoiled after the check ---


def supervisor(folder: Path, data: Path, *overrides: str) -> Supervisor:
    """A run of four iterations on GPT-NeoX, which nobody has checked."""
    path = write_config(folder / "run.yml", data, train_iters=4, reset_every=2)
    chosen = ["gaff.trainer=neox", "gaff.device=cpu-beside-gpus", "num_workers=0", LEFT_TO_US, *overrides]
    config = load_config([path], chosen)
    directory = run_directory(folder / "run", config)
    run_id = open_run(directory, config, {})
    return drive.supervisor(config, schedule(4, 2), directory, run_id, select_trainer(config))


def test_exiting_with_0_without_training(tmp_path: Path, data: Path) -> None:
    layout = ("model_parallel_size=2", "pipe_parallel_size=0", "zero_optimization={stage: 2}")
    unchecked = supervisor(tmp_path, data, *layout)
    assert check(unchecked.context.config), "the plan refuses it"
    with pytest.raises(TrainerError) as caught:
        unchecked.run()
    [problem] = caught.value.problems
    assert problem.what.startswith(
        "the trainer exited with 0 without having trained and global_step2 is not there,"
        " saying: ZeRO stage 2/3 and model paralleism are not"
    )
    assert problem.remedy == "GPT-NeoX runs ZeRO 2 and 3 only with pipe_parallel_size: 0 and model_parallel_size: 1"


def test_a_tokenizer_that_has_gone(tmp_path: Path, data: Path) -> None:
    from gaff.data.corpus import limited_text
    from gaff.data.tokenizers import train_bpe

    vocabulary = tmp_path / "tokenizer.json"
    train_bpe(limited_text(), 512, vocabulary)
    checked = supervisor(tmp_path, data, "tokenizer_type=HFTokenizer", f"vocab_file={vocabulary}")
    assert [*check(checked.context.config), *checked.context.trainer.check(checked.context.config)] == []
    vocabulary.unlink()
    with pytest.raises(TrainerError) as caught:
        checked.run()
    [problem] = caught.value.problems
    assert "global_step2 is not there, saying: Exception: No such file or directory (os error 2)" in problem.what
    assert problem.remedy.startswith("mend vocab_file")
    assert "tokenizer.py" in problem.detail[0]
    assert problem.detail[2].endswith("Exception: No such file or directory (os error 2)")


# --- processes that are disturbed while they train ---


def disturbed(folder: Path, data: Path, number: signal.Signals, *overrides: str, launcher: bool = False) -> Finished:
    """A run of two ranks, the second of which, or else their launcher, gets a signal after some iterations."""
    root = folder / "run"
    thread = threading.Thread(target=_send, args=(root, number, launcher), daemon=True)
    thread.start()
    done = train(folder, data, (LEFT_TO_US, *overrides), train_iters=4000, reset_every=2000)
    thread.join(5)
    return done


def _send(root: Path, number: signal.Signals, launcher: bool) -> None:
    log = root / "segments" / "0001" / "attempt-1.log"
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and not (
        log.exists() and "| iteration        3/" in log.read_text("utf-8", "replace")
    ):
        time.sleep(0.1)
    run_id = json.loads((root / "run.json").read_text())["run_id"]
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            is_rank_1 = environment.get("RANK") == "1"
            chosen = "deepspeed.launcher.launch" in process.cmdline() if launcher else is_rank_1
            if chosen and environment.get(RUN_ID) == run_id:
                process.send_signal(number)
                return
        except psutil.Error:
            continue


def sentence(done: Finished) -> str:
    """What ``gaff run`` said last, in one line."""
    [line] = [line for line in done.errors.splitlines() if line.startswith("gaff: ")]
    return line


def test_a_rank_that_is_killed_as_the_system_does_when_out_of_memory(tmp_path: Path, data: Path) -> None:
    done = disturbed(tmp_path, data, signal.SIGKILL)
    assert done.code == 75, done.told()
    said = sentence(done)
    assert re.search(r"killed by SIGKILL after iteration \d+; no checkpoint is written yet; run the same command", said)


def test_a_launcher_that_is_killed_though_deepy_then_exits_with_0(tmp_path: Path, data: Path) -> None:
    done = disturbed(tmp_path, data, signal.SIGKILL, launcher=True)
    assert done.code == 75, done.told()
    assert journal(done.root, "segment_exited")[0]["returncode"] == 0
    assert "the trainer's launcher was killed after iteration " in sentence(done)


def test_a_rank_that_crashes(tmp_path: Path, data: Path) -> None:
    done = disturbed(tmp_path, data, signal.SIGSEGV)
    assert done.code == 1, done.told()
    assert "saying: Fatal Python error: Segmentation fault; see the stack" in sentence(done)


def test_a_hang_in_a_collective(tmp_path: Path, data: Path) -> None:
    done = disturbed(tmp_path, data, signal.SIGSTOP, "gaff.watch.silence_minutes=1")
    assert done.code == 1, done.told()
    said = sentence(done)
    assert "the trainer said nothing for 1 minute and was ended: rank 0 stands in " in said
    assert "torch/distributed/distributed_c10d.py" in said
    assert "stopped by a signal" in said
    assert "find who stopped rank 1" in said
    assert journal(done.root, "trainer_silent")[0]["ranks"] == 2
