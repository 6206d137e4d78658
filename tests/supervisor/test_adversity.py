# SPDX-License-Identifier: Apache-2.0
"""Two things at once: a fault in the middle of what another one set off.  The processes are real."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from gaff.checkpoint.surgery.perform import alone
from gaff.errors import GaffError, InputError, Interrupted
from gaff.plan.config import Config
from gaff.supervisor import loop, retention
from gaff.supervisor.child import Child
from gaff.supervisor.failures import Ended, failure
from gaff.supervisor.journal import read_entries
from gaff.supervisor.loop import Supervisor
from gaff.supervisor.observer import NullObserver
from gaff.supervisor.progress import tags
from gaff.supervisor.walltime import Deadline
from gaff.supervisor.watch import Watch
from gaff.trainers.contract import Event, IterationLogged, Launch, SegmentRequest
from tests.supervisor import drive
from tests.supervisor.fake_trainer import ITERATION_LINE, FakeTrainer


@pytest.fixture(scope="module")
def template(unpacked_checkpoints: Path) -> Path:
    return unpacked_checkpoints / "zero1-fp32-pp1-tp1-dp1" / "global_step5"


def build(root: Path, template: Path, modes: dict[int, str], watch: str = "", *overrides: str) -> Supervisor:
    return drive.build(root, template, modes, overrides=[f"gaff.watch={{{watch}}}", *overrides])


def events(root: Path, name: str) -> list[dict[str, Any]]:
    return [dict(e.fields) for e in read_entries(root) if e.event == name]


def stop_at_30(root: Path, template: Path) -> None:
    """A run with whole checkpoints at 10, 20 and 30, killed after that."""
    with pytest.raises(Interrupted):
        build(root, template, {40: "killed"}, "restarts: 0").run()
    assert tags(root / "checkpoints")[-1] == 30


def break_byte(tag: Path) -> None:
    file = min(tag.glob("layer_*.pt"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


class At(NullObserver):
    """Does something when an iteration is logged for the first time."""

    def __init__(self, iteration: int, act: Any) -> None:
        self._iteration, self._act = iteration, act

    def event(self, event: Event) -> None:
        if isinstance(event, IterationLogged) and event.iteration == self._iteration:
            self._iteration = -1
            self._act()


def test_a_finished_run_whose_last_tag_is_damaged_trains_its_end_again(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    build(root, template, {}).run()
    break_byte(root / "checkpoints" / "global_step40")
    build(root, template, {}, "", "gaff.keep=1").run()
    assert [e["iteration"] for e in events(root, "tag_set_aside")] == [40]
    assert [(e["start"], e["stop"]) for e in events(root, "segment_launched")][-1] == (30, 40)


def test_a_damaged_last_tag_does_not_cost_the_one_before_it(tmp_path: Path, template: Path) -> None:
    """`keep` deletes nothing behind a tag that nobody has read."""
    root = tmp_path / "run"
    build(root, template, {}).run()
    break_byte(root / "checkpoints" / "global_step40")
    with pytest.raises(Interrupted):
        build(root, template, {40: "killed!"}, "restarts: 0", "gaff.keep=1").run()
    assert tags(root / "checkpoints")[-1] == 30


def test_the_end_of_the_walltime_is_not_slept_through_before_a_restart(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    supervisor = build(root, template, {10: "killed!"}, "backoff_seconds: 600")
    with pytest.raises(Interrupted, match="the end of the walltime comes before another try; iteration 5 is safe"):
        drive.changed(supervisor, deadline=Deadline(120.0)).run()
    assert [e["goal"] for e in events(root, "segment_launched")] == ["measure", "reset"]


def test_a_signal_does_not_save_weights_that_are_no_numbers(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    supervisor = build(root, template, {20: "nan"}, "backoff_seconds: 0")
    signals = supervisor.context.signals

    def stop() -> None:
        signals.name = "SIGTERM"

    supervisor = drive.changed(supervisor, observer=At(14, stop))
    with pytest.raises(Interrupted, match="stopped by SIGTERM; iteration 10 is safe"):
        supervisor.run()
    [failed] = events(root, "trainer_failed")
    assert failed["id"] == "watchdog-nan"
    assert not events(root, "restart_planned"), "none is made"
    assert tags(root / "checkpoints") == [10]


def test_no_number_is_no_reason_to_begin_anew(tmp_path: Path, template: Path) -> None:
    """Lines are ten iterations apart, tags five, of which one is kept: none is left from when the loss was a number."""
    root = tmp_path / "run"
    build(root, template, {}).run()
    supervisor = build(root, template, {})
    for iteration in (10, 20, 30):
        shutil.rmtree(root / "checkpoints" / f"global_step{iteration}")
    with pytest.raises(GaffError, match="was written when the loss was no finite number"):
        supervisor._care.set_spoilt_aside(35)
    assert tags(root / "checkpoints") == [40]
    supervisor._care.set_spoilt_aside(0)
    assert tags(root / "checkpoints") == [], "a loss that never was a number leaves nothing to lose"


def test_a_save_directory_that_is_gone_is_not_begun_anew(tmp_path: Path, template: Path) -> None:
    """A file system that is unmounted leaves an empty directory in its place."""
    root = tmp_path / "run"
    save = root / "checkpoints"

    def unmount() -> None:
        save.rename(tmp_path / "elsewhere")
        save.mkdir()

    supervisor = build(root, template, {}, "backoff_seconds: 0")
    with pytest.raises(GaffError, match="is not the directory that the run was saving to"):
        drive.changed(supervisor, observer=At(15, unmount)).run()
    assert [e["start"] for e in events(root, "segment_launched")] == [0, 10]
    shutil.rmtree(save)
    save.mkdir()
    with pytest.raises(GaffError, match="is empty, and this run had come to iteration 10"):
        build(root, template, {}).run()
    shutil.rmtree(save)
    (tmp_path / "elsewhere").rename(save)
    build(root, template, {}).run()
    assert tags(save)[-1] == 40


def test_a_last_tag_that_a_person_moved_away_is_begun_anew_as_told(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    with pytest.raises(Interrupted):
        build(root, template, {20: "killed"}, "restarts: 0").run()
    break_byte(root / "checkpoints" / "global_step10")
    with pytest.raises(GaffError, match="move it away to train from the beginning"):
        build(root, template, {}).run()
    (root / "checkpoints" / "global_step10").rename(tmp_path / "moved")
    build(root, template, {}).run()
    assert tags(root / "checkpoints") == [10, 20, 30, 40]


def test_a_tag_that_somebody_operates_on_is_not_read_as_damaged(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    stop_at_30(root, template)
    with alone(root / "checkpoints" / "global_step30"), pytest.raises(InputError, match="is operating on this"):
        build(root, template, {}).run()
    assert tags(root / "checkpoints")[-1] == 30


def test_a_signal_while_the_file_system_fails_tells_how_far_the_run_is(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    stop_at_30(root, template)
    supervisor = build(root, template, {})

    def stale(*_: Any, **__: Any) -> None:
        supervisor.context.signals.name = "SIGTERM"
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(loop, "next_step", stale)
    with pytest.raises(Interrupted, match="stopped by SIGTERM; iteration 30 is safe"):
        supervisor.run()
    assert [e["iteration"] for e in events(root, "warning")] == [30]


def test_a_signal_before_a_tag_is_read_does_not_wait_for_that(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    stop_at_30(root, template)
    supervisor = build(root, template, {})
    supervisor.context.signals.name = "SIGTERM"
    break_byte(root / "checkpoints" / "global_step30")
    with pytest.raises(Interrupted, match="iteration 30 is safe"):
        supervisor.run()
    assert not events(root, "tag_set_aside")


def test_the_next_supervisor_knows_the_speed(tmp_path: Path, template: Path) -> None:
    """It does not spend a launch on measuring again."""
    root = tmp_path / "run"
    stop_at_30(root, template)
    drive.changed(build(root, template, {}), deadline=Deadline(3600.0)).run()
    assert "measure" not in {e["goal"] for e in events(root, "segment_launched")}


_SET_BACK = """
import glob, os, runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
for path in glob.glob(os.environ["SAVE"] + "/global_step*/configs/*"):
    os.utime(path, (1, 1))
