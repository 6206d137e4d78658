# SPDX-License-Identifier: Apache-2.0
"""Unmodified GPT-NeoX as a trainer: one merged config per segment, launched by its own ``deepy.py``.

What GAFF tells it goes through config keys alone: ``iteration`` (which tag), ``exit_interval`` (where to stop) and
``extra_save_iters`` (what to save).  Facts: GPT-NeoX commit ea7aefd8, ``deepy.py``, ``megatron/neox_arguments``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from gaff.errors import Location, Problem
from gaff.plan.config import Config
from gaff.trainers.contract import Launch, SegmentRequest
from gaff.trainers.segment_config import segment_keys

CONFIG_NAME = "neox.yml"  # deepy.py takes no other ending than .yml and .json
_ENTRY_POINTS = ("deepy.py", "train.py", "megatron")
_PACKAGES = ("torch", "deepspeed", "transformers", "numpy", "ftfy", "lm_dataformat", "pybind11")
_LOOK_UP = "import importlib.util as u,sys;print(*(m for m in sys.argv[1:] if u.find_spec(m) is None))"


class NeoxTrainer:
    """See :class:`gaff.trainers.contract.Trainer`.

    Args:
        root: the checkout.
        python: the interpreter that has GPT-NeoX's packages; None for GAFF's own.
    """

    name = "neox"

    def __init__(self, root: Path, python: str | None = None) -> None:
        self.root = root
        self.python = python or sys.executable

    def check(self, config: Config) -> list[Problem]:
        """Whether there is a GPT-NeoX with its packages.  Starts its Python for a moment; launches nothing."""
        where = Location(str(self.root))
        missing = [name for name in _ENTRY_POINTS if not (self.root / name).exists()]
        if missing:
            what = f"is no GPT-NeoX checkout: it lacks {', '.join(missing)}"
            remedy = "name one in `gaff: neox_dir`, --neox-dir or GPT_NEOX_DIR"
            return [Problem("no-gpt-neox", what, remedy, where)]
        try:
            found = subprocess.run(
                [self.python, "-c", _LOOK_UP, *_PACKAGES], capture_output=True, text=True, timeout=60, check=True
            )
        except (OSError, subprocess.SubprocessError) as error:
            what = f"the Python named for GPT-NeoX, {self.python}, does not run ({error})"
            remedy = "name another in `gaff: neox_python` or GPT_NEOX_PYTHON"
            return [Problem("no-neox-python", what, remedy, config.where("gaff.neox_python"))]
        if not found.stdout.strip():
            return []
        what = f"{self.python} lacks packages that GPT-NeoX needs: {', '.join(found.stdout.split())}"
        remedy = f"install {self.root / 'requirements' / 'requirements.txt'} there, or name the Python that has them"
        remedy += " in `gaff: neox_python` or GPT_NEOX_PYTHON"
        return [Problem("neox-packages", what, remedy, where)]

    def prepare(self, config: Config, request: SegmentRequest) -> Launch:
        """Write ``neox.yml`` into the segment's directory."""
        path = request.directory / CONFIG_NAME
        keys = segment_keys(config, request, validates_pipelines=False)
        path.write_text(yaml.safe_dump(keys, sort_keys=False), encoding="utf-8")
        # GPT-NeoX builds its data helper with the python3 of PATH (contract: `make` in megatron/data at every start).
        search = os.pathsep.join([str(Path(self.python).parent), os.environ.get("PATH", os.defpath)])
        return Launch(
            argv=(self.python, "deepy.py", "train.py", str(path)),
            cwd=self.root,
            env={"PATH": search, "PYTHONUNBUFFERED": "1"},
        )
