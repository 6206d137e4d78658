# SPDX-License-Identifier: Apache-2.0
"""What a trainer's error message means, and what to do about it.

A table, in the order of looking.  Every row is a fault that was seen in a run of unmodified GPT-NeoX (ea7aefd8), or is
the message of torch or the system that comes with it.
"""

from __future__ import annotations

import re

_FAULTS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), advice)
    for pattern, advice in (
        (
            r"EADDRINUSE|[Aa]ddress already in use",
            "another process holds the port on which the ranks meet; run the same command again",
        ),
        (
            r"multi_tensor_adam\(\): incompatible function arguments",
            "a number in optimizer.params is a string to YAML, as 1e-8 is; write 1.0e-8",
        ),
        (
            r"failed finding central directory|PytorchStreamReader failed",
            "a file of the checkpoint is truncated; resume from an earlier tag",
        ),
        (
            r"checkpoint being loaded used a DP world size of",
            "the number of data-parallel ranks differs from the one that wrote the checkpoint; use as many GPUs",
        ),
        (
            r"len\(self\.ckpt_list\) > 0",
            "the tag to resume from is missing or holds no model files",
        ),
        (
            r"Unable to load optimizer from checkpoint",
            "the checkpoint lacks the state of a random generator; set no_load_rng: true, or resume from another tag",
        ),
        (
            r"ZeRO stage 2/3 and",
            "GPT-NeoX runs ZeRO 2 and 3 only with pipe_parallel_size: 0 and model_parallel_size: 1",
        ),
        (
            r"iteration over a 0-d tensor",
            "this GPT-NeoX cannot validate in a pipeline run; set eval_iters: 0",
        ),
        (
            r"[Oo]ut of memory|OutOfMemoryError",
            "lower train_micro_batch_size_per_gpu and raise gradient_accumulation_steps by as much",
        ),
        (r"No space left on device", "make room where the checkpoints are written"),
        (
            r"killed by signal 9\b",
            "most often the system was out of memory; look at its log",
        ),
    )
)


def explain(message: str) -> str | None:
    """What to do about an error message of the trainer, as one clause; None where nothing is known about it."""
    return next((advice for pattern, advice in _FAULTS if pattern.search(message)), None)
