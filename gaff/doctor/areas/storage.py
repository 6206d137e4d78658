# SPDX-License-Identifier: Apache-2.0
"""Where checkpoints go: room, speed and kind of file system; shared memory; host memory against the loader."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from gaff.doctor.filesystems import MEMORY, FileSystem, file_system, write_speed
from gaff.doctor.finding import Finding, from_problem
from gaff.doctor.probes import run, which
from gaff.doctor.subject import Subject
from gaff.errors import Problem
from gaff.plan.directories import directory_problem
from gaff.plan.estimates import gpu_count
from gaff.plan.loader import loader_cost
from gaff.plan.typed import pipeline, tensor_parallel
from gaff.report.format import count, duration, size

AREA = "storage"
_SHM = Path("/dev/shm")
_SHM_NEEDED = 1_000_000_000  # bytes: NCCL takes some 10 MB a rank, workers of the loader and DeepSpeed's CPU op more
_FEW_FILES = 10_000
_SLOW = 100_000_000  # bytes per second
_LONG_S = 600.0


@dataclass(frozen=True)
class StorageFacts:
    """Attributes:
    save: where checkpoints go.
    problem: why that directory cannot be used.
    place: its file system.
    speed: bytes per second, written and flushed; None where nothing could be written.
    unwritable: then, why.
    quota: the words of ``quota`` about a limit that is exceeded.
    tag, tags: bytes of one checkpoint, and how many of the run's lie there at once at most; None without a plan.
    there: tags that lie in ``save`` already.
    shared_memory: of this machine; None where there is no /dev/shm.
    memory: bytes of host memory that are free now.
    loader: bytes that GPT-NeoX's loaders on this machine keep at most, 0 where that is not known.
    named: whether the config's ``save`` names the directory; else it lies in the run's.
    """

    save: Path
    problem: Problem | None
    place: FileSystem
    speed: float | None
    unwritable: str | None = None
    quota: str | None = None
    tag: int | None = None
    tags: int | None = None
    there: int = 0
    shared_memory: FileSystem | None = None
    memory: int = 0
    loader: int = 0
    named: bool = False


def examine(subject: Subject) -> Iterator[Finding]:
    yield from judge(gather(subject))


def gather(subject: Subject) -> StorageFacts:
    place = file_system(subject.save)
    speed, unwritable = _speed(place.directory)
    plan = subject.plan
    role, remedy = "the directory of checkpoints", "name another with --run-dir"
    named = bool(subject.config and subject.config.get("save"))  # the config's own rules look at that
    return StorageFacts(
        save=subject.save,
        problem=None if named else directory_problem(subject.save, role, remedy, for_tags=True),
        place=place,
        speed=speed,
        unwritable=unwritable,
        quota=_quota(subject),
        tag=plan.checkpoint_bytes if plan else None,
        tags=plan.kept.most if plan else None,
        there=len(list(subject.save.glob("global_step*"))) if os.path.isdir(subject.save) else 0,
        shared_memory=file_system(_SHM) if _SHM.is_dir() else None,
        memory=psutil.virtual_memory().available,
        loader=_loader(subject),
        named=named,
    )


def _speed(directory: Path) -> tuple[float | None, str | None]:
    try:
        return write_speed(directory), None
    except OSError as error:
        return None, error.strerror or str(error)


def _quota(subject: Subject) -> str | None:
    """``quota -q`` speaks only of file systems where the limit is exceeded (quota(1))."""
    program = which("quota", subject.environment)
    said = run([program, "-q"], environment=subject.environment).out.strip() if program else ""
    return said.splitlines()[-1].strip() if said else None


def _loader(subject: Subject) -> int:
    """Loaders on this machine: of each replica the first tensor-parallel rank of the first and of the last stage."""
    if subject.config is None or subject.plan is None or subject.trainer == "bundled":
        return 0
    cost = loader_cost(subject.plan.batch, subject.plan.segments)
    ranks = len(subject.gpus.visible(subject.environment)) if subject.on_gpus else gpu_count(subject.config) or 1
    if cost is None or not ranks:
        return 0
    stages = max(1, pipeline(subject.config))
    replicas = max(1, ranks // (tensor_parallel(subject.config) * stages))
    return cost.kept_bytes * replicas * min(2, stages)


def judge(facts: StorageFacts) -> Iterator[Finding]:
    if facts.problem is not None:
        yield from_problem(AREA, facts.problem)
    yield from _room(facts)
    yield from _pace(facts)
    yield from _memory(facts)


def _room(facts: StorageFacts) -> Iterator[Finding]:
    place, folder = facts.place, shlex.quote(str(facts.place.directory))
    elsewhere = "-o save=DIR" if facts.named else "gaff run --config FILE --run-dir DIR"
    elsewhere += "  # on a larger file system"
    if place.kind in MEMORY:
        what = f"checkpoints in {facts.save} would lie in memory ({place.kind}) and be lost with the machine"
        yield Finding("storage-kind", AREA, "warning", what, elsewhere)
    elif place.kind == "overlay":
        what = f"{facts.save} lies in the container's own layer ({place.kind}), which goes away with the container"
        yield Finding(
            "storage-kind", AREA, "warning", what, "docker run -v /HOST/DIR:/DIR …  # or: apptainer --bind DIR"
        )
    if facts.quota:
        yield Finding("quota", AREA, "problem", f"a quota is exceeded: {facts.quota}", "quota -s  # shows which")
    if place.files_free is not None and place.files_free < _FEW_FILES:
        what = f"{place.directory} takes only {count(place.files_free, 'more file')} (inodes)"
        yield Finding("inodes", AREA, "problem" if not place.files_free else "warning", what, f"df -i {folder}")
    free = f"{size(place.free)} of {size(place.total)} are free for {facts.save} ({place.kind})"
    if facts.tag is None or facts.tags is None:
        yield Finding("room", AREA, "ok" if place.free > _SHM_NEEDED else "warning", free, None)
        return
    left = max(0, facts.tags - facts.there)
    needed = left * facts.tag
    plan = f"the plan needs {size(needed)}: {count(left, 'tag')} of {size(facts.tag)}"
    if place.free < facts.tag:
        yield Finding("room", AREA, "problem", f"not even one tag fits: {free}; {plan}", elsewhere)
    elif place.free < needed:
        fewer = "-o gaff.keep=2 -o checkpoint_factor=  # deletes older tags; gaff plan --config FILE says which stay"
        yield Finding("room", AREA, "problem", f"the tags do not fit: {free}; {plan}", f"{elsewhere}\n{fewer}")
    else:
        yield Finding("room", AREA, "ok", f"{free}; {plan}")


def _pace(facts: StorageFacts) -> Iterator[Finding]:
    if facts.speed is None:
        what = f"nothing can be written in {facts.place.directory}: {facts.unwritable}"
        remedy = f"ls -ld {shlex.quote(str(facts.place.directory))}; df {shlex.quote(str(facts.place.directory))}"
        yield Finding("write", AREA, "problem", what, remedy)
        return
    what = f"{size(facts.speed)} per second are written and flushed there by one process"
    if facts.tag is None:
        yield Finding("write-speed", AREA, "ok" if facts.speed >= _SLOW else "note", what)
        return
    spent = facts.tag / facts.speed
    what += f"; one tag of {size(facts.tag)} takes about {duration(spent)}"
    if spent > _LONG_S:
        remedy = "# save to a faster file system, or less often (checkpoint_factor)"
        yield Finding("write-speed", AREA, "warning", what, remedy)
    else:
        yield Finding("write-speed", AREA, "ok", what)


def _memory(facts: StorageFacts) -> Iterator[Finding]:
    shared = facts.shared_memory
    if shared is not None and shared.total < _SHM_NEEDED:
        what = (
            f"/dev/shm has {size(shared.total)}; NCCL, the loader's workers and DeepSpeed's CPU op share memory there"
        )
        remedy = "docker run --ipc=host …  # or --shm-size=16g; outside: mount -o remount,size=16g /dev/shm (root)"
        yield Finding("shared-memory", AREA, "problem", what, remedy)
    elif shared is not None and shared.free < _SHM_NEEDED:
        what = f"only {size(shared.free)} of {size(shared.total)} are free in /dev/shm"
        remedy = "ls -lt /dev/shm  # what no process uses (fuser -v FILE) can go"
        yield Finding("shared-memory", AREA, "warning", what, remedy)
    elif shared is not None:
        yield Finding("shared-memory", AREA, "ok", f"{size(shared.free)} are free in /dev/shm")
    if facts.loader > facts.memory:
        what = f"GPT-NeoX's loaders keep up to {size(facts.loader)} of batches here, and {size(facts.memory)} are free"
        remedy = "-o gaff.reset_every=K  # shorter segments free it sooner, or use more nodes"
        yield Finding("host-memory", AREA, "problem", what, remedy)
    elif facts.loader > facts.memory // 2:
        what = f"GPT-NeoX's loaders keep up to {size(facts.loader)} of {size(facts.memory)} free host memory"
        yield Finding("host-memory", AREA, "warning", what, "free -g  # leave as much to them")
    elif facts.memory:
        yield Finding("host-memory", AREA, "ok", f"{size(facts.memory)} of host memory are free")
