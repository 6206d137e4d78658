# SPDX-License-Identifier: Apache-2.0
"""TensorBoard's event files, written as they are read: one whole record at a time."""

from __future__ import annotations

import errno
import os
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from gaff.plan.schedule import Reset
from gaff.report.trackers import event_proto
from gaff.report.trackers.contents import RESET, reset_text

_NAME = re.compile(r"events\.out\.tfevents\.(\d+)\.")
_TEXT_TAG = "reset/text"


class EventFile:
    """A sink (:class:`gaff.report.trackers.tracker.Sink`) that writes to an open file, which it closes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._write(event_proto.version(time.time()))

    def begin(self, start: int) -> None:
        """TensorBoard drops every point of the directory whose step is ``start + 1`` or more."""
        self._write(event_proto.start(time.time(), start + 1))

    def values(self, step: int, values: Mapping[str, float], at: float) -> None:
        self._write(event_proto.scalars(at, step, values))

    def reset(self, reset: Reset, at: float) -> None:
        self.values(reset.iteration, {RESET: reset.number}, at)
        self._write(event_proto.text(at, reset.iteration, _TEXT_TAG, reset_text(reset)))

    def close(self, outcome: str) -> None:
        self._file.close()

    def abandon(self) -> None:
        self._file.close()

    def _write(self, message: bytes) -> None:
        record = event_proto.record(message)
        if self._file.write(record) != len(record):  # a raw file takes what there is room for
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def open_event_file(directory: Path) -> EventFile:
    """A new file behind those in ``directory``: TensorBoard reads them in the order of their names.

    Raises:
        OSError: it cannot be made.
    """
    directory.mkdir(parents=True, exist_ok=True)
    before = [int(match[1]) for name in os.listdir(directory) if (match := _NAME.match(name))]
    number = max([int(time.time()), *(seconds + 1 for seconds in before)])
    host = re.sub(r"[^\w.-]", "_", socket.gethostname())
    # Unbuffered: what is written can be read at once, and an error is that of the very point.
    return EventFile(open(directory / f"events.out.tfevents.{number:010d}.{host}", "xb", buffering=0))
