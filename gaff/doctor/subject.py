# SPDX-License-Identifier: Apache-2.0
"""What is examined: this machine as this shell sees it, alone or for one config."""

from __future__ import annotations

import os
import shlex
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
from gaff.trainers.neox.checkout import Checkout
from gaff.trainers.neox.hostfile import find_hostfile
from gaff.trainers.neox.trainer import NeoxTrainer
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
    named_by: what names the checkout: --neox-dir, gaff.neox_dir or GPT_NEOX_DIR; None for one that was installed.
    python_named_by: what names the Python: gaff.neox_python or GPT_NEOX_PYTHON; None where nothing does.
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
    named_by: str | None = None
    python_named_by: str | None = None
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
    def on_cpu(self) -> bool:
        """Whether GPT-NeoX's packages are to be those for machines without GPUs."""
        return self.device != "gpu" or not self.gpus.found

    def install(self, *, for_checkout: bool = False) -> str:
        """The command that gets GPT-NeoX, or an environment for the checkout that is named."""
        named = for_checkout and self.named_by and self.neox_dir and Checkout(self.neox_dir).problem() is None
        source = ["--source", str(self.neox_dir)] if named else []
        return shlex.join(["gaff", "neox", "install", *source, *(["--cpu"] if self.on_cpu else [])])

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
        """PATH as a launch of GPT-NeoX sees it."""
        if self.neox_dir is None:
            return self.environment.get("PATH", os.defpath)
        return NeoxTrainer(self.neox_dir, self.neox_python).search_path(self.environment)

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
    gaff = (config or EMPTY).gaff
    found = find_neox(config or EMPTY, neox_dir, cpu=subject.on_cpu)
    if found is None:
        return subject
    return replace(
        subject,
        neox_dir=found.root,
        neox_python=found.python,
        extensions=found.extensions,
        named_by="--neox-dir" if neox_dir else _named("gaff.neox_dir", gaff.neox_dir, "GPT_NEOX_DIR"),
        python_named_by=_named("gaff.neox_python", gaff.neox_python, "GPT_NEOX_PYTHON"),
    )


def _named(key: str, value: str | None, variable: str) -> str | None:
    """Which of the two names something: the config's key wins over the variable."""
    return key if value else variable if os.environ.get(variable) else None
