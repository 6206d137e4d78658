# SPDX-License-Identifier: Apache-2.0
"""The loop over segments with a trainer that writes real checkpoints and really dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from gaff.checkpoint.transaction import valid_records
from gaff.checkpoint.verify import verify_tag
from gaff.errors import GaffError, InputError, Interrupted, TrainerError
from gaff.supervisor.child import RUN_ID
from gaff.supervisor.journal import read_entries
from gaff.supervisor.observer import NullObserver
from gaff.supervisor.progress import judge, tags
from gaff.trainers.contract import Event, IterationLogged
from tests.checkpoint.tags import values
from tests.supervisor import drive
from tests.supervisor.drive import build, processes_of
from tests.supervisor.fake_trainer import set_iteration

Start = Callable[..., "subprocess.Popen[str]"]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, unpacked_checkpoints: Path) -> Path:
    return unpacked_checkpoints / "zero1-fp32-tp2-pp2-dp2" / "global_step5"


@pytest.fixture
def start(tmp_path: Path, template: Path) -> Start:
    """Start a supervisor in a process of its own, in run directory ``name``."""

    def launch(name: str, modes: dict[int, str] | None = None, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.supervisor.drive", str(tmp_path / name), str(template)]
        return subprocess.Popen(
            [*command, json.dumps(modes or {}), *more], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
        )

    return launch


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def events(root: Path, name: str) -> list[dict[str, Any]]:
    return [dict(e.fields) for e in read_entries(root) if e.event == name]


def log_of(root: Path, segment: int, attempt: int = 1) -> str:
    path = root / "segments" / f"{segment:04d}" / f"attempt-{attempt}.log"
    return path.read_text() if path.exists() else ""


def final_bytes(root: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (root / "checkpoints" / "global_step40").glob("*.pt")}


@pytest.fixture
def undisturbed(tmp_path: Path, template: Path) -> dict[str, bytes]:
    build(tmp_path / "undisturbed", template, {}).run()
    return final_bytes(tmp_path / "undisturbed")


def test_a_run_resets_after_exactly_the_planned_iterations_and_not_after_the_last(
    tmp_path: Path, template: Path
) -> None:
    root = tmp_path / "run"
    build(root, template, {}).run()
    assert [(e["reset"], e["iteration"]) for e in events(root, "reset_done")] == [(1, 10), (2, 20), (3, 30)]
    assert [(e["start"], e["stop"]) for e in events(root, "segment_launched")] == [
        (0, 10),
        (10, 20),
        (20, 30),
        (30, 40),
    ]
    assert len(events(root, "run_finished")) == 1
    assert tags(root / "checkpoints") == [10, 20, 30, 40]
    done = {n: valid_records(root / "checkpoints" / f"global_step{n}") for n in (10, 20, 30, 40)}
    assert [[r.operation.about["reset"] for r in done[n]] for n in (10, 20, 30, 40)] == [[1], [2], [3], []]
    # the fake trainer changes no weight, so the end of the run carries the third reset's values
    at_30, at_40 = (values(root / "checkpoints" / f"global_step{n}") for n in (30, 40))
    assert (at_30 == at_40).all()


def test_a_finished_run_started_again_launches_nothing(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    build(root, template, {}).run()
    before = {p: p.stat().st_mtime_ns for p in (root / "checkpoints").rglob("*") if p.is_file()}
    build(root, template, {}).run()
    assert len(events(root, "segment_launched")) == 4
    assert {p: p.stat().st_mtime_ns for p in (root / "checkpoints").rglob("*") if p.is_file()} == before


def test_supervisor_killed_in_a_segment_leaves_no_process_and_is_carried_on(
    tmp_path: Path, start: Start, undisturbed: dict[str, bytes]
) -> None:
    root = tmp_path / "run"
    process = start("run")
    wait_for(lambda: "iteration       25" in log_of(root, 3), "iteration 25")
    process.kill()
    process.wait()
    wait_for(lambda: not processes_of(root), "the trainer's end")
    assert tags(root / "checkpoints") == [10, 20]
    assert finish(start("run"))[0] == 0
    assert final_bytes(root) == undisturbed
    assert [e["start"] for e in events(root, "segment_launched")] == [0, 10, 20, 20, 30]
    assert log_of(root, 3, attempt=2)


@pytest.mark.parametrize("effect", [1, 14, 42, 50])
def test_supervisor_killed_in_a_reset_finishes_it(
    effect: int, tmp_path: Path, start: Start, undisturbed: dict[str, bytes]
) -> None:
    root = tmp_path / "run"
    process = start("run", {}, str(effect))
    assert finish(process)[0] == -signal.SIGKILL
    writes = 14 + 2 * 14  # by one reset: the edits, and two CRCs of each of as many records
    assert (root / "checkpoints" / f"global_step{10 if effect <= writes else 20}" / "gaff" / "intent.json").exists()
    assert finish(start("run"))[0] == 0
    assert final_bytes(root) == undisturbed
    for iteration in (10, 20, 30, 40):
        assert verify_tag(root / "checkpoints" / f"global_step{iteration}") == []
    assert not processes_of(root)


def test_trainer_killed_is_resumable_and_says_so(tmp_path: Path, template: Path, undisturbed: dict[str, bytes]) -> None:
    root = tmp_path / "run"
    with pytest.raises(Interrupted, match="killed by SIGKILL after iteration 13; iteration 10 is safe"):
        build(root, template, {20: "killed"}).run()
    assert not processes_of(root)
    build(root, template, {}).run()
    assert final_bytes(root) == undisturbed


def test_trainer_that_dies_while_saving_leaves_a_tag_that_is_set_aside(
    tmp_path: Path, template: Path, undisturbed: dict[str, bytes]
) -> None:
    root = tmp_path / "run"
    save = root / "checkpoints"
    with pytest.raises(Interrupted):
        build(root, template, {30: "dies-saving"}).run()
    assert (save / "latest").read_text() == "global_step30"  # it lies
    assert judge(save).iteration == 20
    build(root, template, {}).run()
    assert final_bytes(root) == undisturbed
    assert [p.name for p in (save / "set-aside").iterdir()] == ["iteration30-1"]
    assert [e["iteration"] for e in events(root, "tag_set_aside")] == [30]


def test_exit_code_0_without_a_checkpoint_is_a_failure_with_the_reason(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    with pytest.raises(TrainerError, match=r"attempt-1\.log.*exited with 0.*global_step20 is not there") as caught:
        build(root, template, {20: "exit-0"}).run()
    assert "ZeRO stage 2/3" in str(caught.value)
    assert events(root, "run_failed")


def test_the_first_error_of_the_log_is_in_the_message(tmp_path: Path, template: Path) -> None:
    with pytest.raises(TrainerError, match="CUDA error: an illegal memory access"):
        build(tmp_path / "run", template, {10: "raises"}).run()


def test_a_whole_checkpoint_counts_whatever_the_exit_code(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    build(root, template, {20: "good-but-exit-1"}).run()
    assert [e["returncode"] for e in events(root, "segment_exited")] == [0, 1, 0, 0]
    assert len(events(root, "run_finished")) == 1


def test_a_trainer_that_starts_from_zero_is_stopped_before_it_saves(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    with pytest.raises(TrainerError, match="starts from iteration 0 where 20 was asked"):
        build(root, template, {30: "from-zero"}, iteration_s=0.2).run()
    assert tags(root / "checkpoints") == [10, 20]
    assert not processes_of(root)


def test_ranks_that_outlive_their_launcher_are_ended(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    build(root, template, {10: "orphans"}).run()
    assert not processes_of(root)


def test_sigterm_stops_the_trainer_and_is_resumable(
    tmp_path: Path, start: Start, undisturbed: dict[str, bytes]
) -> None:
    root = tmp_path / "run"
    process = start("run", {20: "hangs"})
    wait_for(lambda: "iteration       13" in log_of(root, 2), "iteration 13")
    process.terminate()
    code, errors = finish(process)
    assert (code, "SIGTERM" in errors) == (75, True)
    assert not processes_of(root)
    assert events(root, "run_interrupted")
    assert finish(start("run"))[0] == 0
    assert final_bytes(root) == undisturbed


def test_a_second_sigint_does_not_wait_for_a_deaf_trainer(tmp_path: Path, start: Start) -> None:
    root = tmp_path / "run"
    process = start("run", {10: "deaf"})
    wait_for(lambda: "iteration        3" in log_of(root, 1), "iteration 3")
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert finish(process)[0] == 75
    assert time.monotonic() - began < 8, "the guardian's grace is 10 s"
    assert not processes_of(root)


def test_what_a_killed_guardian_left_behind_is_ended_at_the_next_start(tmp_path: Path, start: Start) -> None:
    root = tmp_path / "run"
    process = start("run", {10: "orphans", 20: "hangs"})
    wait_for(lambda: len(processes_of(root)) >= 3, "guardian, trainer and orphan")
    guardian = next(p for p in psutil.Process(process.pid).children())
    guardian.suspend()  # so that it does not notice the supervisor's death
    process.kill()
    process.wait()
    guardian.kill()
    wait_for(lambda: guardian.pid not in processes_of(root), "the guardian's end")
    assert processes_of(root), "the orphan lives on: nobody is left to end it"
    assert finish(start("run"))[0] == 0
    assert events(root, "leftovers_killed")
    assert not processes_of(root)


def test_a_killed_guardian_takes_the_trainer_with_it(tmp_path: Path, start: Start) -> None:
    root = tmp_path / "run"
    process = start("run", {10: "orphans", 20: "hangs"})
    wait_for(lambda: "iteration       13" in log_of(root, 2), "iteration 13")
    next(p for p in psutil.Process(process.pid).children()).kill()
    assert finish(process)[0] == 75
    assert not processes_of(root)


def test_a_second_supervisor_is_refused(tmp_path: Path, start: Start) -> None:
    root = tmp_path / "run"
    first = start("run", {10: "hangs"})
    wait_for(lambda: "iteration        3" in log_of(root, 1), "iteration 3")
    code, errors = finish(start("run"))
    assert (code, f"process {first.pid} on" in errors) == (2, True)
    first.terminate()
    assert finish(first)[0] == 75


def test_other_settings_than_the_run_began_with_are_refused(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    build(root, template, {}).run()
    import tests.supervisor.drive as drive

    before, drive.CONFIG = drive.CONFIG, drive.CONFIG.replace("reset_every: 10", "reset_every: 20")
    try:
        with pytest.raises(InputError, match=r"gaff.reset_every = 10, and now it is 20"):
            build(root, template, {})
    finally:
        drive.CONFIG = before


def test_checkpoints_of_somebody_else_are_not_touched(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    foreign = root / "checkpoints" / "global_step5"
    foreign.mkdir(parents=True)
    with pytest.raises(InputError, match="checkpoints that this run did not write"):
        build(root, template, {})
    assert os.listdir(root / "checkpoints") == ["global_step5"]


def test_a_run_whose_journal_and_identity_are_lost_is_carried_on(
    tmp_path: Path, template: Path, undisturbed: dict[str, bytes]
) -> None:
    root = tmp_path / "run"
    with pytest.raises(Interrupted):
        build(root, template, {30: "killed"}).run()
    (root / "journal.jsonl").unlink()
    (root / "run.json").unlink()
    build(root, template, {}).run()
    assert final_bytes(root) == undisturbed
    assert [e["start"] for e in events(root, "segment_launched")] == [20, 30]


def test_a_run_that_was_copied_without_its_file_times_goes_on_where_it_was(
    tmp_path: Path, template: Path, undisturbed: dict[str, bytes]
) -> None:
    root = tmp_path / "run"
    with pytest.raises(Interrupted):
        build(root, template, {30: "killed"}).run()
    for number, path in enumerate(sorted((root / "checkpoints").rglob("*"), reverse=True)):
        os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))  # configs/ older than all .pt files
    build(root, template, {}).run()
    assert events(root, "tag_set_aside") == []
    assert [e["start"] for e in events(root, "segment_launched")] == [0, 10, 20, 20, 30]
    assert final_bytes(root) == undisturbed


def test_a_tag_that_was_never_finished_is_not_trusted_for_looking_whole(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    with pytest.raises(Interrupted):
        build(root, template, {30: "killed"}).run()
    shutil.copytree(template, root / "checkpoints" / "global_step25")
    set_iteration(root / "checkpoints" / "global_step25", 25)  # newer than its configs/
    assert judge(root / "checkpoints").iteration == 20
    assert "was not committed" in judge(root / "checkpoints").untrusted[25]


def test_a_reset_that_was_passed_over_is_noticed(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    build(root, template, {}).run()
    shutil.copytree(template, root / "plain")
    tag = root / "checkpoints" / "global_step20"
    for path in template.glob("*.pt"):
        shutil.copyfile(path, tag / path.name)
    shutil.rmtree(root / "checkpoints" / "global_step40")
    with pytest.raises(GaffError, match=r"global_step20.*carries no reset 2"):
        build(root, template, {}).run()


def test_a_shell_that_bears_the_runs_mark_is_told_instead_of_killed(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own run's, and by that of another one at work on this machine."""
    supervisor = build(tmp_path / "run", template, {})
    for mark in (supervisor.context.run_id, "another-run"):
        monkeypatch.setenv(RUN_ID, mark)
        with pytest.raises(InputError, match=f"unset {RUN_ID}"):
            supervisor.run()
    assert events(tmp_path / "run", "segment_launched") == []


