# SPDX-License-Identifier: Apache-2.0
"""The view of a run while it runs: plain lines, the panel, and streams that go away."""

from __future__ import annotations

import io
import os
import pty
import re
import select
from datetime import datetime
from pathlib import Path

import pytest

from gaff.plan.schedule import schedule
from gaff.report.live import LiveView, PlainView, make_view
from gaff.report.panel import PanelView, render
from gaff.supervisor.observer import NullObserver, Observer
from gaff.trainers.contract import CheckpointSaved, ErrorLogged, IterationLogged, LoadFailed, ResumedAt, StoppedAt

SEGMENTS = schedule(400, 100)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def noon() -> datetime:
    return datetime(2026, 11, 21, 12, 0, 0)


def line(iteration: int, loss: float = 3.21, skipped: int = 0) -> IterationLogged:
    return IterationLogged(iteration, 400, loss, 9.1e-4, 85.0, 40.0, skipped, 0)


def run_a_segment(view: Observer, clock: Clock, number: int, step_s: float = 0.5, every: int = 10) -> None:
    segment = SEGMENTS[number - 1]
    view.segment_started(segment, 1, segment.start)
    view.event(ResumedAt(segment.start))
    for iteration in range(segment.start + every, segment.stop + 1, every):
        clock.now_s += step_s
        view.event(line(iteration))
    view.event(CheckpointSaved(f"global_step{segment.stop}"))
    view.event(StoppedAt(segment.stop))
    view.segment_finished(segment)
    if segment.reset:
        view.reset_started(segment.reset)
        view.reset_done(segment.reset, 0.31, 8, 51_500_000)


@pytest.fixture
def plain() -> tuple[PlainView, io.StringIO, Clock]:
    stream, clock = io.StringIO(), Clock()
    return PlainView(stream, clock, noon), stream, clock


def said(stream: io.StringIO) -> list[str]:
    lines = stream.getvalue().splitlines()
    assert all(text.startswith("12:00:00  ") for text in lines)
    return [text.removeprefix("12:00:00  ") for text in lines]


# --- plain lines ---


def test_plain_lines_of_a_segment(plain: tuple[PlainView, io.StringIO, Clock]) -> None:
    view, stream, clock = plain
    view.run_started(SEGMENTS, 400, 0)
    run_a_segment(view, clock, 1)
    view.close("finished")
    assert said(stream) == [
        "400 iterations in 4 segments, 3 resets",
        "segment 1/4: iterations 1 to 100: starting the trainer",
        "iteration 10/400 · loss 3.210 · lr 9.1e-4 · 85 ms · segment 1/4 · next reset in 90 · 0:00:33 left",
        "iteration 50/400 · loss 3.210 · lr 9.1e-4 · 85 ms · segment 1/4 · next reset in 50 · 0:00:30 left",
        "iteration 90/400 · loss 3.210 · lr 9.1e-4 · 85 ms · segment 1/4 · next reset in 10 · 0:00:26 left",
        "iteration 100/400 · loss 3.210 · lr 9.1e-4 · 85 ms · segment 1/4 · reset now · 0:00:26 left",
        "checkpoint global_step100 saved",
        "reset 1/3 after iteration 100: forgetting",
        "reset 1 done in 0.31 s: 8 copies rewritten, 51.5 MB",
        "finished",
    ]


def test_last_line_before_a_reset_is_shown_though_the_interval_misses_it(
    plain: tuple[PlainView, io.StringIO, Clock],
) -> None:
    view, stream, clock = plain
    view.run_started(SEGMENTS, 400, 0)
    run_a_segment(view, clock, 1, step_s=0.01, every=30)
    shown = [text.split(" · ")[0] for text in said(stream) if text.startswith("iteration")]
    assert shown == ["iteration 30/400", "iteration 90/400"]


def test_run_that_carries_on_says_so(plain: tuple[PlainView, io.StringIO, Clock]) -> None:
    view, stream, _ = plain
    view.run_started(SEGMENTS, 400, 200)
    view.segment_started(SEGMENTS[2], 2, SEGMENTS[2].start)
    assert said(stream) == [
        "carrying on after iteration 200 of 400 iterations in 4 segments, 3 resets",
        "segment 3/4: iterations 201 to 300, attempt 2: starting the trainer",
    ]


def test_error_of_the_trainer_comes_with_what_to_do(plain: tuple[PlainView, io.StringIO, Clock]) -> None:
    view, stream, _ = plain
    view.event(ErrorLogged("DistNetworkError: EADDRINUSE,\n address already in use"))
    (text,) = said(stream)
    assert text.startswith("trainer: DistNetworkError: EADDRINUSE, address already in use (another process")


def test_failed_load_is_news_only_where_something_was_to_be_loaded(
    plain: tuple[PlainView, io.StringIO, Clock],
) -> None:
    view, stream, _ = plain
    view.run_started(SEGMENTS, 400, 0)
    for segment in SEGMENTS[:2]:
        view.segment_started(segment, 1, segment.start)
        view.event(LoadFailed("Unable to load checkpoint."))
    assert said(stream).count("trainer: Unable to load checkpoint.") == 1
    assert said(stream)[-1] == "trainer: Unable to load checkpoint."


def test_loss_that_became_nan_is_news_once(plain: tuple[PlainView, io.StringIO, Clock]) -> None:
    view, stream, clock = plain
    view.run_started(SEGMENTS, 400, 0)
    view.segment_started(SEGMENTS[0], 1, SEGMENTS[0].start)
    for iteration in (10, 20, 30):
        clock.now_s += 10
        view.event(line(iteration, float("nan")))
    assert [text for text in said(stream) if "since" in text] == ["the loss is NaN since iteration 10"]
    assert "loss NaN" in said(stream)[-1]


