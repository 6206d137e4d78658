# SPDX-License-Identifier: Apache-2.0
"""Event files of runs that are over, read back by TensorBoard itself."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from gaff.errors import InputError
from gaff.plan.schedule import Reset
from gaff.report.metrics.run_metrics import RunMetrics
from gaff.report.metrics.series import Series, series
from gaff.report.trackers.export import write_events
from gaff.trainers.contract import ValidationLogged
from tests.report.trackers.event_files import scalars, tags, texts, wall_times


def metrics(lines: Series, **more: object) -> RunMetrics:
    given = {"resets": (), "validations": (), "attempts": (), "train_iters": 40, "log_interval": 10, **more}
    return RunMetrics(series=lines, **given)  # type: ignore[arg-type]


LINES = series(
    iteration=[10, 20, 25, 30],
    loss=[5.0, np.nan, 9.0, np.nan],
    not_finite=[False, True, False, False],
    learning_rate=[1e-3, 2e-3, np.nan, 4e-3],
    ms_per_iteration=[100.0, 200.0, 30.0, 400.0],
    samples_per_s=[10.0, 5.0, 33.0, 2.5],
    loss_scale=[np.nan, np.nan, np.nan, 512.0],
    partial=[False, False, True, False],
    elapsed_s=[1.0, 2.0, 0.5, 4.0],
)


def test_lines_are_written_as_a_live_run_would(tmp_path: Path) -> None:
    write_events(metrics(LINES, losses={"aux": {10: 0.5, 25: 7.0}}), tmp_path, ended=1000.0)
    losses = scalars(tmp_path)
    assert losses[0] == (10, 5.0)
    assert losses[1][0] == 20
    assert math.isnan(losses[1][1])  # printed, and no number
    assert len(losses) == 2  # not the partial line's, nor the one that could not be read
    assert scalars(tmp_path, "train/learning_rate") == [(10, 0.001), (20, 0.002), (30, 0.004)]
    assert scalars(tmp_path, "speed/ms_per_iteration") == [(10, 100.0), (20, 200.0), (30, 400.0)]
    assert scalars(tmp_path, "speed/samples_per_s") == [(10, 10.0), (20, 5.0), (30, 2.5)]
    assert scalars(tmp_path, "train/loss_scale") == [(30, 512.0)]
    assert scalars(tmp_path, "losses/aux") == [(10, 0.5)]
    assert wall_times(tmp_path, "speed/ms_per_iteration") == [993.5, 995.5, 1000.0]


def test_resets_and_validations(tmp_path: Path) -> None:
    validations = (ValidationLogged(20, 3.5, "validation"), ValidationLogged(None, 3.25, "test"))
    resets = (Reset(1, 10), Reset(2, 20))
    write_events(metrics(LINES, resets=resets, validations=validations), tmp_path)
    assert scalars(tmp_path, "reset/number") == [(10, 1.0), (20, 2.0)]
    assert texts(tmp_path) == [(10, "reset 1 after iteration 10"), (20, "reset 2 after iteration 20")]
    assert scalars(tmp_path, "validation/loss") == [(20, 3.5)]
    assert scalars(tmp_path, "test/loss") == [(30, 3.25)]


def test_what_was_written_before_is_replaced(tmp_path: Path) -> None:
    write_events(metrics(LINES), tmp_path)
    file = write_events(metrics(LINES.until(10)), tmp_path)
    assert list(tmp_path.iterdir()) == [file]
    assert scalars(tmp_path) == [(10, 5.0)]


def test_an_empty_run_has_an_empty_file(tmp_path: Path) -> None:
    write_events(metrics(series(iteration=()), validations=(ValidationLogged(None, 3.0, "test"),)), tmp_path)
    assert tags(tmp_path) == {"test/loss": [(0, 3.0)]}


def test_event_files_of_something_else_are_not_mixed_in(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.1700000000.node1").write_bytes(b"")
    with pytest.raises(InputError, match="holds event files already"):
        write_events(metrics(LINES), tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="name another directory"):
        write_events(metrics(LINES), tmp_path / "out")


def test_many_lines(tmp_path: Path) -> None:
    count = 10_003  # more than are worked on at a time
    write_events(metrics(series(iteration=range(1, count + 1), loss=np.arange(count) / 8)), tmp_path)
    assert scalars(tmp_path) == [(i + 1, i / 8) for i in range(count)]
