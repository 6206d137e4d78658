# SPDX-License-Identifier: Apache-2.0
"""``torch.cuda`` as GPT-NeoX, Megatron and DeepSpeed call it, on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

_MEMORY = (
    *("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"),
    *("memory_cached", "max_memory_cached"),
)
_RESETS = ("reset_peak_memory_stats", "reset_max_memory_allocated", "reset_max_memory_cached")
_TENSORS = ("Long", "Float", "Half", "Int", "Byte", "Double", "Bool", "BFloat16")


def land(torch: Any, ranks: int) -> None:
    """Replace what would reach a GPU.  There seem to be ``ranks`` of them, one for each rank of this machine."""
    cuda, cpu = torch.cuda, torch.device("cpu")
    cuda.is_available = _always(True)
    cuda.is_initialized = _always(False)
    cuda.device_count = _always(ranks)
    cuda.current_device = _always(cpu)
    cuda.set_device = _always(None)
    cuda.synchronize = _always(None)
    cuda.empty_cache = _always(None)
    cuda.get_device_name = _always("CPU (GAFF's shim)")
    cuda.get_device_capability = _always((8, 0))  # an A100's: nothing is left out for want of it
    cuda.nvtx.range_push = cuda.nvtx.range_pop = _always(0)
    cuda.Event = Nothing
    for name in _MEMORY:
        setattr(cuda, name, _always(0))
    for name in _RESETS:
        setattr(cuda, name, _always(None))
    for name in _TENSORS:
        setattr(cuda, name + "Tensor", getattr(torch, name + "Tensor"))
    _random_numbers(torch)
    torch.Tensor.cuda = lambda self, *args, **options: self
    torch.nn.Module.cuda = lambda self, *args, **options: self


def _random_numbers(torch: Any) -> None:
    """Dropout on the CPU draws from torch's CPU generator, so that is the one to keep, restore and seed."""
    torch.cuda.get_rng_state = lambda *args, **options: torch.get_rng_state()
    torch.cuda.set_rng_state = lambda state, *args, **options: torch.set_rng_state(state)
    seed = lambda value: torch.default_generator.manual_seed(int(value))  # noqa: E731
    torch.cuda.manual_seed = torch.cuda.manual_seed_all = seed


def keep_random_state(dataloader: Any) -> None:
    """Creating a loader's iterator draws a number from torch's CPU generator, which on a GPU disturbs no dropout.

    Here it would, after GPT-NeoX has restored the generator, so a resumed run would drop other units than an unbroken
    one.  The generator is put back.
    """
    import torch

    kind = dataloader._BaseDataLoaderIter
    create = kind.__init__

    @functools.wraps(create)
    def create_undisturbed(self: Any, *args: Any, **options: Any) -> None:
        with torch.random.fork_rng(devices=[]):
            create(self, *args, **options)

    kind.__init__ = create_undisturbed


def _always(value: Any) -> Callable[..., Any]:
    return lambda *args, **options: value


class Nothing:
    """A CUDA event or stream: may be recorded, waited for and entered, to no effect."""

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __enter__(self) -> Nothing:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return _always(None)
