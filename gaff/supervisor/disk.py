# SPDX-License-Identifier: Apache-2.0
"""Whether the next checkpoints have room, asked before anything is trained towards them."""

from __future__ import annotations

import os
from pathlib import Path

from gaff.checkpoint.tag import tag_name
from gaff.errors import GaffError, Location, Problem
from gaff.plan.config import Config
from gaff.plan.estimates import checkpoint_bytes
from gaff.plan.model import model_size
from gaff.supervisor.progress import SET_ASIDE


def check_room(save: Path, config: Config, start: int, saves: int) -> None:
    """Refuse to train towards ``saves`` checkpoints that do not fit.

    One is taken to be as large as the tag of ``start``, or, from scratch, as the plan estimates it.

    Raises:
        GaffError: the free space is less than ``disk_factor`` times what they need.
    """
    factor = config.gaff.watch.disk_factor
    if factor is None or not saves:
        return
    needed = int(_one(save, config, start) * saves * factor)
    free = free_bytes(save)
    if needed <= free:
        return
    count = "the next checkpoint needs" if saves == 1 else f"the next {saves} checkpoints need"
    what = f"{count} {_gigabytes(needed)}, and {_gigabytes(free)} are free"
    remedy = "make room, or let `gaff: keep` delete older ones, and run the same command again"
    waste = size_of(save / SET_ASIDE)
    if waste:
        unused = f"{SET_ASIDE}/ holds {_gigabytes(waste)} of tags that are not used"
        remedy = f"make room ({unused}), and run the same command again"
    raise GaffError(Problem("disk-full", what, remedy, Location(str(save))))


def free_bytes(path: Path) -> int:
    """What this user may still write where ``path`` is, or will be."""
    there = next(p for p in (path, *path.parents) if p.exists())
    found = os.statvfs(there)
    return found.f_bavail * found.f_frsize


def size_of(path: Path) -> int:
    """Bytes of all files below ``path``; 0 where there is nothing."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:  # it went while we looked
                continue
    return total


def _one(save: Path, config: Config, start: int) -> int:
    if start:
        return size_of(save / tag_name(start))
    size = model_size(config)
    return 0 if isinstance(size, str) else checkpoint_bytes(config, size)  # a string says why it is not known


def _gigabytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
