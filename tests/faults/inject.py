# SPDX-License-Identifier: Apache-2.0
"""The faults that befall a run at work: processes killed, told to stop or frozen, a full disk, a clock that moves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.faults import processes
from tests.faults.processes import guardian_of, send
from tests.faults.scene import Failed, Scene

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
HOUR_S, DAY_S = 3600, 86400
_DISK = "16m"
_LEAVE = 300_000  # bytes that fill() may leave: less than a checkpoint, more than a log


class Skipped(Exception):
    """It cannot be done on this machine."""


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


def _kill_guardian(scene: Scene) -> None:
    guardian = guardian_of(scene.pid)
    if guardian is None:
        raise Failed("there is no guardian")
    guardian.kill()


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


# --- a small disk ---


def _mount(scene: Scene) -> None:
    disk = scene.place / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run([mount, "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(disk)], check=False)
    if not done or done.returncode:
        raise Skipped("no tmpfs can be mounted: it takes root")
    scene.disk = disk


def unmount(scene: Scene) -> None:
    """Also what a failed case left mounted."""
    if scene.disk is not None:
        subprocess.run(["umount", str(scene.disk)], check=True)
        scene.disk = None


def _fill(scene: Scene, leave: int = 0) -> None:
    assert scene.disk is not None
    found = os.statvfs(scene.disk)
    size = found.f_bavail * found.f_frsize - leave
    with open(scene.disk / "ballast", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, size))


def _fill_for_a_tag(scene: Scene) -> None:
    _fill(scene, _LEAVE)


def _fill_journal(scene: Scene) -> None:
    """Also the rest of its last block, with empty lines, which readers pass over."""
    with open(scene.root / "journal.jsonl", "ab") as file:
        file.write(b"\n" * (-file.tell() % os.sysconf("SC_PAGE_SIZE")))
    _fill(scene)


def _make_room(scene: Scene) -> None:
    assert scene.disk is not None
    (scene.disk / "ballast").unlink()


# --- the clock ---


def _fake_clock(scene: Scene) -> None:
    if FAKETIME is None:
        raise Skipped("libfaketime is not installed (Debian: apt-get install faketime)")
    clock = scene.place / "clock"
    clock.write_text("+0\n")
    scene.environment |= {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }


def _move_clock(seconds: int) -> Callable[[Scene], None]:
    """The processes' clock; and, as the kernel's own does not move, the times of the files that are there already."""

    def inject(scene: Scene) -> None:
        (scene.place / "clock").write_text(f"{seconds:+d}\n")
        for path in scene.root.rglob("*"):
            if path.is_file():
                times = path.stat()
                os.utime(path, (times.st_atime - seconds, times.st_mtime - seconds))

    return inject


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
DISK_FULL = Fault("the disk is full", _fill, 1, says=_FULL, prepare=_mount, clear=_make_room)
NO_ROOM = Fault("no room for another checkpoint", _fill_for_a_tag, 1, _FAILED, prepare=_mount, clear=_make_room)
JOURNAL_FULL = Fault("the disk is full", _fill_journal, 1, says=_FULL, prepare=_mount, clear=_make_room)
CLOCK_BACK = Fault("the clock goes back an hour", _move_clock(-HOUR_S), prepare=_fake_clock)
CLOCK_FORWARD = Fault("the clock goes forward a day", _move_clock(DAY_S), prepare=_fake_clock)
CLOCK_BACK_BETWEEN = Fault(
    "the clock goes back an hour", _move_clock(-HOUR_S), -9, _DIED, between=True, prepare=_fake_clock
)
CLOCK_FORWARD_BETWEEN = Fault(
    "the clock goes forward a day", _move_clock(DAY_S), -9, _DIED, between=True, prepare=_fake_clock
)
JOURNAL_DELETED_AT_WORK = Fault("the journal is deleted", _delete_journal)
WALLTIME = Fault("--time-limit 15s", _nothing, 75, "run_interrupted", limit=("--time-limit", "15s"))
OTHER_NODE = Fault("the lock names a supervisor of another machine", _by_another_machine, -9, _DIED, between=True)
