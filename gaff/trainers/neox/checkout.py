# SPDX-License-Identifier: Apache-2.0
"""A GPT-NeoX checkout: whether it is one, at which commit, and whether it is as its authors left it.  Only reads."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from gaff.errors import Location, Problem

_ENTRY_POINTS = ("deepy.py", "train.py", "megatron")
HELPER = "megatron/data"  # where `make` puts the data helper, `helpers.*.so`


@dataclass(frozen=True)
class Checkout:
    """Attributes:
    root: absolute path of the work tree.
    """

    root: Path

    def problem(self) -> Problem | None:
        """Why this is no GPT-NeoX, None when it is."""
        try:
            missing = [name for name in _ENTRY_POINTS if not (self.root / name).exists()]
            what = f"is no GPT-NeoX checkout: it lacks {', '.join(missing)}"
        except OSError as error:
            missing, what = list(_ENTRY_POINTS), f"cannot be looked into ({error.strerror})"
        if not missing:
            return None
        remedy = "name one in `gaff: neox_dir`, --neox-dir or GPT_NEOX_DIR, or get one with `gaff neox install`"
        return Problem("no-gpt-neox", what, remedy, Location(str(self.root)))

    @property
    def commit(self) -> str | None:
        """The commit that is checked out; None where git does not say, or speaks of a tree that this one lies in."""
        said = self._git("rev-parse", "--show-prefix", "HEAD")  # the way down from the top, which is empty there
        return said if said and len(said.split()) == 1 else None

    @property
    def changes(self) -> tuple[str, ...] | None:
        """Files that differ from the commit or are new, as ``git status`` lists them; None where there is no commit."""
        status = None if self.commit is None else self._git("status", "--porcelain")
        return None if status is None else tuple(line.strip() for line in status.splitlines())

    def helper(self, suffix: str) -> Path:
        """The C++ data helper for the Python whose compiled extensions end in ``suffix``.

        It need not be there: GPT-NeoX builds it at its first start.
        """
        return self.root / HELPER / f"helpers{suffix}"

    def _git(self, *arguments: str) -> str | None:
        command = ["git", "-c", "safe.directory=*", "-C", str(self.root), *arguments]
        elsewhere = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # set in a git hook, they name another repository
        variables = {name: value for name, value in os.environ.items() if name not in elsewhere}
        # `git status` would else write the index anew.
        variables["GIT_OPTIONAL_LOCKS"] = "0"
        try:
            done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()
