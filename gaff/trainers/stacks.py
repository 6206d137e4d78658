# SPDX-License-Identifier: Apache-2.0
"""Reads the Python stacks that ranks print when they are told to (``faulthandler``), and says what they wait for.

The form is that of CPython's ``Python/traceback.c``: ``Current thread 0x… (most recent call first):``, or ``Thread``
for the others, then ``  File "…", line N in function`` from the innermost call outwards.  Whose stack it is says a line
that the supervisor puts into the log before it (:func:`announcement`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

_ANNOUNCED = re.compile(r"^gaff: the Python stack of (?P<owner>.+) \(process \d+, (?P<state>[\w-]+)\):$")
_THREAD = re.compile(r"(?P<current>Current thread|Thread) 0x[0-9a-f]+ .*\(most recent call first\):")
_FRAME = re.compile(r'^\s*File "(?P<file>.+)", line (?P<line>\d+|\?\?\?) in (?P<function>.+)$')
_INSTALLED = re.compile(r".*/(?:site|dist)-packages/")
_STANDARD = re.compile(r"/lib(?:64)?/python3\.\d+/(?!(?:site|dist)-packages/)|^<frozen ")
_ENGINE = "_engine_run_backward"  # torch/autograd/graph.py: the backward pass goes on in a thread of its own


def announcement(owner: str, process: int, state: str) -> str:
    """The line before a stack in the log, without line ends.  ``state`` is the process's, as psutil names it."""
    return f"gaff: the Python stack of {owner} (process {process}, {state}):"


@dataclass(frozen=True)
class Frame:
    """One call.  ``line`` is 0 where it is not known."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.function} ({self.place}:{self.line})"

    @property
    def place(self) -> str:
        """The file as a person knows it: below the packages, or its last two parts."""
        inside = _INSTALLED.sub("", self.file)
        return inside if inside != self.file else "/".join(PurePath(self.file).parts[-2:]).lstrip("/")

    @property
    def of_standard_library(self) -> bool:
        """Whether it is part of Python itself, which says little about what is waited for."""
        return bool(_STANDARD.search(self.file))


@dataclass(frozen=True)
class Stack:
    """Where one process stands: the calls of its training thread, innermost first."""

    owner: str
    state: str
    frames: tuple[Frame, ...]

    @property
    def innermost(self) -> Frame:
        """The call that says most: the innermost outside Python's own library."""
        return next((frame for frame in self.frames if not frame.of_standard_library), self.frames[0])

    @property
    def caller(self) -> Frame | None:
        """The innermost call in the trainer's own code, where that is another one."""
        own = (f for f in self.frames if not f.of_standard_library and not _INSTALLED.match(f.file))
        frame = next(own, None)
        return None if frame in (self.innermost, None) else frame


class StackReader:
    """Fed with every line of a log; ``stacks()`` gives what was announced in it."""

    def __init__(self) -> None:
        self._found: list[tuple[str, str, list[tuple[bool, list[Frame]]]]] = []

    def feed(self, line: str) -> None:
        """Take in one line, whatever it is."""
        announced = _ANNOUNCED.search(line)
        if announced:
            self._found.append((announced["owner"], announced["state"], []))
            return
        if not self._found:
            return
        threads = self._found[-1][2]
        thread = _THREAD.search(line)
        if thread:
            threads.append((thread["current"] == "Current thread", []))
        elif threads and (frame := _FRAME.search(line)):
            number = int(frame["line"]) if frame["line"].isdecimal() else 0
            threads[-1][1].append(Frame(frame["file"], number, frame["function"]))

    def stacks(self) -> tuple[Stack, ...]:
        """One for each process that printed any, in the order of the log."""
        return tuple(Stack(owner, state, frames) for owner, state, t in self._found if (frames := _training_thread(t)))


def _training_thread(threads: Sequence[tuple[bool, list[Frame]]]) -> tuple[Frame, ...]:
    """The thread that ran the script; during a backward pass the one that the engine runs Python code in, if any."""
    filled = [(current, frames) for current, frames in threads if frames]
    main = [frames for _, frames in filled if frames[-1].function == "<module>"]
    current = [frames for is_current, frames in filled if is_current]
    chosen = next(iter(main or current or [frames for _, frames in filled]), [])
    if chosen and chosen[0].function == _ENGINE:
        ours = [f for _, f in filled if f is not chosen and not f[-1].of_standard_library]
        chosen = next(iter(ours), chosen)
    return tuple(chosen)
