# SPDX-License-Identifier: Apache-2.0
"""What a run stands on: a disk that is small and fills up, a clock that moves."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

from tests.faults.scene import Scene

HOUR_S, DAY_S = 3600, 86400
_DISK = "16m"
_LEAVE = 300_000  # bytes that fill() may leave: less than a checkpoint, more than a log


class Skipped(Exception):
    """It cannot be done on this machine."""


def mount(scene: Scene) -> None:
    disk = scene.place / "disk"
    disk.mkdir()
    program = shutil.which("mount")
    done = program and subprocess.run([program, "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(disk)], check=False)
    if not done or done.returncode:
        raise Skipped("no tmpfs can be mounted: it takes root")
    scene.disk = disk


def unmount(scene: Scene) -> None:
    """Also what a failed case left mounted."""
    if scene.disk is not None:
        subprocess.run(["umount", str(scene.disk)], check=True)
        scene.disk = None


def fill(scene: Scene, leave: int = 0) -> None:
    assert scene.disk is not None
    found = os.statvfs(scene.disk)
    size = found.f_bavail * found.f_frsize - leave
    with open(scene.disk / "ballast", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, size))


def fill_for_a_tag(scene: Scene) -> None:
    fill(scene, _LEAVE)


def fill_journal(scene: Scene) -> None:
    """Also the rest of its last block, with empty lines, which readers pass over."""
    with open(scene.root / "journal.jsonl", "ab") as file:
        file.write(b"\n" * (-file.tell() % os.sysconf("SC_PAGE_SIZE")))
    fill(scene)


def make_room(scene: Scene) -> None:
    assert scene.disk is not None
    (scene.disk / "ballast").unlink()


def fake_clock(scene: Scene) -> None:
    library = scene.grounds.clock_library
    if library is None:
        raise Skipped("there is no C compiler to build the clock with")
    clock = scene.place / "clock"
    clock.write_text("0\n")
    scene.environment |= {"LD_PRELOAD": str(library), "BENCH_CLOCK": str(clock)}


def move_clock(seconds: int) -> Callable[[Scene], None]:
    """The processes' clock; and, as the kernel's own does not move, the times of the files that are there already."""

    def inject(scene: Scene) -> None:
        (scene.place / "clock").write_text(f"{seconds:+d}\n")
        for path in scene.root.rglob("*"):
            if path.is_file():
                times = path.stat()
                os.utime(path, (times.st_atime - seconds, times.st_mtime - seconds))

    return inject