def test_attempts_are_told_apart_also_where_somebody_deleted_a_log(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    for _ in range(2):
        with pytest.raises(TrainerError):
            build(root, template, {10: "raises"}).run()
        for request in (root / "segments" / "0001").glob("request-*.json"):
            request.unlink()
    (root / "segments" / "0001" / "attempt-1.log").unlink()
    build(root, template, {}).run()
    assert [e["attempt"] for e in events(root, "segment_launched")][:3] == [1, 2, 3]


def test_a_run_directory_that_is_moved_away_at_work_is_not_begun_anew(tmp_path: Path, template: Path) -> None:
    """GPT-NeoX makes the directories that it saves into, so there would be one again, without the run's history."""

    class Mover(NullObserver):
        def event(self, event: Event) -> None:
            if isinstance(event, IterationLogged) and event.iteration == 13:
                (tmp_path / "run").rename(tmp_path / "moved")

    supervisor = build(tmp_path / "run", template, {}, iteration_s=0.1)
    supervisor = drive.changed(supervisor, observer=Mover())
    with pytest.raises(GaffError, match="is no longer this run's directory"):
        supervisor.run()
    assert not (tmp_path / "run" / "journal.jsonl").exists()
    shutil.rmtree(tmp_path / "run")
    build(tmp_path / "moved", template, {}).run()
    assert tags(tmp_path / "moved" / "checkpoints") == [10, 20, 30, 40]
