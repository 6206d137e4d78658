# SPDX-License-Identifier: Apache-2.0
"""Directories of ops compiled at run time: locks that a killed build left, and file systems that do not fit.

torch guards each build directory by a file called ``lock`` (``torch.utils.file_baton``); a build killed in the middle
leaves it, and every later start waits for ever.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from gaff.doctor.filesystems import NETWORK, file_system
from gaff.doctor.finding import Finding
from gaff.doctor.subject import Subject

AREA = "compiled ops"
_BUILDERS = ("ninja", "nvcc", "cc1plus", "cudafe++", "ptxas", "c++", "g++")
_DEEPEST = 4  # TORCH_EXTENSIONS_DIR/py311_cu121/OP/lock
_MOST = 10_000  # directories looked at


@dataclass(frozen=True)
class ExtensionFacts:
    """Attributes:
    directory: where torch builds, which need not be there.
    kind: of its file system.
    locks: files of that name below it, and below GPT-NeoX's own build directory.
    building: of these, whose directory a compiler is working in now.
    """

    directory: Path
    kind: str
    locks: tuple[Path, ...]
    building: tuple[Path, ...]


def examine(subject: Subject) -> Iterator[Finding]:
    if not subject.contained:
        yield from judge(gather(subject))


def gather(subject: Subject) -> ExtensionFacts:
    directory = extension_directory(subject.environment, subject.extensions)
    places = [directory]
    if subject.neox_dir is not None:
        places.append(subject.neox_dir / "megatron" / "fused_kernels" / "build")
    named = subject.config.get("fused_kernels_build_path") if subject.config else None
    if isinstance(named, str):
        places.append(Path(named))
    locks = tuple(lock for place in places for lock in _locks(place))
    busy = _busy_directories() if locks else set()
    return ExtensionFacts(
        directory=directory,
        kind=file_system(directory).kind,
        locks=locks,
        building=tuple(lock for lock in locks if str(lock.parent.resolve()) in busy),
    )


def extension_directory(environment: Mapping[str, str], installed: Path | None) -> Path:
    """Where torch builds and looks for ops (``torch.utils.cpp_extension``)."""
    named = environment.get("TORCH_EXTENSIONS_DIR")
    if named:
        return Path(named)
    if installed is not None:
        return installed
    home = Path(environment.get("HOME") or os.path.expanduser("~"))
    return Path(environment.get("XDG_CACHE_HOME") or home / ".cache") / "torch_extensions"


def _locks(place: Path) -> Iterator[Path]:
    for looked_at, (folder, folders, files) in enumerate(os.walk(place)):
        if looked_at > _MOST or len(Path(folder).relative_to(place).parts) >= _DEEPEST:
            folders.clear()
        if "lock" in files:
            yield Path(folder) / "lock"


def _busy_directories() -> set[str]:
    """Working directories of all compilers that run now, as far as this user may see them."""
    found = set()
    for process in psutil.process_iter():
        try:
            if process.name().startswith(_BUILDERS):
                found.add(process.cwd())
        except (psutil.Error, OSError):
            continue
    return found


def judge(facts: ExtensionFacts) -> Iterator[Finding]:
    stale = [lock for lock in facts.locks if lock not in facts.building]
    if stale:
        what = f"a build was killed here and left {stale[0]}"
        if len(stale) > 1:
            what += f" and {len(stale) - 1} more"
        what += ": every later start waits for it for ever (no compiler is at work there now on this machine)"
        remedy = f"rm {shlex.join(str(lock) for lock in stale)}"
        yield Finding("extension-lock", AREA, "problem", what, remedy)
    for lock in facts.building:
        yield Finding("extension-build", AREA, "note", f"an op is being compiled in {lock.parent}; let it finish")
    if facts.kind in NETWORK:
        what = f"compiled ops lie on {facts.kind} ({facts.directory}), where builds of several nodes meet"
        remedy = "export TORCH_EXTENSIONS_DIR=/var/tmp/$USER/torch_extensions"
        yield Finding("extension-directory", AREA, "warning", what, remedy)
    elif not facts.locks:
        yield Finding("extension-directory", AREA, "ok", f"compiled ops lie in {facts.directory} ({facts.kind})")
