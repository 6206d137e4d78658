# SPDX-License-Identifier: Apache-2.0
"""The GPUs of this machine, as ``nvidia-smi`` lists them (``nvidia-smi --help-query-gpu``).  torch is not asked."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from gaff.doctor.probes import Version, run, version_in, which

_MIB = 1 << 20
_TIMEOUT_S = 30.0  # without persistence mode the driver is loaded first
_FIELDS: tuple[str, ...] = (
    "index",
    "uuid",
    "name",
    "memory.total",
    "memory.used",
    "driver_version",
    "mig.mode.current",
)
_ALL_FIELDS: tuple[str, ...] = (*_FIELDS, "compute_cap")  # which drivers before 510 do not know
_APPLICATIONS = ("gpu_uuid", "pid", "process_name", "used_memory")
_MIG_LINE = re.compile(r"MIG\s+(?P<profile>\S+)\s+Device\s+\d+:\s+\(UUID:\s*(?P<uuid>[^)\s]+)\)")
_MIG_MEMORY = re.compile(r"\.(\d+)gb")


@dataclass(frozen=True)
class Gpu:
    """Attributes:
    index: as ``nvidia-smi`` counts, in bus order.
    memory, used: bytes, 0 where the driver does not say, as of memory shared with the CPU; of a MIG slice by its
        profile's name.
    capability: compute capability, empty when the driver does not say.
    mig: whether it is cut into slices.
    """

    index: int
    uuid: str
    name: str
    memory: int
    used: int
    capability: Version = ()
    mig: bool = False


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds memory (bytes) of a GPU.  In a container its name may not be told."""

    gpu: str
    pid: int
    name: str
    used: int


@dataclass(frozen=True)
class Gpus:
    """Attributes:
    found: all GPUs, whether or not this shell may use them.
    slices: MIG slices, each a GPU to whoever uses it.
    driver: its version; empty without one.
    cuda: the newest CUDA that the driver can run.
    processes: that hold memory of any of them.
    trouble: what ``nvidia-smi`` complained about; None when it did not, or is not there.
    asked: whether there is an ``nvidia-smi``.
    """

    found: tuple[Gpu, ...] = ()
    slices: tuple[Gpu, ...] = ()
    driver: Version = ()
    cuda: Version = ()
    processes: tuple[GpuProcess, ...] = ()
    trouble: str | None = None
    asked: bool = True

    def visible(self, environment: Mapping[str, str]) -> tuple[Gpu, ...]:
        """Those that CUDA shows to a process with this environment.

        ``CUDA_VISIBLE_DEVICES`` lists numbers or beginnings of UUIDs; the list ends at the first that does not exist
        (CUDA C Programming Guide, "CUDA Environment Variables").
        """
        whole = tuple(gpu for gpu in self.found if not gpu.mig)
        listed = environment.get("CUDA_VISIBLE_DEVICES")
        if listed is None:
            return whole or self.slices[:1]  # CUDA shows one slice to a process
        chosen: list[Gpu] = []
        for word in (part.strip() for part in listed.split(",")):
            gpu = self._named(word)
            if gpu is None or gpu in chosen:
                break
            chosen.append(gpu)
        return tuple(chosen)

    def _named(self, word: str) -> Gpu | None:
        if word.isdigit():
            return next((gpu for gpu in self.found if gpu.index == int(word)), None)
        if not word.startswith(("GPU-", "MIG-")):
            return None
        return next((gpu for gpu in (*self.found, *self.slices) if gpu.uuid.startswith(word)), None)


def look(environment: Mapping[str, str]) -> Gpus:
    """Ask ``nvidia-smi`` of PATH."""
    program = which("nvidia-smi", environment)
    if program is None:
        return Gpus(asked=False)
    columns = _ALL_FIELDS
    answer = _query(program, "gpu", columns, environment)
    if not answer[0] and "not a valid field" in answer[1]:
        columns = _FIELDS
        answer = _query(program, "gpu", columns, environment)
    if not answer[0]:
        return Gpus(trouble=answer[1])
    first = next(_rows(answer[1], columns), None)
    listed = run([program, "-L"], environment=environment, timeout_s=_TIMEOUT_S).out
    applications = _query(program, "compute-apps", _APPLICATIONS, environment)
    return Gpus(
        found=tuple(parse_gpus(answer[1], columns)),
        slices=tuple(parse_slices(listed)),
        driver=version_in(first["driver_version"]) if first else (),
        cuda=parse_cuda(run([program], environment=environment, timeout_s=_TIMEOUT_S).out),
        processes=tuple(parse_processes(applications[1])) if applications[0] else (),
    )


def _query(program: str, what: str, columns: tuple[str, ...], environment: Mapping[str, str]) -> tuple[bool, str]:
    command = [program, f"--query-{what}={','.join(columns)}", "--format=csv,noheader,nounits"]
    answer = run(command, environment=environment, timeout_s=_TIMEOUT_S)
    return answer.good, answer.out if answer.good else answer.last_word


def _rows(text: str, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    for row in csv.reader(io.StringIO(text), skipinitialspace=True):
        if len(row) == len(columns):
            yield dict(zip(columns, (cell.strip() for cell in row), strict=True))


def parse_gpus(text: str, columns: tuple[str, ...] = _ALL_FIELDS) -> list[Gpu]:
    """The answer to these fields, as csv without header and units."""
    return [_gpu(row) for row in _rows(text, columns)]


def _gpu(row: Mapping[str, str]) -> Gpu:
    return Gpu(
        index=_number(row["index"]),
        uuid=row["uuid"],
        name=row["name"],
        memory=_number(row["memory.total"]) * _MIB,
        used=_number(row["memory.used"]) * _MIB,
        capability=version_in(row.get("compute_cap", "")),
        mig=row["mig.mode.current"] == "Enabled",
    )


def _number(text: str) -> int:
    """A whole number; 0 for ``[N/A]`` and ``[Not Supported]``."""
    return int(text) if text.isdigit() else 0


def parse_processes(text: str) -> list[GpuProcess]:
    rows = _rows(text, _APPLICATIONS)
    return [
        GpuProcess(row["gpu_uuid"], _number(row["pid"]), row["process_name"], _number(row["used_memory"]) * _MIB)
        for row in rows
    ]


def parse_cuda(banner: str) -> Version:
    """The CUDA version in the head of plain ``nvidia-smi``'s table."""
    found = re.search(r"CUDA Version:\s*(\d+\.\d+)", banner)
    return version_in(found[1]) if found else ()


def parse_slices(listed: str) -> Iterator[Gpu]:
    """MIG slices in the answer of ``nvidia-smi -L``, which lists them below their GPU."""
    parent = Gpu(0, "", "", 0, 0)
    for line in listed.splitlines():
        whole = re.match(r"GPU (\d+): (.+) \(UUID: ([^)]+)\)", line)
        if whole:
            parent = Gpu(int(whole[1]), whole[3], whole[2], 0, 0)
        found = _MIG_LINE.search(line)
        memory = _MIG_MEMORY.search(found["profile"]) if found else None
        if found and memory:
            name = f"{parent.name} {found['profile']}"
            yield replace(parent, uuid=found["uuid"], name=name, memory=int(memory[1]) * 1_000_000_000)
