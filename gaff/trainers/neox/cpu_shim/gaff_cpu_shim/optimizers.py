# SPDX-License-Identifier: Apache-2.0
"""Optimizers whose own kernels need a GPU, or are wanted otherwise."""

from __future__ import annotations

import sys
import types
from typing import Any


def offer_torch_adam(module: Any) -> None:
    """Offer torch's AdamW as Apex's FusedAdam, which GPT-NeoX takes where it is there."""
    import torch

    apex, optimizers = types.ModuleType("apex"), types.ModuleType("apex.optimizers")
    optimizers.FusedAdam = torch.optim.AdamW  # type: ignore[attr-defined]
    apex.optimizers = optimizers  # type: ignore[attr-defined]
    sys.modules["apex"], sys.modules["apex.optimizers"] = apex, optimizers


class LionBuilder:
    """Stands in for the Lion kernel, which DeepSpeed has for CUDA alone; its optimizer and state stay its own."""

    @staticmethod
    def load(*args: Any, **options: Any) -> Any:
        return types.SimpleNamespace(multi_tensor_lion=_lion)


def _lion(
    chunk: int, overflow: Any, tensors: Any, lr: float, beta1: float, beta2: float, step: int, decay: float
) -> None:
    """One step of Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2) on lists of gradients, weights, moments."""
    import torch

    with torch.no_grad():
        for gradient, weight, moment in zip(*tensors):  # noqa: B905 - Python 3.8 has no strict
            g = gradient.to(moment.dtype)
            update = moment.mul(beta1).add_(g, alpha=1 - beta1).sign_()
            weight.mul_(1 - lr * decay).add_(update.to(weight.dtype), alpha=-lr)
            moment.mul_(beta2).add_(g, alpha=1 - beta2)
