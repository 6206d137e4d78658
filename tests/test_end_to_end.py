# SPDX-License-Identifier: Apache-2.0
"""Whole runs from the command line on the bundled trainer: real DeepSpeed, real shards, real kills."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from gaff.checkpoint.init_methods import Distribution
from gaff.checkpoint.layout.parameter import INPUT_EMBEDDING
from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.sources import DrawnValues
from gaff.checkpoint.transaction import records
from gaff.checkpoint.verify import verify_tag
from gaff.report.metrics.columns import COLUMNS
from gaff.report.metrics.gather import load_metrics
from gaff.report.metrics.store import read_store
from gaff.supervisor.progress import tags
from tests.checkpoint.tags import values
from tests.live import different, finish, gaff, journal, log_text, write_config
from tests.report.naive import naive_curve, naive_recovery, naive_resets

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gaff.data.corpus import write_corpus
    from gaff.data.tokenizers import CharLevel

    return write_corpus(tmp_path_factory.mktemp("data"), CharLevel(), characters=300_000)


@pytest.fixture(scope="module")
def short_config(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    return write_config(tmp_path_factory.mktemp("config") / "short.yml", data, train_iters=150, reset_every=50)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, short_config: Path) -> Path:
    root = tmp_path_factory.mktemp("runs") / "undisturbed"
    code, output, errors = finish(gaff("run", "--config", short_config, "--run-dir", root))
    assert code == 0, output + errors
    return root


def final_loss(root: Path, iteration: int) -> str:
    """As the trainer worded it; the last launch that logged the iteration counts."""
    return re.findall(rf"iteration +{iteration}/.*?lm_loss: (\S+)", log_text(root))[-1]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ranks_of(root: Path) -> list[psutil.Process]:
    """Processes of the bundled trainer that work in this run directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(root / "segments") in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_400_iterations_reset_after_exactly_100_200_and_300(tmp_path: Path, data: Path) -> None:
    config = write_config(tmp_path / "pythia-tiny.yml", data, train_iters=400, reset_every=100)
    root = tmp_path / "run"
    code, output, errors = finish(gaff("run", "--config", config, "--run-dir", root))
    assert code == 0, output + errors
    # the journal
    assert [(e["reset"], e["iteration"]) for e in journal(root, "reset_done")] == [(1, 100), (2, 200), (3, 300)]
    assert [(e["start"], e["stop"]) for e in journal(root, "segment_launched")] == [
        (0, 100),
        (100, 200),
        (200, 300),
        (300, 400),
    ]
    # the tags
    save = root / "checkpoints"
    assert tags(save) == [100, 200, 300, 400]
    for number, iteration in enumerate((100, 200, 300), start=1):
        tag = save / f"global_step{iteration}"
        layout = read_layout(tag)
        assert (layout.topology.data, layout.zero_stage) == (2, 1)
        assert verify_tag(tag) == []
        small_init = Distribution("normal", (2 / (5 * 32)) ** 0.5)
        expected = DrawnValues(small_init, 1234, number, INPUT_EMBEDDING, 32)
        found = values(tag)
        assert (found.reshape(-1) == expected.values(0, found.size)).all()
    assert records(save / "global_step400") == []
    # the log
    logged = [int(i) for i in re.findall(r"\| iteration +(\d+)/ +400 \|", log_text(root))]
    assert logged == list(range(1, 401))
    assert re.findall(r"exiting the program at iteration (\d+)", log_text(root))[:3] == ["100", "200", "300"]
    # forgetting shows: the loss jumps after each reset, and comes down again
    losses = {i: float(x) for i, x in re.findall(r"iteration +(\d+)/.*?lm_loss: (\S+)", log_text(root))}
    for stop in (100, 200, 300):
        before = sum(losses[str(i)] for i in range(stop - 9, stop + 1)) / 10
        after = sum(losses[str(i)] for i in range(stop + 1, stop + 4)) / 3
        healed = sum(losses[str(i)] for i in range(stop + 91, stop + 101)) / 10
        assert after > before + 0.3
        assert healed < after - 0.3
    assert (root / "loss_curve.png").stat().st_size > 10_000
    report_agrees_with_the_logs(root)


