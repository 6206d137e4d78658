# SPDX-License-Identifier: Apache-2.0
"""Unmodified GPT-NeoX as a trainer: one merged config per segment, launched by its own ``deepy.py``.

What GAFF tells it goes through config keys alone: ``iteration`` (which tag), ``exit_interval`` (where to stop) and
``extra_save_iters`` (what to save).  Facts: GPT-NeoX commit ea7aefd8, ``deepy.py``, ``megatron/neox_arguments``.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from gaff.checkpoint.tag import TagFiles, tag_name
from gaff.errors import InputError, Location, Problem
from gaff.plan.config import Config
from gaff.trainers.contract import Launch, SegmentRequest
from gaff.trainers.neox.check_launcher import check_mpi4py, unreachable
from gaff.trainers.neox.checkout import Checkout
from gaff.trainers.neox.container import look_inside
from gaff.trainers.neox.device import NO_SHIM, SHIM, check_accelerator, check_device, cpu_environment
from gaff.trainers.neox.interpreter import NEEDED, ask
from gaff.trainers.neox.launchers import nodes_of
from gaff.trainers.neox.launching import base_environment, build_launch, launch_keys, launch_problems
from gaff.trainers.neox.wandb import check_version, check_wandb
from gaff.trainers.segment_config import segment_keys

CONFIG_NAME = "neox.yml"  # deepy.py takes no other ending than .yml and .json


class NeoxTrainer:
    """See :class:`gaff.trainers.contract.Trainer`.

    Args:
        root: the checkout.
        python: the interpreter that has GPT-NeoX's packages; None for GAFF's own.
        extensions: where ops compiled for it lie; None to leave that to torch.
    """

    name = "neox"

    def __init__(self, root: Path, python: str | None = None, extensions: Path | None = None) -> None:
        self.root = root
        self.extensions = extensions
        self.python = python or sys.executable

    def check(self, config: Config) -> list[Problem]:
        """Whether there is a GPT-NeoX with its packages, and whether it can be launched as the config says.

        Starts its Python for a moment (or the image that it is in); launches nothing.
        """
        problems = [*check_device(config), *check_accelerator(config, os.environ), *launch_problems(config, os.environ)]
        if config.gaff.container is not None:
            return problems or look_inside(config)
        missing = Checkout(self.root).problem()
        if missing or problems:
            return [*problems, *([missing] if missing else [])]
        return [*self._check_python(config), *unreachable(nodes_of(config, os.environ))]

    def warnings(self, config: Config) -> list[Problem]:
        """What W&B will do otherwise than the config reads."""
        return list(check_wandb(config, nodes_of(config, os.environ), os.environ))

    def _check_python(self, config: Config) -> Iterator[Problem]:
        try:
            found = ask(self.python, ("wandb", "mpi4py"))
        except OSError as error:
            what = f"the Python named for GPT-NeoX, {self.python}, does not run ({error})"
            remedy = "name another in `gaff: neox_python` or GPT_NEOX_PYTHON"
            yield Problem("no-neox-python", what, remedy, config.where("gaff.neox_python"))
            return
        if found.missing:
            lacking = ", ".join(NEEDED[name] for name in found.missing)
            what = f"{self.python} lacks packages that GPT-NeoX needs: {lacking}"
            remedy = (
                f"install {self.root / 'requirements' / 'requirements.txt'} there, or name the Python that has them"
            )
            remedy += " in `gaff: neox_python` or GPT_NEOX_PYTHON, or make one with `gaff neox install`"
            yield Problem("neox-packages", what, remedy, Location(str(self.root)))
        yield from check_version(config, found.versions.get("wandb"))
        yield from check_mpi4py(config, nodes_of(config, os.environ), found.versions.get("mpi4py"))

    def fixed_port(self, config: Config) -> int | None:
        """Under MPI GPT-NeoX's ranks meet at one port, whatever they are told."""
        return nodes_of(config, os.environ).fixed_port

    def launcher_keys(self, config: Config) -> Mapping[str, Any]:
        """As the config's hostfile and ``launcher`` key ask for."""
        return launch_keys(config, os.environ)

    def prepare(self, config: Config, request: SegmentRequest) -> Launch:
        """Write ``neox.yml`` into the segment's directory, and what carries variables to other nodes.

        Raises:
            InputError: the hostfile, read anew for each segment, is wrong or names another number of ranks.
        """
        _refuse_other_ranks(config, request)
        path = request.directory / CONFIG_NAME
        keys = segment_keys(config, request, validates_pipelines=False, launcher=self.launcher_keys(config))
        path.write_text(yaml.safe_dump(keys, sort_keys=False), encoding="utf-8")
        base = base_environment(config, os.environ)
        environment = {
            "PATH": self.search_path(base),
            "PYTHONUNBUFFERED": "1",
            "PYTHONSAFEPATH": "",  # else deepy.py would not find megatron beside it
            **NO_SHIM,
        }
        shim = None
        if config.gaff.device != "gpu":
            shim = SHIM
            environment |= cpu_environment(config, base, self.extensions)
        command = Launch((self.python, "deepy.py", "train.py", str(path)), self.root, environment)
        return build_launch(config, request, command, os.environ, shim=shim)

    def search_path(self, base: Mapping[str, str]) -> str:
        """PATH of a launch: GPT-NeoX builds its data helper with the python3 and python3-config that it finds there.

        ``base`` is the environment that the launch starts from.

        Source: contract, section 10.
        """
        before = base.get("PATH", os.defpath)
        python = self.python if os.sep in self.python else shutil.which(self.python, path=before)
        if python is None:  # a name that only an image knows
            return before
        own = Path(python).parent
        return os.pathsep.join([str(own), *_base_of(own), before])


def _refuse_other_ranks(config: Config, request: SegmentRequest) -> None:
    """The number of ranks decides the batch, and so the order of the data; with ZeRO 0 nothing else would say so.

    Source: contract, sections 7.4 and "Surprises", 14.
    """
    nodes = nodes_of(config, os.environ)
    tag = request.save / tag_name(request.start)
    if nodes.ranks is None or not request.start or not tag.is_dir():
        return
    split = TagFiles(tag).topology
    before = split.tensor * max(1, split.pipeline) * split.data
    if nodes.ranks != before:
        what = f"{tag.name} was written by {before} rank{'s' * (before > 1)}, and the hostfile now names {nodes.ranks}"
        remedy = "let it name as many as before: batch size and order of the data hang on it"
        raise InputError(Problem("ranks-changed", what, remedy, Location(str(nodes.hostfile))))


def _base_of(folder: Path) -> list[str]:
    """Where the Python that a virtual environment was made of lives: there python3-config is, where there is any."""
    try:
        text = (folder.parent / "pyvenv.cfg").read_text(encoding="utf-8")
    except OSError:
        return []
    return [
        value.strip() for key, _, value in (line.partition("=") for line in text.splitlines()) if key.strip() == "home"
    ]