def test_skipped_iterations_are_shown(plain: tuple[PlainView, io.StringIO, Clock]) -> None:
    view, stream, _ = plain
    view.run_started(SEGMENTS, 400, 0)
    view.segment_started(SEGMENTS[0], 1, SEGMENTS[0].start)
    view.event(line(10, skipped=2))
    assert " · 2 skipped · " in said(stream)[-1]


# --- which view, and streams that go away ---


def test_stream_that_is_no_terminal_gets_plain_lines() -> None:
    assert type(make_view(io.StringIO())) is PlainView


def test_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as stream:
        assert type(make_view(stream)) is PlainView
    os.close(leader)


def test_closed_pipe_does_not_end_the_run() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    view = make_view(stream)
    view.run_started(SEGMENTS, 400, 0)
    run_a_segment(view, Clock(), 1)
    view.close("finished")
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_closed_stream_does_not_end_the_run() -> None:
    stream = io.StringIO()
    stream.close()
    make_view(stream).close("finished")


def test_stream_without_unicode_gets_question_marks() -> None:
    raw = io.BytesIO()
    view = make_view(io.TextIOWrapper(raw, encoding="ascii"))
    view.message("loss · 3")
    assert raw.getvalue().decode().endswith("loss ? 3\n")


@pytest.mark.parametrize("view", [NullObserver(), PlainView(io.StringIO())], ids=["null", "plain"])
def test_views_keep_the_observers_contract(view: Observer) -> None:
    view.run_started(SEGMENTS, 400, 0)
    run_a_segment(view, Clock(), 1)
    view.message("text")
    view.close("finished")


# --- the panel ---


def panel_text(view: LiveView, news: tuple[tuple[str, str], ...], width: int) -> list[str]:
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(render(view.progress, news, width))
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_panel_fits_the_terminal(width: int) -> None:
    clock = Clock()
    view = PlainView(io.StringIO(), clock)
    view.run_started(SEGMENTS, 400, 0)
    run_a_segment(view, clock, 1)
    run_a_segment(view, clock, 2)
    rows = panel_text(view, (("12:00:00", "a message that is much too long for a narrow terminal " * 3),), width)
    assert {len(row) for row in rows} == {min(width, 110)}
    assert 11 <= len(rows) <= 13, "the message has three lines at most"


def test_panel_shows_where_the_run_stands() -> None:
    clock = Clock()
    view = PlainView(io.StringIO(), clock)
    view.run_started(SEGMENTS, 400, 0)
    run_a_segment(view, clock, 1)
    view.segment_started(SEGMENTS[1], 1, SEGMENTS[1].start)
    clock.now_s += 5
    view.event(line(120, 2.5))
    text = "\n".join(panel_text(view, (), 100))
    assert "segment 2 of 4 · training · 30%" in text
    assert "iteration 120 of 400 · loss 2.500 · lr 9.1e-4" in text
    assert "next: after iteration 200, in 80 (0:00:07)" in text
    assert text.count("┿") == 1  # the reset that is done
    assert text.count("┼") == 2  # those to come


def test_panel_before_the_first_line_is_drawn() -> None:
    view = PlainView(io.StringIO())
    assert "not known yet" in "\n".join(panel_text(view, (), 80))


def test_the_end_of_a_long_message_is_read_in_the_panel() -> None:
    view = PlainView(io.StringIO())
    told = f"the trainer exited with 1, saying: {'x ' * 40}; restart 2 of 10 from iteration 1000 in 20 s"
    shown = panel_text(view, (("12:00:00", told),) * 5, 80)
    assert " ".join(shown[-2].strip("│ ").split()[-4:]) == "1000 in 20 s"
    assert all(len(row) == 80 for row in shown)
    assert len(shown) < 24, "a small terminal shows all of it"


@pytest.mark.parametrize("outcome", ["finished", "interrupted", "failed"])
def test_the_panel_that_stays_says_how_the_run_ended(outcome: str) -> None:
    view = PlainView(io.StringIO())
    view.run_started(SEGMENTS, 400, 0)
    view.segment_started(SEGMENTS[0], 1, SEGMENTS[0].start)
    view.close(outcome)
    assert f"segment 1 of 4 · {outcome} · 0%" in "\n".join(panel_text(view, (), 80))


def everything_in(terminal: int) -> str:
    """What a terminal holds; one read gives only part of it."""
    data = b""
    while select.select([terminal], [], [], 0.2)[0]:
        data += os.read(terminal, 1 << 16)
    return data.decode()


@pytest.mark.parametrize("no_colour", [False, True])
def test_terminal_gets_a_panel_with_colours_unless_told_not_to(
    monkeypatch: pytest.MonkeyPatch, no_colour: bool, tmp_path: Path
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_colour:
        monkeypatch.setenv("NO_COLOR", "1")
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as stream:
        view = make_view(stream)
        assert isinstance(view, PanelView)
        view.run_started(SEGMENTS, 400, 0)
        view.segment_started(SEGMENTS[0], 1, SEGMENTS[0].start)
        view.event(line(10))
        view.close("finished")
        view.message("notify failed: exit code 7")  # nobody redraws any more
        written = everything_in(leader)
    os.close(leader)
    assert "notify failed: exit code 7" in written
    assert "iteration 10 of 400" in written
    assert "finished" in written
    assert "\x1b[?25h" in written[-80:]  # the cursor is back
    coloured = re.search(r"\x1b\[(?:\d;)*3[0-7](?:;\d+)*m", written)
    assert (coloured is None) == no_colour
