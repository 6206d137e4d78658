# SPDX-License-Identifier: Apache-2.0
"""Which trainer a config asks for.  The bundled one never stands in where GPT-NeoX was asked for."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from gaff.errors import InputError, Problem
from gaff.plan.config import Config
from gaff.plan.settings import TrainerName
from gaff.trainers.bundled.adapter import BundledTrainer
from gaff.trainers.contract import Trainer
from gaff.trainers.neox.home import find
from gaff.trainers.neox.trainer import NeoxTrainer

HOW_TO_GET_IT = (
    "get it with `gaff neox install`, or name a checkout in `gaff: neox_dir`, --neox-dir or GPT_NEOX_DIR; or say "
    "`trainer: bundled` (`-o gaff.trainer=bundled`) for the small CPU trainer"
)


def select_trainer(config: Config, neox_dir: Path | None = None) -> Trainer:
    """The trainer of a run.

    Args:
        config: its ``trainer``, ``neox_dir``, ``neox_python`` and ``device`` keys decide.
        neox_dir: ``--neox-dir``, which wins over the config and the environment.

    Raises:
        InputError: GPT-NeoX was asked for (``neox``, or ``auto``), nobody says where it is, and none is installed.
    """
    if config.gaff.trainer == "bundled":
        return BundledTrainer()
    found = find_neox(config, neox_dir, cpu=config.gaff.device != "gpu")
    if found is None:
        asked = f"`trainer: {config.gaff.trainer}` asks for GPT-NeoX, and there is none"
        raise InputError(Problem("no-gpt-neox", asked, HOW_TO_GET_IT, config.where("gaff.trainer")))
    return found


def find_neox(config: Config, neox_dir: Path | None, *, cpu: bool) -> NeoxTrainer | None:
    """The GPT-NeoX to train with: the container's, else that which is named, else that which was installed; or None.

    Args:
        cpu: prefer an installation for machines without a GPU.
    """
    if config.gaff.container is not None:
        container = config.gaff.container
        return NeoxTrainer(Path(container.neox_dir), container.python)
    python = config.gaff.neox_python or _absolute(os.environ.get("GPT_NEOX_PYTHON"))
    named = neox_dir or config.gaff.neox_dir or os.environ.get("GPT_NEOX_DIR")
    checkout = Path(named).absolute() if named else None
    installed = find(cpu, checkout=checkout) or (None if named else find(not cpu))
    if installed is not None:
        own = python is None or python == installed.python
        return NeoxTrainer(installed.checkout, python or installed.python, installed.extensions if own else None)
    return NeoxTrainer(checkout, python) if checkout else None


def _absolute(python: str | None) -> str | None:
    """A relative path is meant from here, not from GPT-NeoX's directory, where it is started; a name is one on PATH."""
    return os.path.abspath(python) if python and os.sep in python else python or None


def select_for_rehearsal(config: Config, asked: TrainerName, neox_dir: Path | None = None) -> Trainer:
    """The trainer that rehearses a config: GPT-NeoX on the CPU where there is one, else the bundled trainer.

    Args:
        config: where it says ``trainer: bundled``, ``auto`` means that.
        asked: ``auto``, or one of the two.
        neox_dir: ``--neox-dir``.

    Raises:
        InputError: GPT-NeoX was asked for by name, and there is none.
    """
    if asked == "bundled" or (asked == "auto" and config.gaff.trainer == "bundled"):
        return BundledTrainer()
    here = replace(config, gaff=replace(config.gaff, container=None))  # an image of the cluster's
    found = find_neox(here, neox_dir, cpu=True)
    if found is not None:
        return found
    if asked == "neox":
        raise InputError(Problem("no-gpt-neox", "`--trainer neox` asks for GPT-NeoX, and there is none", HOW_TO_GET_IT))
    return BundledTrainer()
