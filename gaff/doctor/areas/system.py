# SPDX-License-Identifier: Apache-2.0
"""The system around: limits, clock, git, and variables of this shell that change how a run behaves."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gaff.doctor.finding import Finding
from gaff.doctor.probes import which
from gaff.doctor.subject import EMPTY, Subject
from gaff.plan.typed import flag
from gaff.report.format import size

AREA = "system"
_FILES = 4096  # descriptors; each rank has sockets, index maps and logs
_LOCKED = 1 << 30  # bytes; InfiniBand pins its buffers
_BUILT = 1_577_836_800  # 2020-01-01: a clock before that is wrong
_NEVER_OVERCOMMIT = 2
#: NCCL variables that people set for one experiment and forget.
_NCCL = {
    "NCCL_DEBUG": ("INFO", "TRACE"),
    "NCCL_P2P_DISABLE": ("1",),
    "NCCL_IB_DISABLE": ("1",),
    "NCCL_SHM_DISABLE": ("1",),
}


@dataclass(frozen=True)
class SystemFacts:
    """Attributes:
    system: Linux, Darwin …
    files, locked, core: soft limits of descriptors and bytes; None for no limit.
    infiniband: whether there is such a card.
    overcommit: ``vm.overcommit_memory``; None where it is not told.
    now, newest: of the clock, and of the newest file's time that was looked at; seconds since 1970.
    cores: this process may use.
    netrc: whether ``~/.netrc`` has a key for Weights & Biases.
    wandb_asked: whether the config says ``use_wandb``.
    """

    system: str
    git: bool
    files: int | None
    locked: int | None
    core: int | None
    infiniband: bool
    overcommit: int | None
    now: float
    newest: float
    cores: int
    environment: Mapping[str, str]
    netrc: bool
    wandb_asked: bool
    neox: bool
    gpus: bool


def examine(subject: Subject) -> Iterator[Finding]:
    yield from judge(gather(subject))


def gather(subject: Subject) -> SystemFacts:
    limits = _limits()
    return SystemFacts(
        system=platform.system(),
        git=which("git", subject.environment) is not None,
        files=limits["files"],
        locked=limits["locked"],
        core=limits["core"],
        infiniband=os.path.isdir("/sys/class/infiniband") and bool(os.listdir("/sys/class/infiniband")),
        overcommit=_number(Path("/proc/sys/vm/overcommit_memory")),
        now=time.time(),
        newest=Path(__file__).stat().st_mtime,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        environment=subject.environment,
        netrc=_wandb_in_netrc(subject.environment),
        wandb_asked=flag(subject.config or EMPTY, "use_wandb"),
        neox=subject.trainer == "neox",
        gpus=bool(subject.gpus.found),
    )


def _limits() -> dict[str, int | None]:
    import resource

    names = {"files": resource.RLIMIT_NOFILE, "locked": resource.RLIMIT_MEMLOCK, "core": resource.RLIMIT_CORE}
    soft = {name: resource.getrlimit(which_one)[0] for name, which_one in names.items()}
    return {name: None if value == resource.RLIM_INFINITY else value for name, value in soft.items()}


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _wandb_in_netrc(environment: Mapping[str, str]) -> bool:
    """Whether the file is there with that machine in it; its secrets are not looked at."""
    path = Path(environment.get("NETRC") or Path(environment.get("HOME") or os.path.expanduser("~")) / ".netrc")
    try:
        return "api.wandb.ai" in path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def judge(facts: SystemFacts) -> Iterator[Finding]:
    if facts.system != "Linux":
        what = f"this is {facts.system}; GPT-NeoX and DeepSpeed are run on Linux"
        yield Finding("not-linux", AREA, "problem" if facts.neox else "warning", what, "# use a Linux machine")
    if not facts.git:
        what = "there is no git, which fetches GPT-NeoX and says at which commit it is"
        yield Finding("git", AREA, "warning", what, "conda install -c conda-forge git  # or: module load git")
    if facts.now < max(_BUILT, facts.newest - 86_400):
        what = f"the clock says {time.strftime('%Y-%m-%d', time.gmtime(facts.now))}, which is before GAFF was installed"
        yield Finding("clock", AREA, "problem", what, "date  # an administrator sets it; what is newest is told by it")
    yield from _limits_told(facts)
    yield from _variables(facts)
    yield from _wandb(facts)


def _limits_told(facts: SystemFacts) -> Iterator[Finding]:
    fine = True
    if facts.files is not None and facts.files < _FILES:
        fine = False
        what = f"a process may open {facts.files:,} files"
        yield Finding("limit-files", AREA, "warning", what, "ulimit -n $(ulimit -Hn)")
    if facts.infiniband and facts.locked is not None and facts.locked < _LOCKED:
        fine = False
        what = f"a process may lock {size(facts.locked)} of memory, too little for InfiniBand's buffers"
        yield Finding("limit-locked", AREA, "warning", what, "ulimit -l unlimited  # docker run --ulimit memlock=-1")
    if facts.core is None or facts.core > 0:
        what = "core dumps are on: a crash of ranks may write all of their memory to the disk"
        yield Finding("core-dumps", AREA, "note", what, "ulimit -c 0")
    if facts.overcommit == _NEVER_OVERCOMMIT:
        fine = False
        what = "vm.overcommit_memory is 2: forks of large processes, such as the loader's workers, may be refused"
        yield Finding("overcommit", AREA, "warning", what, "sysctl vm.overcommit_memory  # root sets it to 0 or 1")
    if fine:
        yield Finding("limits", AREA, "ok", f"limits are wide enough; {facts.cores} CPU cores")


def _variables(facts: SystemFacts) -> Iterator[Finding]:
    for name, values in _NCCL.items():
        value = facts.environment.get(name, "")
        if value.upper() in values and facts.gpus:
            what = f"{name}={value} is set in this shell and reaches every rank"
            yield Finding(f"env-{name.lower().replace('_', '-')}", AREA, "note", what, f"unset {name}  # if forgotten")
    threads = facts.environment.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) > facts.cores:
        what = f"OMP_NUM_THREADS={threads} is more than the {facts.cores} cores that this shell may use"
        yield Finding("env-omp-num-threads", AREA, "warning", what, f"export OMP_NUM_THREADS={facts.cores}")
    if facts.environment.get("CUDA_LAUNCH_BLOCKING") == "1":
        what = "CUDA_LAUNCH_BLOCKING=1 makes every kernel wait: training is much slower"
        yield Finding("env-cuda-launch-blocking", AREA, "warning", what, "unset CUDA_LAUNCH_BLOCKING")


def _wandb(facts: SystemFacts) -> Iterator[Finding]:
    where = "WANDB_API_KEY" if facts.environment.get("WANDB_API_KEY") else "~/.netrc" if facts.netrc else None
    if where and facts.neox and not facts.wandb_asked:
        what = (
            f"a key for Weights & Biases lies in {where}; GAFF writes use_wandb: false, GPT-NeoX alone would log there"
        )
        yield Finding("wandb-key", AREA, "note", what, "-o use_wandb=true  # to log there")
    elif facts.wandb_asked and not where and facts.environment.get("WANDB_MODE") not in ("offline", "disabled"):
        what = "`use_wandb: true`, and there is no key for it in WANDB_API_KEY or ~/.netrc"
        yield Finding("wandb-key", AREA, "problem", what, "wandb login  # or: export WANDB_MODE=offline")
