# SPDX-License-Identifier: Apache-2.0
"""What is examined: this machine as this shell sees it, alone or for one config."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from gaff.doctor.gpus import Gpus, look
from gaff.doctor.neox_python import NeoxPython, ask_neox_python
from gaff.errors import InputError
from gaff.plan.config import Config
from gaff.plan.estimates import gpu_count
from gaff.plan.plan import Plan, build_plan
from gaff.plan.settings import Device, GaffSettings
from gaff.plan.typed import pipeline, tensor_parallel
from gaff.trainers.neox.hostfile import find_hostfile
from gaff.trainers.select import find_neox

EMPTY = Config(neox={}, gaff=GaffSettings(reset_every=None))


@dataclass(frozen=True)
class Subject:
    """Attributes:
    environment: variables of this shell.
    config: None to examine the machine alone.
    root: the run directory.
    neox_dir: the GPT-NeoX checkout, None when nobody says where one is.
    neox_python: the Python that has its packages.
    extensions: where ops compiled for it lie; None for torch's default.
    overrides: ``-o`` of the command line, for remedies that repeat it.
    """

    environment: Mapping[str, str]
    config: Config | None = None
    root: Path = Path("runs")
    neox_dir: Path | None = None
    neox_python: str = sys.executable
    extensions: Path | None = None
    overrides: tuple[str, ...] = ()
    given_gpus: Gpus | None = field(default=None, compare=False)

    @property
    def trainer(self) -> Literal["neox", "bundled"]:
        return "bundled" if self.config and self.config.gaff.trainer == "bundled" else "neox"

    @property
    def device(self) -> Device:
        return self.config.gaff.device if self.config else "gpu"

    @property
    def contained(self) -> bool:
        """Whether GPT-NeoX runs in an image, whose inside is not examined here."""
        return bool(self.config and self.config.gaff.container and self.trainer == "neox")

    @property
    def on_gpus(self) -> bool:
        return self.trainer == "neox" and self.device == "gpu"

    @property
    def save(self) -> Path:
        """Where checkpoints go."""
        given = self.config.get("save") if self.config else None
        return Path(given) if isinstance(given, str) and given else self.root / "checkpoints"

    @property
    def hostfile(self) -> Path | None:
        """The hostfile that DeepSpeed will take; None where the run stays on this machine."""
        found = find_hostfile(self.config or EMPTY, self.environment)
        return found.path if found else None

    @cached_property
    def gpus(self) -> Gpus:
        return look(self.environment) if self.given_gpus is None else self.given_gpus

    @cached_property
    def python(self) -> NeoxPython:
        return ask_neox_python(self.neox_python)

    @cached_property
    def plan(self) -> Plan | None:
        """The plan, where the config is sound enough for one."""
        try:
            return build_plan(self.config) if self.config else None
        except InputError:
            return None

    @property
    def search_path(self) -> str:
        """PATH as a launch of GPT-NeoX sees it: first its Python, then the one that its environment is made of."""
        path = self.environment.get("PATH", os.defpath)
        if self.neox_dir is None or "/" not in self.neox_python:
            return path
        foundation = self.python.foundation
        base = [str(foundation.config_script.parent)] if foundation else []
        return os.pathsep.join([str(Path(self.neox_python).parent), *base, path])

    def gpus_of_run(self) -> int:
        """GPUs over all nodes: what the config says, else those that this shell sees."""
        said = gpu_count(self.config) if self.config else None
        return said or len(self.gpus.visible(self.environment))

    def replicas(self) -> int:
        """Data-parallel ranks of the run."""
        if self.config is None:
            return 1
        return max(1, self.gpus_of_run() // (tensor_parallel(self.config) * max(1, pipeline(self.config))))


def subject_of(
    config: Config | None,
    neox_dir: Path | None,
    root: Path | None,
    environment: Mapping[str, str],
    overrides: Sequence[str] = (),
) -> Subject:
    """What the command line asks to examine.

    Args:
        config: None for the machine alone.
        neox_dir: ``--neox-dir``.
        root: ``--run-dir``; None for where ``gaff run`` would put it.
        environment: of this shell.
        overrides: that ``config`` was made with.
    """
    if root is None:
        root = Path("runs", config.sources[0].stem) if config and config.sources else Path("runs")
    subject = Subject(environment, config, root.absolute(), overrides=tuple(overrides))
    if subject.trainer == "bundled" or subject.contained:
        return subject
    cpu = subject.device != "gpu" or not subject.gpus.found
    found = find_neox(config or EMPTY, neox_dir, cpu=cpu)
    if found is None:
        return subject
    return replace(subject, neox_dir=found.root, neox_python=found.python, extensions=found.extensions)
