# SPDX-License-Identifier: Apache-2.0
"""Series from logs alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from report_runs import iteration_line

from gaff.errors import InputError
from gaff.plan.schedule import Reset
from gaff.report.metrics.from_logs import metrics_of_logs, parse_resets

LOGS = Path(__file__).parents[2] / "trainers" / "logs"


def log(path: Path, *launches: tuple[int | None, Mapping[int, float]]) -> Path:
    """A log of launches, each with the iteration that it says it resumes from."""
    text = ""
    for start, losses in launches:
        text += "" if start is None else f"Loading checkpoint and starting from iteration {start}\n"
        text += "".join(iteration_line(i, loss) for i, loss in losses.items())
    path.write_text(text)
    return path


def test_a_real_log_of_gpt_neox_is_a_run(tmp_path: Path) -> None:
    metrics = metrics_of_logs([LOGS / "resumed.log"])
    assert metrics.series.iteration.tolist() == list(range(305, 351, 5))
    assert (metrics.attempts[0].start, metrics.train_iters, metrics.log_interval) == (300, 400, 5)
    assert metrics.series.elapsed_s[0] == pytest.approx(5 * 0.1569)
    assert not metrics.series.partial.any()


def test_launches_appended_to_one_log_are_told_apart(tmp_path: Path) -> None:
    path = log(tmp_path / "log", (0, {10: 5.0, 20: 4.0, 30: 3.5}), (20, {30: 3.4, 40: 3.0}))
    metrics = metrics_of_logs([path])
    assert [(a.segment, a.start, len(a.series)) for a in metrics.attempts] == [(1, 0, 3), (2, 20, 2)]
    assert metrics.series.loss.tolist() == [5.0, 4.0, 3.4, 3.0]
    assert metrics.series.segment.tolist() == [1, 1, 2, 2]


def test_a_run_in_several_logs_goes_on_from_one_to_the_next(tmp_path: Path) -> None:
    first = log(tmp_path / "a", (0, {10: 5.0, 20: 4.0}))
    second = log(tmp_path / "b", (20, {30: 3.0, 40: 2.5}))
    assert metrics_of_logs([first, second]).series.iteration.tolist() == [10, 20, 30, 40]


def test_a_log_that_does_not_say_where_it_goes_on_from_does_so_before_its_first_line(tmp_path: Path) -> None:
    first = log(tmp_path / "a", (None, {10: 5.0, 20: 4.0, 30: 3.5}))
    second = log(tmp_path / "b", (None, {30: 3.4, 40: 3.0}))
    metrics = metrics_of_logs([first, second])
    assert [attempt.start for attempt in metrics.attempts] == [0, 20]
    assert metrics.series.loss.tolist() == [5.0, 4.0, 3.4, 3.0]


def test_eight_ranks_that_each_say_where_they_go_on_from_are_one_launch(tmp_path: Path) -> None:
    path = tmp_path / "log"
    says = "Loading checkpoint and starting from iteration 20\n"
    path.write_text(says * 8 + iteration_line(30, 3.0) + iteration_line(40, 2.9))
    assert metrics_of_logs([path]).series.iteration.tolist() == [30, 40]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("every:10", (10, 20, 30)), ("10,30,400", (10, 30)), ("restarts", (20,)), ("30, 10", (10, 30))],
)
def test_resets_are_where_the_user_says(text: str, expected: tuple[int, ...], tmp_path: Path) -> None:
    path = log(tmp_path / "log", (0, {10: 5.0, 20: 4.0}), (20, {30: 3.4, 40: 3.0}))
    assert metrics_of_logs([path], parse_resets(text)).resets == tuple(
        Reset(number, iteration) for number, iteration in enumerate(expected, 1)
    )


@pytest.mark.parametrize("text", ["", "never", "every:0", "every:x", "0,10", "10;20", "each:10"])
def test_what_says_no_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - int's own words are good enough
        parse_resets(text)


def test_a_file_without_a_single_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("nothing here\n")
    with pytest.raises(InputError, match=r"notes\.txt: there is no iteration line"):
        metrics_of_logs([path])
    with pytest.raises(InputError, match="cannot be read"):
        metrics_of_logs([tmp_path / "missing"])
