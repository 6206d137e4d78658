# SPDX-License-Identifier: Apache-2.0
"""A second tag that shares its files with the first, for surgery that leaves the first alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gaff.checkpoint.transaction import FOLDER, refuse_half_done
from gaff.errors import CheckpointError, InputError, Location, Problem
from gaff.files import clone_or_copy, fsync_directory, make_writable


def refuse_output(tag: Path, output: Path) -> None:
    """Make sure that a copy of ``tag`` can go into ``output``.

    Raises:
        InputError: ``output`` lies inside the tag, or already has something of that name.
    """
    target = output / tag.name
    if output.resolve().is_relative_to(tag.resolve()):
        what = "lies inside the checkpoint itself"
        raise InputError(Problem("output-inside", what, "choose another --output", Location(str(output))))
    if target.exists():
        raise InputError(Problem("output-exists", "is already there", "choose another --output", Location(str(target))))


@contextmanager
def copied_tag(tag: Path, output: Path) -> Iterator[Path]:
    """A second tag that shares its files by hard link where it can, and takes its place in ``output`` at the end.

    Until then it has another name, so a tag that is there under its own has been operated on, also after a kill.
    What is left of an earlier copy that was cut short is removed.

    Raises:
        InputError: see :func:`refuse_output`; also when another process operates on ``tag`` meanwhile.
        CheckpointError: it cannot be written there, or ``tag`` is half operated on; nothing is left of it then.
    """
    refuse_output(tag, output)
    target = output / tag.name
    staging = output / f".{tag.name}.gaff-tmp"
    shutil.rmtree(staging, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    try:
        _copy_between_operations(tag, staging, output)
        yield staging
        os.replace(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    fsync_directory(output)


def copy_tag(tag: Path, output: Path) -> Path:
    """A second tag in ``output`` as it is.  Raises what :func:`copied_tag` does."""
    with copied_tag(tag, output):
        pass
    return output / tag.name


def _copy_between_operations(tag: Path, staging: Path, output: Path) -> None:
    """Copy a tag that nobody writes to.

    An operation announces itself before it looks at how many links a file has, and writes in place where it is one.  So
    one that is not seen after the links are made will leave the linked files alone.
    """
    refuse_half_done(tag)
    before = _operations(tag)
    _copy(tag, staging, output)
    if _operations(tag) != before:
        what = "was operated on by another process while it was copied"
        raise InputError(Problem("tag-locked", what, "try again when that is done", Location(str(tag))))


def _operations(tag: Path) -> list[str]:
    return sorted(path.name for path in (tag / FOLDER).glob("*.json"))


def _copy(tag: Path, staging: Path, output: Path) -> None:
    try:
        shutil.copytree(tag, staging, copy_function=_link_or_copy)
    except OSError as error:
        # shutil gathers what went wrong as (source, target, why) and raises it as one error
        listed = error.args[0] if isinstance(error, shutil.Error) else [("", "", error)]
        what = f"cannot hold a copy of the checkpoint ({listed[0][2]})"
        remedy = "free some space, or choose another --output"
        raise CheckpointError(Problem("output-unwritable", what, remedy, Location(str(output)))) from None
    for folder in (staging, *(path for path in staging.rglob("*") if path.is_dir())):
        make_writable(folder)  # the copy of an archive that is kept read-only


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(os.path.realpath(source), target)  # a link to the file, not to a symbolic link that leads to it
    except OSError:  # another file system, or one without hard links
        clone_or_copy(Path(source), Path(target))
        make_writable(Path(target))
    return target
