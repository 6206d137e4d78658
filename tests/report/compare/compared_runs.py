# SPDX-License-Identifier: Apache-2.0
"""Run directories to compare: a journal, logs worded as GPT-NeoX words them, and a config."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.report.report_runs import RunWriter

CONFIG = {
    "seq_length": 128,
    "train_micro_batch_size_per_gpu": 4,
    "global_num_gpus": 2,
    "optimizer": {"type": "Adam", "params": {"lr": 0.001, "betas": [0.9, 0.95]}},
    "log_interval": 1,
}
TOKENS = 4 * 2 * 128


def write_run(
    directory: Path,
    *,
    k: int | None,
    iterations: int = 400,
    planned: int | None = None,
    interval: int = 1,
    seed: int = 0,
    ms: float = 100.0,
    heals: bool = True,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A run that was trained for so many iterations, with a reset after every ``k``; finished where that is all.

    Its losses fall, jump after each reset, come back ever faster, and are noisy.  ``config``: further keys; a key with
    the value None is left out.  ``heals``: whether the loss ever comes back after a reset.
    """
    directory.mkdir(parents=True)
    total = planned or iterations
    run, noise = RunWriter(directory, total), random.Random(seed)
    run.started()
    marks = list(range(k, total, k)) if k else []
    starts = [0, *(mark for mark in marks if mark < iterations)]
    for segment, start in enumerate(starts, start=1):
        stop = min(marks[segment - 1] if segment <= len(marks) else total, iterations)
        losses = {
            i: round((_loss(i, start) if heals else 2.0 + segment) + noise.gauss(0, 0.02), 6)
            for i in range(start + 1, stop + 1)
            if i % interval == 0
        }
        run.launch(segment, start, stop, losses, ms=ms)
        run.now_s += 5 + (stop - start) * ms / 1000
        run.done(segment, stop)
        if segment <= len(marks) and stop == marks[segment - 1] and stop < total and segment < len(starts) + 1:
            run.reset(segment, stop)
    run.entry(*(("run_finished",) if iterations == total else ("run_interrupted",)), iteration=iterations)
    whole = {**CONFIG, "train_iters": total, "seed": seed, "log_interval": interval, **(config or {})}
    kept = {key: value for key, value in whole.items() if value is not None}
    gaff = {"reset_every": k or "never", **kept.pop("gaff", {})}
    (directory / "config.yml").write_text(yaml.safe_dump({**kept, "gaff": gaff}))
    return directory


def _loss(iteration: int, start: int) -> float:
    level = 2.0 + 4.0 * math.exp(-iteration / 60)
    since, number = iteration - start, start // 50
    return level + (1.5 * math.exp(-since / (4 + 20 / (1 + number))) if start else 0.0)
