# SPDX-License-Identifier: Apache-2.0
"""Which trainer a config asks for.  The bundled one never stands in where GPT-NeoX was asked for."""

from __future__ import annotations

import os
from pathlib import Path

from gaff.errors import InputError, Problem
from gaff.plan.config import Config
from gaff.trainers.bundled.adapter import BundledTrainer
from gaff.trainers.contract import Trainer
from gaff.trainers.neox.trainer import NeoxTrainer

HOW_TO_GET_IT = (
    "get it with `git clone https://github.com/EleutherAI/gpt-neox` and name the checkout in `gaff: neox_dir`, "
    "--neox-dir or GPT_NEOX_DIR; or say `trainer: bundled` (`-o gaff.trainer=bundled`) for the small CPU trainer"
)


def select_trainer(config: Config, neox_dir: Path | None = None) -> Trainer:
    """The trainer of a run.

    Args:
        config: its ``trainer`` and ``neox_dir`` keys decide.
        neox_dir: ``--neox-dir``, which wins over the config and the environment.

    Raises:
        InputError: GPT-NeoX was asked for (``neox``, or ``auto``) and nobody says where it is.
    """
    if config.gaff.trainer == "bundled":
        return BundledTrainer()
    named = neox_dir or config.gaff.neox_dir or os.environ.get("GPT_NEOX_DIR")
    if not named:
        asked = f"`trainer: {config.gaff.trainer}` asks for GPT-NeoX, and no checkout of it is named"
        raise InputError(Problem("no-gpt-neox", asked, HOW_TO_GET_IT, config.where("gaff.trainer")))
    return NeoxTrainer(Path(named).absolute(), config.gaff.neox_python or os.environ.get("GPT_NEOX_PYTHON"))