"""


class ClockSetBack(FakeTrainer):
    """Its last file is older than the others."""

    def prepare(self, config: Config, request: SegmentRequest) -> Launch:
        launch = super().prepare(config, request)
        return Launch((launch.argv[0], "-c", _SET_BACK, *launch.argv[1:]), launch.cwd, {"SAVE": str(request.save)})


def test_a_clock_that_was_set_back_in_a_save_costs_nothing(tmp_path: Path, template: Path) -> None:
    """Who says that it is done and exits with 0 is believed; who dies is not."""
    root = tmp_path / "run"
    supervisor = build(root, template, {}, "restarts: 0")
    drive.changed(supervisor, trainer=ClockSetBack(template, 40)).run()
    assert not events(root, "tag_set_aside")
    assert [e["start"] for e in events(root, "segment_launched")] == [0, 10, 20, 30]


def test_an_order_to_go_is_not_answered_with_another_tag_read(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    stop_at_30(root, template)
    break_byte(root / "checkpoints" / "global_step30")
    supervisor = build(root, template, {})

    class Aside(NullObserver):
        def message(self, text: str) -> None:
            if "set aside" in text:
                supervisor.context.signals.name = "SIGTERM"

    with pytest.raises(Interrupted, match="iteration 20 is safe"):
        drive.changed(supervisor, observer=Aside()).run()


def test_a_tag_whose_supervisor_died_before_it_saw_it_gets_its_proof(tmp_path: Path, template: Path) -> None:
    """Without, `keep` would never delete it."""
    root = tmp_path / "run"
    stop_at_30(root, template)
    supervisor = build(root, template, {})
    proof = root / "checkpoints" / "global_step30" / "gaff" / retention.WRITTEN
    proof.unlink()
    retention.expect_stop(root / "checkpoints", supervisor.context.run_id, 30)
    supervisor.run()
    assert proof.exists()


def test_who_says_that_it_is_done_was_not_killed(tmp_path: Path) -> None:
    watch = Watch(10)
    ended = Ended(0, 20, 10, tmp_path, tmp_path / "log")
    watch.read(ITERATION_LINE.format(iteration=20, total=40, ms=1.0, loss=3.0))
    assert failure(ended, watch).killed, "its launcher was, and left with 0"
    watch.read("rank: 0 | time: 2026-11-21 03:12:11 | exiting the program at iteration 20")
    assert failure(ended, watch).problem.id == "no-checkpoint-written"
    assert not failure(ended, watch).killed


def test_a_tag_that_is_damaged_at_work_is_found_out_when_a_launch_from_it_fails(tmp_path: Path, template: Path) -> None:
    """This process saw it being written, and has reason to look again."""
    root = tmp_path / "run"
    supervisor = build(root, template, {30: "killed"}, "backoff_seconds: 0")
    damage = At(23, lambda: break_byte(root / "checkpoints" / "global_step20"))
    drive.changed(supervisor, observer=damage).run()
    assert [e["iteration"] for e in events(root, "tag_set_aside")] == [20]
    assert [e["start"] for e in events(root, "segment_launched")] == [0, 10, 20, 10, 20, 30]


def test_a_guardian_ends_what_its_command_left_behind(tmp_path: Path) -> None:
    """In a session of its own, and deaf to SIGTERM; no supervisor looks for it here."""
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    again = f"subprocess.Popen([sys.executable, '-c', {deaf!r}], start_new_session=True)"
    leave = f"import subprocess, sys; print({again}.pid)"
    with Child(Launch((sys.executable, "-c", leave), tmp_path, {}), tmp_path / "log", "a-run") as child:
        while child.poll() is None:
            child.wait(1.0)
        assert child.poll() == 0
    left = int((tmp_path / "log").read_text())
    try:
        assert psutil.Process(left).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return


def test_a_file_system_that_fails_in_a_reset_is_waited_out(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reset is announced, so the next turn finishes it."""
    from gaff.checkpoint import transaction

    real, failures = transaction.os.pwrite, [3]

    def failing(descriptor: int, data: bytes, offset: int) -> int:
        if "global_step" in os.readlink(f"/proc/self/fd/{descriptor}") and failures[0]:
            failures[0] -= 1
            raise OSError(errno.EIO, "Input/output error")
        return real(descriptor, data, offset)

    monkeypatch.setattr(transaction.os, "pwrite", failing)
    build(tmp_path / "run", template, {}, "backoff_seconds: 0").run()
    assert failures == [0]
    assert tags(tmp_path / "run" / "checkpoints") == [10, 20, 30, 40]
