# SPDX-License-Identifier: Apache-2.0
"""What ``device: cpu`` means for a launch of GPT-NeoX: the shim on its path, the variables it needs, what cannot be.

The CPU shim (``cpu_shim/``) is used only where the config says so, refuses a machine with GPUs unless the config says
``cpu-beside-gpus``, and announces itself in every rank's first line.  Variables of the shell can neither switch it on
nor make it overlook a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from gaff.errors import Problem
from gaff.plan.config import Config
from gaff.plan.neox_keys import CPU_ATTENTION, GPU_FLAGS, attention_kinds
from gaff.plan.typed import flag, integer, items, pipeline, tensor_parallel, word
from gaff.trainers.neox import cpu_shim
from gaff.trainers.neox.cpu_shim.gaff_cpu_shim.gpus import signs_of_gpus

SHIM = Path(cpu_shim.__file__).parent  # goes onto the trainer's PYTHONPATH

#: What keeps a shim off that this shell, or a file of DeepSpeed's, has on.
NO_SHIM: Mapping[str, str] = {"GAFF_CPU_SHIM": "", "GAFF_CPU_SHIM_BESIDE_GPUS": ""}


def ranks(config: Config) -> int:
    """How many ranks a machine without GPUs runs: ``global_num_gpus``, else as many as the layout needs."""
    return integer(config, "global_num_gpus") or tensor_parallel(config) * max(1, pipeline(config))


def cpu_environment(config: Config, base: Mapping[str, str], extensions: Path | None) -> dict[str, str]:
    """Variables of a launch on the CPU; of those that are a matter of taste, only what ``base`` lacks.

    Args:
        config: its ``device`` is not ``gpu``.
        base: the environment that the launch inherits.
        extensions: where the ops compiled for this environment lie, None where nobody has compiled any.
    """
    path = [str(SHIM), *filter(None, [base.get("PYTHONPATH")])]
    variables = {
        "GAFF_CPU_SHIM": str(ranks(config)),
        "GAFF_CPU_SHIM_BESIDE_GPUS": "1" if config.gaff.device == "cpu-beside-gpus" else "",
        "LOCAL_SIZE": str(ranks(config)),  # by which DeepSpeed's CPU accelerator counts its devices
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",  # by which DeepSpeed's launcher would leave out ranks, on the CPU too
        "PYTHONPATH": os.pathsep.join(path),
    }
    if extensions is not None and "TORCH_EXTENSIONS_DIR" not in base:
        variables["TORCH_EXTENSIONS_DIR"] = str(extensions)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # ranks share the cores; one thread also adds up in one order
        if name not in base:
            variables[name] = "1"
    return variables


def check_device(config: Config) -> Iterator[Problem]:
    """Whether the config can run on the device it names."""
    if config.gaff.device == "gpu":
        return
    found = signs_of_gpus()
    if found and config.gaff.device == "cpu":
        what = f"`gaff.device: cpu` would leave this machine's GPUs idle ({found[0]} is there)"
        remedy = "remove the key to train on them, or write cpu-beside-gpus if that is what you want"
        yield config.problem("cpu-beside-gpus", "gaff.device", what, remedy)
    for key in GPU_FLAGS:
        if flag(config, key):
            what = f"`{key}: true` needs a GPU, and `gaff.device` is {config.gaff.device}"
            yield config.problem("needs-gpu", key, what, "write false")
    for name in sorted(set(attention_kinds(items(config, "attention_config"))) - set(CPU_ATTENTION)):
        what = f"{name} attention needs a GPU, and `gaff.device` is {config.gaff.device}"
        yield config.problem("needs-gpu", "attention_config", what, "write global instead")
    if word(config, "norm").startswith("te_"):
        what = f"`norm: {word(config, 'norm')}` is Transformer Engine's and needs a GPU, which `gaff.device` rules out"
        yield config.problem("needs-gpu", "norm", what, "write layernorm or rmsnorm")


def check_accelerator(config: Config, environ: Mapping[str, str]) -> Iterator[Problem]:
    """Whether a variable, of the config or of the shell's environment ``environ``, keeps DeepSpeed off the GPUs."""
    if config.gaff.device != "gpu":
        return
    asked = dict(config.gaff.environment)
    by_config = asked.get("DS_ACCELERATOR") is not None
    if (asked.get("DS_ACCELERATOR") or environ.get("DS_ACCELERATOR")) == "cpu":
        where = "`gaff: environment`" if by_config else "this shell"
        what = f"DS_ACCELERATOR=cpu in {where} keeps DeepSpeed off the GPUs, and `gaff.device` is gpu"
        key = "gaff.environment.DS_ACCELERATOR" if by_config else "gaff.device"
        remedy = "remove it" if by_config else "unset DS_ACCELERATOR"
        yield config.problem("cpu-accelerator", key, what, f"{remedy}, or write `device: cpu`")
