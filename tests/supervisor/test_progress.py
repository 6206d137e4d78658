# SPDX-License-Identifier: Apache-2.0
"""Which tag a run goes on from, what it leaves for the trainer to find, and when it does not go on at all."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.surgery import perform
from gaff.checkpoint.surgery.reset import ResetRequest, plan_reset
from gaff.checkpoint.transaction import apply, begin, begun_operation, valid_records
from gaff.errors import EXIT_RESUMABLE, InputError, Interrupted, TrainerError
from gaff.plan.config import Config, load_config
from gaff.plan.schedule import Reset
from gaff.supervisor.journal import read_entries
from gaff.supervisor.observer import NullObserver
from gaff.supervisor.progress import Progress, judge, mend_latest, tags
from gaff.supervisor.run_directory import open_run, run_directory
from gaff.trainers.contract import Launch, SegmentRequest
from tests.supervisor import drive
from tests.supervisor.drive import build
from tests.supervisor.fake_trainer import FakeTrainer

GetTag = Callable[[str], Path]
REAL = "zero1-fp32-pp1-tp1-dp1"


@pytest.fixture(scope="module")
def template(unpacked_checkpoints: Path) -> Path:
    return unpacked_checkpoints / REAL / "global_step5"


def events(root: Path, name: str) -> list[dict[str, Any]]:
    return [dict(e.fields) for e in read_entries(root) if e.event == name]


def make_newer_than_configs(tag: Path, names: list[str]) -> None:
    newest = max(p.stat().st_mtime for p in (tag / "configs").glob("*"))
    for name in names:
        os.utime(tag / name, (newest + 60, newest + 60))


# --- which tag is trusted ---


def test_a_tag_that_holds_another_iteration_than_its_name_says_is_not_trusted(checkpoint: GetTag) -> None:
    """As when somebody renames a tag, or copies one over another: the trainer would go on from somewhere else."""
    tag = checkpoint(REAL)
    assert judge(tag.parent) == Progress(5, {})
    tag.rename(tag.with_name("global_step7"))
    assert judge(tag.parent) == Progress(0, {7: "holds iteration 5"})


def test_a_half_reset_tag_is_trusted_though_its_files_are_newer_than_its_configs(checkpoint: GetTag) -> None:
    tag = checkpoint(REAL)
    operation = plan_reset(read_layout(tag), ResetRequest(1, 1))
    begin(tag, operation)
    apply(tag, operation)  # and killed before the record
    edited = sorted(operation.crcs_before)
    make_newer_than_configs(tag, edited)
    assert begun_operation(tag) is not None
    assert judge(tag.parent) == Progress(5, {})
    assert sorted(operation.untouched), "there is a file that the reset does not name"
    make_newer_than_configs(tag, [min(operation.untouched)])
    (tag / "gaff" / "complete.json").unlink(missing_ok=True)
    assert judge(tag.parent).iteration == 0, "a reset excuses its own files alone"
    assert "was not committed" in judge(tag.parent).untrusted[5]


class Killed(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


def test_a_run_killed_in_a_reset_finishes_it_in_place(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    tag = root / "checkpoints" / "global_step10"

    def killed(*arguments: Any) -> None:
        raise Killed

    monkeypatch.setattr(perform, "commit", killed)
    with pytest.raises(Killed):
        build(root, template, {}).run()
    monkeypatch.undo()
    operation = begun_operation(tag)
    assert operation is not None
    make_newer_than_configs(tag, sorted(operation.crcs_before))
    with pytest.raises(TrainerError):
        build(root, template, {20: "exit-0"}).run()
    assert events(root, "tag_set_aside") == []
    assert [e["start"] for e in events(root, "segment_launched")] == [0, 10], "the first segment is not trained again"
    assert [(e["reset"], e["iteration"]) for e in events(root, "reset_done")] == [(1, 10)]
    assert [r.operation for r in valid_records(tag)] == [operation]
    assert begun_operation(tag) is None


# --- `latest` ---


@pytest.mark.parametrize("wrong", [None, "", "global_step20", "global_step1", "global_step10\n"])
def test_latest_is_made_to_name_the_tag_to_go_on_from(wrong: str | None, tmp_path: Path) -> None:
    if wrong is not None:
        (tmp_path / "latest").write_text(wrong)
    mend_latest(tmp_path, 10)
    assert (tmp_path / "latest").read_bytes() == b"global_step10"


def test_a_right_latest_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "latest").write_text("global_step10")
    before = (tmp_path / "latest").stat()
    mend_latest(tmp_path, 10)
    after = (tmp_path / "latest").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_from_scratch_there_is_no_latest(tmp_path: Path) -> None:
    (tmp_path / "latest").write_text("global_step10")
    mend_latest(tmp_path, 0)
    mend_latest(tmp_path, 0)
    assert not (tmp_path / "latest").exists()


@dataclass
class Noting(FakeTrainer):
    """Notes what ``latest`` says when the trainer is launched, which is what GPT-NeoX goes by."""

    latest: list[tuple[int, str | None]] = field(default_factory=list)

    def prepare(self, config: Config, request: SegmentRequest) -> Launch:
        path = request.save / "latest"
        self.latest.append((request.start, path.read_text() if path.exists() else None))
        return super().prepare(config, request)


def test_every_launch_finds_latest_naming_its_start_whatever_a_dying_trainer_left(
    tmp_path: Path, template: Path
) -> None:
    root = tmp_path / "run"
    for modes in ({10: "dies-saving"}, {20: "dies-saving"}):
        with pytest.raises(Interrupted):
            build(root, template, modes).run()
    supervisor = build(root, template, {30: "exit-0"})
    noting = Noting(template, 40, {30: "exit-0"})
    supervisor = drive.changed(supervisor, trainer=noting)
    with pytest.raises(TrainerError):
        supervisor.run()
    assert noting.latest == [(10, "global_step10"), (20, "global_step20")]
    assert [e["iteration"] for e in events(root, "tag_set_aside")] == [10, 20]


def test_a_first_launch_after_a_tag_was_set_aside_finds_no_latest(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    with pytest.raises(Interrupted):
        build(root, template, {10: "dies-saving"}).run()
    assert (root / "checkpoints" / "latest").exists()
    supervisor = build(root, template, {})
    noting = Noting(template, 40, {10: "exit-0"})
    supervisor = drive.changed(supervisor, trainer=noting)
    (root / "segments" / "0001" / "request-0.json").unlink()  # modes are for the first launch
    with pytest.raises(TrainerError):
        supervisor.run()
    assert noting.latest == [(0, None)]


# --- signals, and what the trainer's end means ---


class Interrupter(NullObserver):
    """Sends this process SIGTERM when it is told of the moment named."""

    def __init__(self, moment: str) -> None:
        self.moment = moment

    def run_started(self, *arguments: Any) -> None:
        if self.moment == "run_started":
            signal.raise_signal(signal.SIGTERM)

    def reset_done(self, reset: Reset, *arguments: Any) -> None:
        if self.moment == "reset_done":
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(("moment", "launched"), [("run_started", []), ("reset_done", [0])])
def test_a_signal_that_came_before_a_launch_stops_the_run_before_it(
    moment: str, launched: list[int], tmp_path: Path, template: Path
) -> None:
    root = tmp_path / "run"
    supervisor = build(root, template, {})
    supervisor = drive.changed(supervisor, observer=Interrupter(moment))
    safe = "iteration 10 is safe" if launched else "no checkpoint is written yet"
    with pytest.raises(Interrupted, match=f"stopped by SIGTERM; {safe}"):
        supervisor.run()
    assert [e["start"] for e in events(root, "segment_launched")] == launched
    assert len(events(root, "reset_done")) == len(launched)
    assert tags(root / "checkpoints") == [10] * len(launched)


@dataclass
class Exiting(FakeTrainer):
    """Ends at once with an exit code of its own."""

    code: int = 0

    def prepare(self, config: Config, request: SegmentRequest) -> Launch:
        return Launch((sys.executable, "-c", f"import sys; sys.exit({self.code})"), request.directory, {})


@pytest.mark.parametrize(
    ("code", "killer"),
    [(247, "SIGKILL"), (241, "SIGTERM"), (137, "SIGKILL"), (143, "SIGTERM")],
    ids=["deepy, rank killed", "deepy, rank terminated", "shell, killed", "shell, terminated"],
)
def test_a_rank_that_was_killed_is_told_from_its_launchers_exit_code(
    code: int, killer: str, tmp_path: Path, template: Path
) -> None:
    root = tmp_path / "run"
    supervisor = build(root, template, {})
    supervisor = drive.changed(supervisor, trainer=Exiting(template, 40, code=code))
    with pytest.raises(Interrupted, match=f"killed by {killer}; no checkpoint is written yet") as caught:
        supervisor.run()
    assert caught.value.exit_code == EXIT_RESUMABLE == 75
    assert len(events(root, "run_interrupted")) == 1
    assert events(root, "run_failed") == []


@pytest.mark.parametrize("code", [1, 9, 15, 255])
def test_any_other_exit_code_is_a_failure(code: int, tmp_path: Path, template: Path) -> None:
    root = tmp_path / "run"
    supervisor = build(root, template, {})
    supervisor = drive.changed(supervisor, trainer=Exiting(template, 40, code=code))
    with pytest.raises(TrainerError, match=f"exited with {code} and global_step10 is not there"):
        supervisor.run()
    assert len(events(root, "run_failed")) == 1


# --- whose checkpoints these are ---


def config_saving_into(save: Path, path: Path) -> Config:
    path.write_text(drive.CONFIG + f"save: {save}\n")
    return load_config([path])


def test_a_save_that_belongs_to_another_run_is_refused_and_stays_as_it_was(tmp_path: Path) -> None:
    config = config_saving_into(tmp_path / "save", tmp_path / "config.yml")
    first, second = (run_directory(tmp_path / name, config) for name in ("first", "second"))
    run_id = open_run(first, config, {})
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match=f"holds the checkpoints of another run, {first.root}") as caught:
        open_run(second, config, {})
    assert caught.value.problems[0].id == "save-taken"
    assert not second.identity.exists()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert open_run(first, config, {}) == run_id, "its owner goes on"


def test_a_run_whose_identity_was_replaced_does_not_take_over_a_save(tmp_path: Path) -> None:
    """A run directory that was begun elsewhere, with a `save` that another run has claimed since."""
    config = config_saving_into(tmp_path / "save", tmp_path / "config.yml")
    first, second = (run_directory(tmp_path / name, config) for name in ("first", "second"))
    open_run(second, config, {})
    for path in (tmp_path / "save").iterdir():
        path.unlink()
    open_run(first, config, {})
    with pytest.raises(InputError, match=f"holds the checkpoints of another run, {first.root}"):
        open_run(second, config, {})
