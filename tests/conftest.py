# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several packages share: the real GPT-NeoX checkpoints, and their oracles."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHECKPOINTS = Path(__file__).parent / "fixtures" / "neox-checkpoints"
ALL_NAMES = sorted(p.name.removesuffix(".tar.xz") for p in CHECKPOINTS.glob("*.tar.xz"))


@pytest.fixture(scope="session")
def unpacked_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them, unpacked once.  Not to be written to."""
    folder = tmp_path_factory.mktemp("neox-checkpoints")
    for name in ALL_NAMES:
        with tarfile.open(CHECKPOINTS / f"{name}.tar.xz") as archive:
            archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return folder


@pytest.fixture
def checkpoint(unpacked_checkpoints: Path, tmp_path: Path) -> Callable[[str], Path]:
    """``checkpoint(name)`` gives the tag directory of a fresh copy, file times included."""

    def copy(name: str) -> Path:
        target = tmp_path / name
        if not target.exists():
            shutil.copytree(unpacked_checkpoints / name, target)
        return target / "global_step5"

    return copy


@pytest.fixture
def oracle() -> Callable[[str], dict[str, Any]]:
    """``oracle(name)`` gives what is known about the one tag of a checkpoint."""

    def read(name: str) -> dict[str, Any]:
        whole = json.loads((CHECKPOINTS / f"{name}.oracle.json").read_text())
        return whole["tags"]["global_step5"]

    return read


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB, where root may mount one."""
    place = tmp_path / "tiny"
    place.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if not done or done.returncode:
        pytest.skip(f"cannot mount a tmpfs: {done.stderr.strip() if done else 'there is no mount'}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)
