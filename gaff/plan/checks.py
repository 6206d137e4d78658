# SPDX-License-Identifier: Apache-2.0
"""All rules about a config, in one list.  Looks at the files that the config names; changes and starts nothing."""

from __future__ import annotations

from gaff.errors import Problem
from gaff.plan.check_checkpoint import check_checkpoint
from gaff.plan.check_data import check_data
from gaff.plan.check_files import check_files
from gaff.plan.check_launch import check_launch
from gaff.plan.check_learning_rate import check_learning_rate
from gaff.plan.check_model import check_model
from gaff.plan.check_schedule import check_schedule
from gaff.plan.check_types import check_types
from gaff.plan.check_warnings import check_warnings
from gaff.plan.config import Config
from gaff.plan.embeddings import check_share


def check(config: Config, *, files: bool = True) -> list[Problem]:
    """Every error: what would stop the run, or cost data or GPU hours.

    Args:
        config: as :func:`gaff.plan.config.load_config` made it.
        files: also that data, tokenizer and hostfile are there; a rehearsal, which replaces them, leaves that out.
    """
    rules = [check_types, check_schedule, check_model, check_checkpoint]
    if files:
        rules.append(check_files)
    return [problem for rule in rules for problem in rule(config)]


def warnings(config: Config) -> list[Problem]:
    """What was noticed while reading, and what the run does otherwise than the config reads.  Stops no run."""
    rules = (check_warnings, check_learning_rate, check_data, check_launch, check_share)
    return [*config.warnings, *(problem for rule in rules for problem in rule(config))]
