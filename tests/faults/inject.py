# SPDX-License-Identifier: Apache-2.0
"""The faults that befall a run at work."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from tests.faults import processes
from tests.faults.processes import guardian_of, send
from tests.faults.scene import Failed, Scene
from tests.faults.surroundings import (
    DAY_S,
    HOUR_S,
    fake_clock,
    fill,
    fill_for_a_tag,
    fill_journal,
    make_room,
    mount,
    move_clock,
)


def _nothing(scene: Scene) -> None:
    return


@dataclass(frozen=True)
class Fault:
    """What befalls a run.

    Attributes:
        name: for the table.
        inject: does it.
        ends: the exit code of the command that it befalls, negative for a signal; what fails is given again.
        told: an event that the journal must have for it, perhaps ``event.field`` of which the field must not be empty
            or 0; "" where GAFF can know nothing of it.
        says: a regular expression that the screen of that command must have, where no journal can be written.
        kill_9: it is, or begins with, a ``kill -9``.
        between: the supervisor is killed in the moment, and the fault comes when nothing runs any more.
        prepare, clear: before the first command; before the second one.
        leaves: processes may be left until the next command.
        options: of every command.
        limit: options of the first command alone.
        modes: how the stand-in behaves.
    """

    name: str
    inject: Callable[[Scene], None]
    ends: int = 0
    told: str = ""
    says: str = ""
    kill_9: bool = False
    between: bool = False
    prepare: Callable[[Scene], None] = _nothing
    clear: Callable[[Scene], None] = _nothing
    leaves: bool = False
    options: tuple[str, ...] = ()
    limit: tuple[str, ...] = ()
    modes: str = "{}"


# --- processes ---


def kill_supervisor(scene: Scene) -> None:
    assert scene.process is not None
    scene.process.kill()


def _kill_rank(scene: Scene) -> None:
    send(signal.SIGKILL, scene.trainers[-1:])


def _kill_launcher(scene: Scene) -> None:
    send(signal.SIGKILL, scene.trainers[:1])
    if processes.wait_until_gone(scene.trainers, 60):
        raise Failed("the ranks outlive their launcher")


def _kill_guardian(scene: Scene) -> None:
    guardian = guardian_of(scene.pid)
    if guardian is None:
        raise Failed("there is no guardian")
    guardian.kill()
    if processes.wait_until_gone(scene.trainers, 60):  # frozen they do not end by themselves: the kernel must see to it
        raise Failed("the trainer outlives its guardian")


def _kill_all(scene: Scene) -> None:
    guardian = guardian_of(scene.pid)
    everyone = [psutil.Process(scene.pid), *([guardian] if guardian else []), *scene.trainers]
    send(signal.SIGSTOP, everyone)  # so that none sees another die
    send(signal.SIGKILL, everyone)


def _kill_guardian_and_supervisor(scene: Scene) -> None:
    guardian = guardian_of(scene.pid)
    assert guardian is not None
    send(signal.SIGSTOP, [psutil.Process(scene.pid)])
    guardian.kill()
    kill_supervisor(scene)


def _to_supervisor(*numbers: signal.Signals) -> Callable[[Scene], None]:
    def inject(scene: Scene) -> None:
        for number in numbers:
            os.kill(scene.pid, number)
            time.sleep(0.3)

    return inject


def _to_rank(number: signal.Signals) -> Callable[[Scene], None]:
    return lambda scene: send(number, scene.trainers[-1:])


def _freeze_trainer(scene: Scene) -> None:
    scene.frozen = []  # for good


def _freeze_supervisor(scene: Scene) -> None:
    os.kill(scene.pid, signal.SIGSTOP)
    thaw(scene)
    processes.wait_until_gone(scene.trainers, 30)
    time.sleep(1)
    os.kill(scene.pid, signal.SIGCONT)


def thaw(scene: Scene) -> None:
    """Let everything that the bench stopped go on."""
    send(signal.SIGCONT, scene.frozen)
    scene.frozen = []


def _start_a_second(scene: Scene) -> None:
    thaw(scene)
    command = scene.grounds.command(scene.trainer, scene.root, *scene.options, modes=scene.modes)
    output = scene.place / "second.txt"
    code = processes.start(command, output, scene.environment).wait(120)
    if code != 2 or "another supervisor is at work" not in output.read_text():
        raise Failed(f"the second supervisor ended with {code}: {output.read_text()[-300:]}")


# --- the journal of a run at work ---


def _delete_journal(scene: Scene) -> None:
    (scene.root / "journal.jsonl").unlink()


def _by_another_machine(scene: Scene) -> None:
    path = scene.root / "lock"
    owner = json.loads(path.read_text()) | {"host": "node-7", "boot": "another", "namespace": "another"}
    path.write_bytes(json.dumps(owner).encode().ljust(511) + b"\n")


_DIED = "lock_taken_over"
_FAILED = "trainer_failed"
_FULL = r"^gaff: .*(disk is full|[Nn]o space left on device)"

KILL_SUPERVISOR = Fault("kill -9 of the supervisor", kill_supervisor, -9, _DIED, kill_9=True)
KILL_RANK = Fault("kill -9 of a rank", _kill_rank, 0, _FAILED, kill_9=True)
KILL_LAUNCHER = Fault("kill -9 of the trainer's launcher", _kill_launcher, 0, _FAILED, kill_9=True)
KILL_GUARDIAN = Fault("kill -9 of the guardian", _kill_guardian, 0, _FAILED, kill_9=True)
KILL_ALL = Fault("the machine dies: kill -9 of everything at once", _kill_all, -9, _DIED, kill_9=True)
ORPHAN = Fault(
    "kill -9 of guardian and supervisor, a stray process lives on",
    _kill_guardian_and_supervisor,
    -9,
    "leftovers_killed",
    kill_9=True,
    leaves=True,
    modes='{"24": "orphans"}',
)
SIGTERM = Fault("SIGTERM", _to_supervisor(signal.SIGTERM), 75, "run_interrupted")
SIGINT = Fault("SIGINT", _to_supervisor(signal.SIGINT), 75, "run_interrupted")
SIGHUP = Fault("SIGHUP", _to_supervisor(signal.SIGHUP), 75, "run_interrupted")
SIGUSR1 = Fault("SIGUSR1, as from Slurm", _to_supervisor(signal.SIGUSR1), 75, "run_interrupted")
SIGINT_TWICE = Fault("SIGINT twice", _to_supervisor(signal.SIGINT, signal.SIGINT), 75, "run_interrupted")
RANK_TERMINATED = Fault("SIGTERM to a rank", _to_rank(signal.SIGTERM), 0, _FAILED)
RANK_CRASHED = Fault("SIGSEGV in a rank", _to_rank(signal.SIGSEGV), 0, _FAILED)
TRAINER_FROZEN = Fault(
    "the trainer hangs (SIGSTOP)",
    _freeze_trainer,
    0,
    "trainer_silent",
    options=("-o", "gaff.watch.silence_minutes=0.4"),
)
SUPERVISOR_FROZEN = Fault("SIGSTOP of the supervisor, SIGCONT when the trainer has ended", _freeze_supervisor)
SECOND = Fault("a second supervisor is started: refused", _start_a_second)
DISK_FULL = Fault("the disk is full", fill, 1, says=_FULL, prepare=mount, clear=make_room)
NO_ROOM = Fault("no room for another checkpoint", fill_for_a_tag, 1, _FAILED, prepare=mount, clear=make_room)
JOURNAL_FULL = Fault("the disk is full", fill_journal, 1, says=_FULL, prepare=mount, clear=make_room)
CLOCK_BACK = Fault("the clock goes back an hour", move_clock(-HOUR_S), prepare=fake_clock)
CLOCK_FORWARD = Fault("the clock goes forward a day", move_clock(DAY_S), prepare=fake_clock)
CLOCK_BACK_BETWEEN = Fault(
    "the clock goes back an hour", move_clock(-HOUR_S), -9, _DIED, between=True, prepare=fake_clock
)
CLOCK_FORWARD_BETWEEN = Fault(
    "the clock goes forward a day", move_clock(DAY_S), -9, _DIED, between=True, prepare=fake_clock
)
JOURNAL_DELETED_AT_WORK = Fault("the journal is deleted", _delete_journal)
WALLTIME = Fault("--time-limit 15s", _nothing, 75, "run_interrupted", limit=("--time-limit", "15s"))
OTHER_NODE = Fault("the lock names a supervisor of another machine", _by_another_machine, -9, _DIED, between=True)
