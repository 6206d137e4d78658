# SPDX-License-Identifier: Apache-2.0
"""Words of a run on streams that may go away: a closed pipe or a full disk is no reason to stop training."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO


def say(text: str) -> None:
    """One piece of news on standard output, at once.  Silent when nobody reads any more."""
    _write(sys.stdout, text)


def note(text: str) -> None:
    """The same on standard error."""
    _write(sys.stderr, text)


def let_go(stream: TextIO) -> None:
    """Lead a broken stream nowhere, so that what it still holds raises nothing when Python flushes it at the end."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: it has no descriptor, or is closed
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def open_missing_streams() -> None:
    """Give a process that was started with closed streams (``>&-``) ones that lead nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def _write(stream: TextIO, text: str) -> None:
    encoding = stream.encoding or "utf-8"
    try:
        print(text.encode(encoding, "replace").decode(encoding), file=stream, flush=True)
    except OSError:
        let_go(stream)
