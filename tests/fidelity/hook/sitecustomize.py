# SPDX-License-Identifier: Apache-2.0
"""Makes GPT-NeoX's own loop the in-loop reference: on PYTHONPATH, it wraps ``megatron.training.train_step``.

GPT-NeoX's ``train`` calls ``train_step`` through its module's global name, so replacing that after the module has been
executed is enough; no file of GPT-NeoX's is changed.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

TARGET = "megatron.training"


class Finder(MetaPathFinder):
    """Finds the target as everybody else does, and wraps its loader."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        spec.loader = WrappingLoader(spec.loader)
        return spec


class WrappingLoader(Loader):
    def __init__(self, inner: Loader) -> None:
        self.inner = inner

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.inner.exec_module(module)
        _wrap(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def _wrap(training: ModuleType) -> None:
    spec = importlib.util.spec_from_file_location("in_memory", Path(__file__).parents[1] / "in_memory.py")
    assert spec is not None
    assert spec.loader is not None
    in_memory = importlib.util.module_from_spec(spec)
    sys.modules["in_memory"] = in_memory  # dataclasses look their module up
    spec.loader.exec_module(in_memory)
    plan, train_step = in_memory.Plan.handed_over(), training.train_step

    def train_step_and_reset(*, neox_args: Any, model: Any, **others: Any) -> Any:
        result = train_step(neox_args=neox_args, model=model, **others)
        plan.after(neox_args.iteration + 1, model)  # the loop counts the iteration after the step
        return result

    training.train_step = train_step_and_reset  # type: ignore[attr-defined]


if "GAFF_FIDELITY_PLAN" in os.environ:
    sys.meta_path.insert(0, Finder())
