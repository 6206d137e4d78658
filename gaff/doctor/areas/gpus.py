# SPDX-License-Identifier: Apache-2.0
"""CUDA, driver and GPUs: what is there, what this shell sees of it, and who else is using it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gaff.doctor.finding import Finding, Level, from_problem
from gaff.doctor.gpus import Gpu, Gpus
from gaff.doctor.probes import Version, said, which
from gaff.doctor.subject import Subject
from gaff.errors import Problem
from gaff.plan.neox_keys import attention_kinds
from gaff.plan.typed import integer, pipeline, precision, tensor_parallel
from gaff.report.format import count, size
from gaff.trainers.neox.device import check_device

AREA = "GPUs"
_AMPERE = (8, 0)  # bfloat16 and flash attention 2
_BUSY = 1_000_000_000  # bytes in use, above what a driver keeps for itself
_WITHOUT = "gaff rehearse --config FILE  # or train on the CPU: gaff run --config FILE -o gaff.device=cpu"
_FROM_LOGIN = "srun --gres=gpu:1 gaff doctor  # asks on a node that has GPUs"


@dataclass(frozen=True)
class Wanted:
    """What a config asks of this machine's GPUs.

    Attributes:
        gpus: ``global_num_gpus``, None where it is not given.
        group: GPUs of one replica, tensor x pipeline.
        ampere: why compute capability 8.0 is needed; None where it is not.
    """

    gpus: int | None
    group: int
    ampere: str | None


@dataclass(frozen=True)
class GpuFacts:
    """Attributes:
    needed: whether the trainer will run on GPUs.
    elsewhere: whether it will run on other machines, by hostfile or Slurm.
    login: whether this looks like a cluster's login node.
    torch: GPT-NeoX's torch; None when it is not known.
    torch_cuda: the CUDA it was built with; empty for a build for the CPU.
    python: GPT-NeoX's, which has that torch.
    """

    gpus: Gpus
    visible: tuple[Gpu, ...]
    environment: Mapping[str, str]
    needed: bool
    elsewhere: bool
    login: bool
    torch: str | None
    torch_cuda: Version
    wanted: Wanted | None
    device: tuple[Problem, ...]
    python: str = "python3"


def examine(subject: Subject) -> Iterator[Finding]:
    yield from judge(gather(subject))


def gather(subject: Subject) -> GpuFacts:
    config, environment = subject.config, subject.environment
    known = subject.trainer == "neox" and subject.neox_dir is not None and not subject.contained
    slurm = bool(config and str(config.get("launcher", "")).lower() == "slurm")
    return GpuFacts(
        gpus=subject.gpus,
        visible=subject.gpus.visible(environment),
        environment=environment,
        needed=subject.on_gpus,
        elsewhere=slurm or subject.hostfile is not None,
        login=which("sbatch", environment) is not None and "SLURM_JOB_ID" not in environment,
        torch=subject.python.version("torch") if known else None,
        torch_cuda=subject.python.torch_cuda if known else (),
        wanted=_wanted(subject),
        device=tuple(check_device(config)) if config and subject.trainer == "neox" else (),
        python=subject.neox_python,
    )


def _wanted(subject: Subject) -> Wanted | None:
    config = subject.config
    if config is None or not subject.on_gpus:
        return None
    ampere = "bfloat16" if precision(config) == "bfloat16" else None
    if "flash" in attention_kinds(config.get("attention_config")):
        ampere = "flash attention"
    group = tensor_parallel(config) * max(1, pipeline(config))
    return Wanted(integer(config, "global_num_gpus"), group, ampere)


def judge(facts: GpuFacts) -> Iterator[Finding]:
    yield from (from_problem(AREA, problem) for problem in facts.device)
    if not facts.gpus.found:
        yield _none(facts)
        return
    yield from _listed(facts)
    if facts.needed:
        yield from _seen(facts)
        yield from _driver(facts)
        yield from _occupied(facts)
        if facts.wanted is not None and facts.visible:
            yield from _enough(facts, facts.wanted)


def _none(facts: GpuFacts) -> Finding:
    trouble = facts.gpus.trouble
    if not facts.needed:
        return Finding("no-gpu", AREA, "ok", "there is no GPU here, and none is needed")
    if trouble:
        hint = "nvidia-smi  # shows the whole complaint; a driver is the administrator's to mend"
        return Finding("nvidia-smi", AREA, "problem", f"nvidia-smi fails: {trouble}", hint)
    what = "there is no GPU here (no nvidia-smi on PATH), and GPT-NeoX trains on GPUs"
    if facts.environment.get("NVIDIA_VISIBLE_DEVICES") in ("void", "none"):
        what = "this container was started without GPUs (NVIDIA_VISIBLE_DEVICES says so)"
        return Finding("no-gpu", AREA, "problem", what, "docker run --gpus all …  # or: apptainer exec --nv …")
    if facts.login:
        return Finding("no-gpu", AREA, "warning", f"{what}; this looks like a login node", f"{_FROM_LOGIN}\n{_WITHOUT}")
    if facts.elsewhere:
        return Finding("no-gpu", AREA, "warning", f"{what}; the run will use other machines", _WITHOUT)
    return Finding("no-gpu", AREA, "problem", what, _WITHOUT)


def _listed(facts: GpuFacts) -> Iterator[Finding]:
    gpus = facts.gpus
    kinds: dict[tuple[str, int, Version], int] = {}
    for gpu in gpus.found:
        key = (gpu.name, gpu.memory, gpu.capability)
        kinds[key] = kinds.get(key, 0) + 1
    for (name, memory, capability), number in kinds.items():
        what = f"{number} × {name}" + (f", {size(memory)}" if memory else "")
        what += f", compute capability {said(capability)}" if capability else ""
        yield Finding("gpus", AREA, "ok", what)
    if len(kinds) > 1 and facts.needed:
        what = "the GPUs are of several kinds: the slowest sets the pace, the smallest the memory"
        remedy = "export CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=0,1  # the alike ones"
        yield Finding("gpus-differ", AREA, "warning", what, remedy)
    sliced = [gpu for gpu in gpus.found if gpu.mig]
    if sliced and facts.needed:
        numbers = ",".join(str(gpu.index) for gpu in sliced)
        what = f"GPU {numbers} is cut into MIG slices: a process sees one slice, and NCCL joins no two of them"
        first = next((one.uuid for one in gpus.slices), "MIG-…")
        remedy = f"export CUDA_VISIBLE_DEVICES={first}  # one rank; or ask the administrator for: nvidia-smi -mig 0"
        yield Finding("mig", AREA, "warning", what, remedy)


def _seen(facts: GpuFacts) -> Iterator[Finding]:
    listed = facts.environment.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return
    if not facts.visible:
        what = f"CUDA_VISIBLE_DEVICES={listed!r} hides every GPU from this shell"
        yield Finding("visible-devices", AREA, "problem", what, "unset CUDA_VISIBLE_DEVICES")
    elif len(facts.visible) < len(facts.gpus.found):
        what = f"CUDA_VISIBLE_DEVICES={listed} shows {len(facts.visible)} of {count(len(facts.gpus.found), 'GPU')}"
        yield Finding("visible-devices", AREA, "note", what, "unset CUDA_VISIBLE_DEVICES  # to use all")


def _driver(facts: GpuFacts) -> Iterator[Finding]:
    driver, newest, wanted = facts.gpus.driver, facts.gpus.cuda, facts.torch_cuda
    pip = f"{shlex.quote(facts.python)} -m pip"
    what = f"driver {said(driver)}" + (f", for CUDA up to {said(newest)}" if newest else "")
    if facts.torch is not None and not wanted:
        text = f"GPT-NeoX's torch {facts.torch} is a build for the CPU, and here are GPUs"
        remedy = f"{pip} uninstall -y torch && {pip} install torch  # pip alone keeps the build that is there"
        yield Finding("torch-cpu", AREA, "problem", text, remedy)
    elif wanted and newest and wanted[0] > newest[0]:
        text = f"{what}; GPT-NeoX's torch was built with CUDA {said(wanted)}, which this driver cannot run"
        remedy = f"{pip} install --force-reinstall torch --index-url URL  # PyTorch's builds for CUDA {said(newest)}"
        yield Finding("driver", AREA, "problem", text, remedy)
    elif wanted:
        yield Finding("driver", AREA, "ok", f"{what}; torch was built with CUDA {said(wanted)}")
    else:
        yield Finding("driver", AREA, "ok", what)


def _occupied(facts: GpuFacts) -> Iterator[Finding]:
    uuids = {gpu.uuid: gpu.index for gpu in facts.visible}
    for process in facts.gpus.processes:
        if process.gpu in uuids:
            what = f"process {process.pid} ({process.name}) holds {size(process.used)} of GPU {uuids[process.gpu]}"
            remedy = f"ps -o user,pid,etime,cmd -p {process.pid}  # if it is yours and forgotten: kill {process.pid}"
            yield Finding("gpu-occupied", AREA, "warning", what, remedy)
    told = {process.gpu for process in facts.gpus.processes}
    for gpu in facts.visible:
        if gpu.used > _BUSY and gpu.uuid not in told:
            what = f"{size(gpu.used)} of GPU {gpu.index} are in use by processes that this user may not see"
            others = ",".join(str(one.index) for one in facts.visible if one.used <= _BUSY)
            remedy = f"export CUDA_VISIBLE_DEVICES={others}" if others else "nvidia-smi  # wait until it is free"
            yield Finding("gpu-occupied", AREA, "warning", what, remedy)


def _enough(facts: GpuFacts, wanted: Wanted) -> Iterator[Finding]:
    here = len(facts.visible)
    if not facts.elsewhere and wanted.gpus is not None and wanted.gpus != here:
        level: Level = "problem" if wanted.gpus > here else "warning"
        what = f"`global_num_gpus: {wanted.gpus}`, and this shell sees {count(here, 'GPU')}"
        remedy = f"-o global_num_gpus={here}  # and gradient_accumulation_steps for the same batch"
        yield Finding("gpu-count", AREA, level, what, remedy)
    elif not facts.elsewhere and here % wanted.group:
        what = f"{count(here, 'GPU')} cannot be shared by replicas of {wanted.group} (tensor x pipeline parallelism)"
        fitting = here // wanted.group * wanted.group
        chosen = ",".join(str(gpu.index) for gpu in facts.visible[:fitting])
        remedy = f"export CUDA_VISIBLE_DEVICES={chosen}" if fitting else "-o model_parallel_size=1"
        yield Finding("gpu-count", AREA, "problem", what, remedy)
    old = [gpu for gpu in facts.visible if gpu.capability and gpu.capability < _AMPERE]
    if old and wanted.ampere:
        has = f"{old[0].name} has {said(old[0].capability)}"
        what = f"{wanted.ampere} needs compute capability {said(_AMPERE)}; {has}"
        plain = "-o 'attention_config=[[[\"global\"], LAYERS]]'"
        instead = "-o precision=fp16" if wanted.ampere == "bfloat16" else plain
        yield Finding("compute-capability", AREA, "problem", what, instead)
