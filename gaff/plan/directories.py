# SPDX-License-Identifier: Apache-2.0
"""Whether a directory that somebody named can be used: judged before anything is written, told in one sentence."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gaff.errors import InputError, Location, Problem
from gaff.files import make_directory_durably

_LONGEST_NAME = 255  # bytes; the usual limit of one name on Linux file systems
# DeepSpeed finds the files of a tag with glob(), and GPT-NeoX takes every path with this in it for a tag.
_PATTERN = re.compile(r"[*?\[]|global_step")


def directory_problem(
    path: Path, role: str, remedy: str, *, for_tags: bool = False, where: Location | None = None
) -> Problem | None:
    """Why directory ``path``, which need not be there yet, cannot be used; None when it can.  Writes nothing.

    Args:
        path: the directory.
        role: what it is to the user, such as ``the run directory``.
        remedy: what to do instead.
        for_tags: whether a trainer is to save into it or below it, which forbids some names.
        where: the place in a config file that names it.
    """
    why = _unusable(path) or (_unfit_for_tags(path) if for_tags else None)
    if why is None:
        return None
    return Problem("directory-unusable", f"{role} {path} cannot be used: {why}", remedy, where)


def make_directory(path: Path, role: str, remedy: str) -> None:
    """Create the directory durably.

    Raises:
        InputError: it cannot be used or created.
    """
    problem = directory_problem(path, role, remedy)
    if problem is None:
        try:
            make_directory_durably(path)
        except OSError as error:
            what = f"{role} {path} cannot be used: it cannot be created ({error.strerror})"
            problem = Problem("directory-unusable", what, remedy)
    if problem:
        raise InputError(problem)


def _unusable(path: Path) -> str | None:
    try:
        str(path).encode()
        there = _nearest(path)
    except UnicodeEncodeError:
        return "its name is no UTF-8 text"
    except OSError as error:
        return f"the system refuses it ({error.strerror})"
    except ValueError:
        return "its name holds a null character"
    it = "it" if there == path else str(there)
    if not there.is_dir():
        return f"{it} is a link that leads nowhere" if there.is_symlink() else f"{it} is a file"
    if any(len(os.fsencode(part)) > _LONGEST_NAME for part in path.parts):
        return f"a name in it is longer than {_LONGEST_NAME} bytes"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{it} is not writable"
    return None


def _nearest(path: Path) -> Path:
    """``path``, or the nearest of its parents that is there."""
    while True:
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            if path == path.parent:
                raise
            path = path.parent
        else:
            return path


def _unfit_for_tags(path: Path) -> str | None:
    found = _PATTERN.search(str(path))
    if found is None:
        return None
    if found[0] == "global_step":
        return "its path holds `global_step`, the name of a tag"
    return f"its path holds `{found[0]}`, which DeepSpeed takes for a pattern when it looks for its files"
