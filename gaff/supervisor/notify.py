# SPDX-License-Identifier: Apache-2.0
"""The ``notify:`` command: a person is told of warnings and of the end; the run neither waits for it nor fails by it.

Each notification runs under a guardian of its own (``guardian``), as a trainer does: it ends when its time is up,
leaves nothing behind, and does not outlive the supervisor.  It finds what happened in its environment, and the same as
one JSON object on its standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from gaff.errors import GaffError
from gaff.supervisor import guardian
from gaff.supervisor.child import RUN_ID

SCHEMA = "gaff.notification/1"
Event = Literal["warning", "failed", "interrupted", "finished"]

TIME_S = 60.0  # for one notification
_SAME_WARNING_S = 600.0
_AT_ONCE = 3
_MOST_WAITING = 20
_MOST_SAID = 4000  # characters of a message: what a kernel passes on has limits
_STDERR_KEPT = 4096  # bytes
_READS = 16  # at a time, of a command that does not stop talking
_POLL_S = 0.05
_END_S = 5.0  # for a guardian whose lifeline was cut
# The guardian's command reads nothing, and a pipe of ours could block; a shell fills this one beside the command.
_SCRIPT = 'printf \'%s\\n\' "$1" | /bin/sh -c "$2"'


@dataclass
class _Running:
    """One notification under way."""

    process: subprocess.Popen[bytes]
    lifeline: int
    errors: int
    ends_at: float
    said: bytes = b""
    overdue: bool = False

    def read(self) -> None:
        """Take in what it has said on standard error, as far as it is there."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(_READS):
                self.said = (self.said + os.read(self.errors, 1 << 16))[-_STDERR_KEPT:]

    def cut(self) -> None:
        """Have its guardian kill it."""
        if self.lifeline >= 0:
            os.close(self.lifeline)
            self.lifeline = -1


class Notifier:
    """Runs the user's command.  Without one it does nothing.

    Args:
        command: for ``/bin/sh -c``; None for none.
        run_dir: the run directory.
        failed: is told in one clause of each notification that did not succeed.
        clock: seconds, never set back.
    """

    def __init__(
        self,
        command: str | None,
        run_dir: Path,
        failed: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command = command
        self._run_dir = run_dir
        self._failed = failed
        self._clock = clock
        self._running: list[_Running] = []
        self._waiting: deque[tuple[Event, str, int, str]] = deque()
        self._warned: dict[str, float] = {}

    def tell(self, event: Event, message: str, iteration: int, key: str | None = None) -> None:
        """Notify: at once, or of a warning as soon as fewer are under way.  Does not wait.

        Args:
            event: what happened.
            message: in words; cut off after 4,000 characters.
            iteration: where the run stands.
            key: what makes two warnings the same, the message unless given: the same one is told every ten minutes.
        """
        if self._command is None or (event == "warning" and self._is_known(key or message)):
            return
        if event == "warning" and len(self._waiting) >= _MOST_WAITING:
            self._tell_failure(f"a warning was left out, {_MOST_WAITING} are waiting")
            return
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        self._waiting.append((event, message[:_MOST_SAID].replace("\0", ""), iteration, now))
        if event != "warning":
            self._start(*self._waiting.pop())  # it must not wait behind warnings that hang
        self.tick()

    def tick(self) -> None:
        """Start what waits, and see to what has ended or must.  To be called often; takes no time."""
        for one in list(self._running):
            self._look_after(one)
        while self._waiting and len(self._running) < _AT_ONCE:
            self._start(*self._waiting.popleft())

    def close(self, wait_s: float = TIME_S) -> None:
        """Give what runs and waits up to ``wait_s`` seconds in all, and leave no process behind."""
        latest = self._clock() + wait_s
        while self._running or self._waiting:
            self.tick()
            left_s = latest - self._clock()
            if left_s <= 0 and self._waiting:
                self._tell_failure(f"{len(self._waiting)} left out at the end of the run")
                self._waiting.clear()
            for one in self._running:
                one.ends_at = min(one.ends_at, latest)
                if left_s < -_END_S:
                    one.process.kill()  # its guardian waits for what hangs in the kernel
            if self._running:
                time.sleep(_POLL_S)

    def _tell_failure(self, what: str) -> None:
        with contextlib.suppress(GaffError, OSError):  # a disk that is full, say
            self._failed(what)

    def _is_known(self, key: str) -> bool:
        now = self._clock()
        self._warned = {name: at for name, at in self._warned.items() if now - at < _SAME_WARNING_S}
        if key in self._warned:
            return True
        self._warned[key] = now
        return False

    def _start(self, event: Event, message: str, iteration: int, at: str) -> None:
        assert self._command is not None
        facts = {"schema": SCHEMA, "event": event, "message": message, "run_dir": str(self._run_dir)}
        text = json.dumps({**facts, "iteration": iteration, "time": at, "host": socket.gethostname()})
        environment: dict[str, str | bytes] = {n: value for n, value in os.environ.items() if n != RUN_ID}
        environment |= {
            "GAFF_EVENT": event,
            "GAFF_MESSAGE": message.encode("utf-8", "replace"),  # whatever the locale can say
            "GAFF_RUN_DIR": str(self._run_dir),
            "GAFF_ITERATION": str(iteration),
        }
        command = ("/bin/sh", "-c", _SCRIPT, "gaff-notify", text, self._command.encode("utf-8", "surrogateescape"))
        try:
            self._running.append(_launch(command, environment, self._clock() + TIME_S))
        except OSError as error:
            self._tell_failure(f"cannot be started: {error.strerror or error}")

    def _look_after(self, one: _Running) -> None:
        code = one.process.poll()
        one.read()
        if code is not None:
            self._running.remove(one)
            one.cut()
            os.close(one.errors)
            if code or one.overdue:
                self._tell_failure(_sentence(code, one))
        elif self._clock() >= one.ends_at:
            one.overdue = True
            one.cut()


def _launch(command: tuple[str | bytes, ...], environment: dict[str, str | bytes], ends_at: float) -> _Running:
    lifeline_read, lifeline = os.pipe()
    errors, errors_write = os.pipe()
    os.set_blocking(errors, False)
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", guardian.__file__, str(lifeline_read), "--", *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors_write,
            pass_fds=(lifeline_read,),
            start_new_session=True,  # Ctrl-C must not reach it
        )
    except BaseException:
        os.close(lifeline)
        os.close(errors)
        raise
    finally:
        os.close(lifeline_read)
        os.close(errors_write)
    return _Running(process, lifeline, errors, ends_at)


def _sentence(code: int, one: _Running) -> str:
    how = f"exit code {code}"
    if one.overdue:
        how = "took too long and was ended"
    elif code < 0:
        how = f"killed by signal {-code}"
    lines = one.said.decode("utf-8", "replace").strip().splitlines()
    return f"{how}: {lines[-1].strip()}" if lines else how
