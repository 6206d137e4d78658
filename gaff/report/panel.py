# SPDX-License-Identifier: Apache-2.0
"""The live panel on a terminal: curve, segments, speed, time left and the latest news, redrawn once a second."""

from __future__ import annotations

import textwrap
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, TextIO

from gaff.plan.schedule import Reset, Segment
from gaff.report import format as fmt
from gaff.report.live import LiveView
from gaff.report.progress import Progress
from gaff.report.sparkline import column, sparkline
from gaff.trainers.contract import Event, IterationLogged

if TYPE_CHECKING:
    from rich.panel import Panel
    from rich.text import Text

_NEWS = 5
_LINES_EACH, _MOST_LINES = 3, 9  # of the news
_LABEL_WIDTH = 9
_PHASES = {
    "preparing": "preparing the next segment",
    "waiting": "waiting to start the trainer again",
    "starting": "the trainer is starting",
    "training": "training",
    "resetting": "resetting",
    "finished": "finished",
    "interrupted": "interrupted",
    "failed": "failed",
}


class PanelView(LiveView):
    """Redrawn by a thread of its own, so that the time goes on while the trainer is silent; hence the lock."""

    def __init__(
        self,
        stream: TextIO,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = datetime.now,
    ) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__(clock)
        self._lock = threading.RLock()
        self._wall = wall
        self._news: deque[tuple[str, str]] = deque(maxlen=_NEWS)
        self._console = Console(file=stream)
        self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=1)
        self._closed = False

    def say(self, text: str) -> None:
        self._news.append((f"{self._wall():%H:%M:%S}", " ".join(text.split())))
        if self._closed:  # nothing redraws any more
            self._console.print(*self._news[-1], markup=False, highlight=False)

    def iteration(self, event: IterationLogged) -> None:
        return  # the next redraw shows it

    def run_started(self, plan_segments: Sequence[Segment], train_iters: int, resume_iteration: int) -> None:
        with self._lock:
            super().run_started(plan_segments, train_iters, resume_iteration)
        self._live.start()

    def segment_started(self, segment: Segment, attempt: int, start: int) -> None:
        with self._lock:
            super().segment_started(segment, attempt, start)

    def event(self, event: Event) -> None:
        with self._lock:
            super().event(event)

    def reset_started(self, reset: Reset) -> None:
        with self._lock:
            super().reset_started(reset)

    def reset_done(self, reset: Reset, seconds: float, copies: int, bytes_written: int) -> None:
        with self._lock:
            super().reset_done(reset, seconds, copies, bytes_written)

    def segment_finished(self, segment: Segment) -> None:
        with self._lock:
            super().segment_finished(segment)

    def message(self, text: str) -> None:
        with self._lock:
            super().message(text)

    def close(self, outcome: str) -> None:
        with self._lock:
            super().close(outcome)
        if self._live.is_started:
            self._live.stop()  # draws once more: the panel stays on the screen
        else:
            self._console.print(outcome, markup=False, highlight=False)
        self._closed = True

    def _render(self) -> Panel:
        with self._lock:
            return render(self.progress, tuple(self._news), self._console.width)


def render(progress: Progress, news: Sequence[tuple[str, str]], width: int) -> Panel:
    """The panel for a terminal of ``width`` columns."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    inner = max(30, min(width, 110) - 4)
    rows = [
        _row("loss", _curve(progress, inner - _LABEL_WIDTH)),
        _row("segments", _bar(progress, inner - _LABEL_WIDTH)),
        Text(),
        *(_row(label, Text(text)) for label, text in _facts(progress)),
    ]
    if news:
        rows += [Text(), *_told(news, inner)]
    for row in rows:
        row.truncate(inner, overflow="ellipsis")
        row.no_wrap = True
    return Panel(Group(*rows), title=_title(progress), title_align="left", border_style="dim", width=inner + 4)


def _row(label: str, content: Text) -> Text:
    from rich.text import Text

    return Text.assemble((label.ljust(_LABEL_WIDTH), "dim"), content)


def _told(news: Sequence[tuple[str, str]], width: int) -> list[Text]:
    """The latest news, each in up to three lines: what a restart or a warning says last matters as well."""
    from rich.text import Text

    rows = []
    for at, text in news:
        lines = textwrap.wrap(text, width - len(at) - 1, max_lines=_LINES_EACH, placeholder=" …") or [""]
        rows += [Text.assemble((at if not n else " " * len(at), "dim"), " ", line) for n, line in enumerate(lines)]
    return rows[-_MOST_LINES:]


def _title(progress: Progress) -> str:
    number = progress.segment.number if progress.segment else 0
    done = progress.iteration / progress.train_iters if progress.train_iters else 0.0
    where = f"segment {number} of {len(progress.segments)} · " if number else ""
    return f"gaff · {where}{_PHASES[progress.phase]} · {done:.0%}"


def _reset_columns(progress: Progress, width: int) -> list[int]:
    """Where resets are marked; nowhere when they stand too close to be told apart."""
    resets = [s.reset.iteration for s in progress.segments if s.reset]
    return [column(r, progress.train_iters, width) for r in resets] if len(resets) * 3 <= width else []


def _curve(progress: Progress, width: int) -> Text:
    from rich.text import Text

    text = Text(sparkline(progress.curve, progress.train_iters, width), style="cyan")
    for place in _reset_columns(progress, width):
        # The reset is made after this column's iterations: the rise begins in the next one.
        text.stylize("bold magenta", place + 1, place + 2)
    return text


def _bar(progress: Progress, width: int) -> Text:
    """One cell for each share of the run; ``┿`` where a reset is."""
    from rich.text import Text

    marks = set(_reset_columns(progress, width))
    reached = progress.iteration * width // max(1, progress.train_iters)
    text = Text()
    for place in range(width):
        done = place < reached
        if place in marks:
            text.append("┿" if done else "┼", style="bold magenta" if done else "magenta")
        else:
            text.append("━" if done else "─", style="green" if done else "dim")
    return text


def _facts(progress: Progress) -> list[tuple[str, str]]:
    last, reset, left = progress.last, progress.next_reset, progress.seconds_left()
    at = f"iteration {progress.iteration:,} of {progress.train_iters:,}"
    if last:
        at += f" · loss {fmt.loss(last.loss)} · lr {fmt.rate(last.learning_rate)}"
        at += f" · {last.skipped} skipped" if last.skipped else ""
    speed = f"{fmt.milliseconds(progress.ms_per_iteration)} an iteration"
    if progress.boundary_s is not None:
        speed += f" · {fmt.duration(progress.boundary_s)} a boundary"
    soon = progress.seconds_to_reset()
    coming = "none"
    if reset is not None:
        coming = f"after iteration {reset.iteration:,}, in {reset.iteration - progress.iteration:,}"
    coming += f" ({fmt.clock(soon)})" if soon is not None else ""
    return [
        ("now", at),
        ("speed", speed),
        ("reset", f"next: {coming}"),
        ("left", "not known yet" if left is None else fmt.clock(left)),
    ]
