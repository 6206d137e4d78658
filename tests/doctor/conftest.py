# SPDX-License-Identifier: Apache-2.0
"""A directory of small programs that stand on PATH, and what ``nvidia-smi`` says on some machines."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gaff.doctor.gpus import Gpu, Gpus

A100 = Gpu(0, "GPU-a0", "NVIDIA A100-SXM4-40GB", 40_960 << 20, 4 << 20, (8, 0))


def a100s(number: int, **others: object) -> Gpus:
    """A machine with that many A100 of 40 GB."""
    found = tuple(Gpu(i, f"GPU-a{i}", A100.name, A100.memory, A100.used, A100.capability) for i in range(number))
    return Gpus(found, driver=(535, 104, 5), cuda=(12, 2), **others)  # type: ignore[arg-type]


@pytest.fixture
def programs(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """``programs(nvcc="echo release 12.1")``: an environment whose PATH has these shell scripts, and sh with cat."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for needed in ("sh", "cat"):
        found = shutil.which(needed)
        assert found
        os.symlink(found, folder / needed)

    def make(**scripts: str) -> dict[str, str]:
        for name, text in scripts.items():
            path = folder / name.replace("_", "-").replace("gxx", "g++")
            path.write_text(f"#!{folder}/sh\n{text}\n")
            path.chmod(0o755)
        return {"PATH": str(folder), "HOME": str(tmp_path)}

    return make
