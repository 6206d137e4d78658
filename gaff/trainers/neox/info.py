# SPDX-License-Identifier: Apache-2.0
"""Which GPT-NeoX a run would use, and what state it and its environment are in.  Only reads."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaff.trainers.neox.checkout import Checkout
from gaff.trainers.neox.home import Installation, default_home, expanded, find, installations
from gaff.trainers.neox.install_build import built_ops
from gaff.trainers.neox.interpreter import NEEDED, ask, ask_foundation
from gaff.trainers.neox.versions import PINNED_COMMIT, TESTED, is_tested

SCHEMA = "gaff.neox-info/1"


@dataclass(frozen=True)
class InUse:
    """A GPT-NeoX and what runs it.

    Attributes:
        checkout: absolute path of the work tree.
        python: the interpreter that is to run it.
        extensions: where its compiled ops lie; None to leave that to torch.
        named_by: what names it, in words.
    """

    checkout: Path
    python: str
    extensions: Path | None
    named_by: str


def in_use(neox_dir: Path | None = None, home: Path | None = None) -> InUse | None:
    """The GPT-NeoX that is used when a config names none; None when there is none.

    A checkout that is named wins over the newest installation, of which those for GPUs come first, as in a run.  It is
    run by GPT_NEOX_PYTHON, else by the environment that was installed for it, else by GAFF's own Python.
    """
    named, by = neox_dir, "--neox-dir"
    if named is None and os.environ.get("GPT_NEOX_DIR"):
        named, by = Path(os.environ["GPT_NEOX_DIR"]), "GPT_NEOX_DIR"
    installed = find(cpu=False, home=home, checkout=named) or find(cpu=True, home=home, checkout=named)
    if named is None:
        if installed is None:
            return None
        named, by = installed.checkout, "gaff neox install"
    python = os.environ.get("GPT_NEOX_PYTHON") or (installed.python if installed else sys.executable)
    own = installed is not None and python == installed.python
    return InUse(named.absolute(), python, installed.extensions if installed and own else None, by)


def describe(neox_dir: Path | None = None, home: Path | None = None) -> dict[str, Any]:
    """Everything that ``gaff neox info`` says, as one JSON object (schema ``gaff.neox-info/1``)."""
    home = expanded(home) if home else default_home()
    used = in_use(neox_dir, home)
    return {
        "schema": SCHEMA,
        "home": str(home),
        "installations": [_installation(found) for found in installations(home)],
        "in_use": None if used is None else _described(used),
    }


def _installation(found: Installation) -> dict[str, Any]:
    return {
        "root": str(found.root),
        "checkout": str(found.checkout),
        "commit": found.commit,
        "device": "cpu" if found.cpu else "gpu",
        "completed": found.completed,
        "usable": found.usable,
    }


def _described(used: InUse) -> dict[str, Any]:
    checkout = Checkout(used.checkout)
    problem = checkout.problem()
    python = _python(used.python)
    suffix = python.pop("suffix", None)
    commit, changes = (checkout.commit, checkout.changes) if problem is None else (None, None)
    extensions = _extensions(used)
    return {
        "checkout": str(used.checkout),
        "named_by": used.named_by,
        "problem": None if problem is None else str(problem),
        "commit": commit,
        "pinned": commit == PINNED_COMMIT,
        "changes": None if changes is None else list(changes),
        "helper_built": bool(suffix) and checkout.helper(suffix).is_file(),
        "python": python,
        "extensions": None if extensions is None else str(extensions),
        "ops": [] if extensions is None else list(built_ops(extensions)),
    }


def _python(python: str) -> dict[str, Any]:
    try:
        found, foundation = ask(python, tuple(TESTED)), ask_foundation(python)
    except OSError as error:
        return {"executable": python, "problem": str(error), "version": None, "versions": {}, "missing": []}
    return {
        "executable": found.executable,
        "problem": None,
        "version": ".".join(map(str, found.python)),
        "versions": {
            name: {"version": version, "tested": version is not None and is_tested(name, version)}
            for name, version in found.versions.items()
        },
        "missing": [NEEDED[module] for module in found.missing],
        "suffix": foundation.suffix,
    }


def _extensions(used: InUse) -> Path | None:
    named = os.environ.get("TORCH_EXTENSIONS_DIR")
    return Path(named) if named else used.extensions
