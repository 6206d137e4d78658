# SPDX-License-Identifier: Apache-2.0
"""How far a run is, in the queue's listing: what is said, how often, and that nobody waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from gaff.plan.schedule import schedule
from gaff.report import queue_news
from gaff.report.queue_news import QueueNews
from gaff.trainers.contract import ErrorLogged, IterationLogged

SEGMENTS = schedule(40, 10)


@dataclass
class Queue:
    """A job that keeps what it is told; ``hold``: it answers only while this is set."""

    told: list[tuple[str, str]] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)

    def tell(self, name: str, comment: str) -> bool:
        assert self.hold.wait(30)
        self.told.append((name, comment))
        return True


@pytest.fixture
def queue() -> Iterator[Queue]:
    one = Queue()
    one.hold.set()
    yield one
    one.hold.set()


@pytest.fixture
def clock() -> list[float]:
    return [1000.0]


@pytest.fixture
def news(queue: Queue, clock: list[float]) -> QueueNews:
    one: Any = queue
    return QueueNews(one, "pythia", clock=lambda: clock[0])


def logged(iteration: int, loss: float | None = 2.5) -> IterationLogged:
    known: dict[str, Any] = {"iteration": iteration, "train_iters": 40, "loss": loss}
    names = set(IterationLogged.__dataclass_fields__)
    return IterationLogged(**{name: known.get(name) for name in names})


def settle(news: QueueNews) -> None:
    """Wait until the thread that tells is done."""
    until = time.monotonic() + 30
    while any(thread.name == "gaff-queue-news" for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.002)


def test_a_run_that_starts_is_told_at_once(queue: Queue, news: QueueNews) -> None:
    news.run_started(SEGMENTS, 40, 0)
    settle(news)
    assert queue.told == [("pythia:0%", "gaff: iteration 0 of 40, reset 0 of 3")]


def test_a_run_that_is_carried_on_starts_where_it_stands(queue: Queue, news: QueueNews) -> None:
    news.run_started(SEGMENTS, 40, 25)
    settle(news)
    assert queue.told == [("pythia:62%", "gaff: iteration 25 of 40, reset 2 of 3")]


def test_news_come_once_in_a_while_and_are_the_newest(queue: Queue, news: QueueNews, clock: list[float]) -> None:
    news.run_started(SEGMENTS, 40, 0)
    settle(news)
    for iteration in range(1, 11):
        clock[0] += 5.9
        news.event(logged(iteration, 3.0 - iteration / 10))
    settle(news)
    assert len(queue.told) == 1
    clock[0] += 5.9
    news.event(logged(11, 1.25))
    settle(news)
    assert queue.told[1:] == [("pythia:27%", "gaff: iteration 11 of 40, reset 0 of 3, loss 1.250")]
    assert SEGMENTS[0].reset
    news.reset_done(SEGMENTS[0].reset, 0.1, 3, 100)
    settle(news)
    assert len(queue.told) == 2
    clock[0] += 61
    news.event(logged(12))
    settle(news)
    assert queue.told[2][1].startswith("gaff: iteration 12 of 40, reset 1 of 3")


def test_other_events_are_no_news(queue: Queue, news: QueueNews, clock: list[float]) -> None:
    news.event(ErrorLogged("oh"))
    settle(news)
    assert queue.told == []


@pytest.mark.parametrize("outcome", ["finished", "interrupted", "failed"])
def test_the_last_words_are_said_whatever_the_clock_says(queue: Queue, news: QueueNews, outcome: str) -> None:
    news.run_started(SEGMENTS, 40, 0)
    settle(news)
    news.event(logged(40))
    news.close(outcome)
    assert queue.told[-1] == ("pythia:100%", f"gaff: iteration 40 of 40, reset 0 of 3, loss 2.500, {outcome}")


def test_the_last_words_wait_for_those_before_them(queue: Queue, news: QueueNews) -> None:
    queue.hold.clear()
    news.run_started(SEGMENTS, 40, 0)
    news.event(logged(40))
    threading.Timer(0.2, queue.hold.set).start()
    news.close("finished")
    settle(news)
    assert [comment.rpartition(", ")[2] for _, comment in queue.told] == ["reset 0 of 3", "finished"]


def test_a_controller_that_hangs_holds_nobody_up(
    queue: Queue, news: QueueNews, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_news, "_LAST_S", 0.1)
    queue.hold.clear()
    started = time.monotonic()
    news.run_started(SEGMENTS, 40, 0)
    for iteration in range(1, 40):
        clock[0] += 61
        news.event(logged(iteration))
    hanging = [thread for thread in threading.enumerate() if thread.name == "gaff-queue-news"]
    assert len(hanging) == 1  # not one for each
    assert hanging[0].daemon  # nor does the process wait for it at its end
    news.close("finished")
    assert time.monotonic() - started < 20
    assert queue.told == []


def test_a_run_of_no_iterations_divides_nothing(queue: Queue, news: QueueNews) -> None:
    news.close("failed")
    assert queue.told == [("pythia:0%", "gaff: iteration 0 of 0, reset 0 of 0, failed")]
