# SPDX-License-Identifier: Apache-2.0
"""The process in which W&B's or MLflow's library runs: reads points from its standard input until that ends.

Started by :mod:`gaff.report.trackers.process`.  What it says on its standard output a person is told; what libraries
print goes to its standard error, a log.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

_MOST_HELD = 100_000  # points that wait for a server
_TOGETHER = 500  # points, between two tries to send
_FIRST_WAIT_S, _LONGEST_WAIT_S = 5.0, 60.0
_LAST_S = 60.0  # after the end of the input; a supervisor that lives waits less
_LOCK_S = 90.0  # for the process of an earlier supervisor, which may still be at its end

Say = Callable[[str], None]


class Backend(Protocol):
    """One library.  ``open`` and ``flush`` may raise anything, and are then tried again; the others only collect."""

    def open(self) -> None:
        """Begin the run, or go on with it."""
        ...

    def values(self, step: int, values: dict[str, float], at: float) -> None:
        """Collect one point."""
        ...

    def flush(self) -> None:
        """Send what was collected."""
        ...

    def close(self, outcome: str) -> None:
        """The run ends: ``finished``, ``interrupted``, ``failed``; ``killed`` where nobody lived to say so."""
        ...


class Inbox:
    """Lines of the standard input, taken in by a thread as they come, so that the supervisor never waits."""

    def __init__(self, stream: Any, say: Say) -> None:
        self._stream, self._say = stream, say
        self._lines: deque[list[Any]] = deque(maxlen=_MOST_HELD)
        self._news = threading.Condition()
        self.ended = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        told = False
        for line in self._stream:
            try:
                words = json.loads(line)
            except ValueError:  # cut off where the supervisor was killed
                continue
            with self._news:
                is_full = len(self._lines) == _MOST_HELD
                self._lines.append(words)
                self._news.notify()
            if is_full and not told:
                told = True
                self._say(f"more than {_MOST_HELD} points wait: the oldest are left out")
        ending = threading.Timer(_LAST_S, os._exit, [1])
        ending.daemon = True
        ending.start()
        with self._news:
            self.ended.set()
            self._news.notify()

    def take(self) -> list[list[Any]]:
        """What is there, up to a bound; waits for the first.  Empty when there will be no more."""
        with self._news:
            self._news.wait_for(lambda: self._lines or self.ended.is_set())
            return [self._lines.popleft() for _ in range(min(_TOGETHER, len(self._lines)))]


def serve(backend: Backend, inbox: Inbox, say: Say) -> None:
    """Pass on points until the input ends.  What fails is tried again, less and less often, until then."""

    def insist(step: Callable[[], None]) -> None:
        wait_s, failed = _FIRST_WAIT_S, False
        while True:
            try:
                step()
            except Exception as error:  # any library, any network
                print(time.strftime("%F %T"), repr(error), file=sys.stderr, flush=True)
                if inbox.ended.is_set():
                    raise
                if not failed:
                    say(f"does not take the metrics, which wait until it does: {_first_line(error)}")
                failed = True
                inbox.ended.wait(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
            else:
                if failed:
                    say("takes the metrics again")
                return

    insist(backend.open)
    outcome = "killed"
    while lines := inbox.take():
        for kind, *words in lines:
            if kind == "values":
                backend.values(*words)
            elif kind == "close":
                outcome = words[0]
        insist(backend.flush)
    insist(lambda: backend.close(outcome))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _wait_for_lock(path: str) -> None:
    """Two processes at a time must not write to one run.  The lock is held as long as this process lives."""
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    until = time.monotonic() + _LOCK_S
    while time.monotonic() < until:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.2)
        except OSError:  # a file system without locks
            return


def main() -> None:
    """``wandb`` or ``mlflow``; with ``--check`` behind it, print what keeps it from working as JSON, and end.

    That is null, or ``[what, remedy]``.
    """
    words = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    name, *rest = sys.argv[1:]
    if rest:
        words.write(json.dumps(_problem(name)))
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # schedulers send these to every process; the input's end is ours

    def say(text: str) -> None:
        try:
            words.write(f"{text}\n")
        except OSError:  # nobody listens any more
            return

    _, about = json.loads(sys.stdin.buffer.readline())
    inbox = Inbox(sys.stdin.buffer, say)
    _wait_for_lock(os.path.join(about["directory"], f"{name}.lock"))
    try:
        serve(_backend(name, about, say), inbox, say)
    except Exception as error:  # printed by now
        say(f"did not take what was left: {_first_line(error)}")
    sys.stderr.flush()
    os._exit(0)  # all is sent; libraries have threads and exit handlers that can wait for a server for ever


def _problem(name: str) -> tuple[str, str] | None:
    if name == "wandb":
        from gaff.report.trackers.wandb_run import login_problem

        return login_problem()
    from gaff.report.trackers.mlflow_run import store_problem

    return store_problem()


def _backend(name: str, about: dict[str, Any], say: Say) -> Backend:
    if name == "wandb":
        from gaff.report.trackers.wandb_run import WandbRun

        return WandbRun(about, say)
    from gaff.report.trackers.mlflow_run import MlflowRun

    return MlflowRun(about, say)
