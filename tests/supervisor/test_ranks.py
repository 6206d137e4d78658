# SPDX-License-Identifier: Apache-2.0
"""Which processes of a launch are its ranks, and what they may wait for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from gaff.supervisor.ranks import build_locks, find_ranks, print_stacks
from gaff.trainers.stacks import StackReader

# A launcher: starts its arguments' number of ranks, the last one first, each of which forks a helper.
LAUNCHER = """
import os, subprocess, sys, time
RANK = "import os, time; os.fork(); print('up', flush=True); time.sleep(600)"
for rank in reversed(range(int(sys.argv[1]))):
    subprocess.Popen([sys.executable, "-c", RANK], env={**os.environ, "RANK": str(rank)})
subprocess.Popen(["sleep", "600"])
print("up", flush=True)
time.sleep(600)
"""


@pytest.fixture
def launcher(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[psutil.Process]:
    """One with as many ranks as the test asks for, all of them at work."""
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(tmp_path / "ext"), "PYTHONFAULTHANDLER": "1"}
    environment.pop("RANK", None)
    with open(tmp_path / "log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(request.param)], stdout=log, stderr=log, env=environment, cwd=tmp_path
        )
    while (tmp_path / "log").read_text().count("up") < 1 + 2 * request.param:
        assert process.poll() is None
    yield psutil.Process(process.pid)
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    process.kill()
    process.wait()


def ranks_of(processes: list[psutil.Process]) -> list[str | None]:
    return [process.environ().get("RANK") for process in processes]


@pytest.mark.parametrize("launcher", [3], indirect=True)
def test_ranks_are_found_in_their_order_and_helpers_are_none(launcher: psutil.Process) -> None:
    assert ranks_of(find_ranks(os.getpid())) == ["0", "1", "2"]


@pytest.mark.parametrize("launcher", [0], indirect=True)
def test_a_program_without_numbered_ranks_is_its_own(launcher: psutil.Process) -> None:
    assert find_ranks(os.getpid()) == [launcher]


@pytest.mark.parametrize("launcher", [2], indirect=True)
def test_stacks_do_not_mix_and_the_launcher_goes_on_afterwards(launcher: psutil.Process, tmp_path: Path) -> None:
    ranks = find_ranks(os.getpid())
    with open(tmp_path / "log", "ab", buffering=0) as log:
        print_stacks(os.getpid(), ranks, log)
    reader = StackReader()
    for line in (tmp_path / "log").read_text().splitlines():
        reader.feed(line)
    assert [(stack.owner, stack.frames[-1].function) for stack in reader.stacks()] == [
        ("rank 0", "<module>"),
        ("rank 1", "<module>"),
    ]
    assert [rank.status() for rank in ranks] == [psutil.STATUS_ZOMBIE] * 2
    assert launcher.status() != psutil.STATUS_STOPPED


@pytest.mark.parametrize("launcher", [2], indirect=True)
def test_locks_of_builds_are_found_where_the_ranks_build(launcher: psutil.Process, tmp_path: Path) -> None:
    ranks = find_ranks(os.getpid())
    assert build_locks(ranks) == ()
    locks = [tmp_path / "ext" / "fused_adam" / "lock", tmp_path / "megatron" / "fused_kernels" / "build" / "lock"]
    for lock in locks:
        lock.parent.mkdir(parents=True)
        lock.touch()
    assert build_locks(ranks) == tuple(locks)
