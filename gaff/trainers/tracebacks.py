# SPDX-License-Identifier: Apache-2.0
"""Finds the decisive line of Python tracebacks in the output of several ranks that share one pipe.

Each rank's lines carry their own prefix (``[rank3]: `` from torch, ``node1: `` from pdsh, ``0: `` from ``srun
--label``), so tracebacks that are cut into each other are told apart by it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath

from gaff.trainers.contract import ErrorLogged

_HEADER = re.compile(r"^(?P<prefix>.*?)Traceback \(most recent call last\):")
_LABELS = re.compile(r"^(?:[\w.-]+: ?)?(?:\[rank\d+\]: ?)?$")
_FRAME = re.compile(r'^\s+File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>.+)$')
_MARKERS = re.compile(r"^[\s~^]*$")
# `package.Name: text`, `Name: text`, or a bare name that is plainly an exception's.  Log levels are no exceptions.
_RAISED = re.compile(
    r"^(?:(?!(?:INFO|WARNING|ERROR|DEBUG|CRITICAL)\b)"
    r"(?:(?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*|[A-Z]\w*)(?:: .*)"
    r"|(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Iteration|Timeout|Empty|Full)):?$"
)
_MAX_MESSAGE = 600  # a message may quote a whole command line of 128 KiB


@dataclass
class _Open:
    """A traceback whose last line has not come yet, and its innermost frame so far."""

    place: str = ""
    source: str = ""
    lines: tuple[str, ...] = ()


class TracebackReader:
    """Fed with every line; gives the exception of each traceback once its line comes."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}

    @property
    def is_open(self) -> bool:
        """Whether a traceback's last line is still to come."""
        return bool(self._open)

    def feed(self, line: str) -> ErrorLogged | None:
        """The exception that this line ends a traceback with, as ``Name: text``; None for all other lines.

        An exception without text (a bare ``AssertionError``) gets its place and source line instead.  The event's
        lines are the innermost frame, its source, and the exception.
        """
        header = _HEADER.match(line)
        if header:
            prefix = header["prefix"]
            self._open[prefix.rstrip() if _LABELS.match(prefix) else ""] = _Open()
            return None
        for prefix in sorted(self._open, key=len, reverse=True):
            if line.startswith(prefix):
                return self._body(prefix, line[len(prefix) :].removeprefix(" ") if prefix else line)
        return None

    def _body(self, prefix: str, text: str) -> ErrorLogged | None:
        traceback = self._open[prefix]
        frame = _FRAME.match(text)
        if frame:
            file = PurePath(frame["file"]).name
            traceback.place = f"{frame['function'].strip()} ({file}:{frame['line']})"
            traceback.source = ""
            traceback.lines = (_shown(prefix, text),)
        elif text[:1].isspace():
            if not _MARKERS.match(text) and not traceback.source:
                traceback.source = text.strip()[:_MAX_MESSAGE]
                traceback.lines += (_shown(prefix, text),)
        elif _RAISED.match(text.rstrip()):
            del self._open[prefix]
            return ErrorLogged(_sentence(text.strip(), traceback), (*traceback.lines, _shown(prefix, text)))
        return None


def _shown(prefix: str, text: str) -> str:
    return (f"{prefix} {text}" if prefix else text)[:_MAX_MESSAGE]


def _sentence(raised: str, traceback: _Open) -> str:
    name, _, text = raised.partition(": ")
    if not text and traceback.place:
        return f"{name.rstrip(':')} in {traceback.place}: {traceback.source}".rstrip(": ")
    return raised if len(raised) <= _MAX_MESSAGE else raised[: _MAX_MESSAGE - 1] + "…"
