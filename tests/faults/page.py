# SPDX-License-Identifier: Apache-2.0
"""The page that keeps the table."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

from tests.faults.bench import Result
from tests.faults.table import table, totals

_TEXT = """# The fault bench

Each row is a whole run of 36 iterations with resets after 12 and 24, disturbed once: processes really killed, told to
stop or frozen, a real small file system filled, checkpoints damaged, the clock moved. Where the command ended before
the run was finished, the same command was given again, as a user or Slurm would. *Identical* means: the run is
finished; every tensor and number of its final checkpoint, and of the others that it keeps, is bit for bit that of an
undisturbed run; they pass `gaff surgery verify`; every planned reset is recorded exactly once; the journal tells of
the fault where GAFF could know of it; no process, temporary file, half deletion or lock is left.

Trainers: `bundled` is real DeepSpeed on the CPU with one rank, wherever the trainer's state matters. `stand-in` is a
quick trainer that writes real checkpoint files of eight ranks and carries on what resets wrote, where the fault hits
the supervisor alone. A moment of the supervisor is an effect of its own on the disk, before which it is halted
(SIGSTOP) and then met by the fault.

Written by `make faults` (`python -m tests.faults --write docs/faults.md`) on {machine}: {totals}.

{table}

Commands end with 0 when the run is finished, 1 when a person must act first (here: make room on the disk), 75 when
they were interrupted; `restarts` are GAFF's own, within one command. Tags under `set aside` are named by their
iteration.
"""


def page(results: Sequence[Result]) -> str:
    """All of ``docs/faults.md``."""
    return _TEXT.format(machine=_machine(), totals=totals(results), table=table(results))


def _machine() -> str:
    release = Path("/etc/os-release")
    fields = dict(line.split("=", 1) for line in release.read_text().splitlines() if "=" in line)
    name = fields.get("PRETTY_NAME", platform.system()).strip('"')
    return f"{len(os.sched_getaffinity(0))} cores without a GPU, {name}"
