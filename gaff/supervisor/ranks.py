# SPDX-License-Identifier: Apache-2.0
"""The ranks of a launch as processes, and how they are made to print where they stand.

Every rank is started with ``PYTHONFAULTHANDLER=1``, so SIGABRT makes it print the stacks of its threads into the log,
also from within a call that never returns, and die.  Ranks on other nodes and inside Docker are out of reach.
"""

from __future__ import annotations

import contextlib
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import psutil

from gaff.trainers.stacks import announcement

FAULT_HANDLER = {"PYTHONFAULTHANDLER": "1"}  # for the launch's environment
_PRINTING_S, _ALL_PRINTING_S = 5.0, 30.0
_NO_CORE = (1, 1)  # bytes; unlike 0 it also keeps core dumps from a program that the kernel pipes them to (core(5))
_GONE = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def find_ranks(guardian: int) -> list[psutil.Process]:
    """Python processes below the guardian that train: those a launcher gave a RANK, in its order; else the leaves.

    Helpers that a rank forked, as for loading data, are none.
    """
    below = [p for p in psutil.Process(guardian).children(recursive=True) if _is_python(p)]
    numbers = {p.pid: number for p in below if (number := _environment(p).get("RANK", "")).isdecimal()}
    parents = {p.pid: _parent(p) for p in below}
    ranks = [p for p in below if p.pid in numbers and parents[p.pid] not in numbers]
    if ranks:
        return sorted(ranks, key=lambda p: int(numbers[p.pid]))
    return [p for p in below if p.pid not in parents.values()]


def print_stacks(guardian: int, ranks: Sequence[psutil.Process], log: FileIO) -> None:
    """Have each of ``ranks`` print its stacks, one after the other so that they do not mix, and end by it.

    ``log`` is what they print to; whose stack comes next is written into it.  Launchers are held meanwhile: they would
    end all ranks when the first one dies.
    """
    deadline = time.monotonic() + _ALL_PRINTING_S
    with _held(_launchers(guardian, ranks)):
        for rank in ranks:
            with contextlib.suppress(psutil.Error, OSError):
                _print_stack(rank, _owner(rank, len(ranks)), log, min(deadline, time.monotonic() + _PRINTING_S))


def show_stacks(ranks: Sequence[psutil.Process], log: FileIO) -> None:
    """Have py-spy write the stacks of ``ranks`` into ``log``; nothing where it is not installed, or may not look."""
    spy = shutil.which("py-spy")
    for rank in ranks if spy else ():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            seen = subprocess.run(
                [str(spy), "dump", "--pid", str(rank.pid)], stdout=subprocess.PIPE, timeout=_PRINTING_S, check=True
            )
            log.write(b"\n" + seen.stdout)


def build_locks(ranks: Iterable[psutil.Process]) -> tuple[Path, ...]:
    """Files with which torch (``utils/cpp_extension.py``) guards a build that is at work, or was killed."""
    found: set[Path] = set()
    for rank in ranks:
        with contextlib.suppress(psutil.Error, OSError):
            environment, here = _environment(rank), Path(rank.cwd())
            cache = Path(environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME", "~")) / ".cache")
            named = environment.get("TORCH_EXTENSIONS_DIR")
            found |= set(Path(named).glob("*/lock") if named else (cache / "torch_extensions").glob("*/*/lock"))
            found |= set(here.glob("megatron/fused_kernels/build/lock"))
    return tuple(sorted(found))


def _is_python(process: psutil.Process) -> bool:
    try:
        return process.status() not in _GONE and Path(process.exe()).name.startswith("python")
    except (psutil.Error, OSError):
        return False


def _environment(process: psutil.Process) -> Mapping[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.Error:
        return None


def _launchers(guardian: int, ranks: Sequence[psutil.Process]) -> list[psutil.Process]:
    """The processes between the guardian and the ranks."""
    found: dict[int, psutil.Process] = {}
    for rank in ranks:
        with contextlib.suppress(psutil.Error):
            above = rank.parents()
            pids = [p.pid for p in above]
            found |= {p.pid: p for p in above[: pids.index(guardian)]} if guardian in pids else {}
    return list(found.values())


@contextmanager
def _held(processes: Sequence[psutil.Process]) -> Iterator[None]:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.resume()


def _owner(rank: psutil.Process, of: int) -> str:
    number = _environment(rank).get("RANK")
    if number is not None:
        return f"rank {number}"
    return "the trainer" if of == 1 else f"process {rank.pid}"


def _print_stack(rank: psutil.Process, owner: str, log: FileIO, deadline: float) -> None:
    state = str(rank.status())
    log.write(f"\n{announcement(owner, rank.pid, state)}\n".encode())  # the line before may have no end
    with contextlib.suppress(psutil.Error, OSError, ValueError):
        rank.rlimit(resource.RLIMIT_CORE, _NO_CORE)
    rank.send_signal(signal.SIGABRT)
    if state == psutil.STATUS_STOPPED:
        rank.resume()  # else it would hear the signal only then
    while time.monotonic() < deadline and rank.is_running() and rank.status() not in _GONE:
        time.sleep(0.02)
