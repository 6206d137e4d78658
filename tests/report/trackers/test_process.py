# SPDX-License-Identifier: Apache-2.0
"""W&B and MLflow, the real libraries, each in its process: what arrives, and that the run never waits for it."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gaff.plan.config import Config
from gaff.report.trackers import process
from gaff.report.trackers.offer import trackers
from gaff.report.trackers.tracker import Tracker
from gaff.supervisor.child import RUN_ID
from gaff.trainers.contract import ValidationLogged
from tests.report.trackers.conftest import RESET, SEGMENTS, train

_ID = "0123456789abcdef0123456789abcdef"
_PREFIXES = ("WANDB_", "MLFLOW_")


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who has never heard of W&B or MLflow."""
    for name in [name for name in os.environ if name.startswith(_PREFIXES)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.fixture
def make(tmp_path: Path, config: Callable[[str], Config], told: list[str]) -> Callable[..., Tracker]:
    """A tracker of that name, for the run in ``tmp_path / run``, told that it starts."""

    def start(name: str, resumed: int = 0) -> Tracker:
        [one] = trackers(config(name), tmp_path / "run", _ID, told.append)
        one.run_started(SEGMENTS, 40, resumed)
        return one

    return start


def worker_of(one: Tracker) -> psutil.Process:
    sink: Any = one._sink
    return psutil.Process(sink._process.pid)


# --- W&B ---


def records(file: Path) -> Iterator[Any]:
    """What W&B keeps: protobuf records in LevelDB's log format (``doc/log_format.md``), behind 7 bytes of header."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


def wandb_files(tmp_path: Path) -> list[Path]:
    return sorted(tmp_path.glob("run/trackers/wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime)


def history(file: Path, tag: str) -> list[tuple[int, float]]:
    found = [record.history.item for record in records(file) if record.WhichOneof("record_type") == "history"]
    rows = [{item.key or item.nested_key[0]: json.loads(item.value_json) for item in items} for items in found]
    return [(row["iteration"], round(row[tag], 5)) for row in rows if tag in row]


def test_wandb_gets_everything(tmp_path: Path, make: Callable[..., Tracker], told: list[str]) -> None:
    pytest.importorskip("wandb")
    one = make("wandb")
    train(one, 0, 20)
    one.reset_done(RESET, 1.0, 4, 1000)
    train(one, 20, 40)
    one.event(ValidationLogged(None, 3.25, "validation"))
    one.close("finished")
    assert told == []
    [file] = wandb_files(tmp_path)
    assert history(file, "train/loss") == [(i, round(5.0 - i / 10, 5)) for i in range(2, 41, 2)]
    assert history(file, "reset/number") == [(20, 1)]
    assert history(file, "validation/loss") == [(40, 3.25)]
    found = {record.WhichOneof("record_type"): record for record in records(file)}
    assert (found["run"].run.run_id, found["run"].run.display_name) == (_ID, "run")
    assert found["exit"].exit.exit_code == 0
    given = {item.key: json.loads(item.value_json) for item in found["config"].config.update}
    assert (given["train_iters"], given["optimizer.params.lr"], given["gaff.reset_every"]) == (40, 0.001, 20)
    assert not any("secret" in str(value) for value in given.values())


@pytest.mark.exhaustive
def test_wandb_goes_on_with_its_run_after_a_kill(
    tmp_path: Path, make: Callable[..., Tracker], config: Callable[[str], Config], told: list[str]
) -> None:
    pytest.importorskip("wandb")
    script = (
        "import os, signal, sys, time\nfrom pathlib import Path\nfrom gaff.plan.config import load_config\n"
        "from gaff.report.trackers.offer import trackers\n"
        "from tests.report.trackers.conftest import SEGMENTS, train\n"
        "from tests.report.trackers.test_process import wandb_files\n"
        f"[one] = trackers(load_config([Path(sys.argv[1], 'run.yml')]), Path(sys.argv[1], 'run'), '{_ID}', print)\n"
        "one.run_started(SEGMENTS, 40, 0)\ntrain(one, 0, 20)\n"
        "while not wandb_files(Path(sys.argv[1])): time.sleep(0.01)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    config("wandb")
    killed = subprocess.run([sys.executable, "-c", script, tmp_path], cwd=Path(__file__).parents[3], check=False)
    assert killed.returncode == -signal.SIGKILL
    one = make("wandb", 10)  # at once: it waits for the other's process
    train(one, 10, 20)
    one.close("finished")
    assert told == []
    first, second = wandb_files(tmp_path)
    assert [i for i, _ in history(first, "train/loss")] == list(range(2, 21, 2))
    assert [i for i, _ in history(second, "train/loss")] == list(range(12, 21, 2))
    for file, code in ((first, 1), (second, 0)):
        found = {record.WhichOneof("record_type"): record for record in records(file)}
        assert (found["run"].run.run_id, found["exit"].exit.exit_code) == (_ID, code)


@pytest.mark.exhaustive
def test_wandb_out_of_reach_keeps_its_files(
    tmp_path: Path, make: Callable[..., Tracker], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections, and never answers
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        monkeypatch.setenv("WANDB_INIT_TIMEOUT", "3")
        monkeypatch.setenv("WANDB_MODE", "online")
        one = make("wandb")
        train(one, 0, 20)
        until = time.monotonic() + 120
        while not wandb_files(tmp_path) and time.monotonic() < until:
            time.sleep(0.1)
        train(one, 20, 40)
        one.close("finished")
    [only] = told
    assert only.startswith(
        f"W&B: cannot be reached, so its files stay in {tmp_path}/run/trackers/wandb, for `wandb sync`"
    )
    [file] = wandb_files(tmp_path)
    assert [i for i, _ in history(file, "train/loss")] == list(range(2, 41, 2))


# --- the process ---


def test_a_process_that_ends_is_told_once(
    make: Callable[..., Tracker], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RUN_ID, "leftovers of a run are found by this")
    one = make("wandb")
    worker = worker_of(one)
    assert RUN_ID not in worker.environ()
    worker.kill()
    while worker.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    train(one, 0, 20)
    one.close("finished")
    [only] = told
    assert only.startswith("W&B gets no more of this run's metrics: its process has ended; see ")
    assert not worker.is_running()


def test_a_process_that_hangs_holds_nobody_up(
    make: Callable[..., Tracker], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_MOST_WAITING", 50)
    one = make("wandb")
    worker = worker_of(one)
    worker.suspend()
    for _ in range(60):  # far more than a pipe holds
        train(one, 0, 20)
    [only] = told
    assert "its process takes nothing in" in only
    assert not worker.is_running()


def test_the_end_waits_within_bounds(
    make: Callable[..., Tracker], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make("wandb")
    sink: Any = one._sink
    sink._last_s = 0.2
    worker = worker_of(one)
    worker.suspend()
    train(one, 0, 20)
    one.close("finished")
    [only] = told
    assert only.startswith("W&B: not done 0.2 s after the run, and ended; see ")
    assert not worker.is_running()


# --- MLflow ---


def mlflow_runs(uri: str) -> Any:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    found = client.search_runs([client.get_experiment_by_name("gaff").experiment_id])
    return client, found


@pytest.mark.exhaustive
def test_mlflow_gets_everything_in_one_run(
    tmp_path: Path, make: Callable[..., Tracker], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    one = make("mlflow")
    train(one, 0, 20)
    one.reset_done(RESET, 1.0, 4, 1000)
    one.close("interrupted")
    client, [found] = mlflow_runs(uri)
    assert found.info.status == "KILLED"
    again = make("mlflow", 20)
    train(again, 20, 40)
    again.close("finished")
    assert told == []
    client, [found] = mlflow_runs(uri)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "run")
    assert found.data.tags["gaff.run_id"] == _ID
    assert found.data.params["optimizer.params.lr"] == "0.001"
    assert not any("secret" in value for value in found.data.params.values())
    losses = [(m.step, round(m.value, 5)) for m in client.get_metric_history(found.info.run_id, "train/loss")]
    assert sorted(losses) == [(i, round(5.0 - i / 10, 5)) for i in range(2, 41, 2)]
    assert [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, "reset/number")] == [(20, 1.0)]


@pytest.mark.exhaustive
def test_an_mlflow_server_that_never_answers_holds_nobody_up(
    make: Callable[..., Tracker], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    asked = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            held = [server.accept()]
            asked.set()
            held.append(server.accept())

        threading.Thread(target=accept, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
        one = make("mlflow")
        sink: Any = one._sink
        sink._last_s = 0.5
        assert asked.wait(60)
        for _ in range(200):
            train(one, 0, 20)
        worker = worker_of(one)
        assert told == []
        one.close("finished")
        assert not worker.is_running()
    assert [text.partition(";")[0] for text in told] == ["MLflow: not done 0.5 s after the run, and ended"]


@pytest.mark.exhaustive
def test_a_server_that_comes_back_gets_what_waited(
    tmp_path: Path, make: Callable[..., Tracker], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    store = tmp_path / "later" / "mlflow.db"
    uri = f"sqlite:///{store}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    (tmp_path / "later").write_text("a file, where its directory is to be")
    one = make("mlflow")
    while not told:
        time.sleep(0.1)
        train(one, 0, 20)
    assert told[0].startswith("MLflow: does not take the metrics, which wait until it does: ")
    (tmp_path / "later").unlink()
    (tmp_path / "later").mkdir()
    one.close("finished")
    assert len(told) <= 2  # at the end it tried once more at once
    client, [found] = mlflow_runs(uri)
    assert {m.step for m in client.get_metric_history(found.info.run_id, "train/loss")} == set(range(2, 21, 2))
