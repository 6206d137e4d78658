# SPDX-License-Identifier: Apache-2.0
"""Which tags stay (``gaff: keep:``), and how the others go: killed anywhere, nothing is lost but what was to go.

GAFF deletes tags alone at which it had the trainer stop.  The proof stands in the tag itself, ``gaff/written.json``:
the run's id, the iteration, and a digest of every file, so that a tag of another run, a copy under another name and a
tag that somebody wrote anew are none of GAFF's.  What the config asks for by ``checkpoint_factor`` and
``extra_save_iters`` stays, and so do the tag to resume from, the last one, and whatever was set aside.

A tag that goes is moved to ``save/deleting/iteration<N>`` first (GPT-NeoX takes any path with ``global_step`` in it for
a checkpoint), so that no half of it is ever seen as a tag; the proof goes last, so that a deletion cut short is known
as one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gaff.checkpoint.completeness import mark_complete, operated_files, why_unfinished
from gaff.checkpoint.operation import crc_digest, record_crcs
from gaff.checkpoint.surgery.perform import alone
from gaff.checkpoint.tag import TAG_NAME, TagFiles, tag_name
from gaff.checkpoint.transaction import FOLDER, is_announced, read_json, valid_records
from gaff.errors import CheckpointError, GaffError
from gaff.files import fsync_directory, make_directory_durably, remove_durably, write_json_durably
from gaff.plan.config import Config
from gaff.plan.estimates import own_saves
from gaff.supervisor import progress

WRITTEN = "written.json"  # in the tag's folder of records
EXPECTED = "gaff-stop.json"  # in `save`, from a launch until its tag is marked
DELETING = "deleting"  # below `save`

_CONDEMNED = re.compile(r"iteration(\d+)")
_OF_TRAINER = re.compile(r".*\.pt|configs|\.nfs.*|\..*\.gaff-tmp")  # names in a tag, beside FOLDER


@dataclass
class Deletions:
    """What was done.

    Attributes:
        deleted: iterations whose tags are gone, ascending.
        left: iterations whose tags should be gone and are not, and why, in words that follow the tag's name.
    """

    deleted: list[int] = field(default_factory=list)
    left: dict[int, str] = field(default_factory=dict)


def expect_stop(save: Path, run_id: str, stop: int) -> None:
    """Remember, durably, that the trainer is launched to stop at ``stop``, where there is no tag yet."""
    write_json_durably(save / EXPECTED, {"run_id": run_id, "stop": stop})


def mark_expected(save: Path, run_id: str, iteration: int) -> bool:
    """Mark the whole tag of ``iteration`` where the last launch was to stop there.  Returns whether it was.

    So the tag gets its mark also when the supervisor was killed before it saw the tag.
    """
    if _read(save / EXPECTED) != {"run_id": run_id, "stop": iteration}:
        return False
    mark_written(save / tag_name(iteration), run_id)
    remove_durably(save / EXPECTED)
    return True


def mark_written(tag: Path, run_id: str) -> None:
    """Leave the proof, durably, that the run had this whole tag written by stopping the trainer there."""
    match = TAG_NAME.fullmatch(tag.name)
    assert match, tag
    make_directory_durably(tag / FOLDER)
    proof = {"run_id": run_id, "iteration": int(match[1]), "files": _digests(tag)}
    write_json_durably(tag / FOLDER / WRITTEN, proof)


def _digests(tag: Path) -> dict[str, str]:
    return {name: crc_digest(record_crcs(tag / name)) for name in TagFiles(tag).names}


def _read(path: Path) -> dict[str, Any]:
    """One of the small files; empty where it is not there, or damaged: a proof that cannot be read proves nothing."""
    try:
        return read_json(path) or {}
    except CheckpointError:
        return {}


def tags_to_delete(save: Path, config: Config, run_id: str, newest: int, last: int) -> list[int]:
    """The iterations whose tags need not stay, ascending.  Only looks.

    Args:
        save: the checkpoint directory.
        config: ``gaff.keep`` and what it asks for itself.
        run_id: whose tags may go.
        newest: the tag to resume from, whole.  Tags beyond it are not touched, and it is itself among the newest.
        last: ``train_iters``.
    """
    keep = config.gaff.keep
    if keep.newest is None:
        return []
    stops = [i for i in progress.tags(save) if i <= newest and _is_ours(save / tag_name(i), run_id, i)]
    stay = {last, *stops[-keep.newest :]} | own_saves(config, last)
    if keep.every:
        stay |= {i for i in stops if i % keep.every == 0}
    return [i for i in stops if i not in stay and not (keep.resets and _is_reset(save / tag_name(i)))]


def _is_ours(tag: Path, run_id: str, iteration: int) -> bool:
    proof = _read(tag / FOLDER / WRITTEN)
    return (proof.get("run_id"), proof.get("iteration")) == (run_id, iteration)


def _is_reset(tag: Path) -> bool:
    try:
        return any(record.operation.kind == "reset" for record in valid_records(tag))
    except CheckpointError:  # its history cannot be read: it may be one
        return True


def prune(
    save: Path, config: Config, run_id: str, newest: int, last: int, *, enough: Callable[[], bool] = lambda: False
) -> Deletions:
    """Delete the tags that ``keep`` does not keep, oldest first.

    To be called when nothing more is to be done to the newest tag.  That tag is looked at once more: unless it is
    whole, durable and not half operated on, nothing is deleted.

    Args:
        save, config, run_id, newest, last: see :func:`tags_to_delete`.
        enough: asked before each tag; true ends the work early, which the next call carries on.
    """
    done = Deletions()
    _remove_empty(save / DELETING)
    chosen = tags_to_delete(save, config, run_id, newest, last)
    if chosen and not _is_sound(save / tag_name(newest), newest):
        return done
    for iteration in chosen:
        if enough():
            break
        why = delete(save, iteration)
        if why is None:
            done.deleted.append(iteration)
        else:
            done.left[iteration] = why
    return done


def _is_sound(tag: Path, iteration: int) -> bool:
    try:
        if why_unfinished(tag, iteration) is not None or is_announced(tag):
            return False
        mark_complete(tag)
    except (GaffError, OSError):
        return False
    return True


def delete(save: Path, iteration: int) -> str | None:
    """Delete a tag that has GAFF's proof.  Returns why it is still there, None when it is gone."""
    tag = save / tag_name(iteration)
    try:
        why = _why_not_ours(tag)
        if why is not None:
            return why
        with alone(tag):
            if is_announced(tag):
                return "is half operated on"
            place = _condemn(tag, iteration)
            try:
                _remove(place)
            except OSError as error:
                return f"is partly deleted, and what is left in {DELETING}/{place.name} {_said(error)}"
        _remove_empty(save / DELETING)
    except GaffError as error:
        return f"is left alone: {error.problems[0].what}"
    except OSError as error:
        return _said(error)
    return None


