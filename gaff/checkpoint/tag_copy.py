# SPDX-License-Identifier: Apache-2.0
"""A second tag that shares its files with the first, for surgery that leaves the first alone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from gaff.errors import InputError, Location, Problem
from gaff.files import fsync_directory


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


def copy_tag(tag: Path, output: Path) -> Path:
    """A second tag in ``output`` that shares its files by hard link where it can; surgery replaces what it touches.

    Raises:
        InputError: see :func:`refuse_output`.
    """
    refuse_output(tag, output)
    target = output / tag.name
    staging = output / f".{tag.name}.gaff-tmp"
    shutil.rmtree(staging, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copytree(tag, staging, copy_function=_link_or_copy)
        os.replace(staging, target)
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    fsync_directory(output)
    return target


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(os.path.realpath(source), target)  # a link to the file, not to a symbolic link that leads to it
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
    return target
