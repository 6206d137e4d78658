# SPDX-License-Identifier: Apache-2.0
"""The place of one installation: its directories, its lock, its record, its log, and how commands run there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gaff.errors import GaffError, Location, Problem
from gaff.files import exclusive_lock, write_json_durably
from gaff.trainers.neox.home import RECORD_NAME, SCHEMA, read_record

Say = Callable[[str], None]

CHECKOUT_NAME, LOCK_NAME, LOG_NAME = "gpt-neox", "lock", "install.log"
_POLL_S = 0.5
_DECISIVE = re.compile(r"\berror\b|\bfatal\b|Error:", re.IGNORECASE)
_QUOTED_LINES, _LINE_LENGTH = 3, 300
_FULL_MB = 20  # less than that on the disk is why a step failed
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
#: Variables that would lead pip, Python or git somewhere else than into this installation.
_MISLEADING = (
    *("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_DRY_RUN", "VIRTUAL_ENV"),
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES"),
)


class Site:
    """One installation in the making.

    Args:
        root: its directory.
        checkout: the work tree of GPT-NeoX: in ``root``, or an existing one that is used in place.
        commit: what is, or is to be, checked out there; None where git does not say.
        cpu: which set of packages.
    """

    def __init__(self, root: Path, checkout: Path, commit: str | None, cpu: bool) -> None:
        self.root, self.checkout, self.commit, self.cpu = root, checkout, commit, cpu
        self.env, self.extensions, self.log = root / "env", root / "extensions", root / LOG_NAME
        self.python = str(self.env / "bin" / "python")
        self._lock: int | None = None
        self.reload()

    def reload(self) -> None:
        """Read the record again, as another process may have written it meanwhile."""
        record = read_record(self.root) or {"steps": {}, "completed": None}
        self.steps: dict[str, dict[str, Any]] = record["steps"]
        self.completed: str | None = record["completed"]

    @property
    def in_place(self) -> bool:
        """Whether the checkout is somebody else's, where nothing is written."""
        return self.checkout != self.root / CHECKOUT_NAME

    @contextmanager
    def held(self, say: Say) -> Iterator[None]:
        """Create the directory and hold its lock while the block runs; wait for who has it.

        Commands inherit the lock: when this process is killed, the next one waits until the last of them has ended.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / LOCK_NAME, "a+", encoding="utf-8") as file, ExitStack() as stack:
            waits = False
            while True:
                try:
                    stack.enter_context(exclusive_lock(file.fileno()))
                    break
                except BlockingIOError:
                    file.seek(0)
                    if not waits:
                        say(f"waiting for another `gaff neox install` at work in {self.root} ({file.read()})")
                    waits = True
                    time.sleep(_POLL_S)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            self._lock = file.fileno()
            self.reload()
            try:
                yield
            finally:
                self._lock = None

    def begin(self, step: str) -> None:
        """Put on record that a step is not, or no longer, done."""
        self.steps.pop(step, None)
        self.completed = None
        self._save()

    def finish(self, step: str, wanted: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        self.steps[step] = {"wanted": dict(wanted), "facts": dict(facts), "at": _now()}
        self._save()

    def complete(self) -> None:
        """Put on record that everything is in place, once it is on disk."""
        os.sync()
        self.completed = _now()
        self._save()

    def wanted(self, step: str) -> dict[str, Any] | None:
        """What a step was done for; None when it is not done."""
        done = self.steps.get(step)
        return None if done is None else done["wanted"]

    def facts(self, step: str) -> dict[str, Any]:
        """What a step found out when it was done."""
        done = self.steps.get(step)
        return {} if done is None else done["facts"]

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "commit": self.commit,
            "device": "cpu" if self.cpu else "gpu",
            "checkout": str(self.checkout),
            "python": self.python,
            "extensions": str(self.extensions),
            "completed": self.completed,
            "steps": self.steps,
        }

    def run(self, command: Sequence[str], cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
        """Run a command with its output in the log, and return that output.

        Raises:
            CommandError: it cannot be started, or fails.
        """
        variables = {name: value for name, value in os.environ.items() if name not in _MISLEADING}
        search = os.pathsep.join([str(self.env / "bin"), os.environ.get("PATH", os.defpath)])
        variables |= {"PATH": search, "PYTHONNOUSERSITE": "1", "GIT_TERMINAL_PROMPT": "0", **(environment or {})}
        with open(self.log, "a+b") as log:
            log.write(f"\n{_now()} $ {without_credentials(shlex.join(command))}\n".encode())
            log.flush()
            start = log.tell()
            try:
                done = subprocess.run(
                    list(command),
                    cwd=cwd,
                    env=variables,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=() if self._lock is None else (self._lock,),
                )
            except OSError as error:
                raise CommandError(f"{command[0]}: {error.strerror}") from None
            log.seek(start)
            output = log.read().decode("utf-8", "replace")
        if done.returncode:
            raise CommandError(decisive_lines(output) or f"exit code {done.returncode}")
        return output

    def failed(self, step: str, what: str, said: str, remedy: str) -> GaffError:
        """The error for a step that did not succeed: ``what`` went wrong, and what its command ``said``.

        A full disk is told instead: commands complain of it in many ways, and of other things that follow from it.
        """
        free_mb = shutil.disk_usage(self.root).free // 10**6
        if free_mb < _FULL_MB:
            said, remedy = f"its disk is full ({free_mb} MB are free)", "make room there"
        remedy += "; what is done stays done, the same command carries on"
        return GaffError(Problem(f"install-{step}", f"{what}: {said}", remedy, Location(str(self.log))))

    def _save(self) -> None:
        write_json_durably(self.root / RECORD_NAME, self.to_json())


class CommandError(Exception):
    """A command failed; the text holds the decisive lines of what it said."""


def decisive_lines(output: str) -> str:
    """The last lines that speak of an error, else the last lines, in one line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    chosen = [line for line in lines if _DECISIVE.search(line)] or lines
    return " | ".join(without_credentials(line)[:_LINE_LENGTH] for line in chosen[-_QUOTED_LINES:])


def without_credentials(text: str) -> str:
    """The text with ``user:password@`` taken out of its URLs."""
    return _CREDENTIALS.sub("", text)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
