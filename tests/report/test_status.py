# SPDX-License-Identifier: Apache-2.0
"""The state of a run, told from what a run directory holds."""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from report_runs import BEGIN, RunWriter, finished_run, iteration_line

from gaff.checkpoint.surgery.reset import ResetRequest, reset
from gaff.errors import InputError
from gaff.plan.schedule import schedule
from gaff.report import checkpoints
from gaff.report.status import StatusReader
from gaff.supervisor.lock import run_lock
from gaff.supervisor.lock_owner import Owner
from tests.supervisor.fake_trainer import write_tag


class Run(RunWriter):
    """A run of 400 iterations with resets after 100, 200 and 300, some seconds ago."""

    def __init__(self, directory: Path, ago_s: float = 1000.0) -> None:
        super().__init__(directory)
        self.now_s = (datetime.now(timezone.utc) - BEGIN).total_seconds() - ago_s
        segments = [
            {"number": s.number, "start": s.start, "stop": s.stop, "reset": s.reset.number if s.reset else None}
            for s in schedule(400, 100)
        ]
        (directory / "plan.json").write_text(json.dumps({"segments": segments, "train_iters": 400}))
        (directory / "run.json").write_text("{}")

    def started(self, resume_iteration: int = 0, **fields: Any) -> None:
        me = {"host": socket.gethostname(), "pid": os.getpid(), "log_interval": 10}
        self.entry("run_started", resume_iteration=resume_iteration, train_iters=400, **{**me, **fields})

    def log(self, segment: int = 1, attempt: int = 1) -> Path:
        return self.directory / f"segments/{segment:04d}/attempt-{attempt}.log"

    def failed(self, iteration: int, safe: int) -> None:
        self.entry("segment_exited", segment=1, returncode=1, iteration=iteration)
        self.entry("trainer_failed", what="the trainer was killed by SIGKILL", iteration=iteration, safe=safe)
        self.entry("restart_planned", number=2, of=10, delay_s=30.0, iteration=safe)


def status(directory: Path) -> dict[str, Any]:
    found = StatusReader(directory, patient=False).read()
    json.dumps(found, allow_nan=False)
    return found


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


@pytest.fixture
def at_work(tmp_path: Path) -> Iterator[None]:
    with run_lock(tmp_path / "lock"):
        yield


# --- the state ---


def test_what_is_no_run_directory_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no run directory: it has no"):
        StatusReader(tmp_path)
    with pytest.raises(InputError, match="is no run directory: there is no such directory"):
        StatusReader(tmp_path / "nowhere")