def _why_not_ours(tag: Path) -> str | None:
    """Why a tag must stay though its proof names this run: it is not, or not only, what GAFF had written."""
    if tag.is_symlink() or (tag / FOLDER).is_symlink():
        return "is a symbolic link, or its records are behind one"
    if not tag.stat().st_mode & stat.S_IWUSR:
        return "is write-protected"
    strangers = sorted(n for n in os.listdir(tag) if n != FOLDER and not _OF_TRAINER.fullmatch(n))
    if strangers:
        return f"holds {strangers[0]}, which neither the trainer nor GAFF wrote"
    before, now = _read(tag / FOLDER / WRITTEN).get("files"), _digests(tag)
    operated = operated_files(tag)
    if not isinstance(before, dict) or before.keys() != now.keys():
        return "has other files than when the trainer wrote it"
    if any(before[name] != digest for name, digest in now.items() if name not in operated):
        return "is not as the trainer wrote it"
    return None


def _condemn(tag: Path, iteration: int) -> Path:
    """Move a tag to where nothing takes it for one.  From here on its deletion will be finished by whoever comes."""
    folder = tag.parent / DELETING
    if folder.is_symlink():
        raise NotADirectoryError(errno.ENOTDIR, f"{DELETING} is a symbolic link")
    make_directory_durably(folder)
    place = folder / f"iteration{iteration}"
    if place.exists():
        _remove(place)
    os.rename(tag, place)
    fsync_directory(folder)
    fsync_directory(tag.parent)
    return place


def _remove(place: Path) -> None:
    """Remove a condemned tag, its proof last.  Without a proof, remove nothing but empty directories."""
    records = place / FOLDER
    if (records / WRITTEN).is_file():
        _empty(place, but=FOLDER)
        _empty(records, but=WRITTEN)
        fsync_directory(place)
        (records / WRITTEN).unlink()
    with contextlib.suppress(FileNotFoundError):
        records.rmdir()
    place.rmdir()
    fsync_directory(place.parent)


def _empty(folder: Path, but: str) -> None:
    for entry in _entries(folder):
        if entry.name == but:
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as found:
        yield from sorted(found, key=lambda entry: entry.name)


def pending_deletions(save: Path) -> list[int]:
    """Iterations whose deletion was begun and not finished, ascending."""
    folder = save / DELETING
    if folder.is_symlink() or not folder.is_dir():
        return []
    found = ((entry, _CONDEMNED.fullmatch(entry.name)) for entry in _entries(folder))
    return sorted(int(m[1]) for entry, m in found if m and entry.is_dir(follow_symlinks=False))


def finish_deletions(save: Path) -> Deletions:
    """Finish the deletions that were cut short."""
    done = Deletions()
    for iteration in pending_deletions(save):
        try:
            _remove(save / DELETING / f"iteration{iteration}")
            done.deleted.append(iteration)
        except OSError as error:
            done.left[iteration] = f"is partly deleted, and what is left in {DELETING} {_said(error)}"
    _remove_empty(save / DELETING)
    return done


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # it is not there, or not empty
        folder.rmdir()
        fsync_directory(folder.parent)


def _said(error: OSError) -> str:
    return f"cannot be deleted ({error.strerror or error})"
