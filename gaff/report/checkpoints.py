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
        self._run_dir = run_dir
        self._configured: Path | None = None
        self._known: tuple[tuple[int, ...], Newest] | None = None

    @property
    def save(self) -> Path:
        """Where they are: as the config says, else, where that is not there yet or damaged, the run's identity."""
        try:
            if self._configured is None:
                self._configured = run_directory(self._run_dir, load_config([self._run_dir / "config.yml"])).save
            return self._configured
        except (GaffError, OSError):
            return _save_by_identity(self._run_dir)

    def newest(self) -> Newest:
        """What holds now."""
        save, unfinished = self.save, dict[int, str]()
        for iteration in reversed(progress.tags(save)):
            if iteration == 0:
                break
            why = self._look(iteration, save / tag_name(iteration))
            if why is None and self._known:
                known = self._known[1]
                return Newest(known.iteration, unfinished, known.resets)
            if (save / tag_name(iteration)).is_dir():  # it was not moved away in the meantime
                unfinished[iteration] = why or ""
        return Newest(0, unfinished)

    def set_aside(self) -> list[Path]:
        """What was found not to be whole and moved away, by name."""
        try:
            return sorted(path for path in (self.save / progress.SET_ASIDE).iterdir() if path.is_dir())
        except OSError:
            return []

    def _look(self, iteration: int, tag: Path) -> str | None:
        """Why a tag is not whole; None when it is, and is now the known one."""
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
        except GaffError as error:
            return error.problems[0].what


def _resets_in(tag: Path) -> tuple[int, ...]:
    try:
        made = [record.operation for record in valid_records(tag) if record.operation.kind == "reset"]
    except (GaffError, OSError):
        return ()
    return tuple(number for operation in made if isinstance(number := operation.about.get("reset"), int))


def _save_by_identity(run_dir: Path) -> Path:
    try:
        return Path(json.loads((run_dir / IDENTITY_NAME).read_text(encoding="utf-8"))["save"])
    except (OSError, ValueError, LookupError, TypeError):
        return run_dir.absolute() / "checkpoints"
