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
        missing = [name for name in _ENTRY_POINTS if not (self.root / name).exists()]
        if not missing:
            return None
        what = f"is no GPT-NeoX checkout: it lacks {', '.join(missing)}"
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

    @property
    def helper_built(self) -> bool:
        """Whether the C++ data helper is there, which GPT-NeoX else builds at its first start."""
        return any((self.root / HELPER).glob("helpers*.so"))

    def helper(self, suffix: str) -> Path:
        """The data helper for the Python whose compiled extensions end in ``suffix``; it need not be there."""
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
