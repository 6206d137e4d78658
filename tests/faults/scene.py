# SPDX-License-Identifier: Apache-2.0
"""One run under test, seen from outside: its commands, its processes, its log, its journal, its tags."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.faults import processes
from tests.faults.grounds import Grounds
from tests.supervisor.drive import processes_of

PATIENCE_S = 240.0  # for whatever is waited for; a loaded machine is slow


class Missed(Exception):
    """The moment was over before it could be used; nothing is proven by this try."""


class Failed(Exception):
    """GAFF did not do what it must."""


@dataclass
class Scene:
    """A run directory and the commands given there.

    Attributes:
        trainer: ``bundled`` or ``stand-in``.
        place: an empty directory that is the scene's.
        options: of every command.
        environment: for every command.
        modes: how the stand-in misbehaves.
        ends: exit codes of the commands so far, negative for a signal.
        frozen: what the bench has stopped.
    """

    grounds: Grounds
    trainer: str
    place: Path
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    modes: str = "{}"
    ends: list[int] = field(default_factory=list)
    frozen: list[psutil.Process] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None
    trainers: list[psutil.Process] = field(default_factory=list)
    disk: Path | None = None

    @property
    def root(self) -> Path:
        return (self.place if self.disk is None else self.disk) / "run"

    @property
    def save(self) -> Path:
        return self.root / "checkpoints"

    def tag(self, iteration: int) -> Path:
        return self.save / f"global_step{iteration}"

    def begin(self, halt: tuple[str, str, int] | None = None, more: Sequence[str] = ()) -> None:
        """Give the command."""
        command = self.grounds.command(self.trainer, self.root, *self.options, *more, modes=self.modes)
        if halt is not None:
            command = ["tests.faults.halting", *map(str, halt), *command]
        self.process = processes.start(command, self.output(len(self.ends) + 1), self.environment)

    def output(self, call: int) -> Path:
        return self.place / f"call-{call}.txt"

    def end(self) -> int:
        """Wait for the command to end; remember and return its exit code."""
        assert self.process is not None
        try:
            code = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise Failed(f"call {len(self.ends) + 1} did not end within {PATIENCE_S:g} s") from None
        self.ends.append(code)
        return code

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def has_ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def launches(self, segment: int) -> int:
        return len(list((self.root / "segments" / f"{segment:04d}").glob("attempt-*.log")))

    def has_logged(self, iteration: int) -> bool:
        """Whether a trainer's log has the line of this iteration."""
        pattern = re.compile(rf"\| iteration +{iteration}/")
        return any(pattern.search(p.read_text(errors="replace")) for p in self.root.glob("segments/*/attempt-*.log"))

    def journal(self, event: str | None = None) -> list[dict[str, Any]]:
        """Readable entries."""
        found = []
        path = self.root / "journal.jsonl"
        for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and event in (None, entry.get("event")):
                found.append(entry)
        return found

    def wait_until_alone(self, seconds: float) -> None:
        """Wait until no process of the run is left.

        Raises:
            Failed: some are.
        """
        deadline = time.monotonic() + seconds
        while alive := processes_of(self.root):
            if time.monotonic() > deadline:
                raise Failed(f"processes {alive} live on {seconds:g} s after their supervisor")
            time.sleep(0.1)
