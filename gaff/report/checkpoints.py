# SPDX-License-Identifier: Apache-2.0
"""The checkpoint directory of a run as an onlooker sees it.  Nothing is written, no tag is marked."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from gaff.checkpoint.completeness import why_unfinished
from gaff.checkpoint.tag import tag_name
from gaff.checkpoint.transaction import FOLDER, valid_records
from gaff.errors import GaffError
from gaff.plan.config import load_config
from gaff.supervisor import progress
from gaff.supervisor.ownership import IDENTITY_NAME
from gaff.supervisor.run_directory import run_directory


@dataclass(frozen=True)
class Newest:
    """The newest whole tag.

    Attributes:
        iteration: 0 for none.
        unfinished: tags beyond it, and why each is not whole.
        resets: numbers of the resets that were made in it.
    """

    iteration: int
    unfinished: dict[int, str] = field(default_factory=dict)
    resets: tuple[int, ...] = ()


class Checkpoints:
    """Looks for the newest whole tag as often as it is asked, and reads no tag again that has not changed."""

    def __init__(self, run_dir: Path) -> None:
        self.save = _save(run_dir)
        self._known: tuple[tuple[int, ...], Newest] | None = None

    def newest(self) -> Newest:
        """What holds now."""
        unfinished: dict[int, str] = {}
        for iteration in reversed(progress.tags(self.save)):
            if iteration == 0:
                break
            why = self._look(iteration)
            if why is None and self._known:
                known = self._known[1]
                return Newest(known.iteration, unfinished, known.resets)
            unfinished[iteration] = why or ""
        return Newest(0, unfinished)

    def set_aside(self) -> list[Path]:
        """What was found not to be whole and moved away, by name."""
        try:
            return sorted(path for path in (self.save / progress.SET_ASIDE).iterdir() if path.is_dir())
        except OSError:
            return []

    def _look(self, iteration: int) -> str | None:
        """Why a tag is not whole; None when it is, and is now the known one."""
        tag = self.save / tag_name(iteration)
        try:
            facts, records = tag.stat(), tag / FOLDER
            changed = records.stat().st_mtime_ns if records.is_dir() else 0
            key = (iteration, facts.st_ino, facts.st_mtime_ns, changed)
            if self._known and self._known[0] == key:
                return None
            why = why_unfinished(tag, iteration)
            if why is None:
                self._known = (key, Newest(iteration, resets=_resets_in(tag)))
            return why
        except OSError as error:  # it is being written, moved or deleted
            return f"cannot be read ({error.strerror})"


def _resets_in(tag: Path) -> tuple[int, ...]:
    try:
        made = [record.operation for record in valid_records(tag) if record.operation.kind == "reset"]
    except (GaffError, OSError):
        return ()
    return tuple(number for operation in made if isinstance(number := operation.about.get("reset"), int))


def _save(run_dir: Path) -> Path:
    """Where the run's checkpoints are: as its config says, else, where that cannot be read, its identity."""
    try:
        return run_directory(run_dir, load_config([run_dir / "config.yml"])).save
    except (GaffError, OSError):
        pass
    try:
        return Path(json.loads((run_dir / IDENTITY_NAME).read_text(encoding="utf-8"))["save"])
    except (OSError, ValueError, LookupError, TypeError):
        return run_dir.absolute() / "checkpoints"
