# SPDX-License-Identifier: Apache-2.0
"""The import hook: a module is changed right after it was executed, so a process that never imports it pays nothing."""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Callable
from typing import Any

from . import deepspeed_on_cpu, half_products, optimizers, torch_on_cpu
from .gpus import signs_of_gpus

Change = Callable[[Any], None]


def install() -> None:
    """Put the hook in front of all importers."""
    changes: dict[str, Change] = {
        "torch": _torch,
        "torch.utils.data.dataloader": torch_on_cpu.keep_random_state,
        "deepspeed.accelerator.cpu_accelerator": deepspeed_on_cpu.widen_accelerator,
        "deepspeed.ops": deepspeed_on_cpu.leave_out_shared_memory_op,
    }
    adam = os.environ.get("GAFF_CPU_SHIM_ADAM", "deepspeed")
    if adam == "torch":
        changes["megatron.training"] = optimizers.offer_torch_adam
    elif adam != "deepspeed":
        raise SystemExit(f"GAFF_CPU_SHIM_ADAM must be deepspeed or torch, not {adam}")
    sys.meta_path.insert(0, _Finder(changes))


def _torch(torch: Any) -> None:
    ranks = int(os.environ["GAFF_CPU_SHIM"])
    gpus = signs_of_gpus()
    if gpus and not os.environ.get("GAFF_CPU_SHIM_BESIDE_GPUS"):
        raise RuntimeError(
            f"GAFF's CPU shim is on, and this machine has a GPU ({gpus[0]}): remove `device: cpu` from the gaff block, "
            "or write `device: cpu-beside-gpus` to leave the GPU idle on purpose"
        )
    torch_on_cpu.land(torch, ranks)
    half_products.through_float32(torch)
    if "RANK" in os.environ:  # each rank, but neither the launchers nor a loader's workers
        said = f"GAFF's CPU shim: rank {os.environ['RANK']} trains on the CPU, torch.cuda is a stand-in"
        print(f"{said}; {len(gpus)} GPUs are left idle" if gpus else said, flush=True)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds nothing itself: wraps the loader of the modules that are to be changed."""

    def __init__(self, changes: dict[str, Change]) -> None:
        self._changes = changes

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        change = self._changes.pop(name, None)  # while the other finders are asked, through this one
        if change is None:
            return None
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._changes[name] = change  # it may only have been looked for
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, change)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, inner: Any, change: Change) -> None:
        self._inner, self._change = inner, change

    def create_module(self, spec: Any) -> Any:
        return self._inner.create_module(spec)

    def exec_module(self, module: Any) -> None:
        self._inner.exec_module(module)
        self._change(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
