# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable

import pytest

from gaff.plan.config import Config
from gaff.plan.gpu_memory import gpu_memory
from gaff.plan.memory_advice import memory_advice
from gaff.plan.model import ModelSize, model_size

Load = Callable[..., Config]
BIG = (
    *("hidden_size=1024", "num_layers=24", "num_attention_heads=16", "seq_length=2048", "max_position_embeddings=2048"),
    *("precision=fp16", "pipe_parallel_size=0", "train_micro_batch_size_per_gpu=16"),
    'attention_config=[[["flash"], 24]]',
)


def need(config: Config, replicas: int) -> int:
    size = model_size(config)
    assert isinstance(size, ModelSize)
    memory = gpu_memory(config, size, replicas)
    assert memory is not None
    return memory.total


@pytest.mark.parametrize("gigabytes", [6, 8, 12, 20, 30])
@pytest.mark.parametrize("stage", [0, 1])
def test_what_is_advised_fits_and_keeps_the_samples_of_an_iteration(load: Load, gigabytes: int, stage: int) -> None:
    given = (*BIG, f"zero_optimization={{stage: {stage}, reduce_bucket_size: 50000000}}")
    advice = memory_advice(load(*given), 8, gigabytes * 10**9)
    assert advice is not None
    changed = load(*given, *advice)
    tensor = int(changed.get("model_parallel_size", 1))
    assert need(changed, 8 // tensor) <= 0.9 * gigabytes * 10**9
    micro, steps = changed.get("train_micro_batch_size_per_gpu"), changed.get("gradient_accumulation_steps", 1)
    assert micro * steps * 8 // tensor == 16 * 8


def test_a_smaller_micro_batch_comes_first(load: Load) -> None:
    config = load(*BIG, "zero_optimization={stage: 1, reduce_bucket_size: 50000000}")
    advice = memory_advice(config, 8, int(need(config, 8) / 0.9) - 1)
    assert advice == ("train_micro_batch_size_per_gpu=8", "gradient_accumulation_steps=2")


def test_states_that_do_not_fit_are_divided(load: Load) -> None:
    config = load(*BIG, "zero_optimization={stage: 0}", "train_micro_batch_size_per_gpu=1")
    advice = memory_advice(config, 8, 5 * 10**9)
    assert advice is not None
    assert "zero_optimization.stage=1" in advice


def test_a_model_that_is_too_large_for_any_of_it(load: Load) -> None:
    config = load(*BIG, "zero_optimization={stage: 1}")
    assert memory_advice(config, 1, 2 * 10**9) is None


def test_tensor_parallelism_is_not_advised_with_zero_2(load: Load) -> None:
    """GPT-NeoX trains nothing with the two together."""
    config = load(*BIG, "zero_optimization={stage: 2, reduce_bucket_size: 50000000}")
    for gigabytes in range(1, 30):
        advice = memory_advice(config, 8, gigabytes * 10**9) or ()
        assert not any("model_parallel_size" in change for change in advice)
