# SPDX-License-Identifier: Apache-2.0
"""Runs that look after themselves: restarts, watchdogs' policies, walltime, retention; the processes are real."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gaff.errors import GaffError, Interrupted, TrainerError
from gaff.supervisor import disk
from gaff.supervisor.journal import read_entries
from gaff.supervisor.loop import Supervisor
from gaff.supervisor.progress import tags
from gaff.supervisor.walltime import Deadline
from tests.checkpoint.tags import values
from tests.supervisor import drive
from tests.supervisor.drive import processes_of


@pytest.fixture(scope="module")
def template(unpacked_checkpoints: Path) -> Path:
    return unpacked_checkpoints / "zero1-fp32-pp1-tp1-dp1" / "global_step5"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Path:
    root = tmp_path_factory.mktemp("undisturbed") / "run"
    drive.build(root, template, {}).run()
    return root


def build(
    root: Path, template: Path, modes: dict[int, str], watch: str = "", *overrides: str, **more: Any
) -> Supervisor:
    keys = [f"gaff.watch={{backoff_seconds: 0, {watch}}}", *overrides]
    return drive.build(root, template, modes, overrides=keys, **more)


def events(root: Path, name: str) -> list[dict[str, Any]]:
    return [dict(e.fields) for e in read_entries(root) if e.event == name]


def same_end(root: Path, other: Path) -> bool:
    left, right = (values(r / "checkpoints" / "global_step40") for r in (root, other))
    return bool((left == right).all())


@pytest.mark.parametrize(
    "mode", ["killed", "raises", "dies-saving", "launcher-killed", "peer-alone", "out-of-memory", "exit-0-silent"]
)
def test_a_trainer_that_fails_once_is_started_again(
    mode: str, tmp_path: Path, template: Path, undisturbed: Path
) -> None:
    root = tmp_path / "run"
    build(root, template, {20: mode}).run()
    [failed], [planned] = events(root, "trainer_failed"), events(root, "restart_planned")
    assert (failed["safe"], planned["iteration"], planned["number"], planned["of"]) == (10, 10, 1, 10)
    assert [e["start"] for e in events(root, "segment_launched")] == [0, 10, 10, 20, 30]
    assert same_end(root, undisturbed)
    assert not processes_of(root)


def test_the_same_crash_after_the_same_iteration_ends_the_run_with_the_decisive_lines(
    tmp_path: Path, template: Path
) -> None:
    root = tmp_path / "run"
    with pytest.raises(TrainerError) as caught:
        build(root, template, {20: "raises!"}).run()
    [problem] = caught.value.problems
    assert problem.what.startswith("for the 3rd time in a row after iteration 13: the trainer exited with 1")
    assert "CUDA error: an illegal memory access was encountered" in problem.what
    assert any("end_as" in line for line in problem.detail)
    assert problem.where is not None
    assert problem.where.file.endswith("attempt-3.log")
    assert len(events(root, "trainer_failed")) == 3
    assert tags(root / "checkpoints") == [10]


def test_exits_with_0_again_and_again(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    with pytest.raises(TrainerError, match="for the 3rd time in a row after iteration 10: the trainer exited with 0"):
        build(root, template, {20: "exit-0-silent!"}).run()


def test_what_names_a_lasting_cause_is_not_tried_again(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    with pytest.raises(TrainerError, match="ZeRO stage 2/3 and pipeline parallelism"):
        build(root, template, {20: "exit-0!"}).run()
    assert events(root, "trainer_failed")[0]["lasting"] == "lasting"
    assert not events(root, "restart_planned")


def test_the_budget_ends_what_fails_elsewhere_each_time(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    with pytest.raises(TrainerError, match="after 2 restarts without a new checkpoint: the trainer was killed"):
        build(root, template, {20: "killed!"}, "restarts: 2, same_iteration: 9").run()


def test_a_hang_is_ended_with_its_stacks_and_trained_again(tmp_path: Path, template: Path, undisturbed: Path) -> None:
    root = tmp_path / "run"
    build(root, template, {20: "stopped"}, "silence_minutes: 0.05").run()
    [failed] = events(root, "trainer_failed")
    assert "stopped by a signal" in failed["what"]
    assert same_end(root, undisturbed)


def test_a_hang_that_is_only_told_goes_on(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    supervisor = build(root, template, {20: "naps"}, "silence_minutes: 0.02, on_silence: warn")
    supervisor.run()
    assert {e["id"] for e in events(root, "warning")} >= {"silent"}
    assert not events(root, "trainer_failed")
    assert tags(root / "checkpoints") == [10, 20, 30, 40]


def test_nan_is_met_as_configured(tmp_path: Path, template: Path, undisturbed: Path) -> None:
    root = tmp_path / "run"
    build(root, template, {20: "nan"}, "nan_lines: 2").run()
    [failed] = events(root, "trainer_failed")
    assert failed["id"] == "watchdog-nan"
    assert failed["iteration"] >= 15, "the second such line"
    assert same_end(root, undisturbed)
    with pytest.raises(TrainerError) as caught:
        build(tmp_path / "stopped", template, {20: "nan"}, "nan_lines: 2, on_nan: stop").run()
    assert caught.value.problems[0].id == "watchdog-nan"
    assert len(str(caught.value).splitlines()) == 1
    assert tags(tmp_path / "stopped" / "checkpoints") == [10], "a whole tag with such weights is no checkpoint"
    build(tmp_path / "warned", template, {20: "nan"}, "nan_lines: 2, on_nan: warn").run()
    assert [e["id"] for e in events(tmp_path / "warned", "warning")] == ["nan"]


def test_a_slow_trainer_is_met_as_configured(tmp_path: Path, template: Path) -> None:
    """A hundred times as slow: told within slow_minutes and one poll, though its next line is far away."""
    with pytest.raises(TrainerError) as caught:
        build(tmp_path / "run", template, {20: "slow"}, "slow_minutes: 0.02, on_slow: stop", iteration_s=0.03).run()
    [problem] = caught.value.problems
    assert problem.id == "watchdog-slow"
    assert "no iteration line came for " in problem.what
    [exited] = events(tmp_path / "run", "segment_exited")[-1:]
    assert exited["seconds"] < 10, "its last seven iterations alone would take 21 s"


def test_a_run_without_room_for_its_next_checkpoint_trains_nothing(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    with pytest.raises(Interrupted):
        build(root, template, {20: "killed"}, "restarts: 0").run()
    launched = len(events(root, "segment_launched"))
    monkeypatch.setattr(disk, "free_bytes", lambda path: 1000)
    with pytest.raises(GaffError) as caught:
        build(root, template, {}).run()
    [problem] = caught.value.problems
    assert problem.id == "disk-full"
    assert "the next checkpoint needs" in problem.what
    assert "and 1 kB are free" in problem.what
    assert len(events(root, "segment_launched")) == launched
    build(root, template, {}, "disk_factor: never").run()
    assert tags(root / "checkpoints") == [10, 20, 30, 40]


@pytest.mark.parametrize("position", [0, -1])
def test_a_byte_that_changed_on_the_disk_costs_its_tag(
    position: int, tmp_path: Path, template: Path, undisturbed: Path
) -> None:
    """torch would train on from it: its reader does not look at CRCs."""
    root = tmp_path / "run"
    with pytest.raises(Interrupted):
        build(root, template, {30: "killed"}, "restarts: 0").run()
    [first, *_] = sorted((root / "checkpoints" / "global_step20").glob("layer_*.pt"))
    data = bytearray(first.read_bytes())
    at = len(data) // 2
    data[at] ^= 1
    first.write_bytes(data)
    build(root, template, {}).run()
    [aside] = events(root, "tag_set_aside")
    assert aside["iteration"] == 20
    assert "is not what was written" in aside["why"]
    assert same_end(root, undisturbed)


def test_a_retry_waits_and_a_signal_ends_the_wait(tmp_path: Path, template: Path) -> None:
    supervisor = drive.build(tmp_path / "run", template, {10: "killed"}, overrides=["gaff.watch={restarts: 3}"])

    def stop() -> None:
        wait_for(lambda: events(tmp_path / "run", "restart_planned") != [])
        supervisor.context.signals.name = "SIGTERM"

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Interrupted, match="stopped by SIGTERM; no checkpoint is written yet"):
        supervisor.run()
    thread.join()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def with_deadline(root: Path, template: Path, seconds: float, iteration_s: float) -> Supervisor:

    supervisor = build(root, template, {}, iteration_s=iteration_s)
    return drive.changed(supervisor, deadline=Deadline(seconds))


def test_a_walltime_inside_a_segment_stops_at_a_checkpoint_and_the_next_call_carries_on(
    tmp_path: Path, template: Path, undisturbed: Path
) -> None:
    root = tmp_path / "run"
    with pytest.raises(Interrupted, match="walltime"):
        with_deadline(root, template, 13.0, 0.4).run()
    [last] = events(root, "segment_exited")[-1:]
    newest = tags(root / "checkpoints")[-1]
    assert 0 < newest < 40
    assert last["iteration"] == newest, "nothing was trained beyond the checkpoint"
    assert not processes_of(root)
    assert events(root, "segment_launched")[0]["goal"] == "measure"
    build(root, template, {}).run()
    trained = [(e["start"], e["stop"]) for e in events(root, "segment_launched")]
    assert all(stop == start for (_, stop), (start, _) in pairwise(trained)), "nothing twice"
    assert same_end(root, undisturbed)


def test_no_time_at_all_launches_nothing_and_is_resumable(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    build_once = with_deadline(root, template, 13.0, 0.4)
    with pytest.raises(Interrupted):
        build_once.run()
    launched = len(events(root, "segment_launched"))
    with pytest.raises(Interrupted, match="too near for another iteration"):
        with_deadline(root, template, 1.0, 0.4).run()
    assert len(events(root, "segment_launched")) == launched
    with pytest.raises(GaffError, match="for the second time without a new checkpoint") as caught:
        with_deadline(root, template, 1.0, 0.4).run()
    assert caught.value.exit_code == 1, "a queue that starts it again would do so for ever"
    build(root, template, {}).run()
    assert tags(root / "checkpoints")[-1] == 40


def test_keep_deletes_behind_the_run_and_nothing_that_is_needed(
    tmp_path: Path, template: Path, undisturbed: Path
) -> None:
    root = tmp_path / "run"
    build(root, template, {30: "killed"}, "", "gaff.keep=2").run()
    assert tags(root / "checkpoints") == [30, 40]
    assert [i for e in events(root, "tags_deleted") for i in e["iterations"]] == [10, 20]
    assert same_end(root, undisturbed)


def test_a_lost_journal_does_not_stop_a_resume(tmp_path: Path, template: Path, undisturbed: Path) -> None:
    root = tmp_path / "run"
    with pytest.raises(Interrupted):
        build(root, template, {30: "killed"}, "restarts: 0").run()
    (root / "journal.jsonl").unlink()
    build(root, template, {}).run()
    assert same_end(root, undisturbed)
    assert [e["reset"] for e in events(root, "reset_done")] == [2, 3], "the one that it found made, and its own"
