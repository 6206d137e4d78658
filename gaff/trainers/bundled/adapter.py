# SPDX-License-Identifier: Apache-2.0
"""The bundled trainer as the supervisor sees it.  Imports neither torch nor DeepSpeed."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from typing import Any

import yaml

from gaff.errors import InputError, Problem
from gaff.plan.config import Config
from gaff.trainers.bundled import settings
from gaff.trainers.bundled.nodes import check_nodes, other_ranks, step_command, step_nodes, step_variables
from gaff.trainers.bundled.step import forget_failed
from gaff.trainers.bundled.support import unsupported
from gaff.trainers.contract import Launch, SegmentRequest
from gaff.trainers.neox.clean_up import clean_up
from gaff.trainers.segment_config import segment_keys

_PACKAGES = ("torch", "deepspeed", "tokenizers")
CONFIG_NAME = "bundled.yml"
_RANKS_PER_CORE = 4  # more are slower than they teach anything, and soon fill the memory
_ALWAYS_POSSIBLE = 8  # ranks of the small models that this trainer is for


class BundledTrainer:
    """See :class:`gaff.trainers.contract.Trainer`."""

    name = "bundled"

    def check(self, config: Config) -> list[Problem]:
        """Packages that are missing here, keys that the bundled trainer refuses, ranks that cannot be started."""
        problems = unsupported(config.neox, config.where) or check_nodes(config, os.environ)
        crowd = None if problems else too_many_ranks(_ranks_here(config))
        if crowd:
            problems.append(config.problem("too-many-ranks", "global_num_gpus", crowd, "lower global_num_gpus"))
        if not hasattr(os, "fork"):
            what = "the bundled trainer needs a system with fork"
            problems.append(Problem("bundled-platform", what, "run it on Linux, in WSL or in a container"))
        missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            what = f"the bundled trainer needs the Python package{'s'[: len(missing) - 1]} {', '.join(missing)}"
            problems.append(Problem("missing-package", what, "pip install 'gaff[bundled]'"))
        return problems

    def warnings(self, config: Config) -> list[Problem]:
        """None."""
        return []

    def fixed_port(self, config: Config) -> int | None:
        """It takes any."""
        return None

    def launcher_keys(self, config: Config) -> Mapping[str, Any]:
        """The hostfile where srun starts the ranks, whoever names it: by the key each rank knows that it is one."""
        nodes = step_nodes(config, os.environ)
        return {"hostfile": str(nodes.hostfile)} if nodes else {}

    def prepare(self, config: Config, request: SegmentRequest) -> Launch:
        """Write ``bundled.yml`` into the segment's directory.

        Raises:
            InputError: the hostfile, read anew for each segment, is wrong or has another number of slots than ranks.
        """
        nodes = step_nodes(config, os.environ)
        other = other_ranks(config, nodes) if nodes else None
        if other:
            raise InputError(other)
        request.directory.mkdir(parents=True, exist_ok=True)
        forget_failed(request.directory)
        path = request.directory / CONFIG_NAME
        keys = segment_keys(config, request, validates_pipelines=True, launcher=self.launcher_keys(config))
        path.write_text(yaml.safe_dump(keys, sort_keys=False), encoding="utf-8")
        # One thread: the same result on every machine, and several ranks do not fight for the cores.
        threads = os.environ.get("OMP_NUM_THREADS", "1")
        command = (sys.executable, "-u", "-m", "gaff.trainers.bundled", str(path))
        environment = {"OMP_NUM_THREADS": threads, "DS_ACCELERATOR": "cpu", "PYTHONUNBUFFERED": "1"}
        if nodes is None:
            return Launch(command, request.directory, environment)
        environment |= step_variables(nodes, config, os.environ, request.master_port)
        return Launch(step_command(nodes, command), request.directory, environment, clean_up(nodes, request.run_id))


def _ranks_here(config: Config) -> int:
    """How many ranks this machine is to run; under srun as many as the largest node."""
    nodes = step_nodes(config, os.environ)
    return (nodes.ranks_per_node if nodes else None) or settings.layout(config.neox).world


def too_many_ranks(ranks: int) -> str | None:
    """What is wrong with so many processes on this machine, None when they can be had."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = max(_ALWAYS_POSSIBLE, _RANKS_PER_CORE * cores)
    if ranks <= most:
        return None
    return f"{ranks:,} processes are too many for this machine: its {cores:,} processor cores take {most:,} at most"
