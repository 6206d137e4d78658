# SPDX-License-Identifier: Apache-2.0
"""One supervisor in a process of its own, so that tests can really kill it.

    python drive.py RUN_DIR TEMPLATE MODES_JSON [EFFECT]

With EFFECT the process kills itself with SIGKILL in the middle of that write into a checkpoint, counted over the
process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from gaff.errors import GaffError
from gaff.plan.config import Config, load_config
from gaff.plan.schedule import Segment, schedule
from gaff.supervisor.child import RUN_ID
from gaff.supervisor.journal import Journal
from gaff.supervisor.lock import run_lock
from gaff.supervisor.loop import Supervisor
from gaff.supervisor.notify import Notifier
from gaff.supervisor.observer import NullObserver
from gaff.supervisor.run_context import RunContext
from gaff.supervisor.run_directory import RunDirectory, open_run, run_directory
from gaff.supervisor.walltime import Deadline
from gaff.trainers.contract import Trainer
from tests.supervisor.fake_trainer import FakeTrainer

CONFIG = """
train_iters: 40
log_interval: 1
optimizer: {type: Adam, params: {lr: 0.001}}
gaff:
  reset_every: 10
  trainer: bundled
"""
WATCH = "restarts: 0, grace_seconds: 1"  # a failure ends the run; tests of restarts set others


def build(
    root: Path, template: Path, modes: dict[int, str], iteration_s: float = 0.01, overrides: Sequence[str] = ()
) -> Supervisor:
    """A supervisor of 40 iterations, k = 10."""
    root.mkdir(parents=True, exist_ok=True)
    path = root.parent / f"{root.name}.yml"
    path.write_text(f"{CONFIG}  watch: {{{WATCH}}}\n")
    config = load_config([path], overrides)
    segments = schedule(40, config.gaff.reset_every)
    directory = run_directory(root, config)
    run_id = open_run(directory, config, {})
    return supervisor(config, segments, directory, run_id, FakeTrainer(template, 40, modes, iteration_s))


def supervisor(
    config: Config,
    segments: tuple[Segment, ...],
    directory: RunDirectory,
    run_id: str,
    trainer: Trainer,
    deadline: Deadline | None = None,
) -> Supervisor:
    """One that nobody watches."""
    journal = Journal(directory.journal)
    notifier = Notifier(config.gaff.notify, directory.root, lambda why: journal.write("notify_failed", why=why))
    context = RunContext(
        config, segments, directory, run_id, trainer, NullObserver(), journal, notifier, deadline=deadline
    )
    return Supervisor(context)


def changed(one: Supervisor, **fields: Any) -> Supervisor:
    """The same with other parts."""
    return Supervisor(replace(one.context, **fields))


def processes_of(root: Path) -> list[int]:
    """Every process whose environment names this run."""
    if not (root / "run.json").exists():
        return []
    run_id = json.loads((root / "run.json").read_text())["run_id"]
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(RUN_ID) == run_id and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def die_at_write(effect: int) -> None:
    """Let half of the ``effect``-th write into a checkpoint reach it, and no more."""
    real = os.pwrite

    def counted(descriptor: int, data: Any, offset: int) -> int:
        nonlocal effect
        if "global_step" not in os.readlink(f"/proc/self/fd/{descriptor}"):
            return real(descriptor, data, offset)
        effect -= 1
        if effect == 0:
            real(descriptor, data[: len(data) // 2], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(descriptor, data, offset)

    os.pwrite = counted


def main() -> int:
    root, template = Path(sys.argv[1]), Path(sys.argv[2])
    modes = {int(stop): mode for stop, mode in json.loads(sys.argv[3]).items()}
    if len(sys.argv) > 4:
        die_at_write(int(sys.argv[4]))
    root.mkdir(parents=True, exist_ok=True)
    try:
        with run_lock(root / "lock"):
            build(root, template, modes, iteration_s=0.03).run()
    except GaffError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
