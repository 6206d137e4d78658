# SPDX-License-Identifier: Apache-2.0
"""A tracker whose library runs in a process of its own, and is handed its points through a pipe.

W&B takes 50 MB of memory, MLflow 60 to 120; both change the environment and leave threads that an interpreter waits for
at its end.  None of that belongs into a supervisor.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gaff.errors import GaffError, Problem
from gaff.plan.schedule import Reset
from gaff.report.trackers.contents import RESET
from gaff.supervisor.child import RUN_ID

LAST_S = 20.0  # for what is left at the end of a run
_MOST_WAITING = 10_000  # lines; the process itself takes in whatever it is given, so these are a sign that it is stuck
_READ = 1 << 16
# Modules are found where this process finds them, whatever lies in the working directory.
_START = """\
import os, sys
sys.path[:] = sys.argv.pop(1).split(os.pathsep)
from gaff.report.trackers.worker import main
main()
"""


def command(*words: str) -> list[str]:
    """The command line of :mod:`gaff.report.trackers.worker` with these arguments."""
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return [sys.executable, "-c", _START, path, *words]


class TrackerProcess:
    """A sink (:class:`gaff.report.trackers.tracker.Sink`) that passes everything on and never waits before its end.

    Args:
        name: ``wandb`` or ``mlflow``.
        about: what the process must know of the run; JSON.
        log: appended to, takes what the library prints.
        say: is told what the process has to say, in one line each.
        last_s: how long ``close`` may take.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(
        self, name: str, about: Mapping[str, Any], log: Path, say: Callable[[str], None], last_s: float = LAST_S
    ) -> None:
        self._log, self._say, self._last_s = log, say, last_s
        self._waiting: deque[bytes] = deque()
        self._heard = b""
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as errors:
            self._process = subprocess.Popen(
                command(name),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={key: value for key, value in os.environ.items() if key != RUN_ID},
                start_new_session=True,  # Ctrl-C must not reach it
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._points, self._words = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._points, False)
        os.set_blocking(self._words, False)
        self._pass_on("begin", dict(about))

    def begin(self, start: int) -> None:
        """Neither W&B nor MLflow can take a point back."""

    def values(self, step: int, values: Mapping[str, float], at: float) -> None:
        self._pass_on("values", step, dict(values), at)

    def reset(self, reset: Reset, at: float) -> None:
        self.values(reset.iteration, {RESET: reset.number}, at)

    def close(self, outcome: str) -> None:
        """Wait until the library has sent everything, within bounds; leave no process behind."""
        until = time.monotonic() + self._last_s
        self._pass_on("close", outcome)
        while self._waiting and time.monotonic() < until:
            select.select([], [self._points], [], 0.1)
            self._flush()
        self._close_points()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, until - time.monotonic()))
        self._listen()
        is_late = self._process.poll() is None
        code = self._process.returncode
        self.abandon()
        if is_late:
            self._say(f"not done {self._last_s:g} s after the run, and ended; see {self._log}")
        elif code:
            self._say(f"its process ended with exit code {code}; see {self._log}")

    def abandon(self) -> None:
        self._close_points()
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)  # with what the library started
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def _close_points(self) -> None:
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.close()

    def _pass_on(self, *words: Any) -> None:
        """Hand on one line, or keep it until there is room in the pipe.

        Raises:
            GaffError: the process is gone or stuck.
        """
        self._waiting.append(json.dumps(words, default=str).encode() + b"\n")
        self._listen()
        self._flush()
        if len(self._waiting) > _MOST_WAITING:
            raise self._trouble("its process takes nothing in")

    def _flush(self) -> None:
        try:
            while self._waiting:
                line = self._waiting[0]
                written = os.write(self._points, line)
                if written < len(line):
                    self._waiting[0] = line[written:]
                    return
                self._waiting.popleft()
        except BlockingIOError:
            return
        except BrokenPipeError:
            raise self._trouble("its process has ended") from None

    def _listen(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._words, _READ):
                self._heard += data
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            self._say(line.decode("utf-8", "replace"))

    def _trouble(self, what: str) -> GaffError:
        return GaffError(Problem("tracker-gone", what, f"see {self._log}"))
