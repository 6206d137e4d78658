# SPDX-License-Identifier: Apache-2.0
"""The lines that GPT-NeoX prints, word for word, so that one parser reads both trainers.  Whole lines in one write."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from datetime import datetime

from gaff.trainers.bundled.settings import ModelSettings

_UNITS = ("", "KFLOPS", "MFLOPS", "GFLOPS", "TFLOPS", "PFLOPS", "EFLOPS", "ZFLOPS")


def say(line: str) -> None:
    """Print a line at once and as one write, so that lines of other ranks cannot cut into it."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def say_on_rank_0(line: str) -> None:
    """Print a line on rank 0 only."""
    if os.environ.get("RANK", "0") == "0":
        say(line)


def iteration_line(
    *,
    iteration: int,
    train_iters: int,
    batch: int,
    seconds: float,
    learning_rate: float,
    flops: float,
    losses: Mapping[str, float],
) -> str:
    """The periodic line.  ``seconds`` is the mean time of one iteration, ``flops`` per second and rank."""
    parts = [
        f" samples/sec: {batch / seconds:.3f} |",
        f" iteration {iteration:8d}/{train_iters:8d} |",
        f" elapsed time per iteration (ms): {seconds * 1000.0:.1f} |",
        f" learning rate: {learning_rate:.3E} |",
        f" approx flops per GPU: {human_flops(flops)} |",
        *(f" {name}: {value:.6E} |" for name, value in losses.items()),
        # Steps are skipped on fp16 overflow only, and NaN iterations are counted among those.
        f" number of skipped iterations: {0:3d} |",
        f" number of nan iterations: {0:3d} |",
    ]
    return "".join(parts)


def results_lines(chart: str, prefix: str, loss: float) -> list[str]:
    """Validation or test results between two rules."""
    perplexity = math.exp(min(20.0, loss))
    line = f" {chart} results at {prefix} | lm_loss value: {loss:.6E} | lm_loss_ppl value: {perplexity:.6E} | "
    rule = "-" * (len(line) + 1)
    return [rule, line, rule]


def exit_line(iteration: int) -> str:
    """What rank 0 says when ``exit_interval`` ends it."""
    now = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    return f"rank: 0 | time: {now} | exiting the program at iteration {iteration}"


def human_flops(value: float) -> str:
    """A number with GPT-NeoX's unit, ``34.3GFLOPS``."""
    for unit in _UNITS:
        if abs(value) < 1000.0:
            return f"{value:3.1f}{unit}"
        value /= 1000.0
    return f"{value:.1f}Yi"


def flops_per_iteration(model: ModelSettings, batch: int, vocab_size: int) -> float:
    """Forward and backward pass of one batch: Narayanan et al. (arXiv 2104.04473), without recomputation."""
    layers, hidden, length = model.num_layers, model.hidden_size, model.seq_length
    share = 1.0 + length / (6.0 * hidden) + vocab_size / (16.0 * layers * hidden)
    return 72.0 * batch * length * layers * hidden**2 * share
