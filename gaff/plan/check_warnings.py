# SPDX-License-Identifier: Apache-2.0
"""What a run does otherwise than its config reads: known, harmless enough to go on, worth a sentence beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gaff.errors import Problem
from gaff.plan.config import Config
from gaff.plan.typed import flag, integer, number, pipeline

#: Keys that GAFF sets for each segment: what becomes of the user's value.
_SET_BY_GAFF: Mapping[str, str] = {
    "exit_interval": "is ignored: GAFF sets it to stop each segment",
    "iteration": "is ignored: GAFF names the tag that each segment resumes from",
    "log_dir": "is dropped: GPT-NeoX would truncate its log at every segment; GAFF keeps the log of each segment",
}


def check_warnings(config: Config) -> Iterator[Problem]:
    """Every sentence that a person should read before the run."""
    for key, what in _SET_BY_GAFF.items():
        if config.get(key) is not None:
            yield config.problem(f"{key.replace('_', '-')}-dropped", key, f"`{key}` {what}", "remove it to be clear")
    yield from _clipping(config)
    yield from _validation(config)
    if flag(config, "no_load_rng"):
        what = "`no_load_rng: true` starts the random numbers of dropout anew at every segment"
        yield config.problem("no-load-rng", "no_load_rng", what, "remove it for runs that can be repeated exactly")
    if config.gaff.reset_every is not None:
        yield from _resets(config, config.gaff.reset_every)


def _clipping(config: Config) -> Iterator[Problem]:
    inside = config.get("deepspeed_extra_args.gradient_clipping")
    if inside is None and number(config, "gradient_clipping") == 1.0:
        what = (
            "gradient clipping at 1.0 does not happen: GPT-NeoX drops a value that equals its default, and DeepSpeed's"
            " default is none"
        )
        if config.gaff.reset_every is not None:
            what += "; gradients are largest right after a reset"
        remedy = "add deepspeed_extra_args: {gradient_clipping: 1.0} if you rely on it"
        yield config.problem("clipping-not-applied", "gradient_clipping", what, remedy)


def _validation(config: Config) -> Iterator[Problem]:
    if config.gaff.trainer != "bundled" and pipeline(config) >= 1 and (integer(config, "eval_iters") or 0) > 0:
        what = "GAFF sets eval_iters to 0: validation crashes GPT-NeoX when pipe_parallel_size is 1 or more"
        yield config.problem("validation-off", "eval_iters", what, "write eval_iters: 0 and evaluate the checkpoints")


def _resets(config: Config, reset_every: int) -> Iterator[Problem]:
    gaff = config.gaff
    log_interval = integer(config, "log_interval")
    stops = {"gaff.reset_every": reset_every, "gaff.first_reset": gaff.first_reset or reset_every}
    for key, value in stops.items():
        if log_interval and log_interval > 0 and value % log_interval:
            what = (
                f"{value} is not a multiple of log_interval ({log_interval}), so the first line after a resume shows a"
                " wrong loss"
            )
            yield config.problem("log-interval", key, what, "make it a multiple")
            break
    train_iters = integer(config, "train_iters")
    if gaff.last_reset is not None and train_iters is not None and gaff.last_reset >= train_iters:
        what = f"`gaff.last_reset: {gaff.last_reset}` is not below train_iters ({train_iters}) and changes nothing"
        yield config.problem("last-reset-late", "gaff.last_reset", what, "remove it")
