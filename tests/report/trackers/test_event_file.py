# SPDX-License-Identifier: Apache-2.0
"""Event files written as a run goes, read back by TensorBoard itself."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gaff.report.trackers.event_file import EventFile, open_event_file
from gaff.report.trackers.tracker import Tracker
from gaff.trainers.contract import ResumedAt, ValidationLogged
from tests.report.trackers.conftest import RESET, SEGMENTS, line, train
from tests.report.trackers.event_files import scalars, tags, texts, wall_times


def tracker(directory: Path, told: list[str], resumed: int = 0) -> Tracker:
    one = Tracker("TensorBoard", lambda: open_event_file(directory), told.append, clock=lambda: 1700000000.0)
    one.run_started(SEGMENTS, 40, resumed)
    return one


def losses(iterations: range, shift: float = 0.0) -> list[tuple[int, float]]:
    return [(i, round(5.0 - i / 10 + shift, 5)) for i in iterations]


def test_everything_that_a_line_says_is_a_scalar(tmp_path: Path, told: list[str]) -> None:
    one = tracker(tmp_path, told)
    one.segment_started(SEGMENTS[0], 1, 0)
    one.event(line(10, 3.5, loss_scale=1024.0, losses={"aux": 0.25}))
    one.event(ValidationLogged(10, 3.25, "validation"))
    one.event(ValidationLogged(None, 3.125, "test"))
    assert tags(tmp_path) == {  # while it is being written
        "train/loss": [(10, 3.5)],
        "train/learning_rate": [(10, 0.001)],
        "train/loss_scale": [(10, 1024.0)],
        "speed/ms_per_iteration": [(10, 80.0)],
        "speed/samples_per_s": [(10, 25.0)],
        "losses/aux": [(10, 0.25)],
        "validation/loss": [(10, 3.25)],
        "test/loss": [(10, 3.125)],
    }
    assert wall_times(tmp_path, "train/loss") == [1700000000.0]
    assert told == []


def test_what_the_supervisor_took_out_of_a_partial_line_is_not_written(tmp_path: Path, told: list[str]) -> None:
    one = tracker(tmp_path, told, 5)
    one.segment_started(SEGMENTS[0], 1, 5)
    one.event(replace(line(10), loss=None, ms_per_iteration=None, samples_per_s=None))
    one.event(line(20, 3.0))
    assert scalars(tmp_path) == [(20, 3.0)]
    assert [step for step, _ in scalars(tmp_path, "speed/ms_per_iteration")] == [20]
    assert [step for step, _ in scalars(tmp_path, "train/learning_rate")] == [10, 20]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_finite_number_is_nan(tmp_path: Path, told: list[str], loss: float) -> None:
    one = tracker(tmp_path, told)
    one.segment_started(SEGMENTS[0], 1, 0)
    one.event(line(10, loss))
    [(step, value)] = scalars(tmp_path)
    assert step == 10
    assert math.isnan(value)


def test_each_reset_is_a_scalar_and_a_text(tmp_path: Path, told: list[str]) -> None:
    one = tracker(tmp_path, told)
    train(one, 0, 20)
    one.reset_done(RESET, 1.0, 4, 1000)
    train(one, 20, 40)
    one.close("finished")
    assert scalars(tmp_path, "reset/number") == [(20, 1.0)]
    assert texts(tmp_path) == [(20, "reset 1 after iteration 20")]
    assert scalars(tmp_path) == losses(range(2, 41, 2))


def test_a_segment_attempted_again_takes_back_what_it_trains_again(tmp_path: Path, told: list[str]) -> None:
    one = tracker(tmp_path, told)
    train(one, 0, 18)
    one.event(ValidationLogged(18, 9.0, "validation"))
    train(one, 10, 20, shift=1.0)
    assert scalars(tmp_path) == losses(range(2, 11, 2)) + losses(range(12, 21, 2), 1.0)
    assert scalars(tmp_path, "validation/loss") == []
    one.segment_started(SEGMENTS[0], 3, 19)
    assert scalars(tmp_path)[-1] == (18, 4.2)  # the very next iteration's point is gone, the one before stays


def test_a_supervisor_started_again_takes_back_what_was_lost(tmp_path: Path, told: list[str]) -> None:
    first = tracker(tmp_path, told)
    train(first, 0, 20)
    first.reset_done(RESET, 1.0, 4, 1000)
    train(first, 20, 36)  # killed here, a second later started again, with its checkpoint of iteration 30
    second = tracker(tmp_path, told, 30)
    train(second, 30, 40, shift=1.0)
    second.close("finished")
    assert scalars(tmp_path) == losses(range(2, 31, 2)) + losses(range(32, 41, 2), 1.0)
    assert texts(tmp_path) == [(20, "reset 1 after iteration 20")]
    back = tracker(tmp_path, told, 10)  # the reset's own tag was damaged: all of it is to be done again
    train(back, 10, 12)
    assert scalars(tmp_path) == losses(range(2, 13, 2))
    assert texts(tmp_path) == []


def test_a_launch_that_starts_elsewhere_is_left_out(tmp_path: Path, told: list[str]) -> None:
    one = tracker(tmp_path, told, 10)
    one.segment_started(SEGMENTS[0], 2, 10)
    one.event(ResumedAt(0))
    one.event(line(12, 9.0))
    one.event(ValidationLogged(12, 9.0, "validation"))
    assert tags(tmp_path) == {}
    one.segment_started(SEGMENTS[0], 3, 10)
    one.event(ResumedAt(10))
    one.event(line(8, 9.0))
    one.event(line(12, 3.0))
    assert scalars(tmp_path) == [(12, 3.0)]


def test_a_record_cut_off_by_a_kill_hides_nothing_that_comes_later(tmp_path: Path, told: list[str]) -> None:
    train(tracker(tmp_path, told), 0, 8)
    [file] = tmp_path.iterdir()
    os.truncate(file, file.stat().st_size - 7)
    train(tracker(tmp_path, told, 4), 4, 10, shift=1.0)
    assert scalars(tmp_path) == losses(range(2, 5, 2)) + losses(range(6, 11, 2), 1.0)


def test_a_directory_that_cannot_be_had_is_told_once(tmp_path: Path, told: list[str]) -> None:
    (tmp_path / "tensorboard").write_text("a file")
    one = tracker(tmp_path / "tensorboard", told)
    train(one, 0, 20)
    one.close("finished")
    assert told == ["TensorBoard gets no more of this run's metrics: File exists"]


class FullDisk:
    """A file on a disk with room for so many bytes, until somebody makes more."""

    def __init__(self, path: Path, room: int) -> None:
        self._file, self._room = path.open("xb", buffering=0), room
        self.close = self._file.close

    def write(self, data: bytes) -> int:
        taken = data[: max(0, self._room - self._file.tell())]
        if len(taken) < len(data):
            self._room = 1 << 20
        if not taken:
            raise OSError(28, "No space left on device")
        return self._file.write(taken)


@pytest.mark.parametrize("room", [600, 601, 650, 699, 700])
def test_a_disk_that_fills_up_is_told_once_and_spoils_nothing(tmp_path: Path, told: list[str], room: int) -> None:
    disk = FullDisk(tmp_path / "events.out.tfevents.0000000001.here", room)
    one = Tracker("TensorBoard", lambda: EventFile(disk), told.append)  # type: ignore[arg-type]
    one.run_started(SEGMENTS, 40, 0)
    train(one, 0, 20)
    one.close("finished")
    assert told == ["TensorBoard gets no more of this run's metrics: No space left on device"]
    written = scalars(tmp_path)
    assert written == losses(range(2, 2 * len(written) + 1, 2))
    assert 0 < len(written) < 10
    later = tracker(tmp_path, told, 20)  # there is room again
    train(later, 20, 22)
    assert scalars(tmp_path) == [*written, *losses(range(22, 23, 2))]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", place], check=False).returncode:
        pytest.skip("only root may mount")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_real_full_disk(small_disk: Path, told: list[str]) -> None:
    one = tracker(small_disk, told)
    for _ in range(20):
        train(one, 0, 20)
    one.close("finished")
    assert told == ["TensorBoard gets no more of this run's metrics: No space left on device"]
    assert scalars(small_disk)


def test_a_real_read_only_disk(small_disk: Path, told: list[str]) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    train(tracker(small_disk / "tensorboard", told), 0, 20)
    assert told == ["TensorBoard gets no more of this run's metrics: Read-only file system"]