@pytest.mark.parametrize(
    ("victim", "restarts"),
    [
        ("supervisor", 0),
        pytest.param("rank", 3, marks=pytest.mark.exhaustive),
        pytest.param("rank", 0, marks=pytest.mark.exhaustive),
        pytest.param("launcher", 0, marks=pytest.mark.exhaustive),
        pytest.param("launcher", 3, marks=pytest.mark.exhaustive),
    ],
)
def test_killed_in_a_segment_the_run_ends_with_the_same_weights(
    victim: str, restarts: int, tmp_path: Path, short_config: Path, undisturbed: Path
) -> None:
    root = tmp_path / "run"
    command = ("run", "--config", short_config, "--run-dir", root)
    process = gaff(*command, "-o", f"gaff.watch={{restarts: {restarts}, backoff_seconds: 0}}")
    wait_for(lambda: (root / "segments/0002/attempt-1.log").exists() and "iteration       53/" in log_text(root))
    if victim == "supervisor":
        process.kill()
    else:
        launcher, *ranks = sorted(ranks_of(root), key=lambda p: p.pid)[-3:]
        (launcher if victim == "launcher" else ranks[-1]).kill()
    code, output, errors = finish(process)
    if not restarts:
        assert code == (-signal.SIGKILL if victim == "supervisor" else 75), output + errors
        wait_for(lambda: not ranks_of(root))
        assert tags(root / "checkpoints") == [50]
        code, output, errors = finish(gaff(*command))
    assert code == 0, output + errors
    assert different(root / "checkpoints/global_step150", undisturbed / "checkpoints/global_step150") == []
    assert final_loss(root, 150) == final_loss(undisturbed, 150)
    assert [(e["segment"], e["attempt"]) for e in journal(root, "segment_launched")] == [(1, 1), (2, 1), (2, 2), (3, 1)]
    assert not ranks_of(root)
    stored = load_metrics(root)
    assert [len(attempt.series) for attempt in stored.attempts][2:] == [50, 50]
    assert all(block.has_end for block in read_store(root).values())
    (root / "metrics.jsonl").unlink()
    read_again = load_metrics(root)  # from the logs
    assert stored.series.loss.tolist() == read_again.series.loss.tolist()
    assert [len(a.series) for a in stored.attempts] == [len(a.series) for a in read_again.attempts]


def test_another_k_is_another_run(undisturbed: Path, short_config: Path) -> None:
    code, _, errors = finish(
        gaff("run", "--config", short_config, "-o", "gaff.reset_every=30", "--run-dir", undisturbed)
    )
    assert code == 2
    assert "gaff.reset_every = 50, and now it is 30" in errors


def test_status_tells_how_far_a_run_is(undisturbed: Path) -> None:
    code, output, _ = finish(gaff("status", undisturbed))
    assert code == 0
    assert "150 of 150 iterations" in output


def test_a_rehearsal_of_a_shipped_config_ends_with_three_resets_or_more(tmp_path: Path) -> None:
    config = Path(__file__).parents[1] / "neox_configs" / "pythia-70m.yml"
    root = tmp_path / "rehearsal"
    command = ("rehearse", "--config", config, "--trainer", "bundled", "--minutes", "2", "--run-dir", root)
    code, output, errors = finish(gaff(*command, cwd=tmp_path))
    assert code == 0, output + errors
    assert "hidden_size 512 -> 128" in output
    assert len(journal(root, "reset_done")) >= 3
    last = tags(root / "checkpoints")[-1]
    layout = read_layout(root / "checkpoints" / f"global_step{last}")
    assert (layout.zero_stage, layout.topology.data) == (1, 2)
    assert (root / "loss_curve.png").exists()
    report_agrees_with_the_logs(root)
    code, output, _ = finish(gaff(*command, cwd=tmp_path))
    assert code == 0
    assert len(journal(root, "segment_launched")) == len(journal(root, "reset_done")) + 1, "nothing was trained twice"


def report_agrees_with_the_logs(root: Path) -> None:
    """Every reset is on the page with its figures, as the text of the logs gives them; the store has all lines."""
    curve, resets = naive_curve(root), naive_resets(root)
    series = read_store(root)
    assert all(block.has_end for block in series.values())
    assert [i for block in series.values() for i in block.lines.values[:: len(COLUMNS)]] == [i for i, _ in curve]
    page, summary = (root / "report.html").read_text(), json.loads((root / "summary.json").read_text())
    assert [reset["iteration"] for reset in summary["resets"]] == resets
    names = {"before": "loss_before", "iterations": "iterations_to_recover", "spent": "iterations_spent"}
    for place, found in enumerate(summary["resets"]):
        plain = naive_recovery(curve, resets, place)
        assert {name: found[names.get(name, name)] for name in plain} == pytest.approx(plain)
        assert f"{plain['before']:.3f}" in page
        assert f"{plain['peak']:.3f}" in page
    parts = summary["boundaries"]["median"]
    assert summary["boundaries"]["count"] == len(resets)
    assert all(parts[name] is not None for name in ("stop_s", "check_s", "surgery_s", "start_s", "first_s"))
