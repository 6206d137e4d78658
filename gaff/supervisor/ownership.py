# SPDX-License-Identifier: Apache-2.0
"""Whose a run directory is, and whose checkpoints lie in a save directory: told by two small JSON files.

``run.json`` binds a run's id to the place of its directory; ``gaff-run.json`` in ``save`` names the run that may write
there.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gaff.checkpoint.tag import TAG_NAME
from gaff.errors import InputError, Location, Problem
from gaff.files import remove_durably, write_json_durably
from gaff.plan.directories import make_directory

IDENTITY_NAME = "run.json"  # in the run directory
IDENTITY_KEYS = ("run_id",)
SAVE_MARK = "gaff-run.json"  # in the save directory

# For messages about a run directory that cannot be used.
ROLE, REMEDY = "the run directory", "name another with --run-dir"


def stands_elsewhere(identity: Mapping[str, Any], root: Path) -> bool:
    """Whether the run of ``identity`` still lives in another directory than ``root``, which then is a copy of it."""
    there = Path(str(identity.get("root") or root))
    try:
        if there == root or there.samefile(root):  # one directory can have two paths, through mounts
            return False
        return bool(read_small(there / IDENTITY_NAME, IDENTITY_KEYS)["run_id"] == identity["run_id"])
    except (FileNotFoundError, NotADirectoryError, InputError):
        return False
    except OSError:  # it cannot be looked at: better a new id than ending a stranger's trainer
        return True


def claim_save(save: Path, root: Path, run_id: str, formerly: str | None) -> str:
    """Mark ``save`` as this run's, unless it is another's or holds tags that no run of GAFF wrote.

    Args:
        save: the save directory.
        root: the run directory, resolved.
        run_id: the id to mark it with.
        formerly: the id in the run directory, None where there is none yet.

    Returns:
        The run's id: ``run_id``, or the mark's where this very directory left it before it was killed.

    Raises:
        InputError: it is another's, or the mark is damaged.
    """
    mark = save / SAVE_MARK
    wanted = {"run_id": run_id, "run_directory": str(root)}
    where = Location(str(save))
    if not mark.is_file():
        if any(TAG_NAME.fullmatch(path.name) for path in _entries(save)):
            what = "`save` holds checkpoints that this run did not write"
            remedy = "choose an empty `save`, or leave it out and let GAFF keep them in the run directory"
            raise InputError(Problem("save-taken", what, remedy, where))
        make_directory(save, "`save`", "name another directory")
        if _create_durably(mark, wanted):
            return run_id
    owner = read_small(mark, ("run_id", "run_directory"))
    if owner == wanted:
        return run_id
    if owner["run_directory"] == str(root) and formerly != run_id:  # killed between the mark and run.json
        return str(owner["run_id"])
    came_along = owner["run_id"] == formerly and save.resolve().is_relative_to(root)
    if owner["run_id"] == run_id or came_along:
        write_json_durably(mark, wanted)
        return run_id
    what = f"`save` holds the checkpoints of another run, {owner['run_directory']}"
    remedy = "carry that run on with its own --run-dir, or choose another save"
    raise InputError(Problem("save-taken", what, remedy, where))


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _create_durably(path: Path, value: Mapping[str, Any]) -> bool:
    """Create a JSON file whole, unless it is there already: of several processes one alone gets True."""
    own = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    write_json_durably(own, value)
    try:
        os.link(own, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links: exclusive all the same, but a kill can leave it cut off
        try:
            with open(path, "x", encoding="utf-8") as file:
                file.write(own.read_text(encoding="utf-8"))
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            return False
    finally:
        remove_durably(own)
    return True


def read_small(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """One of GAFF's own small JSON files, which must hold texts under ``keys``.

    Raises:
        InputError: it is damaged.
        OSError: it cannot be read.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        fields = None
    if isinstance(fields, dict) and all(isinstance(fields.get(key), str) for key in keys):
        return fields
    what = f"this file of GAFF is damaged: it does not say {' and '.join(keys)}"
    raise InputError(Problem("run-damaged", what, "restore it from a backup, or " + REMEDY, Location(str(path))))
