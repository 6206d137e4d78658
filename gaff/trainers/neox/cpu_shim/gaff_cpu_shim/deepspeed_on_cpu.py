# SPDX-License-Identifier: Apache-2.0
"""DeepSpeed's CPU accelerator made to take what GPT-NeoX asks of a GPU."""

from __future__ import annotations

from typing import Any

from .optimizers import LionBuilder
from .torch_on_cpu import Nothing

_SHARED_MEMORY_OP = "deepspeed_shm_comm"


def widen_accelerator(module: Any) -> None:
    """CPU tensors hold and compute float16, which DeepSpeed refuses; recomputed activations ask for a stream."""
    import torch

    kind = module.CPU_Accelerator
    kind.is_fp16_supported = lambda self: True
    kind.supported_dtypes = lambda self: [torch.float, torch.half, torch.bfloat16]
    kind.Stream = Nothing
    builder = kind.get_op_builder
    kind.get_op_builder = lambda self, name: LionBuilder if name == "FusedLionBuilder" else builder(self, name)


def leave_out_shared_memory_op(module: Any) -> None:
    """An all-reduce that DeepSpeed would compile at the first start, and that leaves 67 MB a rank in /dev/shm."""
    module.__compatible_ops__[_SHARED_MEMORY_OP] = False
