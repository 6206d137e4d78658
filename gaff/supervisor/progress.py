# SPDX-License-Identifier: Apache-2.0
"""How far a run is, judged from its checkpoint directory alone.

A tag counts when every file of it is there and whole and the trainer finished it (``checkpoint.completeness``).
``latest``, exit codes and log lines prove nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gaff.checkpoint.completeness import mark_complete, why_unfinished
from gaff.checkpoint.tag import TAG_NAME, TagFiles, tag_name
from gaff.checkpoint.transaction import valid_records
from gaff.errors import Location, Problem
from gaff.files import fsync_directory, make_directory_durably, remove_durably, write_durably
from gaff.plan.schedule import Reset, Segment

SET_ASIDE = "set-aside"  # below `save`; GPT-NeoX takes any path with `global_step` in it for a checkpoint


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        iteration: the newest tag to be trusted; 0 for none, which is to start from scratch.
        untrusted: tags beyond it, and why each is not trusted.
    """

    iteration: int
    untrusted: dict[int, str]


def tags(save: Path) -> list[int]:
    """Iterations of all tag directories in ``save``, ascending; none where there is no such directory.

    Raises:
        OSError: it cannot be listed.  (``Path.glob`` lists nothing then, from Python 3.13 on.)
    """
    try:
        with os.scandir(save) as entries:
            found = [TAG_NAME.fullmatch(entry.name) for entry in entries if entry.is_dir()]
    except FileNotFoundError:
        return []
    return sorted(int(m[1]) for m in found if m)


def judge(save: Path) -> Progress:
    """Look at the tags, newest first, until one can be trusted, and mark that one as complete.

    Reads directories and pickles, not tensors.
    """
    untrusted: dict[int, str] = {}
    for iteration in reversed(tags(save)):
        if iteration == 0:
            break
        why = why_unfinished(save / tag_name(iteration), iteration)
        if why is None:
            mark_complete(save / tag_name(iteration))
            return Progress(iteration, untrusted)
        untrusted[iteration] = why
    return Progress(0, untrusted)


def newest(save: Path) -> int:
    """The newest tag that can be trusted, 0 for none.  Writes nothing."""
    found = (i for i in reversed(tags(save)) if why_unfinished(save / tag_name(i), i) is None)
    return next(found, 0)


def nothing_left(save: Path, iteration: int, why: str) -> Problem:
    """The only checkpoint of a run cannot be trusted: what to do about it is a person's to decide."""
    what = f"was a whole checkpoint and is none any more ({why}), and no other is left"
    remedy = "restore it from a backup, or move it away to train from the beginning"
    return Problem("no-checkpoint-left", what, remedy, Location(str(save / tag_name(iteration))))


def segment_after(segments: Sequence[Segment], iteration: int) -> Segment | None:
    """The segment that trains the iteration after ``iteration``; None when the run is finished."""
    return next((s for s in segments if s.start <= iteration < s.stop), None)


def reset_due(segments: Sequence[Segment], iteration: int) -> Reset | None:
    """The reset that belongs into the tag of ``iteration``, done or not."""
    return next((s.reset for s in segments if s.reset and s.reset.iteration == iteration), None)


def missed_reset(save: Path, segments: Sequence[Segment], iteration: int) -> Reset | None:
    """The last reset before ``iteration``, if its tag shows that it was passed over.

    Earlier ones were looked at when they were the last.
    """
    before = [s.reset for s in segments if s.reset and s.reset.iteration < iteration]
    if not before or before[-1].iteration not in tags(save):
        return None
    tag = save / tag_name(before[-1].iteration)
    if TagFiles(tag).problems():
        return None  # what is damaged or thinned out since, as by who needed room, tells nothing
    done = valid_records(tag)
    made = {r.operation.about["reset"] for r in done if r.operation.kind == "reset"}
    return None if before[-1].number in made else before[-1]


def operations_of(tag: Path, due: Reset) -> list[str] | None:
    """Kinds of the operations made on a tag after reset ``due``, oldest first; None while that is to be made."""
    held = [record.operation for record in valid_records(tag)]
    made = [n for n, done in enumerate(held) if done.kind == "reset" and done.about["reset"] == due.number]
    return [done.kind for done in held[made[0] + 1 :]] if made else None


def set_aside(save: Path, iteration: int) -> Path:
    """Move a tag out of the trainer's sight, without deleting anything.  Returns where it went."""
    return _move(save / tag_name(iteration), save / SET_ASIDE, f"iteration{iteration}")


def _move(path: Path, folder: Path, name: str) -> Path:
    """Move ``path`` into ``folder``, as ``name`` with a number behind it that is free there."""
    make_directory_durably(folder)
    taken = {p.name for p in folder.iterdir()}
    free = next(n for i in range(1, len(taken) + 2) if (n := f"{name}-{i}") not in taken)
    os.rename(path, folder / free)
    fsync_directory(folder)
    fsync_directory(path.parent)
    return folder / free


def latest_is_right(save: Path, iteration: int) -> bool:
    """Whether ``latest`` names the tag of ``iteration``; for 0, whether there is none."""
    latest = save / "latest"
    if iteration == 0:
        return not os.path.lexists(latest)
    return latest.is_file() and latest.read_text(encoding="utf-8", errors="replace") == tag_name(iteration)


def mend_latest(save: Path, iteration: int) -> None:
    """Let ``latest`` name the tag of ``iteration``; remove it for 0.  One that is right is left alone."""
    latest = save / "latest"
    if latest_is_right(save, iteration):
        return
    if latest.is_dir() and not latest.is_symlink():
        _move(latest, save / SET_ASIDE, "latest")
    if iteration == 0:
        remove_durably(latest)
    else:
        write_durably(latest, tag_name(iteration).encode())
