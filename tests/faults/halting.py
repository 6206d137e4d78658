# SPDX-License-Identifier: Apache-2.0
"""A supervisor that halts (SIGSTOP) just before a chosen effect of its own on the disk, so that it can be met there.

    python -m tests.faults.halting EVENT PATTERN NUMBER MODULE ARGUMENT …

runs MODULE as ``python -m`` would, and stops the whole process before the NUMBER-th EVENT whose path contains PATTERN:
``rename`` (into that path), ``remove``, ``open``, ``write``; or ``half-write``, when half of the bytes are written.
After SIGCONT it goes on as if nothing had been.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from typing import Any

_AUDITED = {"rename": ("os.rename", 1), "remove": ("os.remove", 0), "open": ("open", 0)}  # event, the path's argument


class Halt:
    """Counts the effects, and halts once."""

    def __init__(self, event: str, pattern: str, number: int) -> None:
        self._event = event
        self._pattern = pattern
        self._left = number

    def install(self) -> None:
        if self._event in _AUDITED:
            sys.addaudithook(self._audit)
        else:
            self._intercept_writes()

    def _meets(self, path: object) -> bool:
        if self._pattern not in str(path):
            return False
        self._left -= 1
        return self._left == 0

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        name, place = _AUDITED[self._event]
        if event == name and self._meets(arguments[place]):
            os.kill(os.getpid(), signal.SIGSTOP)

    def _intercept_writes(self) -> None:
        real = os.pwrite

        def halting(descriptor: int, data: Any, offset: int) -> int:
            if self._meets(os.readlink(f"/proc/self/fd/{descriptor}")):
                if self._event == "half-write":
                    real(descriptor, data[: len(data) // 2], offset)
                os.kill(os.getpid(), signal.SIGSTOP)
            return real(descriptor, data, offset)

        os.pwrite = halting


def main() -> None:
    event, pattern, number, module = sys.argv[1:5]
    sys.argv = sys.argv[4:]
    Halt(event, pattern, int(number)).install()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
