# SPDX-License-Identifier: Apache-2.0
"""What can happen to a run directory between two commands, while nothing runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from gaff.supervisor.progress import tags
from tests.faults.inject import Fault
from tests.faults.scene import Scene

_LOCK_TAKEN = "lock_taken_over"
_SET_ASIDE = "tag_set_aside"


def _newest(scene: Scene) -> Path:
    return scene.tag(tags(scene.save)[-1])


def _largest(tag: Path) -> Path:
    return max(tag.glob("*.pt"), key=lambda path: path.stat().st_size)


def _truncate(scene: Scene) -> None:
    path = _largest(_newest(scene))
    os.truncate(path, path.stat().st_size // 2)


def _flip(scene: Scene) -> None:
    """In the middle of the largest file, which is a tensor's."""
    path = _largest(_newest(scene))
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x40]))


def _lose_file(scene: Scene) -> None:
    sorted(_newest(scene).glob("layer_*.pt"))[1].unlink()


def _lose_configs(scene: Scene) -> None:
    shutil.rmtree(_newest(scene) / "configs")


def _latest(write: Callable[[Path], object]) -> Callable[[Scene], None]:
    def inject(scene: Scene) -> None:
        latest = scene.save / "latest"
        latest.unlink()
        write(latest)

    return inject


def _cut_journal(scene: Scene) -> None:
    path = scene.root / "journal.jsonl"
    os.truncate(path, path.stat().st_size - 30)


def _lose_segments(scene: Scene) -> None:
    shutil.rmtree(scene.root / "segments" / "0002")


def _lose_logs(scene: Scene) -> None:
    for path in scene.root.glob("segments/*/*.log"):
        path.unlink()


def _between(name: str, inject: Callable[[Scene], object], told: str = _LOCK_TAKEN) -> Fault:
    def done(scene: Scene) -> None:
        inject(scene)

    return Fault(name, done, -9, told, between=True)


TRUNCATED = _between("the newest tag is cut off", _truncate, _SET_ASIDE)
FLIPPED = _between("a bit of a tensor in the newest tag is flipped", _flip, _SET_ASIDE)
FILE_LOST = _between("a file of the newest tag is deleted", _lose_file, _SET_ASIDE)
CONFIGS_LOST = _between("`configs/` of the newest tag is deleted", _lose_configs, _SET_ASIDE)
LATEST_LOST = _between("`latest` is deleted", _latest(lambda path: None))
LATEST_GARBAGE = _between("`latest` is garbage", _latest(lambda path: path.write_bytes(b"\xff\x00\n" * 9)))
LATEST_DIRECTORY = _between("`latest` is a directory", _latest(lambda path: (path / "sub").mkdir(parents=True)))
LATEST_MISSING = _between("`latest` names a missing tag", _latest(lambda path: path.write_text("global_step99")))
JOURNAL_CUT = _between("the journal is cut in mid-line", _cut_journal)
JOURNAL_LOST = _between("the journal is deleted", lambda scene: (scene.root / "journal.jsonl").unlink())
JOURNAL_GARBAGE = _between(
    "the journal is garbage", lambda scene: (scene.root / "journal.jsonl").write_bytes(b'\x00\xff{"event": 1}\n[' * 50)
)
LOCK_GARBAGE = _between("the lock file is garbage", lambda scene: (scene.root / "lock").write_bytes(b"\x01{garbage"))
LOCK_LOST = _between("the lock file is deleted", lambda scene: (scene.root / "lock").unlink(), "")
SEGMENTS_LOST = _between("a segment's directory is deleted", _lose_segments)
LOGS_LOST = _between("all logs are deleted", _lose_logs)