def test_a_directory_that_was_only_just_made_is_not_started(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    found = status(tmp_path)
    assert (found["state"], found["iteration"], found["train_iters"]) == ("not started", 0, None)


@pytest.mark.parametrize(
    ("end", "state"),
    [("run_finished", "finished"), ("run_interrupted", "interrupted"), ("run_failed", "failed"), (None, "died")],
)
def test_a_run_that_nobody_works_at_is_what_its_journal_says_it_became(end: str | None, state: str, run: Run) -> None:
    run.started()
    run.launch(1, 0, 100, {10: 5.0, 20: 4.0})
    if end:
        run.entry(end, why="stopped by SIGTERM")
    found = status(run.directory)
    assert (found["state"], found["phase"], found["iteration"], found["seconds_left"]) == (state, None, 20, None)
    assert found["why"] == ("stopped by SIGTERM" if end else None)
    assert found["supervisor"]["at_work"] is False


def test_a_run_that_was_taken_up_again_is_no_longer_what_it_was(run: Run) -> None:
    run.started()
    run.entry("run_failed", why="no room")
    run.started()
    found = status(run.directory)
    assert (found["state"], found["why"]) == ("died", None)


@pytest.mark.usefixtures("at_work")
def test_the_phases_of_a_run_at_work(run: Run) -> None:
    def phase() -> tuple[str, str]:
        found = status(run.directory)
        return found["state"], found["phase"]

    assert phase() == ("running", "starting")
    run.started()
    run.launch(1, 0, 100, {})
    assert phase() == ("running", "starting")
    run.launch(1, 0, 100, {10: 4.0})
    assert phase() == ("running", "training")
    run.done(1, 100)
    assert phase() == ("running", "starting")
    run.entry("reset_begun", reset=1, iteration=100)
    assert phase() == ("running", "resetting")
    run.reset(1, 100)
    run.launch(2, 100, 200, {})
    assert phase() == ("running", "starting")
    run.failed(100, 100)
    assert phase() == ("running", "waiting to restart")
    run.entry("warning", id="not-deleted", what="a tag stays")
    assert phase() == ("running", "waiting to restart")
    run.entry("run_finished", iteration=400)  # and the report is being written
    assert phase() == ("finished", None)


@pytest.mark.usefixtures("at_work")
def test_a_new_supervisor_that_has_not_said_a_word_yet_makes_it_a_running_one(run: Run) -> None:
    for end in ("run_finished", None):
        run.started(pid=1, host="elsewhere")
        run.launch(1, 0, 100, {10: 4.0})
        if end:
            run.entry(end, iteration=400)
        found = status(run.directory)
        assert (found["state"], found["phase"]) == ("running", "starting")
        assert found["supervisor"]["pid"] == os.getpid()


def test_a_supervisor_on_another_machine_is_at_work_while_it_is_heard(run: Run) -> None:
    run.started(host="node17", pid=4242)
    run.launch(1, 0, 100, {10: 4.0})
    owner = Owner("node17", 4242, boot="another", namespace="another", token="its own")
    lock = run.directory / "lock"
    lock.write_bytes(owner.record())
    found = status(run.directory)
    assert (found["state"], found["phase"]) == ("running", "training")
    assert (found["supervisor"]["host"], found["supervisor"]["pid"]) == ("node17", 4242)
    os.utime(lock, (1_000_000_000, 1_000_000_000))
    assert status(run.directory)["state"] == "died"
    reader = StatusReader(run.directory, patient=False)
    assert reader.read()["state"] == "died"
    lock.write_bytes(Owner("node17", 4242, boot="another", namespace="another", token="its own", beat=1).record())
    os.utime(lock, (1_000_000_000, 1_000_000_000))  # its clock is wrong
    assert reader.read()["state"] == "running"


# --- what is missing or damaged ---


def test_a_journal_that_was_cut_off_is_read_as_far_as_it_goes(run: Run) -> None:
    run.started()
    run.launch(1, 0, 100, {10: 4.0})
    with open(run.directory / "journal.jsonl", "ab") as journal:
        journal.write(b'\xff\xfe\x00\n[1, 2]\n{"event": 7}\n{"event": "run_finished", "iterat')
    assert (status(run.directory)["state"], status(run.directory)["iteration"]) == ("died", 10)


def test_a_journal_full_of_wrong_types_breaks_nothing(run: Run) -> None:
    wrong: dict[str, Any] = {"iteration": "x", "start": None, "time_limit_s": "y", "delay_s": [], "log": 3, "reset": {}}
    names = ["run_started", "segment_launched", "segment_exited", "reset_begun", "reset_done", "warning", "stop_asked"]
    for name in [*names, "trainer_failed", "restart_planned", "tag_set_aside", "run_failed", "something-new"]:
        run.entry(name, **wrong)
    found = status(run.directory)
    assert (found["state"], found["iteration"], found["restarts"]["count"]) == ("failed", 0, 1)


def test_a_lost_journal_leaves_what_logs_and_plan_tell(run: Run) -> None:
    run.launch(2, 100, 200, {110: 4.0})
    run.launch(2, 100, 200, {110: 4.0, 120: 3.0}, attempt=2)
    run.launch(2, 100, 200, {110: 4.0, 120: 3.0, 130: 2.5}, attempt=10)
    (run.directory / "journal.jsonl").unlink()
    found = status(run.directory)
    assert (found["state"], found["iteration"], found["train_iters"]) == ("died", 130, 400)
    launch = {"attempt": 10, "until": None, "goal": None}
    assert found["segment"] == {"number": 2, "of": 4, "start": 100, "stop": 200, **launch}
    assert found["training"]["loss"] == 2.5
    assert found["resets"]["next"] == {"number": 2, "iteration": 200}


def test_lost_logs_and_a_lost_plan_leave_what_the_journal_tells(run: Run) -> None:
    run.started()
    run.launch(1, 0, 100, {})
    run.done(1, 100)
    run.log().unlink()
    (run.directory / "plan.json").write_text("{")
    found = status(run.directory)
    assert (found["iteration"], found["train_iters"], found["segment"]["of"]) == (100, 400, None)
    assert found["training"]["loss"] is None
    assert found["resets"] == {"done": 0, "planned": None, "last": None, "next": None}


# --- logs ---


def test_only_the_end_of_a_long_log_is_read(run: Run) -> None:
    run.started()
    run.launch(1, 0, 400, {})
    stacks = '  File "/opt/x.py", line 1, in wait\n' * 15_000  # half a megabyte
    with open(run.log(), "a") as log:
        log.write(iteration_line(390, 9.0))  # of the beginning: it would win if it were read
        log.write("[Rank 0] time (ms)\n" * 300_000)
        log.writelines(iteration_line(i, 3.0) for i in range(10, 130, 10))
        log.write(stacks)
    assert status(run.directory)["iteration"] == 120


def test_a_line_that_is_being_written_is_not_read(run: Run) -> None:
    run.started()
    run.launch(1, 0, 100, {10: 4.0})
    with open(run.log(), "a") as log:
        log.write(iteration_line(20, 3.0)[:60])
    found = status(run.directory)
    assert (found["iteration"], found["training"]["loss"]) == (10, 4.0)


def test_figures_of_a_line_over_half_an_interval_are_not_shown(run: Run) -> None:
    run.started(resume_iteration=25)
    run.launch(1, 25, 100, {30: 1.7}, ms=55.0)
    found = status(run.directory)["training"]
    assert (found["iteration"], found["loss"], found["ms_per_iteration"], found["samples_per_s"]) == (
        30,
        None,
        None,
        None,
    )


def test_lines_of_a_trainer_that_began_elsewhere_do_not_count(run: Run) -> None:
    run.started(resume_iteration=100)
    run.launch(2, 100, 200, {10: 9.0, 20: 8.0}, says="Loading checkpoint and starting from iteration 0")
    found = status(run.directory)
    assert (found["iteration"], found["training"]["loss"]) == (100, None)


def test_a_loss_that_is_no_number_is_said_to_be_none(run: Run) -> None:
    run.started()
    run.launch(1, 0, 100, {10: 4.0, 20: math.nan})
    with open(run.log()) as log:
        text = log.read().replace("nan", "NAN")
    run.log().write_text(text)
    found = status(run.directory)["training"]
    assert (found["loss"], found["diverged"]) == (None, True)


def test_speeds_are_medians_of_the_newest_lines(run: Run) -> None:
    run.started()
    run.launch(1, 0, 100, dict.fromkeys(range(10, 60, 10), 4.0))
    with open(run.log(), "a") as log:
        log.writelines(iteration_line(i, 3.0, ms=50.0) for i in range(60, 100, 1))
        log.write(iteration_line(100, 3.0, ms=9000.0))
    found = status(run.directory)["training"]
    assert (found["ms_per_iteration"], found["samples_per_s"], found["learning_rate"]) == (50.0, 32.195, 8.75e-4)


# --- checkpoints ---


@pytest.fixture(scope="module")
def template(unpacked_checkpoints: Path) -> Path:
    return unpacked_checkpoints / "zero1-fp32-tp2-pp2-dp2" / "global_step5"


def listing(directory: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in directory.rglob("*")}


def test_the_newest_whole_checkpoint_and_nothing_is_written(run: Run, template: Path) -> None:
    save = run.directory / "checkpoints"
    for iteration in (100, 200):
        write_tag(save, template, iteration)
    write_tag(save, template, 210)
    next((save / "global_step210").glob("layer_*.pt")).unlink()
    (save / "set-aside" / "iteration230-1").mkdir(parents=True)
    (save / "set-aside" / "iteration240-1").mkdir(parents=True)
    run.started()
    run.entry("tag_set_aside", iteration=230, why="is cut off", place=str(save / "set-aside" / "iteration230-1"))
    before = listing(run.directory)
    reader = StatusReader(run.directory)
    for _ in range(2):
        found = reader.read()
        assert found["checkpoint"]["iteration"] == 200
        assert list(found["checkpoint"]["unfinished"]) == ["210"]
        assert [(a["iteration"], a["why"]) for a in found["set_aside"]] == [(230, "is cut off"), (None, None)]
    assert listing(run.directory) == before
    (save / "global_step200" / "configs").rename(save / "configs")
    assert reader.read()["checkpoint"]["iteration"] == 100


def test_checkpoints_are_looked_for_where_the_config_says(run: Run, template: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    write_tag(elsewhere, template, 100)
    reader = StatusReader(run.directory)
    assert reader.read()["checkpoint"]["iteration"] == 0
    (run.directory / "run.json").write_text(json.dumps({"save": str(elsewhere)}))
    assert reader.read()["checkpoint"]["iteration"] == 100
    write_tag(tmp_path / "third", template, 200)
    (run.directory / "config.yml").write_text(f"train_iters: 400\nsave: {tmp_path}/third\ngaff: {{reset_every: 100}}\n")
    assert reader.read()["checkpoint"]["iteration"] == 200


def test_a_tag_that_vanishes_while_it_is_looked_at_is_none(
    run: Run, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does that the supervisor sets aside at that moment."""
    save = run.directory / "checkpoints"
    write_tag(save, template, 100)
    write_tag(save, template, 200)
    real = checkpoints.why_unfinished

    def moved_away(tag: Path, iteration: int) -> str | None:
        if iteration == 200:
            tag.rename(save / "gone")
        return real(tag, iteration)

    monkeypatch.setattr(checkpoints, "why_unfinished", moved_away)
    assert status(run.directory)["checkpoint"] == {"iteration": 100, "unfinished": {}}


def test_a_run_whose_last_checkpoint_is_whole_is_finished_though_nothing_says_so(run: Run, template: Path) -> None:
    run.train_iters = 200
    (run.directory / "plan.json").write_text(json.dumps({"segments": [], "train_iters": 200}))
    write_tag(run.directory / "checkpoints", template, 200)
    run.started()
    run.launch(2, 100, 200, {200: 3.0})
    assert status(run.directory)["state"] == "finished"


def test_a_reset_is_known_from_its_checkpoint_where_the_journal_is_lost(run: Run, template: Path) -> None:
    save = run.directory / "checkpoints"
    write_tag(save, template, 200)
    (save / "global_step200" / "gaff").mkdir()
    reader = StatusReader(run.directory)
    found = reader.read()["resets"]
    assert (found["done"], found["next"]) == (1, {"number": 2, "iteration": 200})
    reset(save / "global_step200", ResetRequest(number=2, seed=1))
    found = reader.read()["resets"]
    assert (found["done"], found["next"]) == (2, {"number": 3, "iteration": 300})
    assert found["last"] == {"number": 2, "iteration": 200, "time": None}


# --- resets, restarts, warnings ---


def test_resets_made_and_due(run: Run) -> None:
    finished_run(run.directory)
    found = status(run.directory)["resets"]
    assert (found["done"], found["planned"], found["next"]) == (3, 3, None)
    assert found["last"]["iteration"] == 300
    assert datetime.fromisoformat(found["last"]["time"]) > BEGIN


def test_a_reset_behind_which_the_run_fell_back_is_due_again(run: Run) -> None:
    run.started()
    for number in (1, 2):
        run.launch(number, number * 100 - 100, number * 100, {number * 100: 3.0})
        run.done(number, number * 100)
        run.reset(number, number * 100)
    run.started(resume_iteration=100)
    run.launch(2, 100, 200, {110: 4.0}, attempt=2)
    found = status(run.directory)
    assert (found["iteration"], found["resets"]["done"]) == (110, 1)
    assert (found["resets"]["last"]["number"], found["resets"]["next"]["number"]) == (1, 2)


def test_restarts_and_their_last_reason(run: Run) -> None:
    run.started()
    for attempt in (1, 2):
        run.launch(1, 0, 100, {10: 4.0}, attempt=attempt)
        run.failed(10, 0)
    found = status(run.directory)["restarts"]
    assert (found["count"], found["last"]["why"]) == (2, "the trainer was killed by SIGKILL")
    assert (found["last"]["number"], found["last"]["of"], found["last"]["from_iteration"]) == (2, 10, 0)
    waits = datetime.fromisoformat(found["last"]["launch_at"]) - datetime.fromisoformat(found["last"]["time"])
    assert waits.total_seconds() == 30


def test_the_newest_warnings_of_many(run: Run) -> None:
    run.started()
    for number in range(25):
        run.entry("warning", id="slow", what=f"warning {number}", iteration=number, policy="warn", factor=13.0)
    found = status(run.directory)["warnings"]
    assert found["count"] == 25
    assert [w["what"] for w in found["latest"]] == [f"warning {n}" for n in range(15, 25)]
    assert {**found["latest"][-1], "time": None} == {
        "time": None,
        "id": "slow",
        "what": "warning 24",
        "iteration": 24,
        "policy": "warn",
    }


def test_a_notification_that_failed_is_seen_here(run: Run) -> None:
    run.started()
    run.entry("notify_failed", why="exit code 7: curl: (7) Failed to connect")
    found = status(run.directory)["warnings"]
    assert (found["count"], found["latest"][0]["id"]) == (1, "notify-failed")
    assert found["latest"][0]["what"] == "notify failed: exit code 7: curl: (7) Failed to connect"


@pytest.mark.usefixtures("at_work")
def test_a_stop_that_was_asked_and_the_time_limit(run: Run) -> None:
    run.started(time_limit_s=3600)
    run.launch(1, 0, 100, {10: 4.0})
    assert status(run.directory)["stop_asked"] is None
    run.entry("stop_asked", signal="SIGTERM", waits_for=100)
    found = status(run.directory)
    assert (found["stop_asked"]["signal"], found["stop_asked"]["waits_for"]) == ("SIGTERM", 100)
    limit = datetime.fromisoformat(found["time_limit"]) - datetime.fromisoformat(found["supervisor"]["since"])
    assert limit.total_seconds() == 3600
    run.started(resume_iteration=100)
    assert status(run.directory)["stop_asked"] is None


# --- the time left ---


def left(run: Run) -> float:
    """As it is while a supervisor is at work, the last line having been logged just now."""
    with ExitStack() as stack:
        stack.enter_context(run_lock(run.directory / "lock"))
        seconds = status(run.directory)["seconds_left"]
    assert isinstance(seconds, float)
    return seconds


def two_segments(run: Run, pause_s: float) -> None:
    """Two segments of 10 s with starts of 5 s, the second half done; between them another supervisor began."""
    run.started()
    run.launch(1, 0, 100, dict.fromkeys(range(10, 101, 10), 3.0))
    run.now_s += 15
    run.entry("segment_exited", segment=1, returncode=0, iteration=100, ms_per_iteration=100.0, start_s=5.0, end_s=0.0)
    run.entry("segment_done", segment=1, iteration=100)
    run.now_s += pause_s
    if pause_s:
        run.started(resume_iteration=100)
    run.launch(2, 100, 200, dict.fromkeys(range(110, 151, 10), 3.0))


def test_the_time_left_is_that_of_the_iterations_and_of_the_starts(tmp_path: Path) -> None:
    run = Run(tmp_path, ago_s=15 + 10)
    two_segments(run, pause_s=0)
    assert 250 * 0.1 + 2 * 5 - 2 < left(run) < 250 * 0.1 + 2 * 5 + 1


def test_a_pause_between_two_supervisors_is_no_part_of_it(tmp_path: Path) -> None:
    run = Run(tmp_path, ago_s=86_400 + 15 + 10)
    two_segments(run, pause_s=86_400)
    assert 250 * 0.1 + 2 * 5 - 2 < left(run) < 250 * 0.1 + 2 * 5 + 1


def test_starts_are_known_from_the_journal_where_the_logs_are_gone(tmp_path: Path) -> None:
    run = Run(tmp_path, ago_s=15 + 10)
    two_segments(run, pause_s=0)
    for log in run.directory.glob("segments/*/*.log"):
        log.unlink()
    assert left(run) == pytest.approx(300 * 0.1 + 3 * 5 - 5)  # of the start under way no more than its usual time


def test_what_will_be_trained_again_counts_while_waiting_for_a_restart(tmp_path: Path) -> None:
    run = Run(tmp_path, ago_s=15)
    run.started()
    run.launch(1, 0, 100, dict.fromkeys(range(10, 51, 10), 3.0))
    run.now_s += 10
    run.failed(50, 0)
    assert left(run) == pytest.approx(400 * 0.1 + 4 * 10, abs=3)  # the launch took 10 s besides its 50 iterations


@pytest.mark.usefixtures("at_work")
def test_without_any_speed_the_time_left_is_not_known(run: Run) -> None:
    run.started()
    run.launch(1, 0, 100, {})
    assert status(run.directory)["seconds_left"] is None
