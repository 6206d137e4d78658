# SPDX-License-Identifier: Apache-2.0
"""Whether the trainer finished writing a tag, and a mark that says so for good.

GPT-NeoX writes ``configs/`` behind a barrier of all ranks, so in a tag that it finished no .pt file is newer, except
those that surgery patched.  File times are lost when a run is copied.  Therefore whoever finds a tag complete leaves a
mark in it: a digest of every file, which only a complete tag of these very files can match.
"""

from __future__ import annotations

import json
from pathlib import Path

from gaff.checkpoint.operation import crc_digest, record_crcs
from gaff.checkpoint.tag import TagFiles
from gaff.checkpoint.transaction import FOLDER, begun_operation, fsync_tag, valid_records
from gaff.errors import CheckpointError
from gaff.files import make_directory_durably, write_json_durably

_MARK = "complete.json"


def why_unfinished(tag: Path, iteration: int, *, trust_times: bool = True) -> str | None:
    """Why a tag is not a whole checkpoint of ``iteration``, in words that follow its name; None when it is.

    Without ``trust_times`` the times of its files say nothing: who asks knows that the trainer was done with it.

    Raises:
        CheckpointError: this user cannot read it, which says nothing about it.
        OSError: the machine cannot (``files.TROUBLE``), which does not either.
    """
    files = TagFiles(tag)
    problems = files.problems()
    for problem in problems:
        if problem.id == "unreadable-file":
            raise CheckpointError(problem)
    if problems:
        return problems[0].what
    try:
        if files.iteration != iteration:
            return f"holds iteration {files.iteration}"
        late = set(files.written_after_commit()) - operated_files(tag)
        if trust_times and late and not _is_marked(tag, files):
            return f"was not committed: {min(late)} is newer than configs/"
    except CheckpointError as error:
        if error.problems[0].id == "unreadable-file":
            raise
        return error.problems[0].what
    return None


def was_complete(tag: Path) -> bool:
    """Whether a tag was found complete before, whatever it is now, and its mark too."""
    return (tag / FOLDER / _MARK).exists()


def operated_files(tag: Path) -> set[str]:
    """Files that surgery patched after the trainer was done with them, or was about to."""
    begun = begun_operation(tag)
    under_way = set() if begun is None else set(begun.crcs_before)
    return under_way.union(*(record.outcome.crcs_after for record in valid_records(tag)))


def mark_complete(tag: Path) -> None:
    """Make a tag that was found complete durable, and leave the mark.  Does nothing where the mark is right already."""
    files = TagFiles(tag)
    if _is_marked(tag, files):
        return
    make_directory_durably(tag / FOLDER)
    fsync_tag(tag)
    write_json_durably(tag / FOLDER / _MARK, {"files": _digests(files)})


def _is_marked(tag: Path, files: TagFiles) -> bool:
    marked = _read_mark(tag)
    if not isinstance(marked, dict) or set(marked) != set(files.names):
        return False
    operated = operated_files(tag)
    return all(marked[name] == digest for name, digest in _digests(files).items() if name not in operated)


def _read_mark(tag: Path) -> object:
    """Digests of the files, as the mark has them; None where there is none, or a damaged one, which proves nothing."""
    try:
        mark = json.loads((tag / FOLDER / _MARK).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return mark.get("files") if isinstance(mark, dict) else None


def _digests(files: TagFiles) -> dict[str, str]:
    return {name: crc_digest(record_crcs(files.path / name)) for name in files.names}
