# SPDX-License-Identifier: Apache-2.0
"""A GPT-NeoX checkout: whether it is one, at which commit, and whether it is as its authors left it.  Only reads."""

from __future__ import annotations

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
        """The commit that is checked out; None where git does not say."""
        return self._git("rev-parse", "HEAD")

    @property
    def changes(self) -> tuple[str, ...] | None:
        """Files that differ from the commit or are new, as ``git status`` lists them; None where git does not say."""
        status = self._git("status", "--porcelain")
        return None if status is None else tuple(line.strip() for line in status.splitlines())

    @property
    def helper_built(self) -> bool:
        """Whether the C++ data helper is there, which GPT-NeoX else builds at its first start."""
        return any((self.root / HELPER).glob("helpers*.so"))

    def _git(self, *arguments: str) -> str | None:
        command = ["git", "-c", "safe.directory=*", "-C", str(self.root), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()
