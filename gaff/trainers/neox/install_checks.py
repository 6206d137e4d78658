# SPDX-License-Identifier: Apache-2.0
"""What is looked at before anything is fetched: Python, compilers, room on the disk."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gaff.errors import InputError, Location, Problem
from gaff.trainers.neox.install_build import compilers_of_launches
from gaff.trainers.neox.install_environment import version_text
from gaff.trainers.neox.interpreter import Foundation, ask_foundation
from gaff.trainers.neox.versions import NEWEST_PYTHON

MB = 10**6


def choose_python(named: str | None, oldest: tuple[int, int]) -> Foundation:
    """The Python to make the environment of: the one named, else GAFF's own, else the newest on PATH that will do.

    Raises:
        InputError: it is none, or none of the versions that the packages have wheels for.
    """
    if named is not None:
        found = _ask(named)
        if not _fits(found, oldest):
            raise InputError(_unfit(f"{named} is Python {version_text(found.python)}", oldest))
        return found
    own = _ask(sys.executable)
    if _fits(own, oldest):
        return own
    for minor in range(NEWEST_PYTHON[1], oldest[1] - 1, -1):
        path = shutil.which(f"python3.{minor}")
        if path and _fits(found := _ask(path), oldest):
            return found
    raise InputError(_unfit(f"GAFF's own Python is {version_text(own.python)}, and no other is on PATH", oldest))


def _ask(python: str) -> Foundation:
    try:
        return ask_foundation(python)
    except OSError as error:
        what = f"{python} does not run as a Python ({error})"
        raise InputError(Problem("no-neox-python", what, "name another with --python")) from None


def _fits(found: Foundation, oldest: tuple[int, int]) -> bool:
    return oldest <= found.python[:2] <= NEWEST_PYTHON


def _unfit(what: str, oldest: tuple[int, int]) -> Problem:
    span = f"{version_text(oldest)} to {version_text(NEWEST_PYTHON)}"
    return Problem("unfit-python", f"GPT-NeoX's packages need Python {span}; {what}", "name one with --python")


def check_tools(foundation: Foundation, clones: bool) -> Iterator[Problem]:
    """What is needed on this machine and cannot be had with pip."""
    python = f"Python {version_text(foundation.python)} ({foundation.executable})"
    if not foundation.can_make:
        remedy = "install its venv package (Debian: python3-venv), or name another Python with --python"
        yield Problem("no-venv", f"{python} cannot make environments: it lacks `venv` or `ensurepip`", remedy)
    if not foundation.headers.is_file():
        remedy = "install its development package (Debian: python3-dev), or name another Python with --python"
        what = f"{python} has no headers, with which GPT-NeoX compiles its data helper"
        yield Problem("no-headers", what, remedy, Location(str(foundation.headers)))
    compiler = compilers_of_launches()["CXX"].split()[0]
    for program in (compiler, "make", *(["git"] if clones else [])):
        if shutil.which(program) is None:
            yield Problem("no-tool", f"there is no `{program}` here", "install it, or load its module")


def check_place(home: Path) -> Iterator[Problem]:
    """Whether an installation can lie in ``home``."""
    where = Location(str(home))
    if any(letter.isspace() for letter in str(home)):
        what = "there is white space in this path, which the build files of torch's extensions do not take"
        yield Problem("home-with-space", what, "name another with --home", where)
    existing = existing_parent(home)
    if not existing.is_dir():
        yield Problem("home-unusable", f"{existing} is no directory", "name another with --home", where)
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield Problem("home-unusable", f"{existing} may not be written to", "name another with --home", where)


def check_room(home: Path, disk_mb: int, download_mb: int) -> Iterator[Problem]:
    """Whether there is room for what stays in ``home``, and for what pip unpacks in the temporary directory.

    Args:
        disk_mb: what stays, in MB of 10^6 bytes.
        download_mb: what is fetched.
    """
    place, temporary = existing_parent(home), Path(tempfile.gettempdir())
    together = place.stat().st_dev == temporary.stat().st_dev
    needs = [(place, disk_mb + (download_mb if together else 0), "--home"), (temporary, download_mb, "TMPDIR")]
    for path, need_mb, name in needs[:1] if together else needs:
        free_mb = shutil.disk_usage(path).free // MB
        if free_mb < need_mb:
            what = f"{free_mb:,} MB are free here, and about {need_mb:,} MB are needed"
            remedy = f"make room, or name another place with {name}"
            yield Problem("no-space", what, remedy, Location(str(path)))


def existing_parent(path: Path) -> Path:
    """The path itself, or the nearest of its parents that exists."""
    while not os.path.exists(path) and path != path.parent:
        path = path.parent
    return path
