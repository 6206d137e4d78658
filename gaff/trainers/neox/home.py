# SPDX-License-Identifier: Apache-2.0
"""Where `gaff neox install` puts GPT-NeoX, and what is installed there.  Only reads.

``HOME/neox/<first 12 digits of the commit>[-cpu]/`` holds ``gpt-neox`` (the checkout, unless an existing one is used
in place), ``env`` (its Python environment), ``extensions`` (compiled DeepSpeed ops), ``installation.json`` and
``install.log``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaff.errors import InputError, Location, Problem
from gaff.trainers.neox.checkout import Checkout

FAMILY = "neox"  # directory in HOME that holds the installations
RECORD_NAME = "installation.json"
SCHEMA = "gaff.neox-installation/1"
SHORT_COMMIT = 12  # digits of a commit in the name of a directory


@dataclass(frozen=True)
class Installation:
    """One GPT-NeoX with its environment, as its record tells.

    Attributes:
        root: its directory in HOME.
        checkout: the work tree of GPT-NeoX, which may lie elsewhere.
        python: the environment's interpreter.
        extensions: what TORCH_EXTENSIONS_DIR has to say.
        commit: full commit of the checkout when it was installed; None where git did not say.
        cpu: whether it has the set of packages that runs without a GPU.
        completed: when all of it was in place, ISO 8601 in UTC; None when it is not.
    """

    root: Path
    checkout: Path
    python: str
    extensions: Path
    commit: str | None
    cpu: bool
    completed: str | None

    @property
    def usable(self) -> bool:
        """Complete, and checkout and interpreter are still there."""
        return (
            self.completed is not None and Checkout(self.checkout).problem() is None and os.access(self.python, os.X_OK)
        )


def default_home() -> Path:
    """``$GAFF_HOME``, else ``$XDG_DATA_HOME/gaff``, else ``~/.local/share/gaff``.

    Raises:
        InputError: it lies in a home directory that the system does not know.
    """
    named = os.environ.get("GAFF_HOME")
    if named:
        return expanded(Path(named))
    data = os.environ.get("XDG_DATA_HOME", "")
    base = Path(data) if os.path.isabs(data) else expanded(Path("~/.local/share"))  # XDG: a relative one is ignored
    return base / "gaff"


def expanded(path: Path) -> Path:
    """``path`` as an absolute one, with ``~`` and ``~user`` as a shell reads them.

    Raises:
        InputError: the system knows no such home directory.
    """
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        what, remedy = f"the system knows no home directory `{path.parts[0]}`", "write the path in full"
        if path.parts[0] == "~":
            remedy = "name a directory in GAFF_HOME"
        raise InputError(Problem("no-home", what, remedy, Location(str(path)))) from None


def directory_name(commit: str | None, cpu: bool) -> str:
    """The name of an installation's directory."""
    return (commit[:SHORT_COMMIT] if commit else "no-commit") + ("-cpu" if cpu else "")


def find(cpu: bool | None = None, home: Path | None = None, checkout: Path | None = None) -> Installation | None:
    """The newest usable installation, None when there is none.

    Args:
        cpu: only those with the set for the CPU, or only those without; None for either.
        home: where to look; None for :func:`default_home`.
        checkout: only those of this work tree.
    """
    found = [
        installation
        for installation in installations(home)
        if cpu in (None, installation.cpu)
        and (checkout is None or installation.checkout.resolve() == checkout.resolve())
        and installation.usable
    ]
    return max(found, key=lambda installation: installation.completed or "", default=None)


def installations(home: Path | None = None) -> list[Installation]:
    """All that is recorded in ``home``, complete or not, by name; nothing where there is no home."""
    try:
        family = (home or default_home()) / FAMILY
        roots = sorted(path for path in family.iterdir() if path.is_dir())
    except (OSError, InputError):
        return []
    return [installation for root in roots for installation in _read(root)]


def read_record(root: Path) -> dict[str, Any] | None:
    """The record of an installation; None where there is none that can be read."""
    try:
        record = json.loads((root / RECORD_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and _complete(record) else None


def _complete(record: Mapping[str, Any]) -> bool:
    words = ("checkout", "python", "extensions", "device")
    return (
        record.get("schema") == SCHEMA
        and all(isinstance(record.get(key), str) for key in words)
        and all(isinstance(record.get(key, 0), (str, type(None))) for key in ("commit", "completed"))
        and isinstance(record.get("steps"), dict)
    )


def _read(root: Path) -> Iterator[Installation]:
    record = read_record(root)
    if record is not None:
        yield Installation(
            root=root,
            checkout=Path(record["checkout"]),
            python=record["python"],
            extensions=Path(record["extensions"]),
            commit=record["commit"],
            cpu=record["device"] == "cpu",
            completed=record["completed"],
        )
