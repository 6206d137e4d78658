# SPDX-License-Identifier: Apache-2.0
"""Every state in which a crash can leave a run, and the one step that leads out of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gaff.checkpoint.completeness import mark_complete
from gaff.checkpoint.surgery.learning_rate import RestartRequest, restart_lr
from gaff.checkpoint.surgery.reset import ResetRequest, reset
from gaff.plan.schedule import schedule
from gaff.plan.settings import InitSpec
from gaff.supervisor import state
from gaff.supervisor.retention import mark_written
from gaff.supervisor.state import Step, next_step
from tests.supervisor.fake_trainer import write_tag

SEGMENTS = schedule(40, 10)
RUN_ID = "a-run"
Make = Callable[[Path, Path], None]


@pytest.fixture
def template(unpacked_checkpoints: Path) -> Path:
    return unpacked_checkpoints / "zero1-fp32-pp1-tp1-dp1" / "global_step5"


def tag(save: Path, iteration: int) -> Path:
    return save / f"global_step{iteration}"


def trained(save: Path, template: Path, *iterations: int) -> None:
    for iteration in iterations:
        write_tag(save, template, iteration)


def forget(save: Path, number: int) -> None:
    reset(tag(save, number * 10), ResetRequest(number=number, seed=1, init=InitSpec(), moments="zero"))


def nothing(save: Path, template: Path) -> None:
    save.mkdir()


def one_tag(save: Path, template: Path) -> None:
    trained(save, template, 10)


def one_reset(save: Path, template: Path) -> None:
    one_tag(save, template)
    forget(save, 1)


def inside_a_segment(save: Path, template: Path) -> None:
    one_reset(save, template)
    trained(save, template, 13)


def schedule_restarted(save: Path, template: Path) -> None:
    one_reset(save, template)
    restart_lr(tag(save, 10), RestartRequest())


def deletion_cut_short(save: Path, template: Path) -> None:
    inside_a_segment(save, template)
    mark_written(tag(save, 10), RUN_ID)
    (save / "deleting").mkdir()
    tag(save, 10).rename(save / "deleting" / "iteration10")
    next((save / "deleting" / "iteration10").glob("*.pt")).unlink()


def save_cut_short(save: Path, template: Path) -> None:
    one_reset(save, template)
    trained(save, template, 20)
    shutil.rmtree(tag(save, 20) / "configs")


def first_save_cut_short(save: Path, template: Path) -> None:
    one_tag(save, template)
    shutil.rmtree(tag(save, 10) / "configs")


def newest_truncated(save: Path, template: Path) -> None:
    one_reset(save, template)
    trained(save, template, 20)
    mark_complete(tag(save, 20))
    with open(next(tag(save, 20).glob("layer_*")), "r+b") as file:
        file.truncate(100)


def only_tag_truncated(save: Path, template: Path) -> None:
    one_tag(save, template)
    mark_complete(tag(save, 10))
    with open(next(tag(save, 10).glob("layer_*")), "r+b") as file:
        file.truncate(100)


def latest_of_a_tag_that_is_gone(save: Path, template: Path) -> None:
    one_reset(save, template)
    (save / "latest").write_text("global_step20")


def latest_without_a_tag(save: Path, template: Path) -> None:
    save.mkdir()
    (save / "latest").write_text("global_step10")


def latest_missing(save: Path, template: Path) -> None:
    one_reset(save, template)
    (save / "latest").unlink()


def surgery_cut_short(save: Path, template: Path) -> None:
    from gaff.checkpoint import transaction

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    one_tag(save, template)
    real = transaction.os.pwrite
    transaction.os.pwrite = die
    try:
        forget(save, 1)
    except Killed:
        pass
    finally:
        transaction.os.pwrite = real
    assert (tag(save, 10) / "gaff" / "intent.json").exists()


def reset_passed_over(save: Path, template: Path) -> None:
    trained(save, template, 10, 15)


def finished(save: Path, template: Path) -> None:
    trained(save, template, 40)


def beyond(save: Path, template: Path) -> None:
    trained(save, template, 60)


STATES: dict[str, tuple[Make, Step | type[Step]]] = {
    "fresh": (nothing, state.Train(SEGMENTS[0], 0)),
    "trained to a reset": (one_tag, state.Forget(SEGMENTS[0].reset)),  # type: ignore[arg-type]
    "reset made": (one_reset, state.Train(SEGMENTS[1], 10)),
    "inside a segment": (inside_a_segment, state.Train(SEGMENTS[1], 13)),
    "deletion cut short": (deletion_cut_short, state.FinishDeletion()),
    "save cut short": (save_cut_short, state.SetAside(20, "has no configs/, which the trainer writes last")),
    "first save cut short": (first_save_cut_short, state.SetAside),
    "newest tag truncated": (newest_truncated, state.SetAside),
    "only tag truncated": (only_tag_truncated, state.Refuse),
    "latest names a tag that is gone": (latest_of_a_tag_that_is_gone, state.MendLatest(10)),
    "latest without any tag": (latest_without_a_tag, state.MendLatest(0)),
    "latest missing": (latest_missing, state.MendLatest(10)),
    "surgery cut short": (surgery_cut_short, state.FinishSurgery(10)),
    "reset passed over": (reset_passed_over, state.Refuse),
    "finished": (finished, state.Finished(40)),
    "beyond the end": (beyond, state.Refuse),
}


@pytest.mark.parametrize("name", STATES)
def test_each_state_has_its_step(name: str, tmp_path: Path, template: Path) -> None:
    make, expected = STATES[name]
    save = tmp_path / "save"
    make(save, template)
    step = next_step(save, SEGMENTS, examined=range(100))
    assert type(step) is expected if isinstance(expected, type) else step == expected


def test_every_step_of_the_machine_is_among_these() -> None:
    named = {expected if isinstance(expected, type) else type(expected) for _, expected in STATES.values()}
    elsewhere = {state.Examine, state.RestartSchedule}
    assert {step.__name__ for step in named | elsewhere} == {step.__name__ for step in Step.__args__}


def test_a_tag_that_this_process_did_not_read_is_read_before_it_is_built_on(tmp_path: Path, template: Path) -> None:
    save = tmp_path / "save"
    one_tag(save, template)
    assert next_step(save, SEGMENTS) == state.Examine(10)
    assert isinstance(next_step(save, SEGMENTS, examined={10}), state.Forget)


def test_the_schedule_is_restarted_after_the_reset_and_once(tmp_path: Path, template: Path) -> None:
    save = tmp_path / "save"
    one_reset(save, template)
    step = next_step(save, SEGMENTS, restarts_schedule=True, examined={10})
    assert step == state.RestartSchedule(SEGMENTS[0].reset)  # type: ignore[arg-type]
    restart_lr(tag(save, 10), RestartRequest())
    assert next_step(save, SEGMENTS, restarts_schedule=True, examined={10}) == state.Train(SEGMENTS[1], 10)


def test_looking_changes_nothing_but_the_mark_of_a_whole_tag(tmp_path: Path, template: Path) -> None:
    save = tmp_path / "save"
    save_cut_short(save, template)

    def content() -> dict[str, bytes]:
        return {str(p.relative_to(save)): p.read_bytes() for p in save.rglob("*") if p.is_file()}

    before = content()
    next_step(save, SEGMENTS)
    after = content()
    assert {name for name in before if before[name] != after.get(name)} == set()
    assert {Path(name).name for name in after.keys() - before.keys()} <= {"complete.json"}
    assert json.loads(after["global_step10/gaff/complete.json"])


def test_a_deletion_that_cannot_be_finished_does_not_hold_up_the_run(tmp_path: Path, template: Path) -> None:
    save = tmp_path / "save"
    deletion_cut_short(save, template)
    (save / "latest").write_text("global_step13")
    assert next_step(save, SEGMENTS, examined={13}, tidied=True) == state.Train(SEGMENTS[1], 13)


def test_a_file_that_the_machine_cannot_read_is_no_damage(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from gaff.checkpoint import zip_directory

    save = tmp_path / "save"
    one_reset(save, template)

    def stale(*_: object, **__: object) -> int:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(zip_directory.os, "open", stale)
    with pytest.raises(OSError, match="Stale file handle"):
        next_step(save, SEGMENTS)
    monkeypatch.undo()
    monkeypatch.setattr(Path, "read_text", stale)
    with pytest.raises(OSError, match="Stale file handle"):
        next_step(save, SEGMENTS)
    assert tag(save, 10).is_dir()


def test_a_finished_run_is_believed_only_once_its_last_tag_was_read(tmp_path: Path, template: Path) -> None:
    """A machine that lost power in the last save leaves blocks of zeros, which no directory of a zip file tells."""
    save = tmp_path / "save"
    finished(save, template)
    assert next_step(save, SEGMENTS) == state.Examine(40)


def test_a_directory_that_cannot_be_listed_is_not_an_empty_one(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from gaff.supervisor import progress

    save = tmp_path / "save"
    one_reset(save, template)

    def stale(*_: object) -> object:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(progress.os, "scandir", stale)
    with pytest.raises(OSError, match="Stale file handle"):
        next_step(save, SEGMENTS)
    assert (save / "latest").exists()


def test_an_old_tag_that_was_thinned_out_for_room_does_not_say_that_its_reset_was_passed_over(
    tmp_path: Path, template: Path
) -> None:
    save = tmp_path / "save"
    inside_a_segment(save, template)
    for shard in tag(save, 10).glob("*optim_states.pt"):
        shard.unlink()
    assert next_step(save, SEGMENTS, examined={13}) == state.Train(SEGMENTS[1], 13)


def test_a_damaged_mark_proves_nothing_and_is_made_anew(tmp_path: Path, template: Path) -> None:
    save = tmp_path / "save"
    one_reset(save, template)
    mark_complete(tag(save, 10))
    mark = tag(save, 10) / "gaff" / "complete.json"
    good = mark.read_bytes()
    for damaged in (b"", b"\0" * 100, good[:50], b"[]"):
        mark.write_bytes(damaged)
        assert next_step(save, SEGMENTS, examined={10}) == state.Train(SEGMENTS[1], 10)
        assert mark.read_bytes() == good


def test_a_damaged_mark_still_says_that_the_only_tag_was_whole_once(tmp_path: Path, template: Path) -> None:
    save = tmp_path / "save"
    only_tag_truncated(save, template)
    (tag(save, 10) / "gaff" / "complete.json").write_bytes(b"")
    assert isinstance(next_step(save, SEGMENTS), state.Refuse)
