# SPDX-License-Identifier: Apache-2.0
"""A status in words."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from gaff.report.status_text import headline, news, render_status, status_line


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def status(**changes: Any) -> dict[str, Any]:
    base = {
        "time": "2026-11-21T10:00:00.000+00:00",
        "state": "running",
        "phase": "training",
        "why": None,
        "iteration": 1630,
        "train_iters": 4000,
        "segment": {"number": 2, "of": 4, "start": 1000, "stop": 2000, "attempt": 2, "until": 2000, "goal": "reset"},
        "checkpoint": {"iteration": 1000, "unfinished": {"1500": "was not committed"}},
        "training": {
            "iteration": 1630,
            "loss": 3.021,
            "diverged": False,
            "learning_rate": 7e-4,
            "ms_per_iteration": 3391.0,
            "samples_per_s": 301.9,
        },
        "resets": {
            "done": 1,
            "planned": 3,
            "last": {"number": 1, "iteration": 1000, "time": "2026-11-21T08:00:00.000+00:00"},
            "next": {"number": 2, "iteration": 2000},
        },
        "restarts": {
            "count": 1,
            "last": {
                "time": "2026-11-21T08:30:00.000+00:00",
                "why": "the trainer was\n killed",
                "number": 1,
                "of": 10,
                "from_iteration": 1000,
                "launch_at": "2026-11-21T08:30:10.000+00:00",
            },
        },
        "warnings": {
            "count": 7,
            "latest": [
                {"time": f"2026-11-21T09:0{n}:00.000+00:00", "id": "slow", "what": f"slow {n}", "iteration": n}
                for n in range(5)
            ],
        },
        "seconds_left": 8200.0,
        "job": None,
        "time_limit": "2026-11-21T20:00:00.000+00:00",
        "stop_asked": None,
        "supervisor": {"host": "node18", "pid": 811, "since": "2026-11-21T08:00:00.000+00:00", "at_work": True},
        "log_written": "2026-11-21T09:59:58.000+00:00",
        "last_sign": "2026-11-21T09:59:58.000+00:00",
        "set_aside": [{"place": "RUN/set-aside/iteration900-1", "iteration": 900, "why": "is cut off", "time": None}],
    }
    return {**base, **changes}


def test_a_running_run() -> None:
    assert render_status(status()).splitlines() == [
        "running (training) · iteration 1,630 of 4,000 (41%) · 2:16:40 left",
        "training    loss 3.021 · lr 7.0e-4 · 3391 ms an iteration · 301.9 samples/s",
        "segment     2 of 4: iterations 1,001 to 2,000, attempt 2",
        "resets      1 of 3 done · last after iteration 1,000, 2026-11-21 08:00:00 (2:00:00 ago)"
        " · next after iteration 2,000, in 370",
        "checkpoint  iteration 1,000 is safe, 630 iterations beyond it are not",
        "restarts    1, last 2026-11-21 08:30:00 (number 1 of 10 without a new checkpoint): the trainer was killed",
        "time limit  2026-11-21 20:00:00, in 10:00:00",
        "warnings    2026-11-21 09:02:00  slow 2",
        "            2026-11-21 09:03:00  slow 3",
        "            2026-11-21 09:04:00  slow 4",
        "            and 4 before",
        "set aside   RUN/set-aside/iteration900-1 (is cut off)",
        "supervisor  process 811 on node18, since 2026-11-21 08:00:00 · last sign of life 2 s ago",
    ]


def test_one_line_of_news() -> None:
    assert status_line(status(stop_asked={"signal": "SIGTERM", "waits_for": 2000})) == (
        "running (training) · iteration 1,630 of 4,000 (41%) · 2:16:40 left · loss 3.021 · lr 7.0e-4 · 3391 ms an"
        " iteration · 301.9 samples/s · segment 2 of 4: iterations 1,001 to 2,000, attempt 2 · 1 restart · 7 warnings"
        " · stops for SIGTERM after the checkpoint at iteration 2,000"
    )


@pytest.mark.parametrize(
    ("state", "begin"),
    [
        ("not started", "not started · "),
        ("finished", "finished · "),
        ("interrupted", "interrupted (the same command carries on) · "),
        ("failed", "failed · "),
        ("died", "died: no supervisor is at work and no end was journalled; the same command carries on · "),
    ],
)
def test_a_run_that_is_not_at_work(state: str, begin: str) -> None:
    ended = status(state=state, phase=None, why="no room\n  the log says more", seconds_left=None)
    assert headline(ended) == f"{begin}iteration 1,630 of 4,000 (41%)"
    assert "why         no room\n" in render_status(ended)
    assert "iteration 1,500 was not committed" in render_status(ended)


def test_of_many_tags_that_are_not_whole_the_newest_are_named() -> None:
    tags = {str(iteration): "is cut off" for iteration in range(3000, 1000, -100)}
    text = render_status(status(state="died", phase=None, checkpoint={"iteration": 1000, "unfinished": tags}))
    assert [line for line in text.splitlines() if "cut off" in line][:3] == [
        f"            iteration {iteration} is cut off" for iteration in ("3,000", "2,900", "2,800")
    ]
    assert "            and 17 before\n" in text


def test_a_run_of_which_nothing_is_known_yet() -> None:
    nothing = status(
        state="not started",
        phase=None,
        iteration=0,
        train_iters=None,
        segment=None,
        checkpoint={"iteration": 0, "unfinished": {}},
        training=dict.fromkeys(status()["training"]),
        resets={"done": 0, "planned": None, "last": None, "next": None},
        restarts={"count": 0, "last": None},
        warnings={"count": 0, "latest": []},
        seconds_left=None,
        time_limit=None,
        supervisor=None,
        log_written=None,
        last_sign=None,
        set_aside=[],
    )
    assert render_status(nothing) == "not started"


def test_a_launch_that_stops_early_says_where() -> None:
    segment = {**status()["segment"], "until": 1790, "goal": "walltime"}
    early = "attempt 2, now until 1,790 as the walltime allows"
    assert early in render_status(status(segment=segment))
    assert early not in render_status(status(segment=segment, state="interrupted", phase=None))


def test_what_is_lost_by_a_restart_is_still_to_come() -> None:
    waits = render_status(status(phase="waiting to restart", checkpoint={"iteration": 0, "unfinished": {}}))
    assert "next after iteration 2,000, in 1,000\n" in waits
    assert "checkpoint  none yet, 1,630 iterations are not safe\n" in waits


def test_a_moment_ago() -> None:
    assert render_status(status(last_sign=status()["time"])).endswith("last sign of life just now")


def test_waiting_for_a_restart_says_when() -> None:
    waits = status(phase="waiting to restart", time="2026-11-21T08:30:04.000+00:00")
    assert "of 10 without a new checkpoint), launching in 6 s: the trainer" in render_status(waits)


def test_a_trainer_that_is_silent_for_long_is_said_to_be() -> None:
    assert "its log is silent" not in render_status(status())
    silent = status(log_written="2026-11-21T09:50:00.000+00:00")
    assert "samples/s · its log is silent for 0:10:00" in render_status(silent)
    assert "its log is silent" not in render_status({**silent, "phase": "resetting"})


def test_a_loss_of_another_iteration_and_one_that_is_no_number() -> None:
    training = {**status()["training"], "iteration": 1620, "loss": None, "diverged": True}
    assert "loss not finite at iteration 1,620 · lr" in render_status(status(training=training))


def test_news_is_what_a_person_wants_to_hear_of() -> None:
    before = news(status())
    assert news(status(seconds_left=1.0, last_sign=None)) == before
    for change in ({"phase": "resetting"}, {"iteration": 1640}, {"warnings": {"count": 8, "latest": []}}):
        assert news(status(**change)) != before
