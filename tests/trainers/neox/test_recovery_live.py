# SPDX-License-Identifier: Apache-2.0
"""Unmodified GPT-NeoX looked after by GAFF: restarted when a rank is killed, stopped before the end of a walltime."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from gaff.supervisor.child import RUN_ID
from gaff.supervisor.progress import tags
from tests.live import different, journal
from tests.trainers.neox.live import MARKS, corpus, train

pytestmark = MARKS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("corpus"))


def kill_rank_1(root: Path, segment: int, iteration: int) -> None:
    """Once the segment's first launch has logged the iteration."""
    log = root / "segments" / f"{segment:04d}" / "attempt-1.log"
    until = time.monotonic() + 900
    while not (log.exists() and f"| iteration {iteration:8d}/" in log.read_text("utf-8", "replace")):
        assert time.monotonic() < until
        time.sleep(0.05)
    run_id = json.loads((root / "run.json").read_text())["run_id"]
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:
            continue
        if environment.get(RUN_ID) == run_id and environment.get("RANK") == "1":
            process.send_signal(signal.SIGKILL)
            return


def test_a_killed_rank_costs_a_restart_and_no_bit(tmp_path: Path, data: Path) -> None:
    schedule = {"train_iters": 60, "reset_every": 30}
    undisturbed = train(tmp_path, data, name="undisturbed", **schedule)
    assert undisturbed.code == 0, undisturbed.told()
    killer = threading.Thread(target=kill_rank_1, args=(tmp_path / "run", 2, 33), daemon=True)
    killer.start()
    done = train(tmp_path, data, ("gaff.watch.backoff_seconds=0",), **schedule)
    killer.join(5)
    assert done.code == 0, done.told()
    [failed] = journal(done.root, "trainer_failed")
    assert failed["safe"] == 30
    assert [(e["segment"], e["start"]) for e in journal(done.root, "segment_launched")] == [(1, 0), (2, 30), (2, 30)]
    assert different(done.tag(60), undisturbed.tag(60)) == []


def test_a_walltime_inside_a_segment_loses_nothing(tmp_path: Path, data: Path) -> None:
    schedule = {"train_iters": 40_000, "reset_every": 20_000}
    done = train(tmp_path, data, more=("--time-limit", "180s"), **schedule)
    assert done.code == 75, done.told()
    newest = tags(done.root / "checkpoints")[-1]
    assert newest > 5, "it measured, then trained what fits"
    assert done.logged()[-1].iteration == newest, "nothing was trained beyond the checkpoint"
    again = train(tmp_path, data, more=("--time-limit", "90s"), **schedule)
    assert again.code == 75, again.told()
    assert journal(done.root, "segment_launched")[2]["start"] == newest
    iterations = [line.iteration for line in again.logged()]
    assert iterations == sorted(set(iterations)), "nothing was trained twice"
